"""Paired tests: the same items answered by two models.

:func:`mcnemar` counts the items that only one of them has right, and takes every item as
independent of all others; :func:`paired_bootstrap` draws whole clusters (passages, pieces of a
text), and is the one to trust where items of a cluster are alike. A difference is pruned − dense.
NumPy and SciPy only, float64.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import bdtr, stdtr, stdtrit

from prunelib.measure.stats import LEVEL, cluster_sums

DRAWS = 10_000
"""Resamples of whole clusters behind a paired bootstrap."""

_AT_ONCE = 2**22  # multiplicities of clusters that are drawn together, in elements


class McNemar(NamedTuple):
    """Items that only the dense (``lost``) or only the pruned model (``gained``) has right; two-sided ``p``."""

    lost: int
    gained: int
    p: float


class Difference(NamedTuple):
    """``value`` with its 95 % interval ``lo, hi``, and the two-sided ``p`` that it is 0."""

    value: float
    lo: float
    hi: float
    p: float


def mcnemar(dense, pruned) -> McNemar:
    """Exact test of McNemar (1947): among items that differ, lost and gained are equally likely.

    ``dense`` and ``pruned`` are ``[items]``, whether each has the item right. ``p`` is that of
    the two-sided binomial test of ``min(lost, gained)`` in ``lost + gained`` at ½; 1 where no item differs.

    Examples
    --------
    >>> mcnemar([1] * 9 + [0, 1], [0] * 9 + [1, 1])
    McNemar(lost=9, gained=1, p=0.021484375)
    """
    dense, pruned = np.asarray(dense, dtype=bool), np.asarray(pruned, dtype=bool)
    lost, gained = int((dense & ~pruned).sum()), int((pruned & ~dense).sum())
    p = min(1.0, 2 * float(bdtr(min(lost, gained), lost + gained, 0.5)))
    return McNemar(lost, gained, p)


def paired_bootstrap(dense, pruned, clusters, seed: int = 0, draws: int = DRAWS) -> Difference:
    """Mean of ``pruned − dense``, with interval and test from resampled clusters.

    Shapes: all are ``[rows]``, in the unit of ``dense``. Both models keep the clusters that are drawn
    (Efron and Tibshirani 1993, ch. 8), so what makes a text hard for both cancels. The interval is Student's t of
    k − 1 degrees of freedom times the standard error over ``draws`` draws, and ``p`` is that of the same t: the
    usual share of draws beyond 0 is too small for few clusters, as percentile intervals are too narrow
    (:mod:`prunelib.measure.stats`). Where all clusters differ alike and no spread is seen, ``p`` is that of
    the sign test, ``2^(1 − k)``. With one cluster nothing but the value is defined: the rest is NaN.
    """
    apart = np.asarray(pruned, dtype=np.float64) - np.asarray(dense, dtype=np.float64)
    sums = cluster_sums(np.stack([apart, np.ones_like(apart)], -1), clusters)
    k, value = len(sums), float(apart.mean())
    if k < 2:
        return Difference(value, float("nan"), float("nan"), float("nan"))
    error = float(np.std(_drawn(sums, seed, draws), ddof=1) * np.sqrt(k / (k - 1)))
    if error <= 1e-12 * np.abs(apart).max():  # the rounding of equal numbers
        return Difference(value, value, value, 2.0 ** (1 - k) if value else 1.0)
    spread = float(stdtrit(k - 1, (1 + LEVEL) / 2)) * error
    return Difference(value, value - spread, value + spread, 2 * float(stdtr(k - 1, -abs(value) / error)))


def _drawn(sums: np.ndarray, seed: int, draws: int) -> np.ndarray:
    """Means ``[draws]`` over as many clusters as there are, drawn with replacement; ``sums`` is ``[k, 2]``."""
    k, found = len(sums), []
    generator = np.random.default_rng(seed)
    while draws > 0:
        some = min(draws, max(1, _AT_ONCE // k))
        total = generator.multinomial(k, np.full(k, 1 / k), size=some) @ sums
        found.append(total[:, 0] / total[:, 1])
        draws -= some
    return np.concatenate(found)
