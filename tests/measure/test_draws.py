"""Means over random draws: how often their interval holds the truth, and what it is made of."""

import numpy as np
import pytest

from prunelib.measure import stats
from prunelib.measure.draws import over_draws


def test_draws_that_agree_widen_nothing():
    assert over_draws((0.4, 0.1, 0.8), [0.4, 0.4]) == (0.4, 0.1, 0.8)


def test_distances_add_as_squares():
    """Two draws: t of one degree of freedom is 12.706, the standard error half of their difference."""
    value, lo, hi = over_draws((0.5, 0.2, 0.6), [0.4, 0.6])
    assert value == 0.5
    assert 0.5 - lo == pytest.approx(np.hypot(0.3, 12.706 * 0.1), rel=1e-4)
    assert hi - 0.5 == pytest.approx(np.hypot(0.1, 12.706 * 0.1), rel=1e-4)


def test_one_draw_has_no_interval():
    value, lo, hi = over_draws((0.5, 0.2, 0.6), [0.5])
    assert value == 0.5 and np.isnan(lo) and np.isnan(hi)


@pytest.mark.parametrize(("between_draws", "between_texts"), [(1.0, 0.3), (0.3, 1.0), (1.0, 1.0)])
def test_coverage(between_draws, between_texts):
    """The interval over both holds the truth in at least 93 % of the simulations; that over texts alone does not."""
    rng, both, texts = np.random.default_rng(0), 0, 0
    for _ in range(400):
        draws, passages = rng.normal(0, between_draws, 5), rng.normal(0, between_texts, 12)
        table = draws[:, None] + passages + rng.normal(0, 0.3, (5, 12))
        found = stats.cluster_mean(table.mean(0), np.arange(12))
        _, lo, hi = over_draws(found, table.mean(1))
        both += lo <= 0 <= hi
        texts += found[1] <= 0 <= found[2]
    assert both >= 0.93 * 400
    if between_draws > between_texts:
        assert texts < 0.7 * 400
