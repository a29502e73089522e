"""Figures of the chapter on memory: what a byte buys, and the paper's six panels step by step."""

import numpy as np
import pandas as pd

from prunelib.methods import parse
from prunelib.report import looks
from prunelib.report.facts import number
from prunelib.report.figures import Drawn, figure
from prunelib.report.style import Style
from prunelib.report.words import percent

_MEASURES = {
    "kept": ("generation", "share of the dense score"),
    "kl": ("first token", "KL(dense ‖ compressed), nats"),
    "common": ("greedy text", "tokens in common with dense"),
}
_ORDER = ("quantize", "sparsify", "drop", "dense")
_SIZES = {"quantize": 6.5, "sparsify": 5.5, "drop": 3.5, "dense": 9}


@figure("fig-quant-memory", "What does the same memory buy?")
def memory(data: pd.DataFrame, style: Style) -> Drawn:
    """Generation kept, KL at the first token, tokens in common, against the memory of the whole model."""
    fig, axes = style.subplots(height=3.3, ncols=3, sharex=True)
    ranked = data.assign(rank=data["kind"].map({kind: i for i, kind in enumerate(_ORDER)}))
    ranked = ranked.sort_values("rank", kind="stable")
    ranked["family"] = [_family(spec, label) for spec, label in zip(ranked["spec"], ranked["label"], strict=True)]
    ranked["x"] = _apart(ranked)
    least, most = data.loc[data["four"], "share"].max(), data["most"].iloc[0]
    for axis, (measure, (title, label)) in zip(axes, _MEASURES.items(), strict=True):
        if least <= most:
            axis.axvspan(least, most, color=style.muted, alpha=0.15, lw=0, label="similar memory")
        for (kind, family), rows in ranked.groupby(["kind", "family"], sort=False):
            rows = rows[rows["measure"] == measure]
            look = looks.model(style, rows["spec"].iloc[0]) if len(rows) else {}
            filled = {"mfc": style.page} if kind == "sparsify" else {}
            low = (rows["value"] - rows["lo"]).clip(0, 0.9 * rows["value"] if measure == "kl" else None)
            points = look | filled | {"ls": "", "ms": _SIZES[kind], "elinewidth": 0.8, "label": family}
            if len(rows):
                axis.errorbar(rows["x"], rows["value"], [low, (rows["hi"] - rows["value"]).clip(lower=0)], **points)
        axis.set(title=title, ylabel=label, xlabel="memory, dense = 1")
    axes[0].axhline(1, color=style.muted, lw=0.8)
    axes[0].set_ylim(-0.03, max(1.1, min(1.6, np.nan_to_num(data.loc[data["measure"] == "kept", "hi"].max()) + 0.05)))
    axes[0].set_xlim(min(0.35, data["share"].min() - 0.04), 1.05)
    axes[1].set_yscale("log")
    axes[2].set_ylim(bottom=-0.04 * axes[2].get_ylim()[1])
    if data.loc[data["measure"] == "kept", "value"].isna().all():
        axes[0].text(0.5, 0.5, "not defined", ha="center", color=style.muted, transform=axes[0].transAxes)
    style.legend(fig)
    caption = (
        f"**{_bought(data)}** Each marker is one model; across: what a checkpoint of the whole model must store, "
        "embeddings included, relative to 16 bits a number. Filled large: weights quantized; hollow: weights removed; "
        "filled small: sublayers dropped. Grey: the memory that claim C13 calls similar. Models of one "
        "memory stand side by side. Bars are 95 % intervals, over "
        "passages for generation and over prompts for the other two. Better is upper left, in the middle panel lower "
        "left."
    )
    wide = data.pivot(index=["label", "share"], columns="measure", values="value").reset_index()
    listed = "; ".join(
        f"{row.label} {row.share:.2f}, " + ", ".join(f"{m} {_shown(getattr(row, m, np.nan))}" for m in _MEASURES)
        for row in wide.sort_values("share").itertuples()
    )
    return Drawn(fig, caption, f"Three scatter plots against memory relative to dense. {listed}.")


_GAP = 0.012
"""Of the dense memory: what stands as close is drawn side by side."""


def _apart(ranked: pd.DataFrame) -> pd.Series:
    """Where markers stand: models of one memory side by side, in the order of the table."""
    models = ranked.drop_duplicates("spec").sort_values("share", kind="stable").set_index("spec")["share"]
    same = (models.diff() > _GAP / 2).cumsum()
    places = models.groupby(same).transform(lambda x: x.mean() + _GAP * (np.arange(len(x)) - (len(x) - 1) / 2))
    places[same.map(same.value_counts()) == 1] = models
    return ranked["spec"].map(places)


def _shown(value: float) -> str:
    return number(value) if np.isfinite(value) else "not measured"


def _family(spec: str, label: str) -> str:
    """What markers of one look are: a method, a kind of drop."""
    if spec == "dense":
        return "dense"
    method = parse(spec)
    if method.kind == "drop":
        return f"Drop-n{label[-1]}" if label.startswith("Drop-") else label
    return method.title


