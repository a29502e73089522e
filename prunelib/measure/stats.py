"""Intervals: the cluster bootstrap over prompts.

Positions of one prompt are not independent, so every interval in the book
resamples whole prompts, never single tokens (percentile bootstrap, Efron and
Tibshirani 1993, ch. 13). NumPy only, float64.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

LEVEL = 0.95
"""Coverage of every interval in the book."""


def _resamples(clusters: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cluster codes of the rows, and ``n`` draws of cluster multiplicities ``[n, k]``."""
    _, codes = np.unique(np.asarray(clusters), return_inverse=True)
    k = int(codes.max()) + 1 if len(codes) else 0
    rng = np.random.default_rng(seed)
    return codes, rng.multinomial(k, np.full(k, 1 / k), size=n) if k else np.empty((n, 0))


def _percentiles(draws: np.ndarray) -> tuple[float, float]:
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return float("nan"), float("nan")
    tail = 100 * (1 - LEVEL) / 2
    lo, hi = np.percentile(draws, [tail, 100 - tail])
    return float(lo), float(hi)


def cluster_mean(values, clusters, n: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """Mean of ``values`` with a 95 % interval, resampling whole clusters.

    Shapes: ``values`` and ``clusters`` are ``[rows]``. Returns ``(mean, lo, hi)``
    in the unit of ``values``. With one cluster the interval is that point.
    """
    values = np.asarray(values, dtype=np.float64)
    codes, counts = _resamples(clusters, n, seed)
    sums = np.bincount(codes, weights=values)
    sizes = np.bincount(codes)
    lo, hi = _percentiles((counts @ sums) / (counts @ sizes))
    return float(values.mean()), lo, hi


def of_sums(
    values, clusters, statistic: Callable[[np.ndarray], np.ndarray], n: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """A statistic of column sums with a 95 % interval, resampling whole clusters.

    ``values`` is ``[rows, k]``, ``clusters`` ``[rows]``; ``statistic`` maps sums
    ``[..., k]`` to ``[...]``, such as a ratio of two columns. Columns are resampled
    together, so that what is compared stays paired. Returns ``(value, lo, hi)``.
    """
    values = np.asarray(values, dtype=np.float64)
    codes, counts = _resamples(clusters, n, seed)
    sums = np.zeros((counts.shape[1], values.shape[1]))
    np.add.at(sums, codes, values)
    with np.errstate(divide="ignore", invalid="ignore"):
        draws, value = statistic(counts @ sums), statistic(sums.sum(0))
    return float(value), *_percentiles(np.asarray(draws))


def bootstrap(
    frame: pd.DataFrame,
    statistic: Callable[[pd.DataFrame], float],
    by: str = "prompt_id",
    n: int = 400,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Any statistic of a table with a 95 % interval, resampling whole clusters.

    ``statistic`` maps a table with the columns of ``frame`` to one float;
    ``by`` names the column that holds the cluster of a row. Returns
    ``(value, lo, hi)``: the statistic of ``frame`` itself and the interval.
    """
    codes, counts = _resamples(frame[by].to_numpy(), n, seed)
    rows = [np.flatnonzero(codes == code) for code in range(counts.shape[1])]
    draws = np.empty(n)
    for i, multiplicity in enumerate(counts):
        chosen = np.concatenate([np.tile(rows[c], m) for c, m in enumerate(multiplicity) if m])
        draws[i] = statistic(frame.take(chosen))
    lo, hi = _percentiles(draws)
    return float(statistic(frame)), lo, hi


def bands(frame: pd.DataFrame, value: str, by: list[str], cluster: str = "prompt_id", seed=0):
    """Mean, its interval, and the spread of ``value`` in each group.

    Returns one row a group with ``mean, mean_lo, mean_hi`` (95 % interval of
    the mean over clusters), ``median, q05, q95, min, max`` (spread over rows).
    """
    records = []
    for group, rows in frame.groupby(by, sort=True):
        x = rows[value].to_numpy(dtype=np.float64)
        mean, lo, hi = cluster_mean(x, rows[cluster].to_numpy(), seed=seed)
        q05, median, q95 = np.percentile(x, [5, 50, 95])
        records.append(
            dict(zip(by, group, strict=True))
            | {"mean": mean, "mean_lo": lo, "mean_hi": hi, "median": median}
            | {"q05": q05, "q95": q95, "min": x.min(), "max": x.max()}
        )
    return pd.DataFrame.from_records(records)
