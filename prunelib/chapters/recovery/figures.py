"""Figures of the chapter on recovery: the ladder of repairs, training curves, calibration texts."""

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from prunelib.report import looks
from prunelib.report.facts import number, show
from prunelib.report.figures import Drawn, figure
from prunelib.report.style import Style
from prunelib.report.words import percent

PRUNED = "pruned"
"""The rung below all repairs, as the tables call it."""


def _shown(found, fmt: str = ".0%") -> str:
    numbers = (float(one) if np.isfinite(one) else None for one in found)
    return show(dict(zip(("value", "lo", "hi"), numbers, strict=True)) | {"exact": False, "fmt": fmt})


def counted(parameters: int) -> str:
    """A number of fitted parameters, as short as a tick label must be: ``"796 k"``."""
    for size, letter in ((1_000_000, " M"), (1_000, " k")):
        if parameters >= size:
            return f"{parameters / size:.3g}{letter}"
    return str(parameters)


def _bars(axis, x, lo, hi, y, **look) -> None:
    ends = np.nan_to_num([x - lo, hi - x]).clip(0)
    axis.errorbar(x, y, xerr=ends, fmt=look["marker"], color=look["color"], ms=4.5, elinewidth=0.9,
                  mfc=look.get("mfc", look["color"]), label=look.get("label"))  # fmt: skip


@figure("fig-recovery-ladder", "A ladder of repairs")
def ladder(data: pd.DataFrame, style: Style) -> Drawn:
    """Shares of the scores kept and KL, a row a rung, pruned models with their repairs below them."""
    data = data.reset_index(drop=True)
    fig, axes = style.subplots(height=0.27 * len(data) + 1.1, ncols=2, sharey=True)
    scores, kl = np.ravel(axes)
    look = looks.readouts(style)
    for readout, name, shift in (("generation", "generation", -0.12), ("choice", "multiple choice", 0.12)):
        own = {k: look[readout][k] for k in ("color", "marker")}
        _bars(
            scores, data[readout], data[f"{readout}_lo"], data[f"{readout}_hi"], data.index + shift, **own, label=name
        )
    for value in (0.0, 1.0):
        scores.axvline(value, color=style.muted, lw=0.8, ls=style.linestyles[2])
    _bars(kl, data["kl"], data["kl_lo"].clip(lower=0), data["kl_hi"], data.index, color=style.colours.blue, marker="D")
    kl.set(xscale="log", xlabel="KL to dense, nats a token")
    edges = np.flatnonzero(data["base"] != data["base"].shift())[1:] - 0.5
    for axis in (scores, kl):
        axis.grid(axis="y", visible=False)
        for edge in edges:
            axis.axhline(edge, color=style.grid, lw=0.8)
        names = [
            r.base_label if r.rung == PRUNED else f"+ {r.rung} ({counted(r.parameters)})" for r in data.itertuples()
        ]
        axis.set(yticks=data.index, yticklabels=names, ylim=(len(data) - 0.5, -0.5))
    scores.set(xlabel="share of the dense score kept")
    if data["generation"].isna().all():
        scores.text(0.5, 0.5, "not defined", ha="center", va="center", color=style.muted, transform=scores.transAxes)
    style.legend(fig, *scores.get_legend_handles_labels())
    repaired = data[data["rung"] != PRUNED]
    best = repaired.dropna(subset=["regained"])
    gone = repaired.loc[repaired["kl_gone"].idxmax()] if repaired["kl_gone"].notna().any() else None
    head = ""
    if len(best):
        top = best.loc[best["regained"].idxmax()]
        three, most = top[["regained", "regained_lo", "regained_hi"]], f"{top.rung} brings back most"
        most = most if top["regained"] > 0 else f"no repair brings anything back, {top.rung} loses least"
        head = f"Of the generation score that {top.base_label} lost, {most}: {_shown(three)}. "
    if gone is not None:
        three = gone[["kl_gone", "kl_gone_lo", "kl_gone_hi"]]
        less = "takes away the largest share of the KL" if gone["kl_gone"] > 0 else "raises the KL least of all"
        head += f"On {gone.base_label}, {gone.rung} {less}: {_shown(three)}."
    caption = (
        f"**{head or 'No repair can be judged: nothing was lost, or nothing was there to lose.'}** In brackets: "
        "numbers that were fitted. Multiple choice is above guessing; 95 % intervals over passages (scores) and "
        "held-out samples of the dense model (KL). Without gradient steps means a closed form or one convex problem."
    )
    listed = "; ".join(
        f"{r.base_label} {r.rung}: generation {percent(r.generation)}, choice {percent(r.choice)}, "
        f"KL {number(r.kl, '.2g')}" for r in data.itertuples()
    )  # fmt: skip
    return Drawn(fig, caption, f"Dot plots of scores kept and of KL by rung. {listed}.")


