"""Figures of the methods chapter: real memory, output error, stream, calibration seeds."""

import numpy as np
import pandas as pd

from prunelib.methods import parse
from prunelib.methods.base import KINDS
from prunelib.report import facts, looks
from prunelib.report.figures import Drawn, figure
from prunelib.report.panels import plain
from prunelib.report.style import Style


@figure("fig-methods-memory", "Perplexity against real memory")
def memory(data: pd.DataFrame, style: Style) -> Drawn:
    """Held-out perplexity relative to dense against stored bits a weight, all methods on one axis."""
    fig, axis = style.subplots(height=4.0)
    shown = data.assign(look=[tuple(looks.model(style, spec).items()) for spec in data["spec"]])
    for look, rows in shown.groupby("look", sort=False):
        look, rows = dict(look), rows.sort_values("bits")
        spread = [rows["ratio"] - rows["lo"], rows["hi"] - rows["ratio"]]
        points = {"ls": "", "ms": 8 if look["marker"] == "*" else 4, "elinewidth": 0.8}
        axis.errorbar(rows["bits"], rows["ratio"], spread, label=_family(rows), **look | points)
        joined = rows[
            [not _is_grouped(spec) for spec in rows["spec"]]
        ]  # n:m lies beside the sparsities, not among them
        axis.plot(joined["bits"], joined["ratio"], color=look["color"], ls=look["ls"], lw=1)
    axis.axhline(1, color=style.muted, lw=0.8)
    axis.set(yscale="log", xlabel="stored bits a weight, everything included", ylabel="perplexity, dense = 1")
    low, high = data["ratio"].min(), data["hi"].max()
    axis.set_ylim(min(0.93, 0.95 * low), 1.6 * high)
    axis.set_xlim(min(data["bits"]) - 0.8, 17.2)
    ticks = [t for t in (1, 2, 5, 10, 20, 50, 100, 300, 1000, 1e4, 1e5, 1e6) if t <= 1.6 * high]
    axis.set_yticks(ticks, [plain(t) for t in ticks])
    axis.minorticks_off()
    style.legend(fig)
    made = data[data["kind"] != "dense"].sort_values("ratio")
    best, worst = made.iloc[0], made.iloc[-1]
    groups = made.groupby("kind")["ratio"].min()
    words = ", ".join(f"{KINDS[k]} {groups[k]:.2f}" for k in ("quantize", "sparsify", "drop", "joined") if k in groups)
    caption = (
        f"**{best['label']} keeps perplexity closest to dense ({best['ratio']:.2f} times) at {best['bits']:.2f} bits a "
        f"weight; the best of each kind: {words}.** Perplexity on the project's own passages, each read whole and "
        "alone, relative to the dense model on the same passage; bars are 95 % intervals over passages. Memory counts "
        "what a checkpoint must store for the matrices of the blocks: 16-bit values, mask or index bits, group scales "
        "and zero points. A line joins the sparsities or bit widths of one method; n:m patterns stand alone; what is "
        "lower and further left is better."
    )
    listed = "; ".join(f"{r.label} {r.bits:.2f} bits, {r.ratio:.2f}" for r in made.itertuples())
    alt = f"Scatter of relative perplexity (log scale) against bits a weight. {listed}. Largest: {worst['label']}."
    return Drawn(fig, caption, alt)


def _is_grouped(spec: str) -> bool:
    pattern = getattr(parse(spec), "pattern", None)
    return bool(pattern and pattern.m)


def _family(rows: pd.DataFrame) -> str:
    """What the points of one look have in common: a method, a kind of drop, or the one model there is."""
    words = [label.split() for label in rows["label"]]
    if len(rows) == 1:
        return rows["label"].iloc[0]
    if rows["kind"].iloc[0] == "drop":
        return f"Drop-n{rows['label'].iloc[0][-1]}"
    return words[0][0].split("-")[0]


