"""Numbers over the steps of texts: what rises, what adds up, how long texts agree; tables of runs/zoo/decoding.

Every interval is over prompts. The draws of a prompt stay together, so that seeds and prompts both enter it.
"""

import numpy as np
import pandas as pd

from prunelib.measure.stats import Interval, cluster_mean, of_sums, share, smooth

QUARTER = 0.25
"""Share of the steps that counts as the beginning, and as the end, of a text."""


def by_step(table: pd.DataFrame, value: str = "kl_dense_pruned") -> pd.DataFrame:
    """Mean of a column at every step: ``label, pair, step, mean, lo, hi, texts`` (how many still go on)."""
    rows = []
    for (label, pair, step), some in table.groupby(["label", "pair", "step"], sort=False):
        found = cluster_mean(some[value], some["prompt_id"])
        rows.append((label, pair, step, *found, len(some)))
    return pd.DataFrame(rows, columns=["label", "pair", "step", "mean", "lo", "hi", "texts"])


def _ends(table: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Whether a row belongs to the first and to the last quarter of the steps that the run takes."""
    steps = int(table["step"].max()) + 1
    width = max(1, int(steps * QUARTER))
    return table["step"] < width, table["step"] >= steps - width


def rise(table: pd.DataFrame, value: str = "kl_dense_pruned") -> Interval:
    """Mean in the last quarter of the steps over the mean in the first, geometric mean over the models.

    NaN where no text reaches the last quarter.
    """

    def ratio(some: pd.DataFrame) -> float:
        first, last = _ends(table)
        logs = []
        for _, one in some.groupby("label"):
            early, late = (one.loc[one.index.intersection(part[part].index), value].mean() for part in (first, last))
            logs.append(np.log(late / early))
        return float(np.mean(logs))

    with np.errstate(divide="ignore", invalid="ignore"):
        return tuple(float(x) for x in np.exp(smooth(table, ratio)))


def means(table: pd.DataFrame, value: str = "kl_dense_pruned") -> dict[str, Interval]:
    """Mean of a column over all steps, by pair."""
    return {pair: cluster_mean(some[value], some["prompt_id"]) for pair, some in table.groupby("pair")}


def late(table: pd.DataFrame, value: str = "kl_dense_pruned") -> Interval:
    """Mean of a column in the last quarter of the steps."""
    some = table[_ends(table)[1]]
    return cluster_mean(some[value], some["prompt_id"])


def excess(table: pd.DataFrame) -> Interval:
    """Excess accumulated error, over the models: KL(dense‖pruned) a token on the pruned text over that on the dense
    text, minus 1 (Arora, El Asri, Bahuleyan and Cheung 2022, their %ExAccErr as a share).

    0 if errors do not feed on each other: then a pruned model is as wrong on its own text as on the dense one.
    """

    def ratio(some: pd.DataFrame) -> float:
        mean = some[some["pair"].isin(["own", "direct"])].groupby(["label", "pair"])["kl_dense_pruned"].mean().unstack()
        return float(np.log(mean["own"] / mean["direct"]).mean())

    with np.errstate(divide="ignore", invalid="ignore"):
        return tuple(float(x) for x in np.expm1(smooth(table, ratio)))


def whole_texts(table: pd.DataFrame) -> dict[str, Interval]:
    """KL of whole sampled texts in nats, one model: ``dense_pruned`` along dense texts, ``pruned_dense`` along its own.

    By the chain rule; unbiased for texts drawn at T = 1 as long as they are here.
    """
    sampled = table[table["draw"] > 0]
    found = {}
    for name, pair, column in (
        ("dense_pruned", "direct", "kl_dense_pruned"),
        ("pruned_dense", "own", "kl_pruned_dense"),
    ):
        sums = sampled[sampled["pair"] == pair].groupby(["prompt_id", "draw"])[column].sum().reset_index()
        found[name] = cluster_mean(sums[column], sums["prompt_id"])
    return found


def survival(table: pd.DataFrame) -> pd.DataFrame:
    """How long free texts agree, seen and foretold, one model, a row a step.

    ``how, step``; ``seen``, ``law`` and ``gap`` (seen minus law, text by text) with ``_lo`` and ``_hi``. ``how``
    is ``sampled`` (noise in common; the law is that of :mod:`prunelib.measure.survival`) or ``greedy`` (texts agree as
    long as forced choices do: the law is exact, both are counts). ``step`` t counts tokens: 1 is the first.
    """
    direct = table[table["pair"] == "direct"]
    rows = []
    for how, some in (("greedy", direct[direct["draw"] == 0]), ("sampled", direct[direct["draw"] > 0])):
        texts = some.drop_duplicates(["prompt_id", "draw"]).set_index(["prompt_id", "draw"])
        column = "agree_common" if how == "sampled" else "top1_same"
        agree = some.pivot(index=["prompt_id", "draw"], columns="step", values=column).reindex(texts.index)
        law = agree.astype(float).fillna(1.0).cumprod(axis=1)  # a text that has ended stays as it is
        lengths = some.groupby(["prompt_id", "draw"]).size().reindex(texts.index)
        never = (texts["parted"] >= texts["ended"]) & (texts["ended"] == lengths)
        prompts = texts.index.get_level_values("prompt_id")
        for step in law.columns:
            seen = (never | (texts["parted"] > step)).astype(float)
            expected = law[step]
            spans = (share(seen, prompts), share(expected, prompts), cluster_mean(seen - expected, prompts))
            rows.append((how, step + 1, *(end for span in spans for end in span)))
    names = [f"{name}{end}" for name in ("seen", "law", "gap") for end in ("", "_lo", "_hi")]
    return pd.DataFrame(rows, columns=["how", "step", *names])


def agreed(table: pd.DataFrame) -> dict[str, Interval]:
    """Tokens that sampled texts share before they part, one model: ``seen``, by the ``law``, and their ``gap``."""
    some = table[(table["pair"] == "direct") & (table["draw"] > 0)].sort_values("step")
    texts = some.groupby(["prompt_id", "draw"])
    law = texts["agree_common"].agg(lambda x: float(x.cumprod().sum()))
    seen = np.minimum(texts["parted"].first(), texts.size())
    prompts = law.index.get_level_values("prompt_id")
    columns = {"seen": seen, "law": law, "gap": seen - law}
    return {name: cluster_mean(values.to_numpy(), prompts) for name, values in columns.items()}


def parted(table: pd.DataFrame, how: str) -> float:
    """Median number of tokens that free texts have in common: ``how`` is greedy or sampled."""
    some = table[(table["draw"] == 0) == (how == "greedy")].drop_duplicates(["prompt_id", "draw"])
    return float(some["parted"].median())


def shares(free: np.ndarray, direct: np.ndarray, history: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Direct and history part of a divergence; they add up to ``free``.

    Each cause is what it adds, mean over the two orders in which both can be brought in (Shapley 1953):
    ``½(direct + free − history)`` and ``½(history + free − direct)``.
    """
    return (direct + free - history) / 2, (history + free - direct) / 2


def causes(table: pd.DataFrame, value: str = "kl_dense_pruned") -> pd.DataFrame:
    """Direct and history part of the free divergence at each step, one model: ``step, cause, mean, lo, hi``.

    ``cause`` is direct, history or free, which is their sum (:func:`shares`).
    """
    wide = table.pivot(index=["prompt_id", "draw", "step"], columns="pair", values=value)
    wide = wide.dropna(subset=["free", "direct", "history"])
    direct, history = shares(*(wide[name].to_numpy() for name in ("free", "direct", "history")))
    found = wide.reset_index()[["prompt_id", "step"]].assign(
        direct=direct, history=history, free=wide["free"].to_numpy()
    )
    rows = []
    for step, some in found.groupby("step"):
        for cause in ("direct", "history", "free"):
            rows.append((step, cause, *cluster_mean(some[cause], some["prompt_id"])))
    return pd.DataFrame(rows, columns=["step", "cause", "mean", "lo", "hi"])


def history_share(table: pd.DataFrame, value: str = "kl_dense_pruned") -> Interval:
    """Share of the free divergence, over all steps, that the different history makes."""
    wide = table.pivot(index=["prompt_id", "draw", "step"], columns="pair", values=value)
    wide = wide.dropna(subset=["free", "direct", "history"])
    _, history = shares(*(wide[name].to_numpy() for name in ("free", "direct", "history")))
    sums = np.stack([history, wide["free"].to_numpy()], -1)
    return of_sums(sums, wide.index.get_level_values("prompt_id"), lambda s: s[..., 0] / s[..., 1])
