"""The block of statistics by which users of KL tools compare two models, each with its interval over pieces of text.

The names are those of llama.cpp's ``perplexity --kl-divergence`` and of exllamav3's ``model_diff`` where both
measure the same: KL(dense ‖ pruned) and its percentiles, Δp, same-top share, perplexity ratio; agreement of the
first k most likely tokens in their order. Flips are those of arXiv:2407.09141, the token that stands in the text being
the right answer.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd

from prunelib.measure.paired import mcnemar, paired_bootstrap
from prunelib.measure.stats import Interval, bootstrap, cluster_mean, not_negative, of_sums, share

RANKS = 5
"""Most likely tokens that are compared in their order."""

KL_PERCENTILES = (99.9, 99.0, 95.0, 50.0, 5.0, 1.0)
DP_PERCENTILES = (99.9, 99.0, 95.0, 50.0, 5.0, 1.0, 0.1)


def percentile_name(column: str, percent: float) -> str:
    """``kl_dense_pruned_p99_9``; the 50th is the median."""
    return f"{column}_median" if percent == 50 else f"{column}_p{percent:g}".replace(".", "_")


def _percentile_titles(column: str, title: str, percents: Sequence[float]) -> dict[str, str]:
    words = {percent: "median" if percent == 50 else f"{percent:g} %" for percent in percents}
    return {percentile_name(column, percent): f"{title}, {words[percent]}" for percent in percents}


TITLES = {
    "kl_dense_pruned_mean": "KL(dense ‖ pruned), mean",
    "kl_dense_pruned_max": "KL(dense ‖ pruned), maximum",
    "kl_pruned_dense_mean": "KL(pruned ‖ dense), mean",
    "dp_mean": "Δp of the token in the text, mean",
    "dp_rms": "Δp of the token in the text, RMS",
    "dp_max": "Δp of the token in the text, maximum",
    "dp_min": "Δp of the token in the text, minimum",
    "dp_top_rms": "Δp of the dense top token, RMS",
    "same_top": "same top token",
    "perplexity_dense": "perplexity, dense",
    "perplexity_pruned": "perplexity, pruned",
    "perplexity_ratio": "perplexity, pruned / dense",
    "nll_difference": "log-likelihood lost a token",
    "nll_difference_p": "log-likelihood lost, p of the paired bootstrap",
    "right_dense": "token in the text on top, dense",
    "right_pruned": "token in the text on top, pruned",
    "right_difference": "token in the text on top, pruned − dense",
    "right_difference_p": "the same, p of the paired bootstrap",
    "flips": "flips",
    "flips_lost": "flips from right to wrong",
    "flips_gained": "flips from wrong to right",
    "flips_mcnemar_p": "flips, p of McNemar's test (tokens independent)",
    "tokens": "predicted tokens",
    "clusters": "clusters",
    **{f"top_agreement_{k}": f"same top {k}, in order" for k in range(1, RANKS + 1)},
    **_percentile_titles("kl_dense_pruned", "KL(dense ‖ pruned)", KL_PERCENTILES),
    **_percentile_titles("dp", "Δp of the token in the text", DP_PERCENTILES),
}
"""What the statistics are called where people read them."""


def summarise(tokens: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """The statistics of a table of :func:`prunelib.measure.next_token.compare`.

    Returns ``name, value, lo, hi, unit, exact``: a 95 % interval over the clusters of ``tokens``
    (:mod:`prunelib.measure.stats`; NaN with a single one), or ``exact`` for what belongs to this text alone (largest
    and smallest values, counts, p values). Units: ``nats``, ``probability`` (Δp = pruned − dense), ``share`` of
    the tokens, ``1``. ``seed`` is that of the bootstrap draws.
    """
    return pd.DataFrame.from_records(
        [(name, *found, unit, exact) for name, found, unit, exact in _rows(tokens, seed)],
        columns=["name", "value", "lo", "hi", "unit", "exact"],
    )


def _rows(tokens: pd.DataFrame, seed: int) -> Iterator[tuple[str, Interval, str, bool]]:
    who, column = tokens["cluster"].to_numpy(), {name: tokens[name].to_numpy() for name in tokens}
    forward, dp = column["kl_dense_pruned"], column["dp"]

    def mean(values) -> Interval:
        return cluster_mean(values, who)

    yield "kl_dense_pruned_mean", not_negative(mean(forward)), "nats", False
    for percent, found in zip(KL_PERCENTILES, percentiles(forward, who, KL_PERCENTILES, seed), strict=True):
        yield percentile_name("kl_dense_pruned", percent), found, "nats", False
    yield "kl_dense_pruned_max", _alone(forward.max()), "nats", True
    yield "kl_pruned_dense_mean", not_negative(mean(column["kl_pruned_dense"])), "nats", False
    yield "dp_mean", mean(dp), "probability", False
    yield "dp_rms", _rms(dp, who), "probability", False
    yield "dp_max", _alone(dp.max()), "probability", True
    for percent, found in zip(DP_PERCENTILES, percentiles(dp, who, DP_PERCENTILES, seed), strict=True):
        yield percentile_name("dp", percent), found, "probability", False
    yield "dp_min", _alone(dp.min()), "probability", True
    yield "dp_top_rms", _rms(column["dp_top"], who), "probability", False
    yield "same_top", share(column["agree"] >= 1, who), "share", False
    for k in range(1, RANKS + 1):
        yield f"top_agreement_{k}", share(column["agree"] >= k, who), "share", False
    lost = column["nll_pruned"] - column["nll_dense"]
    for name, nll in (("dense", column["nll_dense"]), ("pruned", column["nll_pruned"]), ("ratio", lost)):
        yield f"perplexity_{name}", _exponential(mean(nll)), "1", False
    apart = paired_bootstrap(column["nll_dense"], column["nll_pruned"], who, seed)
    yield "nll_difference", apart[:3], "nats", False
    yield "nll_difference_p", _alone(apart.p), "1", True
    dense, pruned = column["right_dense"], column["right_pruned"]
    yield "right_dense", share(dense, who), "share", False
    yield "right_pruned", share(pruned, who), "share", False
    apart = paired_bootstrap(dense, pruned, who, seed)
    yield "right_difference", apart[:3], "share", False
    yield "right_difference_p", _alone(apart.p), "1", True
    yield "flips", share(dense != pruned, who), "share", False
    yield "flips_lost", share(dense & ~pruned, who), "share", False
    yield "flips_gained", share(pruned & ~dense, who), "share", False
    yield "flips_mcnemar_p", _alone(mcnemar(dense, pruned).p), "1", True
    yield "tokens", _alone(len(tokens)), "1", True
    yield "clusters", _alone(len(np.unique(who))), "1", True


def percentiles(values, clusters, percents: Sequence[float], seed: int = 0) -> list[Interval]:
    """Percentiles of ``values`` [rows], between neighbours as NumPy's, with 95 % intervals by resampled clusters.

    The values are sorted once: a draw says how often each cluster counts, which gives every value its weight.
    """
    codes, found = pd.factorize(np.asarray(clusters))
    order = np.argsort(values, kind="stable")
    x, codes = np.asarray(values, dtype=np.float64)[order], codes[order]
    pieces = pd.DataFrame({"prompt_id": np.arange(len(found))})

    def at(percent: float) -> Callable[[pd.DataFrame], float]:
        def quantile(drawn: pd.DataFrame) -> float:
            times = np.bincount(drawn["prompt_id"].to_numpy(), minlength=len(found))
            upto = times[codes].cumsum()
            place = (upto[-1] - 1) * percent / 100
            below = int(place)
            low, high = x[np.searchsorted(upto, [below, min(below + 1, upto[-1] - 1)], side="right")]
            return float(low + (place - below) * (high - low))

        return quantile

    return [bootstrap(pieces, at(percent), seed=seed) for percent in percents]


def _alone(value) -> Interval:
    return float(value), float("nan"), float("nan")


def _rms(values, who) -> Interval:
    squares = np.stack([np.square(values), np.ones(len(values))], -1)
    return not_negative(of_sums(squares, who, lambda s: np.sqrt(np.maximum(s[..., 0], 0) / s[..., 1])))


def _exponential(found: Interval) -> Interval:
    with np.errstate(over="ignore"):
        return tuple(float(np.exp(one)) for one in found)
