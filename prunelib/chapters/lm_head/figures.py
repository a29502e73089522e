"""Figures of the LM-head chapter: attenuation, spectrum, common offset."""

import numpy as np
import pandas as pd

from prunelib.report import looks
from prunelib.report.figures import Drawn, figure
from prunelib.report.style import Style
from prunelib.report.words import sublayer_name
from prunelib.runs.zoo.traces import middle_layers

KINDS = {"measured": "measured (median, 5–95 %)", "profile": "from the spectrum", "isotropic": "a random change"}


@figure("fig-head-attenuation", "What the LM head does to the orthogonal part")
def attenuation(data: pd.DataFrame, style: Style) -> Drawn:
    """(‖Δz⊥‖/‖z‖)/(‖Δh⊥‖/‖h‖) by layer, measured and predicted from the spectrum of W."""
    fig, axes = style.subplots(height=3.1, ncols=2, sharey=True)
    sides = dict(zip(KINDS, looks.sides(style).values(), strict=True))
    for axis, sublayer in zip(axes, ("attn", "mlp"), strict=True):
        for kind, label in KINDS.items():
            rows = data[(data["sublayer"] == sublayer) & (data["kind"] == kind)].sort_values("layer")
            look = sides[kind]
            if kind == "measured":
                axis.fill_between(rows["layer"], rows["q05"], rows["q95"], color=look["color"], alpha=0.2, lw=0)
            axis.plot(rows["layer"], rows["median"], ms=3, label=label, **look)
        axis.axhline(1, color=style.foreground, lw=0.9)
        axis.set(yscale="log", xlabel="layer", title=f"{sublayer_name(sublayer)} dropped")
    axes[0].set_ylabel("β of z / β of h")
    style.legend(fig)
    wide = data.pivot(index=["sublayer", "layer"], columns="kind", values="median")
    below = (wide["measured"] < 1).groupby("sublayer").agg(["sum", "size"])
    medians = wide.groupby("sublayer")["measured"].median()
    error = float(np.exp(np.abs(np.log(wide["profile"] / wide["measured"])).median()) - 1)
    counts = {s: f"{below.loc[s, 'sum']} of {below.loc[s, 'size']}" for s in ("attn", "mlp")}
    caption = (
        f"**The head shrinks the relative orthogonal part in {counts['attn']} layers for attention (median "
        f"{medians['attn']:.2f}) and {counts['mlp']} for the MLP ({medians['mlp']:.2f}); the spectrum of $W$ and how "
        f"$h$ and $\\Delta h_\\perp$ lie in it predict it to within {error:.0%} in the median layer.** "
        "Drawn is $\\beta$ of $z$ over $\\beta$ of $h$, with $\\beta = \\|\\Delta_\\perp\\|/\\|\\cdot\\|$; below the "
        "line at 1 the head attenuates. "
        "The squares use only the layer's mean energy profiles over the singular directions of $W$; the triangles "
        "replace the perturbation by a random direction. Raw lens, so that the head is the only map between them."
    )
    alt = (
        f"Ratio by layer on a log axis. Attention: below 1 in {counts['attn']} layers, median {medians['attn']:.2f}. "
        f"MLP: below 1 in {counts['mlp']} layers, median {medians['mlp']:.2f}. Spectrum prediction off by {error:.0%}."
    )
    return Drawn(fig, caption, alt)


@figure("fig-head-spectrum", "Where the stream and its perturbations lie in the head's spectrum")
def spectrum(data: pd.DataFrame, style: Style) -> Drawn:
    """Cumulative energy of h and Δh⊥ along the singular directions of W, by depth quarter."""
    fig, axes = style.subplots(height=3.2, ncols=2, sharey=True)
    gain = data[data["vector"] == "squared gain"]
    d = int(gain["index"].max()) + 1
    names = {"h": "stream h", "dh_perp": "perturbation Δh⊥"}
    for axis, (vector, title) in zip(axes, names.items(), strict=True):
        quarters = data[data["vector"] == vector].groupby("depth")
        for i, (depth, rows) in enumerate(quarters):
            shade = style.density((i + 0.6) / 4)  # an order of its own: no thing of the book has these colours
            line = {"color": shade, "ls": style.linestyles[i], "label": f"quarter {depth:.0f} of the layers"}
            axis.plot(rows["index"] + 1, rows["cumulative"], **line)
        axis.plot(gain["index"] + 1, gain["cumulative"], color=style.muted, lw=0.9, label="squared gain of W")
        chance = {"color": style.foreground, "lw": 0.9, "ls": style.linestyles[2], "label": "evenly spread"}
        axis.plot(np.arange(1, d + 1), np.arange(1, d + 1) / d, **chance)
        axis.set(xscale="log", xlabel="singular directions of W, largest first", title=title, ylim=(0, 1.02))
    axes[0].set_ylabel("cumulative share")
    style.legend(fig)
    first = data[data["index"] == 0].groupby("vector")["cumulative"].mean()
    caption = (
        f"**The first singular direction of $W$ carries {first['squared gain']:.0%} of its squared gain, and holds "
        f"{first['h']:.1%} of the energy of $h$ against {first['dh_perp']:.1%} of $\\Delta h_\\perp$ "
        f"({1 / d:.2%} for a random direction).** Cumulative energy over the singular directions of the LM head, mean "
        "over prompts, positions and sublayers, for the four quarters of the layers. Where the curve of $h$ lies "
        "above that of the perturbation, the head lengthens the stream more than its change: that is the gain; the "
        "angle is "
        "the other part of the ratio."
    )
    alt = (
        f"Cumulative energy curves over {d} singular directions. First direction: squared gain "
        f"{first['squared gain']:.1%}, stream {first['h']:.1%}, perturbation {first['dh_perp']:.1%}."
    )
    return Drawn(fig, caption, alt)


