"""How well a number known of each model foretells another: rank correlations, and thresholds judged on what they
have not seen.

Models of one method are alike, so *methods* are what varies: intervals leave out one method at a time, and a threshold
is learned on all other methods and judged on the one left out. NumPy, SciPy and pandas only.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from prunelib.measure import stats

Pairs = Sequence[tuple[str, str]]
"""Columns that are correlated, what foretells first; of several pairs the mean on Fisher's scale is taken."""

FEWEST = 3
"""Methods that an interval needs, and models that a rank correlation needs."""

UNDEFINED = (float("nan"),) * 3


def spearman(x, y) -> float:
    """Rank correlation of two columns; ties share their mean rank. NaN for fewer than three rows, a constant
    column, or a value that is not defined.

    >>> spearman([1, 2, 3, 4], [1, 4, 9, 16]), spearman([1, 2, 3], [3, 2, 1])
    (1.0, -1.0)
    """
    x, y = (np.asarray(one, dtype=np.float64) for one in (x, y))
    if len(x) < FEWEST or not (np.isfinite(x).all() and np.isfinite(y).all()):
        return float("nan")
    a, b = (ranks - ranks.mean() for ranks in map(rankdata, (x, y)))
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(np.clip((a @ b) / size, -1, 1)) if size else float("nan")


def _fisher(frame: pd.DataFrame, pairs: Pairs, models: int) -> float:
    """Mean of artanh of the correlations, none nearer to 1 than half the smallest step of ranks of ``models`` models.

    A perfect order of a few models is no infinite certainty: without the limit one model out of order moves
    the jackknife's standard error without bound.
    """
    most = 1 - 3 / (models * (models**2 - 1.0))
    found = [spearman(frame[x], frame[y]) for x, y in pairs]
    return float(np.mean(np.arctanh(np.clip(found, -most, most))))


def correlated(frame: pd.DataFrame, pairs: Pairs, by: str = "method") -> stats.Interval:
    """Rank correlation over the models of a table, a row each, with a 95 % interval that leaves out one method each.

    Jackknife on Fisher's scale. Of fewer than three methods, or where leaving one out leaves nothing to rank, the
    interval is not defined.
    """
    n = len(frame)
    rho = [spearman(frame[x], frame[y]) for x, y in pairs]
    if not np.isfinite(rho).all():
        return UNDEFINED
    value = rho[0] if len(rho) == 1 else float(np.tanh(_fisher(frame, pairs, n)))
    if frame[by].nunique() < FEWEST:
        return value, float("nan"), float("nan")
    middle, lo, hi = stats.smooth(frame, lambda some: _fisher(some, pairs, n), by)
    if lo == hi:
        return value, value, value
    lo, hi = np.tanh([lo, hi])
    return value, float(min(lo, value)), float(max(hi, value))  # the limit may pull a perfect order inside


def difference(frame: pd.DataFrame, first: Pairs, second: Pairs, by: str = "method") -> stats.Interval:
    """artanh of the first rank correlation minus that of the second on the same models, jackknife over methods."""
    n = len(frame)
    if frame[by].nunique() < FEWEST:
        return UNDEFINED
    return stats.smooth(frame, lambda some: _fisher(some, first, n) - _fisher(some, second, n), by)


# ---------------------------------------------------------------- thresholds


