"""Intervals resample prompts, not tokens."""

import numpy as np
import pandas as pd
import pytest

from prunelib.measure.stats import bands, bootstrap, cluster_mean


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    effect = rng.normal(size=40).repeat(25)
    frame = pd.DataFrame({"prompt_id": np.arange(40).repeat(25)})
    return frame.assign(x=effect + 0.1 * rng.normal(size=len(frame)))


def test_cluster_mean_equals_the_general_bootstrap(table):
    value, lo, hi = cluster_mean(table["x"], table["prompt_id"], n=4000)
    other = bootstrap(table, lambda f: f["x"].mean(), n=4000)
    assert value == pytest.approx(table["x"].mean())
    # The same resamples by two routes.
    assert (lo, hi) == pytest.approx(other[1:], abs=1e-9)


def test_interval_has_the_width_of_40_prompts_and_not_of_1000_tokens(table):
    _, lo, hi = cluster_mean(table["x"], table["prompt_id"])
    between = 2 * 1.96 * table.groupby("prompt_id")["x"].mean().std() / np.sqrt(40)
    assert hi - lo == pytest.approx(between, rel=0.15)
    as_if_independent = 2 * 1.96 * table["x"].std() / np.sqrt(len(table))
    assert hi - lo > 3 * as_if_independent  # the correct one is about sqrt(25) = 5 times wider


def test_intervals_cover_the_truth_about_95_percent_of_the_time():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        x = rng.normal(size=30).repeat(5)
        _, lo, hi = cluster_mean(x, np.arange(30).repeat(5), n=400)
        hits += lo <= 0 <= hi
    # Binomial(200, 0.95) stays above 176 but once in 1,000; the percentile interval is a little short.
    assert hits >= 172


def test_one_cluster_gives_a_point_and_the_same_seed_the_same_interval(table):
    one = table[table["prompt_id"] == 0]
    value, lo, hi = cluster_mean(one["x"], one["prompt_id"])
    assert value == pytest.approx(lo) == pytest.approx(hi)
    assert cluster_mean(table["x"], table["prompt_id"]) == cluster_mean(table["x"], table["prompt_id"])


def test_bands_hold_spread_and_interval(table):
    row = bands(table.assign(g=1), "x", ["g"]).iloc[0]
    assert row["min"] <= row["q05"] <= row["median"] <= row["q95"] <= row["max"]
    assert row["mean_lo"] < row["mean"] < row["mean_hi"]