@figure("fig-head-centred", "How much of the logits' stability is a common offset")
def centred(data: pd.DataFrame, style: Style) -> Drawn:
    """1 − cos z by layer as it is and after subtracting the mean logit, both lenses."""
    fig, axes = style.subplots(height=4.6, nrows=2, ncols=2, sharex=True, sharey=True)
    for row, lens in zip(axes, ("raw", "normed"), strict=True):
        for axis, sublayer in zip(row, ("attn", "mlp"), strict=True):
            look = looks.sublayers(style)[sublayer]
            for version, line, face in (("as is", 0, look["color"]), ("centred", 1, style.page)):
                of = (data["lens"] == lens) & (data["sublayer"] == sublayer) & (data["version"] == version)
                rows = data[of].sort_values("layer")
                axis.fill_between(
                    rows["layer"], rows["mean_lo"], rows["mean_hi"], color=look["color"], alpha=0.25, lw=0
                )
                drawn = look | {"ls": style.linestyles[line], "mfc": face, "ms": 3}
                axis.plot(rows["layer"], rows["mean"], label=f"{sublayer_name(sublayer)}, {version}", **drawn)
            axis.set(yscale="log", xlabel="layer", title=f"{sublayer_name(sublayer)} dropped, {looks.LENSES[lens]}")
        row[0].set_ylabel("mean 1 − cos z")
    style.legend(fig)
    inner = data[data["layer"].isin(middle_layers(int(data["layer"].max()) + 1))]
    means = inner.groupby(["lens", "version"])["mean"].mean()
    times = {lens: means[lens, "centred"] / means[lens, "as is"] for lens in ("raw", "normed")}
    caption = (
        f"**Without the offset common to all logits, which softmax ignores, the mean deviation of $z$ in the middle "
        f"half of the layers is "
        f"{times['raw']:.2f} times as large with the raw lens and {times['normed']:.2f} times with the normed lens.** "
        r"Mean $1-\cos(z)$ by layer for the logits as they are and for the logits minus their mean, with the 95 % "
        "interval over prompts. The distance between the lines is the stability that never reaches $p$."
    )
    alt = (
        "Four panels of 1 minus cosine of the logits by layer, as is and centred. Ratio of the means over the middle "
        "half of the layers, centred to as is: "
        f"raw lens {times['raw']:.2f}, normed lens {times['normed']:.2f}."
    )
    return Drawn(fig, caption, alt)


PARTS = {"ratio": "ratio", "gain": "gain of the change over gain of the state", "sine": "sine of the angle"}


@figure("fig-head-parts", "Gain or angle: what the ratio is made of")
def parts(data: pd.DataFrame, style: Style) -> Drawn:
    """The ratio of the relative orthogonal parts by layer, and its two factors."""
    fig, axes = style.subplots(height=3.1, ncols=2, sharey=True)
    c = style.colours
    colours = (c.blue, c.green, c.purple)  # the ratio is what is measured in the figure before
    for axis, sublayer in zip(axes, ("attn", "mlp"), strict=True):
        for i, (part, label) in enumerate(PARTS.items()):
            rows = data[(data["sublayer"] == sublayer) & (data["part"] == part)].sort_values("layer")
            look = {"color": colours[i], "ls": style.linestyles[i], "marker": "o^D"[i], "ms": 3}
            axis.plot(rows["layer"], rows["median"], label=label, **look)
        axis.axhline(1, color=style.muted, lw=0.8)
        axis.set(yscale="log", xlabel="layer", title=f"{sublayer_name(sublayer)} dropped")
    axes[0].set_ylabel("median over tokens")
    style.legend(fig)
    wide = data.pivot(index=["sublayer", "layer"], columns="part", values="median")
    below, angle = wide["ratio"] < 1, wide["sine"] < wide["gain"]
    said = (
        f"the ratio is below 1 at {below.sum()} of {len(wide)} sublayers (median over tokens); at "
        f"{(below & angle).sum()} "
        f"of those the angle takes away more than the gain, at {(below & ~angle).sum()} the gain"
    )
    caption = (
        f"**{said[0].upper()}{said[1:]}.** Ratio of the relative orthogonal parts after and before the head, raw "
        f"lens, and "
        "the two factors whose product it is at every token: how much longer the head makes the orthogonal part than "
        "the "
        "state, and the sine of the angle at which it leaves it to the logits. Medians are not multiplied exactly."
    )
    means = wide.groupby("sublayer").median()
    listed = "; ".join(
        f"{sublayer_name(s)}: " + ", ".join(f"{p} {means.loc[s, p]:.2f}" for p in PARTS) for s in means.index
    )
    return Drawn(fig, caption, f"Line charts by layer: {said}. Medians over layers: {listed}.")
