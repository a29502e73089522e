"""Figures of the methods chapter: real memory, output error, stream, calibration seeds."""

import numpy as np
import pandas as pd

from prunelib.methods.base import KINDS, registry
from prunelib.report.figures import Drawn, figure
from prunelib.report.style import Style


def look(style: Style, method: str) -> dict:
    """Colour, marker and line style of a method, by its title: the same in every figure."""
    looks = {one.title: one.look for one in registry().values() if one.look}
    own = looks.get(method.partition(" ")[0])
    if own is None:
        return {"color": style.foreground, "marker": style.markers[0], "ls": style.linestyles[0]}
    return {"color": getattr(style.colours, own.colour), "marker": own.marker, "ls": style.linestyles[own.line]}


@figure("fig-methods-memory", "Perplexity against real memory")
def memory(data: pd.DataFrame, style: Style) -> Drawn:
    """Held-out perplexity relative to dense against stored bits a weight, all methods on one axis."""
    fig, axis = style.subplots(height=4.2)
    shapes = {
        "sparsify": (style.colours.blue, "o"),
        "quantize": (style.colours.vermillion, "s"),
        "drop": (style.colours.green, "^"),
        "joined": (style.colours.purple, "D"),
        "dense": (style.foreground, "*"),
    }
    for kind, (colour, marker) in shapes.items():
        rows = data[data["kind"] == kind]
        if not len(rows):
            continue
        spread = [rows["ratio"] - rows["lo"], rows["hi"] - rows["ratio"]]
        axis.errorbar(
            rows["bits"],
            rows["ratio"],
            spread,
            fmt=marker,
            color=colour,
            ms=8 if kind == "dense" else 3.5,
            elinewidth=1,
            label=KINDS[kind],
        )
    _label_points(axis, data, style)
    axis.axhline(1, color=style.muted, lw=0.8)
    axis.set(
        yscale="log",
        xlabel="stored bits a weight (masks, indices, scales and zero points included)",
        ylabel="perplexity, dense = 1",
    )
    low, high = data["ratio"].min(), data["hi"].max()
    axis.set_ylim(min(0.93, 0.95 * low), 1.6 * high)
    axis.set_xlim(min(data["bits"]) - 0.8, 17.2)
    ticks = [t for t in (1, 1.5, 2, 3, 5, 10, 20, 50, 100, 300, 1000, 1e4, 1e5, 1e6) if t <= 1.6 * high]
    axis.set_yticks(ticks, [f"{t:g}" for t in ticks])
    axis.minorticks_off()
    axis.legend(loc="upper right")
    made = data[data["kind"] != "dense"].sort_values("ratio")
    best, worst = made.iloc[0], made.iloc[-1]
    groups = made.groupby("kind")["ratio"].min()
    words = ", ".join(f"{KINDS[k]} {groups[k]:.2f}" for k in ("quantize", "sparsify", "drop", "joined") if k in groups)
    caption = (
        f"**{best['label']} keeps perplexity closest to dense ({best['ratio']:.2f} times) at {best['bits']:.2f} bits a "
        f"weight; the best of each kind: {words}.** Perplexity on the project's own passages, each read whole and "
        "alone, relative to the dense model on the same passage; bars are 95 % intervals over passages. Memory counts "
        "what a checkpoint must store for the matrices of the blocks: 16-bit values, mask or index bits, group scales "
        "and zero points."
    )
    listed = "; ".join(f"{r.label} {r.bits:.2f} bits, {r.ratio:.2f}" for r in made.itertuples())
    alt = f"Scatter of relative perplexity (log scale) against bits a weight. {listed}. Largest: {worst['label']}."
    return Drawn(fig, caption, alt)


def _label_points(axis, data: pd.DataFrame, style: Style) -> None:
    """Names beside the points, in columns of equal bits, pushed apart where they would overlap."""
    made = data[data["kind"] != "dense"]
    gap = (np.log(1.6 * data["hi"].max()) - np.log(min(0.93, 0.95 * data["ratio"].min()))) / 26
    for _, rows in made.groupby(made["bits"].round(1)):
        last = -np.inf
        for row in rows.sort_values("ratio").itertuples():
            height = max(np.log(row.ratio), last + gap)
            last = height
            line = {"arrowstyle": "-", "color": style.muted, "lw": 0.5, "shrinkA": 0, "shrinkB": 3}
            axis.annotate(
                row.label,
                (row.bits, row.ratio),
                (row.bits + 0.25, np.exp(height)),
                fontsize=7,
                color=style.foreground,
                va="center",
                arrowprops=line,
            )


