"""Intervals over clusters: the prompts of a text, the passages of a question, the items of a benchmark.

Positions of one prompt are not independent, nor are questions on one passage, so every
interval in the book takes whole clusters as what varies. There are few of them (12 passages
in ``quick``), where the percentile bootstrap is too narrow. Each kind of number has its own:

- smooth statistics (means, ratios, correlations): the delete-one-cluster jackknife with
  Student's t of k − 1 degrees of freedom (Efron and Tibshirani 1993, ch. 11), no draws;
- shares of things that are so or not: Clopper and Pearson's interval at the effective sample
  size that the jackknife finds (Korn and Graubard 1998); where none or all are so, the exact
  bound over clusters;
- shares kept of a dense score (:func:`kept`): the jackknife of the ratio, and such a bound
  where too few answers differ for it to see anything;
- quantiles, for which the jackknife is wrong: t times the standard error over :data:`DRAWS`
  bootstrap draws of whole clusters.

With one cluster no interval is defined: its ends are NaN. ``tests/measure/test_coverage.py``
simulates how often the intervals hold the truth. NumPy and SciPy only, float64.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy.special import betaincinv, ndtri, stdtrit

LEVEL = 0.95
"""Coverage of every interval in the book."""

DRAWS = 400
"""Resamples of whole clusters behind the interval of a quantile."""

FEW = 3
"""A jackknife of fewer clusters in which two models differ does not see how much they may differ."""

_TAIL = (1 - LEVEL) / 2
Interval = tuple[float, float, float]
"""Value, lower end and upper end."""


def cluster_sums(values, clusters) -> np.ndarray:
    """``values`` ``[rows, c]`` (or ``[rows]``) added up by cluster: ``[k, c]``, float64."""
    values = np.asarray(values, dtype=np.float64)
    values = values[:, None] if values.ndim == 1 else values
    codes, found = pd.factorize(np.asarray(clusters))
    sums = np.zeros((len(found), values.shape[1]))
    np.add.at(sums, codes, values)
    return sums


def jackknife(sums: np.ndarray, statistic: Callable) -> tuple[np.ndarray, np.ndarray]:
    """A statistic of column sums and its standard error by leaving out one cluster at a time.

    ``sums`` is ``[..., k, c]``, a row a cluster; ``statistic`` maps sums ``[..., c]`` to ``[...]``.
    """
    k = sums.shape[-2]
    whole = sums.sum(-2)
    with np.errstate(divide="ignore", invalid="ignore"):
        value, without = statistic(whole), statistic(whole[..., None, :] - sums)
        return value, _standard_error(without) if k > 1 else np.full(np.shape(value), np.nan)


def _standard_error(without: np.ndarray) -> np.ndarray:
    """From the statistic without each cluster ``[..., k]`` (Efron and Tibshirani 1993, eq. 11.5)."""
    k = without.shape[-1]
    error = np.sqrt((k - 1) / k * ((without - without.mean(-1, keepdims=True)) ** 2).sum(-1))
    return np.where(error < 1e-12 * np.abs(without).max(-1), 0.0, error)  # the rounding of equal numbers


def _t(clusters: int) -> float:
    return float(stdtrit(clusters - 1, 1 - _TAIL)) if clusters > 1 else float("nan")


def _clopper_pearson(successes, trials) -> tuple[np.ndarray, np.ndarray]:
    """Exact interval of a share (Clopper and Pearson 1934); ``trials`` need not be whole."""
    s, n = np.broadcast_arrays(np.asarray(successes, float), np.asarray(trials, float))
    lo, hi = np.zeros(s.shape), np.ones(s.shape)
    some, short = s > 0, s < n
    lo[some] = betaincinv(s[some], (n - s + 1)[some], _TAIL)
    hi[short] = betaincinv((s + 1)[short], (n - s)[short], 1 - _TAIL)
    return lo, hi


def _binomial(share, error, clusters: int, rows) -> tuple[np.ndarray, np.ndarray]:
    """Interval of a share in [0, 1] whose standard error is known (Korn and Graubard 1998).

    At 0 and 1, where no error can be seen, each cluster counts as one trial.
    """
    if clusters < 2:
        return np.full(np.shape(share), np.nan), np.full(np.shape(share), np.nan)
    share = np.clip(share, 0, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        trials = np.where(error > 0, share * (1 - share) / error**2, rows)
    trials = trials * (ndtri(1 - _TAIL) / _t(clusters)) ** 2
    trials = np.where((share <= 0) | (share >= 1), clusters, trials)
    return _clopper_pearson(share * trials, trials)


def _ratio(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0] / sums[..., 1]


def share_of(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A share with its interval: ``sums`` is ``[..., k, 2]``, what is so and how many there are, by cluster."""
    value, error = jackknife(sums, _ratio)
    return value, *_binomial(value, error, sums.shape[-2], sums[..., 1].sum(-1))