@figure("fig-methods-error", "Output error by layer")
def error(data: pd.DataFrame, style: Style) -> Drawn:
    """Relative error of the outputs of each block's matrices on dense inputs, by method and setting."""
    methods = data.groupby("setting", sort=False)["method"].nunique()
    # A panel compares methods; settings of one method alone are shown only where there is nothing else.
    settings = list(methods.index[methods == methods.max()] if methods.max() == 1 else methods.index[methods > 1])[:4]
    data = data[data["setting"].isin(settings)]
    columns = 2 if len(settings) > 1 else 1
    lines = -(-len(settings) // columns)
    shape = {"height": 1.9 * lines + 0.6, "nrows": lines, "ncols": columns, "count": len(settings)}
    fig, axes = style.subplots(**shape, sharex=True, sharey=True, squeeze=False)
    for axis, setting in zip(axes.flat, settings, strict=True):
        for method, rows in data[data["setting"] == setting].groupby("method", sort=False):
            axis.plot(rows["layer"], rows["error"], label=method, **looks.method(style, method) | {"ms": 3})
        axis.set(title=setting, xlabel="layer", ylabel="relative output error")
    axes.flat[0].set_ylim(0, 1.08 * data["error"].max())
    style.legend(fig)
    means = data.groupby(["setting", "method"], sort=False)["error"].mean()
    first = settings[0]
    words = ", ".join(f"{method} {value:.2f}" for method, value in means[first].items())
    caption = (
        f"**At {first}, outputs move by {words} of their own size (mean over layers).** Each matrix is compared with "
        "its dense self on the inputs of the dense model: $\\|X\\Delta W^\\top\\|_F/\\|XW^\\top\\|_F$, root mean "
        "square over the matrices of a block."
    )
    listed = "; ".join(f"{s}: " + ", ".join(f"{m} {means[s, m]:.3f}" for m in means[s].index) for s in settings)
    return Drawn(fig, caption, f"Line charts of relative output error by layer. Means over layers: {listed}.")


@figure("fig-methods-stream", "How far the stream turns")
def stream(data: pd.DataFrame, style: Style) -> Drawn:
    """1 − cos between the dense and the compressed residual stream after each block, cumulative."""
    last = data["layer"].max()
    named = data[data["mean"] > 0]  # nothing has turned before the first dropped layer
    of = list(dict.fromkeys(named["method"]))
    columns = min(4, len(of))
    lines = -(-len(of) // columns)
    shape = {"height": 1.9 * lines + 0.3, "nrows": lines, "ncols": columns, "count": len(of), "columns": 2}
    fig, axes = style.subplots(**shape, sharex=True, sharey=True, squeeze=False)
    for axis, method in zip(axes.flat, of, strict=True):
        every = named[named["method"] == method].groupby(["spec", "setting"], sort=False)
        for i, ((spec, _), rows) in enumerate(every):
            mine = looks.model(style, spec)
            if rows["kind"].iloc[0] not in ("drop", "joined"):  # settings of one method: its colour, a line style each
                mine |= {"ls": style.linestyles[i % len(style.linestyles)]}
            axis.fill_between(rows["layer"], rows["lo"], rows["hi"], color=mine["color"], alpha=0.12, lw=0)
            axis.plot(
                rows["layer"], rows["mean"], color=mine["color"], ls=mine["ls"], lw=1.2, label=rows["label"].iloc[0]
            )
        _name_ends(axis, every, last)
        axis.set(yscale="log", xlabel="layer", title=method, xlim=(-1, 1.45 * last), xticks=[0, last // 2, last])
        axis.set_ylabel("1 − cos h")
    axes.flat[0].set_ylim(max(1e-6, named["mean"].min() / 2) if len(named) else 1e-6, 2)
    end = data[data["layer"] == last].set_index("label")["mean"].sort_values()
    caption = (
        f"**After the last layer the stream has turned least with {end.index[0]} ($1-\\cos h$ = {end.iloc[0]:.2g}) and "
        f"most with {end.index[-1]} ({end.iloc[-1]:.2g}).** Mean over calibration tokens of how far the residual "
        "stream turns when all layers up to this one are compressed; shading is the 95 % interval over sequences. "
        "Unlike where one sublayer is dropped at a time, errors accumulate here."
    )
    listed = "; ".join(f"{label} {facts.number(value)}" for label, value in end.items())
    return Drawn(fig, caption, f"Line charts on a log scale of 1 minus cos h by layer. After the last layer: {listed}.")


def _name_ends(axis, every, last: int) -> None:
    """The setting of each line at its right end, pushed apart where two would lie on each other."""
    ends = sorted((np.log10(rows["mean"].iloc[-1]), setting) for (_, setting), rows in every)
    at = -np.inf
    for height, setting in ends:
        at = max(height, at + 0.25)
        text = setting.replace(":", " ") if setting.count(":") != 1 or not setting[0].isdigit() else setting
        axis.text(last + 1, 10**at, text, fontsize=7, va="center", ha="left", clip_on=False)


@figure("fig-methods-seeds", "Another calibration text, another mask?")
def seeds(data: pd.DataFrame, style: Style) -> Drawn:
    """Share of removed weights that another calibration seed removes too, by layer."""
    fig, axis = style.subplots(height=2.8)
    if not len(data):
        axis.set(xlabel="layer", ylabel="share of the mask in common", ylim=(0, 1))
        axis.text(0.5, 0.5, "no mask depends on calibration here", ha="center", transform=axis.transAxes)
        return Drawn(fig, "**None of these specifications removes weights by calibration.**", "Empty axes: no masks.")
    for (label, method, setting), rows in data.groupby(["label", "method", "setting"], sort=False):
        mine = looks.method(style, method) | ({} if "%" in setting else {"mfc": style.page})
        axis.plot(rows["layer"], rows["overlap"], label=label, **mine | {"ms": 3})
        axis.axhline(rows["chance"].mean(), color=style.muted, lw=0.8, ls=style.linestyles[2])
    low = min(data["chance"].min(), data["overlap"].min())
    axis.set(xlabel="layer", ylabel="share of the mask in common", ylim=(low - 0.05, 1.02))
    right, height = data["layer"].max(), data["chance"].mean() + 0.01
    axis.text(right, height, "chance", ha="right", va="bottom", fontsize=7, color=style.muted)
    style.legend(fig)
    means = data.groupby("label", sort=False)["overlap"].mean()
    spread = data.groupby("label", sort=False)[["perplexity_min", "perplexity_max"]].first()
    shares = ", ".join(f"{label} {value:.0%}" for label, value in means.items())
    costs = ", ".join(f"{name} {row.perplexity_min:.1f} to {row.perplexity_max:.1f}" for name, row in spread.iterrows())
    caption = (
        f"**Two calibration texts agree on this share of the removed weights: {shares}; perplexity over seeds: "
        f"{costs}.** By layer, mean over pairs of seeds. Every seed samples new text from the dense model. Dotted: "
        "what two random masks would share."
    )
    alt = f"Line chart by layer of mask overlap between calibration seeds. Means: {shares}. Perplexity: {costs}."
    return Drawn(fig, caption, alt)