@figure("fig-methods-error", "Output error by layer")
def error(data: pd.DataFrame, style: Style) -> Drawn:
    """Relative error of the outputs of each block's matrices on dense inputs, by method and setting."""
    methods = data.groupby("setting", sort=False)["method"].nunique()
    # A panel compares methods; settings of one method alone are shown only where there is nothing else.
    settings = list(methods.index[methods == methods.max()] if methods.max() == 1 else methods.index[methods > 1])[:4]
    data = data[data["setting"].isin(settings)]
    columns = 2 if len(settings) > 1 else 1
    lines = -(-len(settings) // columns)
    shape = {"height": 2.2 * lines + 0.5, "nrows": lines, "ncols": columns}
    fig, axes = style.subplots(**shape, sharex=True, sharey=True, squeeze=False)
    for axis, setting in zip(axes.flat, settings, strict=False):
        for method, rows in data[data["setting"] == setting].groupby("method", sort=False):
            axis.plot(rows["layer"], rows["error"], ms=3, label=method, **look(style, method))
        axis.set(title=setting)
        axis.legend(loc="upper right", ncols=2)
    for axis in axes.flat[len(settings) :]:
        axis.set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel("layer")
    for axis in axes[:, 0]:
        axis.set_ylabel("relative output error")
    axes[0][0].set_ylim(0, 1.45 * data["error"].max())  # room for the names of the methods
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
    fig, axes = style.subplots(height=3.1, ncols=2, sharey=True)
    last = data["layer"].max()
    for axis, dropping in zip(axes, (False, True), strict=True):
        own = data[data["kind"].isin(["drop", "joined"]) == dropping]
        shown: dict[str, int] = {}  # settings of a method so far: all but the first are fainter
        for i, (label, rows) in enumerate(own.groupby("label", sort=False)):
            method = rows["method"].iloc[0]
            mine = look(style, method) | ({"alpha": 0.5, "lw": 1} if shown.get(method) else {})
            shown[method] = shown.get(method, 0) + 1
            if dropping:  # one method: its plans are told apart
                mine = {"color": style.colours[i % 6], "marker": style.markers[i % 6], "ls": style.linestyles[i % 6]}
            rows = rows[rows["mean"] > 0]  # nothing has turned before the first dropped layer
            axis.fill_between(rows["layer"], rows["lo"], rows["hi"], color=mine["color"], alpha=0.12, lw=0)
            axis.plot(rows["layer"], rows["mean"], ms=2.5, label=label, **mine)
        axis.set(yscale="log", xlabel="layer", title="sublayers dropped" if dropping else "weights compressed")
        axis.legend(fontsize=6.5, ncols=1 if dropping else 2, loc="lower right")
    axes[0].set_ylabel(r"$1-\cos(h)$ after the layer")
    axes[0].set_xlim(-1, last + 1)
    axes[1].set_xlim(-1, last + 1)
    positive = data.loc[data["mean"] > 0, "mean"]
    axes[0].set_ylim(max(1e-6, positive.min() / 3) if len(positive) else 1e-6, 2)
    end = data[data["layer"] == last].set_index("label")["mean"].sort_values()
    caption = (
        f"**After the last layer the stream has turned least with {end.index[0]} ($1-\\cos h$ = {end.iloc[0]:.2g}) and "
        f"most with {end.index[-1]} ({end.iloc[-1]:.2g}).** Mean over calibration tokens of how far the residual "
        "stream turns when all layers up to this one are compressed; shading is the 95 % interval over sequences. "
        "Unlike where one sublayer is dropped at a time, errors accumulate here."
    )
    listed = "; ".join(f"{label} {value:.3g}" for label, value in end.items())
    return Drawn(fig, caption, f"Line charts on a log scale of 1 minus cos h by layer. After the last layer: {listed}.")


@figure("fig-methods-seeds", "Another calibration text, another mask?")
def seeds(data: pd.DataFrame, style: Style) -> Drawn:
    """Share of removed weights that another calibration seed removes too, by layer."""
    fig, axis = style.subplots(height=2.8)
    if not len(data):
        axis.set(xlabel="layer", ylabel="share of the mask in common", ylim=(0, 1))
        axis.text(0.5, 0.5, "no mask depends on calibration here", ha="center", transform=axis.transAxes)
        return Drawn(fig, "**None of these specifications removes weights by calibration.**", "Empty axes: no masks.")
    for (label, method, setting), rows in data.groupby(["label", "method", "setting"], sort=False):
        mine = look(style, method) | ({} if "%" in setting else {"alpha": 0.5})
        axis.plot(rows["layer"], rows["overlap"], ms=3, label=label, **mine)
        axis.axhline(rows["chance"].mean(), color=style.muted, lw=0.8, ls=style.linestyles[2])
    low = min(data["chance"].min(), data["overlap"].min())
    axis.set(xlabel="layer", ylabel="share of the mask in common", ylim=(low - 0.05, 1.02))
    right, height = data["layer"].max(), data["chance"].mean() + 0.01
    axis.text(right, height, "chance", ha="right", va="bottom", fontsize=7, color=style.muted)
    axis.legend(loc="center right")
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