def share(values, clusters) -> Interval:
    """Mean of ``values`` in [0, 1] with a 95 % interval that stays there; ``values, clusters`` are ``[rows]``."""
    return _floats(share_of(cluster_sums(_counted(values), clusters)))


def not_negative(found: Interval) -> Interval:
    """Of what is never below 0 the interval is not either (NaN stays)."""
    value, lo, hi = found
    return value, max(lo, 0.0) if lo == lo else lo, hi


def cluster_mean(values, clusters) -> Interval:
    """Mean of ``values`` with a 95 % interval over clusters, in the unit of ``values``.

    Shapes: ``values`` and ``clusters`` are ``[rows]``. For shares see :func:`share`.
    """
    return of_sums(_counted(values), clusters, _ratio)


def of_sums(values, clusters, statistic: Callable[[np.ndarray], np.ndarray]) -> Interval:
    """A statistic of column sums with a 95 % interval by the jackknife over clusters.

    ``values`` is ``[rows, c]``, ``clusters`` ``[rows]``; ``statistic`` maps sums ``[..., c]``
    to ``[...]``, such as a ratio of two columns.
    """
    sums = cluster_sums(values, clusters)
    value, error = jackknife(sums, statistic)
    return _around(value, error, len(sums))


def correlation(frame: pd.DataFrame, statistic: Callable[[pd.DataFrame], float], by: str = "prompt_id") -> Interval:
    """A correlation, as :func:`smooth`, on Fisher's scale (artanh), so that its interval stays within −1 and 1."""
    most = 1 - 1e-12
    found = smooth(frame, lambda f: np.arctanh(np.clip(statistic(f), -most, most)), by)
    return _floats(np.tanh(found))


def smooth(frame: pd.DataFrame, statistic: Callable[[pd.DataFrame], float], by: str = "prompt_id") -> Interval:
    """A smooth statistic of a table (a mean, a ratio; no quantile) with a 95 % interval.

    ``statistic`` maps a table with the columns of ``frame`` to one float; ``by`` names the
    column that holds the cluster of a row. By the jackknife over clusters.
    """
    codes, clusters = pd.factorize(frame[by].to_numpy())
    value = float(statistic(frame))
    if len(clusters) < 2:
        return value, float("nan"), float("nan")
    without = np.array([statistic(frame[codes != code]) for code in range(len(clusters))], dtype=np.float64)
    return _around(value, _standard_error(without), len(clusters))