def threshold(x, collapsed) -> float:
    """The cut that is wrong about fewest models when it says that those above it have collapsed.

    Halfway between neighbours, on a logarithmic scale where all are above 0; of several the middle one. NaN where all
    models are alike.

    >>> threshold([0.1, 0.2, 0.8, 3.0], [False, False, True, True])
    0.4
    """
    x, collapsed = np.asarray(x, dtype=np.float64), np.asarray(collapsed, dtype=bool)
    if not np.isfinite(x).all() or collapsed.all() or not collapsed.any():
        return float("nan")
    known = np.unique(x)
    cuts = np.sqrt(known[1:] * known[:-1]) if known[0] > 0 else (known[1:] + known[:-1]) / 2
    cuts = np.concatenate([[-np.inf], cuts, [np.inf]])
    wrong = ((x > cuts[:, None]) != collapsed).sum(-1)
    best = cuts[wrong == wrong.min()]
    return float(round(best[(len(best) - 1) // 2], 12))


class Judged(NamedTuple):
    """A threshold, and how it does on methods that it was not learned on."""

    cut: float
    """Learned on all models."""
    lowest: float
    highest: float
    """Of the thresholds with one method left out."""
    wrong: stats.Interval
    """Share of the models that are judged wrongly, each method by the threshold of the others."""
    constant: stats.Interval
    """The same when each method is given what most models of the others did."""
    rows: pd.DataFrame
    """A row a model: ``wrong``, its method in ``by``, and ``cut``, the threshold that judged it."""


def left_out(frame: pd.DataFrame, x: str, collapsed: str, by: str = "method") -> Judged | None:
    """Leave-one-method-out error of the threshold on a column; intervals over methods (:func:`stats.share`).

    None where there is no threshold: fewer than two methods, or models that all collapse or all do not.
    """
    cut, parts = threshold(frame[x], frame[collapsed]), []
    if np.isnan(cut):
        return None
    for method, some in frame.groupby(by, sort=False):
        others = frame[frame[by] != method]
        if not len(others):
            return None
        usual = bool(others[collapsed].mean() > 0.5)
        own = threshold(others[x], others[collapsed])
        said = some[x].to_numpy() > own if np.isfinite(own) else np.full(len(some), usual)
        seen = some[collapsed].to_numpy(dtype=bool)
        parts.append(pd.DataFrame({by: method, "cut": own, "wrong": said != seen, "unlike": usual != seen}))
    rows = pd.concat(parts, ignore_index=True)
    ends = rows["cut"].min(), rows["cut"].max()
    return Judged(
        cut, *map(float, ends), stats.share(rows["wrong"], rows[by]), stats.share(rows["unlike"], rows[by]), rows
    )


# ---------------------------------------------------------------- do effects add up?


def added(alone: pd.DataFrame, together: pd.DataFrame) -> pd.DataFrame:
    """The sum of what each site does alone beside what a set of sites does together.

    ``alone`` has a row a site and text: ``site, cluster, kl``; ``together`` a row a set and text: ``name, sites``
    (joined by +), ``cluster, kl``. Returns a row a set: ``name, count`` of its sites, means over texts ``sum, joint``,
    and their ``ratio, lo, hi`` with its 95 % interval over texts (jackknife on the logarithm).
    """
    wide = alone.pivot_table(index="cluster", columns="site", values="kl", sort=False)
    rows = []
    for name, some in together.groupby("name", sort=False):
        sites = some["sites"].iloc[0].split("+")
        pair = np.stack([wide.loc[some["cluster"], sites].sum(axis=1), some["kl"]], -1)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = stats.of_sums(pair, some["cluster"], lambda s: np.log(s[..., 0] / s[..., 1]))
        rows.append((name, len(sites), *pair.mean(0), *np.exp(ratio)))
    return pd.DataFrame(rows, columns=["name", "count", "sum", "joint", "ratio", "lo", "hi"])


def within(ratios: pd.DataFrame, factor: float = 2.0) -> tuple[int, int]:
    """Up to how many sites every sum is within a factor of the joint effect, and the side on which it fails first.

    ``ratios`` is a table of :func:`added`. The side is 1 where the sum is too large (together they do less), −1 where
    it is too small (together they do more), 0 where it never fails.
    """
    off = np.abs(np.log(ratios["ratio"])) > np.log(factor) + 1e-9
    if not off.any():
        return int(ratios["count"].max()), 0
    first = ratios.loc[off, "count"].min()
    below = ratios.loc[ratios["count"] < first, "count"]
    sides = np.sign(np.log(ratios.loc[off & (ratios["count"] == first), "ratio"]))
    return int(below.max()) if len(below) else 0, int(np.sign(sides.sum()))
