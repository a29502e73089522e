"""Differences of numbers that have nothing in common."""

import math

import numpy as np
import pytest

from prunelib.measure.independent import difference
from prunelib.measure.stats import cluster_mean


def test_an_exact_number_only_moves_the_interval():
    assert difference((0.5, 0.25, 0.625), (0.25, 0.25, 0.25)) == (0.25, 0.0, 0.375)
    assert difference((1.0, 1.0, 1.0), (0.5, 0.25, 0.625)) == (0.5, 0.375, 0.75)  # turned round


def test_the_two_orders_are_mirror_images():
    a, b = (0.7, 0.4, 0.8), (0.2, 0.1, 0.5)
    value, lo, hi = difference(a, b)
    assert difference(b, a) == pytest.approx((-value, -hi, -lo))


def test_what_has_no_interval_gives_none():
    gone = (math.nan,) * 3
    assert all(map(math.isnan, difference(gone, (0.2, 0.1, 0.5))))
    assert all(map(math.isnan, difference((0.5, math.nan, math.nan), (0.2, 0.1, 0.5))[1:]))


def test_the_interval_holds_the_true_difference():
    """Two groups of different size and spread, as often as 95 % intervals should."""
    draw, inside = np.random.default_rng(0), 0
    for _ in range(600):
        a, b = draw.normal(1.0, 1.0, 30), draw.normal(0.5, 2.0, 60)
        _, lo, hi = difference(cluster_mean(a, range(30)), cluster_mean(b, range(60)))
        inside += lo <= 0.5 <= hi
    assert 0.93 <= inside / 600 <= 0.98
