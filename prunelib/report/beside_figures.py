"""Figures of several runs: similarity by relative depth, and what is kept by the share of layers dropped."""

import numpy as np
import pandas as pd

from prunelib.report import looks, paper
from prunelib.report.figures import Drawn, figure
from prunelib.report.side_by_side import DROPS, PAPER, READOUTS, SPACES, SUBLAYERS
from prunelib.report.style import Style
from prunelib.report.words import most, number, percent, sublayer_name

LAYERS, DROPPED = "fig-beside-layers", "fig-beside-dropped"
NOTEBOOK = "00-beside"
"""Stands where other figures have their notebook: no chapter draws these."""

_KINDS = {"attn": "attention dropped", "mlp": "MLP dropped", "block": "blocks dropped"}


def look(style: Style, place: int) -> dict:
    """A run by its place: hue and marker, and after six runs another line."""
    hues, turn = len(style.colours), place // len(style.colours)
    line = style.linestyles[turn % len(style.linestyles)]
    return {"color": style.colours[place % hues], "marker": style.markers[place % hues], "ls": line}


def _runs(data: pd.DataFrame) -> list[str]:
    return [name for name in dict.fromkeys(data["run"]) if name != PAPER]


def _draw(axis, rows: pd.DataFrame, x: str, y: str, names: list[str], style: Style) -> None:
    for name in names:
        own = rows[rows["run"] == name].sort_values(x)
        if len(own):
            shown = look(style, names.index(name))
            axis.fill_between(own[x], own["lo"], own["hi"], color=shown["color"], alpha=0.15, lw=0)
            axis.plot(own[x], own[y], label=name, **shown | {"ms": 2.5})
    theirs = rows[rows["run"] == PAPER].sort_values(x)
    axis.plot(theirs[x], theirs[y], label=PAPER, **looks.paper(style))


@figure(LAYERS, "Similarity by depth, run beside run", chapter="beside")
def layers(data: pd.DataFrame, style: Style) -> Drawn:
    """Mean cosine of h, z and p by relative depth, one sublayer dropped at a time."""
    names = _runs(data)
    fig, axes = style.subplots(height=4.8, nrows=2, ncols=3, sharey=True, sharex=True)
    for row, sublayer in zip(axes, SUBLAYERS, strict=True):
        for axis, space in zip(row, SPACES, strict=True):
            rows = data[(data["sublayer"] == sublayer) & (data["space"] == space)]
            _draw(axis, rows, "depth", "mean", names, style)
            axis.set(title=f"{sublayer_name(sublayer)}: {looks.SPACES[space]}", xlabel="relative depth")
        row[0].set_ylabel("cosine, dense and pruned")
    axes[0, 0].set(xlim=(-0.02, 1.02), ylim=(min(0.0, -most(-data["mean"])) - 0.05, 1.03))
    style.legend(fig)
    middle = data[(data["space"] == "p") & data["depth"].between(0.25, 0.75)].groupby("run", sort=False)["mean"].mean()
    said = ", ".join(f"{name} {number(middle.get(name, np.nan))}" for name in [*names, PAPER])
    caption = (
        f"**Mean cosine of $p$ in the middle half of the layers: {said}.** One sublayer is dropped at a time along the "
        "dense model's own text, raw lens, $T = 1$; depth 0 is the first layer and 1 the last. Shading: 95 % intervals "
        "of the means over prompts; the paper's curves are means of its own model, and have none."
    )
    return Drawn(fig, caption, f"Six line charts of cosine by relative depth. Middle half, p: {said}.")


@figure(DROPPED, "What is kept at the same relative budget, run beside run", chapter="beside")
def dropped(data: pd.DataFrame, style: Style) -> Drawn:
    """Share of the dense score kept by the share of layers whose sublayer is dropped."""
    names = _runs(data)
    fig, axes = style.subplots(height=4.8, nrows=2, ncols=3, sharey=True, sharex=True)
    for row, readout in zip(axes, READOUTS, strict=True):
        for axis, kind in zip(row, DROPS, strict=True):
            rows = data[(data["kind"] == kind) & (data["readout"] == readout)]
            _draw(axis, rows, "x", "kept", names, style)
            axis.axhline(0, color=style.muted, lw=0.8, ls=style.linestyles[2])
            axis.set(title=_KINDS[kind], xlabel="% of layers")
        row[0].set_ylabel(f"{looks.READOUTS[readout]} kept")
    own = data[data["run"] != PAPER]
    axes[0, 0].set_ylim(max(-0.6, min(-0.05, -most(-own["lo"]) - 0.03)), min(1.6, max(1.15, most(own["hi"]) + 0.05)))
    style.legend(fig)
    mean = data[data["x"] > 0].groupby(["run", "readout"], sort=False)["kept"].mean()
    said = "; ".join(
        f"{name}: choice {percent(mean.get((name, 'choice'), np.nan))}, generation "
        f"{percent(mean.get((name, 'generation'), np.nan))}"
        for name in [*names, PAPER]
    )
    caption = (
        f"**Kept on average over the drops shown: {said}.** Runs that drop other shares have other means: compare the "
        "curves. Score above guessing as a share of the dense model's, against the share of the model's layers whose "
        "sublayer is dropped; shading is the 95 % interval over passages. The paper's curves are MMLU and GSM8K of "
        f"{paper.source(READOUTS['choice'], DROPS['attn'])[0]}, as far as these runs drop."
    )
    return Drawn(fig, caption, f"Six line charts of the share kept by the share of layers dropped. {said}.")