@figure("fig-recovery-curves", "KL on held-out text while a repair is trained")
def curves(data: pd.DataFrame, style: Style) -> Drawn:
    """KL on held-out rows against tokens learned from, a line a trained repair, a panel a pruned model."""
    bases = list(dict.fromkeys(data["base_label"]))
    ncols = min(2, len(bases))
    nrows = -(-len(bases) // ncols)
    fig, axes = style.subplots(height=2.4 * nrows + 0.4, nrows=nrows, ncols=ncols, count=len(bases), squeeze=False)
    rungs = list(dict.fromkeys(data["rung"]))
    names = style.colours._fields
    for axis, base in zip(np.ravel(axes), bases, strict=True):
        for rung, rows in data[data["base_label"] == base].groupby("rung", sort=False):
            i = rungs.index(rung)
            axis.plot(rows["tokens"], rows["kl_held"], label=rung, color=getattr(style.colours, names[i % len(names)]),
                      marker=style.markers[i % len(style.markers)], ms=3.5, ls=style.linestyles[i % 6])  # fmt: skip
        axis.set(title=base, xlabel="tokens learned from", ylabel="KL on held-out rows, nats",
                 ylim=(0, 1.08 * data.loc[data["base_label"] == base, "kl_held"].max() or 1))  # fmt: skip
    style.legend(fig)
    ends = data.groupby(["base_label", "rung"], sort=False)["kl_held"].agg(["first", "min"]).reset_index()
    ends["fall"] = 1 - ends["min"] / ends["first"]
    head = "No model differs from the dense one, so nothing can be learned."
    if ends["fall"].notna().any():
        best = ends.loc[ends["fall"].idxmax()]
        head = (
            f"{best['rung']} on {best['base_label']} learns most: KL on held-out rows goes from "
            f"{number(best['first'], '.2g')} to {number(best['min'], '.2g')} nats a token."
        )
    caption = (
        f"**{head}** A model ends at the lowest "
        "point of its curve. Rows are samples and answers of the dense model; one in eight is held out."
    )
    listed = "; ".join(
        f"{r.base_label} {r.rung} from {number(r.first, '.2g')} to {number(r.min, '.2g')}" for r in ends.itertuples()
    )
    return Drawn(fig, caption, f"Curves of KL on held-out rows. {listed}.")


TEXTS = {"own": "own samples", "given": "given text", "answers": "own answers"}


@figure("fig-recovery-text", "Calibration on own samples, given text and own answers")
def text(data: pd.DataFrame, style: Style) -> Drawn:
    """Shares kept, a row a model, calibrated on each text."""
    specs = list(dict.fromkeys(data["spec"]))
    fig, axes = style.subplots(height=0.6 * len(specs) + 1.3, ncols=2, sharey=True)
    colours = (style.colours.blue, style.colours.orange, style.colours.green)
    named = [name for name in TEXTS if name in set(data["text"])]
    sides = {name: (colours[i], ("o", "s", "^")[i], 0.2 * (i - (len(named) - 1) / 2)) for i, name in enumerate(named)}
    for axis, (readout, title) in zip(np.ravel(axes), (("generation", "generation"), ("choice", "multiple choice")),
                                      strict=True):  # fmt: skip
        for name, (colour, marker, shift) in sides.items():
            rows = data[(data["readout"] == readout) & (data["text"] == name)].set_index("spec").loc[specs]
            _bars(axis, rows["kept"].to_numpy(), rows["lo"].to_numpy(), rows["hi"].to_numpy(),
                  np.arange(len(specs)) + shift, color=colour, marker=marker)  # fmt: skip
        labels = [data.loc[data["spec"] == spec, "label"].iloc[0] for spec in specs]
        axis.set(title=title, xlabel="share of the dense score kept", yticks=range(len(specs)), yticklabels=labels,
                 ylim=(len(specs) - 0.5, -0.5))  # fmt: skip
        axis.grid(axis="y", visible=False)
        if data.loc[data["readout"] == readout, "kept"].isna().all():
            axis.text(0.5, 0.5, "not defined", ha="center", va="center", color=style.muted, transform=axis.transAxes)
    handles = [Line2D([], [], color=c, marker=m, ls="", label=TEXTS[name]) for name, (c, m, _) in sides.items()]
    style.legend(fig, handles)
    written = data[data["readout"] == "generation"].dropna(subset=["gap"])
    if len(written):
        far = written.loc[written["gap"].abs().idxmax()]
        head = (
            f"What differs most from own samples is {TEXTS[far['text']]} for {far['label']}: own samples minus that "
            f"keep {_shown(far[['gap', 'gap_lo', 'gap_hi']])} of the dense generation score."
        )
    else:
        head = "No share of the dense generation score is defined."
    caption = (
        f"**{head}** As many tokens of each: samples of the dense model, passages that no item is about, and the dense "
        "model's answers to questions on such passages. 95 % intervals over the items' passages; multiple choice above "
        "guessing."
    )
    listed = "; ".join(f"{r.label}, {r.readout}, {TEXTS[r.text]}: {percent(r.kept)}" for r in data.itertuples())
    return Drawn(fig, caption, f"Dot plots of shares kept after calibration on {len(named)} texts. {listed}.")