def _bought(data: pd.DataFrame) -> str:
    """The finding of the figure: the 4-bit models beside the best pruned one of similar memory."""
    kept = data[data["measure"] == "kept"]
    four, similar = kept[kept["four"]], kept[kept["similar"]]
    if not len(four):
        return "No model of this run has 4-bit weights."
    said = (
        f"At {four['share'].max():.0%} of the dense memory 4-bit weights keep {percent(four['value'].mean())} of the "
    )
    said += "generation score"
    if not len(similar):
        return f"{said}; no pruned model of this run needs similar memory."
    if similar["value"].isna().all():
        return f"{said}, since the dense model leaves nothing to keep."
    best = similar.loc[similar["value"].idxmax()]
    return (
        f"{said}; of the pruned models of similar memory {best['label']} keeps most, {best['value']:.0%}, "
        f"at {best['share']:.0%}."
    )


_PANELS = {
    "one_minus_cos_h": "1 − cos h",
    "one_minus_cos_z": "1 − cos z",
    "one_minus_cos_p": "1 − cos p",
    "rms_dz": "RMS of Δz, logits",
    "var_dz": "variance of Δz",
    "kl_dense_pruned": "KL, nats",
}


@figure("fig-quant-steps", "The paper's six panels, both models on the dense text")
def steps(data: pd.DataFrame, style: Style) -> Drawn:
    """Six distances at every step of the dense model's greedy text."""
    return _along(
        data, style, "Both models read the dense model's greedy text, so that only the models differ at any step."
    )


@figure("fig-quant-steps-free", "The paper's six panels, each model on its own text")
def free(data: pd.DataFrame, style: Style) -> Drawn:
    """The same with each model on its own text, as the paper compares them, with the paper's curves."""
    theirs = data[data["source"] == "paper"]
    beside = ""
    if len(theirs):
        beside = (
            " Thin grey: the paper's curves, digitised, of a model that it does not name there; what is smaller than "
            "the reading error, 1 % of its axis, is left out."
        )
    return _along(
        data, style, f"Each model reads its own greedy text, as in the paper; means are over texts that go on.{beside}"
    )


def _along(data: pd.DataFrame, style: Style, how: str) -> Drawn:
    fig, axes = style.subplots(4.6, 2, 3, sharex=True, columns=2)
    ours = data[data["source"] == "this run"]
    theirs = data[data["source"] == "paper"]
    names = list(dict.fromkeys(theirs["label"]))
    for axis, (quantity, title) in zip(np.ravel(axes), _PANELS.items(), strict=True):
        for label, rows in theirs[theirs["quantity"] == quantity].groupby("label", sort=False):
            line = {"color": style.muted, "ls": style.linestyles[names.index(label)], "lw": 0.8}
            axis.plot(rows["step"] + 1, rows["mean"], label=label, **line)
        for (spec, label), rows in ours[ours["quantity"] == quantity].groupby(["spec", "label"], sort=False):
            rows = rows.sort_values("step")
            every = max(1, int(ours["step"].max() + 1) // 5)
            axis.plot(rows["step"] + 1, _positive(rows["mean"]), label=label, markevery=every, **_line(style, spec))
        axis.set(title=title, yscale="log", xlabel="token written")
    style.legend(fig)
    kl = ours[ours["quantity"] == "kl_dense_pruned"].groupby(["kind", "label"], sort=False)["mean"].mean()
    quantized = kl[kl.index.get_level_values("kind") == "quantize"]
    pruned = kl[kl.index.get_level_values("kind") != "quantize"]
    groups = [(quantized, "with quantized weights"), (pruned, "with pruned models")]
    words = " and ".join(f"{_range(some)} {name}" for some, name in groups if len(some))
    caption = (
        f"**The KL a token is {words}.** {how} Means over prompts at each step, logarithmic. Solid: quantized weights; "
        "dashed: pruned models, dotted where n of every m neighbours are kept."
    )
    mean = ours.groupby(["label", "quantity"], sort=False)["mean"].mean().unstack()
    listed = "; ".join(
        f"{label}: " + ", ".join(f"{title} {number(row[q])}" for q, title in _PANELS.items())
        for label, row in mean.iterrows()
    )
    return Drawn(fig, caption, f"Six line charts against the step, a line a model. Means over steps: {listed}.")


def _positive(values: pd.Series) -> pd.Series:
    """For a logarithmic axis: what rounding or reading left at 0 or below is not drawn."""
    return values.where(values > 0)


def _range(means: pd.Series) -> str:
    low, high = number(means.min()), number(means.max())
    return f"{low} nats" if low == high else f"{low} to {high} nats"


def _line(style: Style, spec: str) -> dict:
    """The look of a model, its group told by the line: n:m patterns have hollow markers."""
    method, look = parse(spec), looks.model(style, spec)
    if method.kind == "quantize":
        return look | {"ls": style.linestyles[0]}
    grouped = getattr(method, "pattern", None) and method.pattern.m
    return look | ({"ls": style.linestyles[2], "mfc": style.page} if grouped else {"ls": style.linestyles[1]})
