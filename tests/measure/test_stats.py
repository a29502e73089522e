"""Intervals are over prompts, not tokens; shares by hand. Their coverage: test_coverage.py."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from scipy.stats import t as student

from prunelib.measure import stats
from prunelib.measure.stats import bands, bootstrap, cluster_mean, correlation, difference, kept, of_sums, share, smooth
from prunelib.paths import project_root
from prunelib.runs.profiles import PROFILES


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    effect = rng.normal(size=40).repeat(25)
    frame = pd.DataFrame({"prompt_id": np.arange(40).repeat(25)})
    return frame.assign(x=effect + 0.1 * rng.normal(size=len(frame)))


def test_the_mean_is_the_textbook_t_interval_over_prompts(table):
    """Equal clusters: the jackknife of a mean is Student's interval of the cluster means."""
    means = table.groupby("prompt_id")["x"].mean()
    low, high = student.interval(0.95, 39, means.mean(), means.sem())
    assert cluster_mean(table["x"], table["prompt_id"]) == pytest.approx((means.mean(), low, high))
    as_if_independent = 2 * 1.96 * table["x"].std() / np.sqrt(len(table))
    assert high - low > 3 * as_if_independent  # the correct one is about sqrt(25) = 5 times wider


def test_a_table_and_its_sums_give_the_same_interval(table):
    table = table.drop(index=[3, 4, 30])  # prompts of unequal length
    whole = smooth(table, lambda f: f["x"].mean())
    assert whole == pytest.approx(cluster_mean(table["x"], table["prompt_id"]), abs=1e-12)
    twice = of_sums(np.stack([table["x"], table["x"] * 2], 1), table["prompt_id"], lambda s: s[..., 0] / s[..., 1])
    assert twice == (0.5, 0.5, 0.5)


def test_a_correlation_stays_a_correlation():
    rng = np.random.default_rng(5)
    x = rng.normal(size=40)
    frame = pd.DataFrame({"prompt_id": np.arange(8).repeat(5), "x": x, "y": x + 0.2 * rng.normal(size=40)})
    value, lo, hi = correlation(frame, lambda f: f["x"].corr(f["y"]))
    assert value == pytest.approx(frame["x"].corr(frame["y"])) and 0.8 < lo < value < hi < 1
    assert correlation(frame, lambda f: f["x"].corr(f["x"])) == pytest.approx((1, 1, 1))


def test_one_cluster_defines_no_interval(table):
    one = table[table["prompt_id"] == 0]
    found = (
        cluster_mean(one["x"], one["prompt_id"]),
        share(one["x"] > 0, one["prompt_id"]),
        smooth(one, lambda f: f["x"].mean()),
        bootstrap(one, lambda f: f["x"].median()),
        kept([1, 0, 1], [1, 1, 1], [0, 0, 0]),
        difference(([1, 0], [1, 1], 0), ([1, 0], [1, 1], 0), [0, 0]),
    )
    assert all(np.isfinite(value) and np.isnan([lo, hi]).all() for value, lo, hi in found)


def test_quantiles_are_resampled_and_the_same_seed_gives_the_same_interval(table):
    value, lo, hi = bootstrap(table, lambda f: f["x"].median())
    assert lo < value < hi and (value, lo, hi) == bootstrap(table, lambda f: f["x"].median())
    least, most = table["x"].min(), table["x"].max()
    _, lo, hi = bootstrap(table, lambda f: f["x"].max())
    assert least <= lo <= hi <= most  # never outside of what there is


# ---------------------------------------------------------------- shares


@pytest.mark.parametrize("clusters", [6, 12, 60])
def test_none_and_all_have_the_exact_bound_over_clusters(clusters):
    """Clopper and Pearson at 0 of k: 1 − 0.025^(1/k)."""
    bound = 1 - 0.025 ** (1 / clusters)
    who = np.arange(clusters).repeat(3)
    assert share(np.zeros(3 * clusters), who) == pytest.approx((0, 0, bound))
    assert share(np.ones(3 * clusters), who) == pytest.approx((1, 1 - bound, 1))


