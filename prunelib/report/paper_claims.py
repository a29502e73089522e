"""What the paper itself reports on each claim, beside the number that decides it here.

Every number is computed from ``data/paper/reported.json``; ``what`` says which number it is, since it is seldom the one
that decides the claim here. A claim for which the paper prints or draws nothing that could be compared has none.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd

from prunelib.report import paper
from prunelib.runs.zoo.traces import middle_layers
from prunelib.tasks.shares import PASSES

DROPPED = 8
"""Sublayers dropped in what is compared, the most of the paper's task table."""


EARLY = 10
"""Decoding steps that count as early."""


class Reported(NamedTuple):
    """A number of the paper: ``part`` of the claim that it stands beside ("" for all of it), and its ``source``."""

    part: str
    value: float
    what: str
    source: str


def reported(claim: str) -> list[Reported]:
    """The paper's numbers on a claim; empty where it has none in its tables and curves."""
    return list(_OF[claim]()) if claim in _OF else []


def _source(*names: str) -> str:
    return f"arXiv:2603.24652, {', '.join(names)}"


def _off(quantity: str) -> Iterable[Reported]:
    name = f"fig:theory_vs_measured:{quantity}"
    both = paper.series(name, "measured").merge(paper.series(name, "estimated"), on="x", suffixes=("_m", "_e"))
    both = both[(both["y_m"] > 0) & (both["y_e"] > 0)]
    factor = float(np.exp(np.median(np.abs(np.log(both["y_e"] / both["y_m"])))))
    yield Reported(
        "", factor, f"the same factor at one middle attention layer, {len(both)} decoding steps", _source(name)
    )


def _layers(space: str, middle: bool) -> pd.Series:
    """Layer means of a cosine, attention and MLP one after the other."""
    found = []
    for kind in ("attn", "mlp"):
        name = f"fig:pruning_hierarchies_{kind}"
        curve = paper.series(name, space).set_index("x")["y"]
        keep = middle_layers(paper.source(name, space)[1]) if middle else curve.index
        found.append(curve[curve.index.isin(list(keep))])
    return pd.concat(found, ignore_index=True)


def _spread() -> Iterable[Reported]:
    low = {space: float(_layers(space, True).min()) for space in ("logit", "probability")}
    what = "lowest layer mean of cos z minus that of cos p in the middle half of the layers; its curves hold means only"
    yield Reported("", low["logit"] - low["probability"], what, _source("fig:pruning_hierarchies_attn and _mlp"))


def _amplified() -> Iterable[Reported]:
    z, p = (_layers(space, False) for space in ("logit", "probability"))
    what = "share of the layer means of its curves, attention and MLP"
    yield Reported("raw lens", float((1 - p > 1 - z).mean()), what, _source("fig:pruning_hierarchies_attn and _mlp"))


def _dropped() -> Iterable[Reported]:
    for part, figure in (
        ("choice kept", "fig:pruning_non_generative:MMLU"),
        ("generation kept", "fig:pruning_generative:GSM8K"),
    ):
        shares = []
        for series in ("attn_drop", "mlp_drop"):
            at = paper.series(figure, series)["x"] == DROPPED
            shares.append(float(paper.kept_above_chance(figure, series).loc[at, "kept"].iloc[0]))
        model, layers = paper.source(figure, "attn_drop")
        what = (
            f"{figure.rpartition(':')[2]}, mean of {DROPPED} attention and {DROPPED} MLP sublayers of {layers}, {model}"
        )
        yield Reported(part, sum(shares) / 2, what, _source(figure))


def _tasks() -> pd.DataFrame:
    return paper.table("table:task_suite").set_index(["group", "task"])


def _retrieval() -> Iterable[Reported]:
    task, column = "BEIR-13 average nDCG@10", f"Drop-{DROPPED}A"
    row = _tasks().loc[("retrieval", task)]
    yield Reported("", float(row[column] / row["Full"]), f"{task}, {column}", _source("table:task_suite"))


def _compounds() -> Iterable[Reported]:
    curve = paper.series("fig:decoding:kl", "probability")
    quarter = curve["x"].max() / 4
    first, last = curve[curve["x"] <= quarter]["y"].mean(), curve[curve["x"] >= 3 * quarter]["y"].mean()
    what = "last over first quarter of the steps, each model on a text of its own; direction of the KL not stated"
    yield Reported("rise", float(last / first), what, _source("fig:decoding:kl"))


def _first_steps() -> Iterable[Reported]:
    name = "fig:pruning_quant:kl"
    both = paper.series(name, "4:8").merge(paper.series(name, "quantization"), on="x", suffixes=("", "_quantized"))
    both = both[both["x"] < EARLY]
    ratio = both["y"].mean() / both["y_quantized"].mean()
    what = (
        f"another number: mean KL of the 4:8 model over that of the quantized one, free texts, first {EARLY} steps; "
        "no scores are given"
    )
    yield Reported("", float(ratio), what, _source(name))


def _proxy() -> Iterable[Reported]:
    rows = _tasks().loc[[("multiple_choice", "average of 5"), ("generative", "average of 5")]]
    kept = rows.drop(columns="Full").div(rows["Full"], axis=0).droplevel(1)
    passing = kept.columns[kept.loc["multiple_choice"] >= PASSES]
    if len(passing):
        what = f"averages of five tasks, {' and '.join(passing)}; plain scores, chance is not printed"
        yield Reported("", float(1 - kept.loc["generative", passing].mean()), what, _source("table:task_suite"))


_OF: dict[str, Callable[[], Iterable[Reported]]] = {
    "C2": lambda: _off("one_minus_cosine"),
    "C3": lambda: _off("kl"),
    "C4": _spread,
    "C6": _amplified,
    "C8": _dropped,
    "C10": _retrieval,
    "C12": _compounds,
    "C13": _first_steps,
    "C16": _proxy,
}