def bootstrap(
    frame: pd.DataFrame, statistic: Callable[[pd.DataFrame], float], by: str = "prompt_id", seed: int = 0
) -> Interval:
    """A quantile of a table, or a statistic of quantiles, with a 95 % interval from resampled clusters.

    As :func:`smooth`, but by :data:`DRAWS` draws: the jackknife is wrong for medians and other
    quantiles. The interval is t times the standard error of the draws, as far as they reach; their
    percentiles are too narrow for few clusters.
    """
    codes, clusters = pd.factorize(frame[by].to_numpy())
    k, value = len(clusters), float(statistic(frame))
    if k < 2:
        return value, float("nan"), float("nan")
    rows = [np.flatnonzero(codes == code) for code in range(k)]
    draws = np.empty(DRAWS)
    for i, multiplicity in enumerate(np.random.default_rng(seed).multinomial(k, np.full(k, 1 / k), size=DRAWS)):
        chosen = np.concatenate([np.tile(rows[c], m) for c, m in enumerate(multiplicity) if m])
        draws[i] = statistic(frame.take(chosen))
    draws = draws[np.isfinite(draws)]
    size = np.abs(draws).max(initial=0) or 1.0  # squares of the largest numbers would overflow
    error = size * (draws / size).std(ddof=1) * np.sqrt(k / (k - 1)) if len(draws) > 1 else np.nan
    _, lo, hi = _around(value, error, k)
    return value, max(lo, min(value, *draws)), min(hi, max(value, *draws))


def bands(frame: pd.DataFrame, value: str, by: list[str], cluster: str = "prompt_id"):
    """Mean, its interval, and the spread of ``value`` in each group.

    Returns one row a group with ``mean, mean_lo, mean_hi`` (95 % interval of
    the mean over clusters), ``median, q05, q95, min, max`` (spread over rows).
    """
    records = []
    for group, rows in frame.groupby(by, sort=True):
        x = rows[value].to_numpy(dtype=np.float64)
        mean, lo, hi = cluster_mean(x, rows[cluster].to_numpy())
        q05, median, q95 = np.percentile(x, [5, 50, 95])
        records.append(
            dict(zip(by, group, strict=True))
            | {"mean": mean, "mean_lo": lo, "mean_hi": hi, "median": median}
            | {"q05": q05, "q95": q95, "min": x.min(), "max": x.max()}
        )
    return pd.DataFrame.from_records(records)


# ---------------------------------------------------------------- shares kept of a dense score


def compared(own, dense, chance=0.0) -> np.ndarray:
    """Columns ``own, dense, gained, lost, chance, one`` ``[rows, 6]`` that :func:`kept_of` adds up.

    ``own`` and ``dense`` are the scores of the same items in [0, 1], ``chance`` what guessing scores on each.
    """
    own, dense = np.asarray(own, dtype=np.float64), np.asarray(dense, dtype=np.float64)
    gained, lost = np.maximum(own - dense, 0), np.maximum(dense - own, 0)
    return np.stack([own, dense, gained, lost, np.broadcast_to(chance, own.shape), np.ones_like(own)], -1)


def _kept(sums: np.ndarray) -> np.ndarray:
    return (sums[..., 0] - sums[..., 4]) / (sums[..., 1] - sums[..., 4])


def above_chance(sums: np.ndarray) -> np.ndarray:
    """Whether the dense score lies above chance, its whole interval; sums ``[..., k, 6]`` of :func:`compared`.

    Of one cluster nothing is known, so that a score above chance counts.
    """
    value, error = jackknife(sums, lambda s: (s[..., 1] - s[..., 4]) / s[..., 5])
    return value > (np.zeros_like(value) if sums.shape[-2] < 2 else _t(sums.shape[-2]) * error)


