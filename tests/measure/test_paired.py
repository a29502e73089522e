"""Paired tests against scipy, and by hand."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from prunelib.measure import paired
from prunelib.measure.paired import mcnemar, paired_bootstrap
from prunelib.measure.stats import cluster_mean


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (1, 0), (3, 3), (9, 1), (1, 9), (40, 17), (2000, 2100)])
def test_mcnemar_is_the_two_sided_binomial_test_of_what_differs(lost, gained):
    dense = np.r_[np.ones(lost), np.zeros(gained), np.ones(5), np.zeros(6)]
    pruned = np.r_[np.zeros(lost), np.ones(gained), np.ones(5), np.zeros(6)]
    found = mcnemar(dense, pruned)
    expected = scipy_stats.binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    assert found[:2] == (lost, gained) and found.p == pytest.approx(expected, rel=1e-9)


def test_mcnemar_by_hand():
    """9 lost, 1 gained: 2·(1 + 10)/2¹⁰. What both have right or wrong does not count."""
    found = mcnemar([True] * 9 + [False], [False] * 9 + [True])
    assert found.p == 22 / 1024
    assert mcnemar([True] * 9 + [False] + [True] * 99, [False] * 9 + [True] + [True] * 99) == found


def test_two_clusters_by_hand():
    """Differences 1 and 3: draws are 1, 2, 3 with ¼, ½, ¼, a standard deviation of √½, times √(2/1)."""
    found = paired_bootstrap([0, 0], [1, 3], [0, 1], draws=200_000)
    t = scipy_stats.t(1)
    assert found.value == 2
    assert (found.hi - found.value) / t.ppf(0.975) == pytest.approx(1, rel=0.01)  # the standard error of the mean
    assert found.p == pytest.approx(2 * t.sf(2), rel=0.01)


def test_against_scipy_s_bootstrap_and_t_test():
    """Clusters of one row: scipy's standard error up to √(k/(k − 1)), and nearly its paired t test."""
    rng = np.random.default_rng(1)
    dense = rng.normal(size=30)
    pruned = dense + 0.3 + 0.5 * rng.normal(size=30)
    found = paired_bootstrap(dense, pruned, range(30))
    peer = scipy_stats.bootstrap((pruned - dense,), np.mean, n_resamples=10_000, random_state=2).standard_error
    assert (found.hi - found.value) / scipy_stats.t(29).ppf(0.975) == pytest.approx(peer * (30 / 29) ** 0.5, rel=0.03)
    test = scipy_stats.ttest_rel(pruned, dense)
    low, high = test.confidence_interval()
    assert found[:3] == pytest.approx((np.mean(pruned - dense), low, high), abs=0.01)
    assert found.p == pytest.approx(test.pvalue, rel=0.2)


def test_interval_and_p_agree_with_each_other_and_with_the_jackknife():
    rng = np.random.default_rng(3)
    for shift in (0.0, 0.1, 0.2, 0.4):
        who = np.repeat(np.arange(15), rng.integers(2, 9, 15))
        dense, effect = rng.normal(size=len(who)), rng.normal(size=15)[who]
        pruned = dense + shift + 0.3 * effect
        found = paired_bootstrap(dense, pruned, who)
        assert (found.p < 0.05) == (found.lo > 0 or found.hi < 0)
        assert found[:3] == pytest.approx(cluster_mean(pruned - dense, who), abs=0.05)
        turned = paired_bootstrap(pruned, dense, who)
        assert turned == pytest.approx((-found.value, -found.hi, -found.lo, found.p))


def test_pairs_cancel_what_both_find_hard():
    rng = np.random.default_rng(4)
    hard = 10 * rng.normal(size=20)
    found = paired_bootstrap(hard, hard + 0.1 + 0.01 * rng.normal(size=20), range(20))
    assert found.lo > 0.08 and found.hi < 0.12 and found.p < 1e-6


def test_few_clusters_and_no_spread():
    assert paired_bootstrap([1, 2], [1, 2], [0, 1]) == (0, 0, 0, 1)
    assert paired_bootstrap([1, 2, 3], [2, 3, 4], [0, 1, 2]) == (1, 1, 1, 0.25)  # the sign test of three
    value, *rest = paired_bootstrap([1, 2], [2, 2], [0, 0])
    assert value == 0.5 and np.isnan(rest).all()


def test_the_same_seed_gives_the_same_draws_however_many_are_drawn_together(monkeypatch):
    whole = paired_bootstrap([0, 1, 0, 2], [1, 1, 2, 2], [0, 1, 2, 3])
    monkeypatch.setattr(paired, "_AT_ONCE", 4 * 1000)
    assert paired_bootstrap([0, 1, 0, 2], [1, 1, 2, 2], [0, 1, 2, 3]) == whole
    assert paired_bootstrap([0, 1, 0, 2], [1, 1, 2, 2], [0, 1, 2, 3], seed=1) != whole