def test_a_share_of_independent_items_is_close_to_clopper_pearson():
    found = share([1] * 7 + [0] * 33, range(40))
    exact = binomtest(7, 40).proportion_ci(method="exact")
    assert found[0] == 7 / 40 and found[1:] == pytest.approx(tuple(exact), abs=0.01)
    assert found[1] < exact.low and found[2] > exact.high  # t instead of the normal


def test_a_share_stays_between_0_and_1_and_constant_clusters_are_no_crash():
    for values in ([1] + [0] * 11, [0] + [1] * 11, [0.5] * 12, [0, 1] * 6):
        value, lo, hi = share(values, range(12))
        assert 0 <= lo <= value <= hi <= 1


DENSE = np.tile([1, 0, 1], 12)
WHO = np.arange(12).repeat(3)
BOUND = 1 - 0.025 ** (1 / 12)


def test_nothing_kept_ends_at_the_bound_over_the_dense_score():
    assert kept(DENSE * 0, DENSE, WHO) == pytest.approx((0, 0, BOUND / (2 / 3)))


def test_the_same_answers_may_still_differ_elsewhere():
    """A pruned model that answers each item as dense does keeps all; another passage may differ."""
    value, lo, hi = kept(DENSE, DENSE, WHO)
    assert (value, lo, hi) == pytest.approx((1, 1 - BOUND / (2 / 3), 1 + BOUND / (2 / 3)))


def test_above_chance_by_hand():
    own, dense = np.tile([1, 0, 0, 1], 6), np.tile([1, 1, 0, 1], 6)
    value, lo, hi = kept(own, dense, np.arange(24), 0.25)
    assert value == pytest.approx((0.5 - 0.25) / (0.75 - 0.25)) and lo < value < hi
    assert kept(own, dense, np.arange(24), np.full(24, 0.25))[0] == value
    worse = kept(own * 0, dense, np.arange(24), 0.25)
    assert worse[0] == pytest.approx(-0.5) and worse[1] < -0.5  # below guessing is below 0


@pytest.mark.parametrize(
    ("dense", "chance"),
    [(np.zeros(36), 0.0), (np.eye(1, 36)[0], 0.0), (np.tile([1, 0, 0], 12), 1 / 3), (np.tile([0, 0, 1, 0], 9), 0.5)],
    ids=["never right", "right once", "guesses", "below chance"],
)
def test_a_share_of_nothing_is_not_defined(dense, chance):
    own = np.tile([1, 0, 1], 12)
    assert np.isnan(kept(own, dense, WHO, chance)).all()
    assert np.isnan(difference((own, own, 0), (own, dense, chance), WHO)).all()
    assert np.isnan(difference((own, dense, chance), (own, own, 0), WHO)).all()


def test_the_difference_of_shares_where_nothing_is_written():
    """Nothing kept of the second: the end reaches down to its bound, and is not that of the first alone."""
    choice = np.tile([1, 0, 1, 1, 1, 1], 6)
    first, second = (choice, np.ones(36), 0.25), (DENSE * 0, DENSE, 0.0)
    value, lo, hi = difference(first, second, WHO)
    a, b = kept(*first[:2], WHO, 0.25), kept(*second[:2], WHO)
    assert value == pytest.approx(a[0]) and lo == pytest.approx(value - np.hypot(a[0] - a[1], b[2]))
    assert hi == pytest.approx(a[2])


def test_bands_hold_spread_and_interval(table):
    row = bands(table.assign(g=1), "x", ["g"]).iloc[0]
    assert row["min"] <= row["q05"] <= row["median"] <= row["q95"] <= row["max"]
    assert row["mean_lo"] < row["mean"] < row["mean_hi"]


def test_the_page_says_what_is_done():
    """Numbers that book/reading.md and the rules give in words are those of the code."""
    text = " ".join((project_root() / "book" / "reading.md").read_text().split())
    words = {3: "three"}
    assert f"with replacement, {stats.DRAWS} times" in text and f"fewer than {words[stats.FEW]} passages" in text
    assert f"$1 - {(1 - stats.LEVEL) / 2:g}^{{1/k}}$" in text
    passages = {name: PROFILES[name].passages for name in ("quick", "full")}
    assert f"the {passages['quick']} passages of `quick` and the {passages['full']} of `full`" in text
    assert "percentile bootstrap" not in text