def kept_of(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``(own − chance) / (dense − chance)`` with a 95 % interval; sums ``[..., k, 6]`` of :func:`compared` by cluster.

    NaN where the dense score is not :func:`above_chance`: of nothing no share is kept. The
    interval is the jackknife's, except where that sees too little:

    - a share below one half of a score without guessing is a proportion of the dense score,
      with the interval of one; where nothing is kept it ends at the exact bound over
      clusters on the own score, divided by the dense score;
    - where fewer than :data:`FEW` clusters hold an item that only one of the two models
      answers, what is lost and what is gained may be as large as their own intervals say.

    A share of a score without guessing is never below 0.
    """
    k = sums.shape[-2]
    value, error = jackknife(sums, _kept)
    total = sums.sum(-2)
    items = total[..., 5]
    lo, hi = value - _t(k) * error, value + _t(k) * error
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = (total[..., 1] - total[..., 4]) / items
        gained, least, most = share_of(sums[..., [2, 5]])
        lost, fewest, largest = share_of(sums[..., [3, 5]])
        down, up = np.hypot(largest - lost, gained - least) / gap, np.hypot(most - gained, lost - fewest) / gap
        alike = ((sums[..., 2] + sums[..., 3]) > 0).sum(-1) < FEW
        lo, hi = np.where(alike, np.minimum(lo, value - down), lo), np.where(alike, np.maximum(hi, value + up), hi)
        low, high = _binomial(value, error, k, total[..., 1])
        nothing = total[..., 0] <= 0
        high = np.where(nothing, _clopper_pearson(0, k)[1] / gap, high)
    guessing = total[..., 4] > 0
    little = ~guessing & (value < 0.5)
    lo, hi = np.where(little, low, lo), np.where(little, high, hi)
    lo = np.where(guessing, lo, np.maximum(lo, 0))
    defined = above_chance(sums)
    ends = defined & (k > 1)
    return np.where(defined, value, np.nan), np.where(ends, lo, np.nan), np.where(ends, hi, np.nan)


def kept(own, dense, clusters, chance=0.0) -> Interval:
    """Share of the dense score that is kept, both above ``chance``: see :func:`kept_of`.

    ``own, dense, clusters`` are ``[rows]``, the same items in both; NaN where the share is not defined.

    Examples
    --------
    Thirty passages of one question with two options: the dense model is always right, the other in 24 of them.

    >>> own, dense = [1.0] * 24 + [0.0] * 6, [1.0] * 30
    >>> [round(number, 2) for number in kept(own, dense, range(30), chance=0.5)]
    [0.6, 0.3, 0.9]
    """
    return _floats(kept_of(cluster_sums(compared(own, dense, chance), clusters)))


def difference_of(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One share kept minus another on the same clusters, each as sums ``[..., k, 6]`` of :func:`compared`.

    By the jackknife of the difference. Where one of the two models compared in a share
    answers nothing, or both answer alike, it sees no spread there: then the distances of both
    intervals' ends are combined (Zou and Donner 2008).
    """
    k = first.shape[-2]
    both = np.concatenate([first, second], -1)
    value, error = jackknife(both, lambda s: _kept(s[..., :6]) - _kept(s[..., 6:]))
    (a, a_lo, a_hi), (b, b_lo, b_hi) = kept_of(first), kept_of(second)
    blind = _no_spread(first) | _no_spread(second)
    lo = value - np.where(blind, np.hypot(a - a_lo, b_hi - b), _t(k) * error)
    hi = value + np.where(blind, np.hypot(a_hi - a, b - b_lo), _t(k) * error)
    undefined = np.isnan(a) | np.isnan(b)
    return tuple(np.where(undefined, np.nan, one) for one in (value, lo, hi))


def _no_spread(sums: np.ndarray) -> np.ndarray:
    total = sums.sum(-2)
    return (total[..., 0] <= 0) | (total[..., 2] + total[..., 3] <= 0)


def difference(first: Sequence, second: Sequence, clusters) -> Interval:
    """:func:`difference_of` two shares from rows: ``first`` and ``second`` are ``(own, dense, chance)``."""
    return _floats(difference_of(*(cluster_sums(compared(*one), clusters) for one in (first, second))))


# ---------------------------------------------------------------- small parts


def _counted(values) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    return np.stack([values, np.ones_like(values)], -1)


def _around(value, error, clusters: int) -> Interval:
    spread = _t(clusters) * error
    return _floats((value, value - spread, value + spread))


def _floats(found: Sequence) -> Interval:
    return tuple(float(one) for one in found)
