"""Figures of the layer chapter: similarity by layer, amplification, temperature."""

import numpy as np
import pandas as pd

from prunelib.report.figures import Drawn, figure
from prunelib.report.paper import source
from prunelib.report.style import Style
from prunelib.report.words import LENS_NAMES, SPACES, sublayer_name


def _layer_curves(data: pd.DataFrame, style: Style, sublayer: str) -> Drawn:
    fig, axes = style.subplots(height=2.9, ncols=3, sharey=True, sharex=True)
    pooled, data = data[data["part"] == "middle"], data[data["part"] == "layer"]
    ours, paper = (data[data["source"] == name] for name in ("this model", "paper"))
    for axis, (space, title) in zip(axes, SPACES.items(), strict=True):
        raw = ours[(ours["space"] == space) & (ours["lens"] == "raw")]
        colour = style.colours.vermillion if space == "p" else style.colours.blue
        axis.fill_between(raw["depth"], raw["min"], raw["max"], color=colour, alpha=0.12, lw=0, label="min–max")
        axis.fill_between(raw["depth"], raw["q05"], raw["q95"], color=colour, alpha=0.30, lw=0, label="5–95 %")
        axis.errorbar(
            raw["depth"],
            raw["mean"],
            [raw["mean"] - raw["mean_lo"], raw["mean_hi"] - raw["mean"]],
            color=colour,
            marker="o",
            ms=2.6,
            lw=1.4,
            elinewidth=1,
            label="mean, 95 % interval",
        )
        normed = ours[(ours["space"] == space) & (ours["lens"] == "normed")]
        if len(normed):
            axis.plot(
                normed["depth"],
                normed["mean"],
                color=style.colours.green,
                ls=style.linestyles[3],
                lw=1.2,
                label="mean, normed lens",
            )
        theirs = paper[paper["space"] == space]
        axis.plot(
            theirs["depth"],
            theirs["mean"],
            color=style.foreground,
            ls=style.linestyles[1],
            lw=1.1,
            label=f"paper ({source(f'fig:pruning_hierarchies_{sublayer}', 'logit')[0]})",
        )
        axis.set(title=title, xlabel="relative depth")
    # Framed by the 5–95 % band: a few extreme tokens of one layer would flatten all the others.
    low = min(0.0, float(ours.loc[ours["lens"] == "raw", "q05"].min())) - 0.03
    axes[0].set(ylabel="cosine, dense and pruned", ylim=(low, 1.03), xlim=(-0.02, 1.02))
    handles = {label: h for a in axes for h, label in zip(*a.get_legend_handles_labels(), strict=True)}
    fig.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, columnspacing=1.2)
    return Drawn(fig, *_layer_words(ours, pooled, sublayer))


def _layer_words(ours: pd.DataFrame, pooled: pd.DataFrame, sublayer: str) -> tuple[str, str]:
    raw = ours[ours["lens"] == "raw"]
    middle = pooled[pooled["lens"] == "raw"].set_index("space")
    name = sublayer_name(sublayer)
    mean = {s: f"{middle.loc[s, 'mean']:.4f}" for s in SPACES}
    low = {s: f"{middle.loc[s, 'q05']:.3f}" for s in SPACES}
    lowest = f"{middle.loc['p', 'min']:.2f}"
    beyond = raw[raw["min"] < min(0.0, raw["q05"].min()) - 0.03]
    outside = f" Below the frame: the lowest token, at {beyond['min'].min():.2f}." if len(beyond) else ""
    caption = (
        f"**Dropping one {name} sublayer in the middle half of the network leaves a mean cosine of {mean['h']} in $h$, "
        f"{mean['z']} in $z$ and {mean['p']} in $p$; the worst twentieth of tokens falls to {low['z']} in $z$ "
        f"and {low['p']} in $p$.** One {name} sublayer is dropped at a time along the dense model's own text "
        "($T = 1$). Bands show the spread over prompts and decoding positions, error bars the 95 % interval of the "
        "mean over prompts. The paper's curve was digitised from its figure and is drawn on relative depth." + outside
    )
    alt = (
        f"Three line charts of cosine similarity against relative depth for a dropped {name} sublayer. "
        f"Middle-half means: h {mean['h']}, z {mean['z']}, p {mean['p']}; 5th percentiles: h {low['h']}, "
        f"z {low['z']}, p {low['p']}; lowest cos p in those layers {lowest}."
    )
    return caption, alt


@figure("fig-layerwise-attn", "Similarity by layer, one attention sublayer dropped")
def layerwise_attn(data: pd.DataFrame, style: Style) -> Drawn:
    """Cosine of h, z and p by layer, one attention sublayer dropped (paper's attention layer figure)."""
    return _layer_curves(data, style, "attn")


@figure("fig-layerwise-mlp", "Similarity by layer, one MLP sublayer dropped")
def layerwise_mlp(data: pd.DataFrame, style: Style) -> Drawn:
    """Cosine of h, z and p by layer, one MLP sublayer dropped (paper's MLP layer figure)."""
    return _layer_curves(data, style, "mlp")


@figure("fig-amplification", "Does softmax amplify? By layer")
def amplification(data: pd.DataFrame, style: Style) -> Drawn:
    """Amplification ratio (1 − cos p)/(1 − cos z) and the share of tokens above 1, by layer, T = 1."""
    fig, axes = style.subplots(height=4.4, nrows=2, ncols=2, sharex=True, sharey="row")
    for column, sublayer in enumerate(("attn", "mlp")):
        ratio, share = axes[0][column], axes[1][column]
        for i, lens in enumerate(("raw", "normed")):
            rows = data[(data["sublayer"] == sublayer) & (data["lens"] == lens)]
            look = {"color": style.colours[i], "marker": style.markers[i], "ls": style.linestyles[i], "ms": 3}
            ratio.fill_between(rows["layer"], rows["q25"], rows["q75"], color=style.colours[i], alpha=0.2, lw=0)
            ratio.plot(rows["layer"], rows["median"], **look)
            share.fill_between(
                rows["layer"], rows["share_lo"], rows["share_hi"], color=style.colours[i], alpha=0.2, lw=0
            )
            share.plot(rows["layer"], rows["share"], label=LENS_NAMES[lens], **look)
        ratio.axhline(1, color=style.foreground, lw=0.9)
        # Where softmax is saturated the ratio falls to rounding; how far below 1 says no more.
        ratio.set(yscale="log", ylim=(1e-3, 2 * data["q75"].max()), title=f"{sublayer_name(sublayer)} dropped")
        share.axhline(0.5, color=style.muted, lw=0.8, ls=style.linestyles[2])
        share.set(ylim=(-0.03, 1.03), xlabel="layer")
    axes[0][0].set_ylabel(r"$(1-\cos p)\,/\,(1-\cos z)$")
    axes[1][0].set_ylabel("share of tokens above 1")
    axes[1][0].legend(loc="lower right")
    raw = data[data["lens"] == "raw"]
    shares = {s: data[(data["sublayer"] == s)].groupby("lens")["share"].mean() for s in ("attn", "mlp")}
    worst = raw.loc[raw["median"].idxmax()]
    words = {s: f"{v['raw']:.0%} (raw lens) and {v['normed']:.0%} (normed lens)" for s, v in shares.items()}
    caption = (
        f"**Softmax amplifies the relative change at {words['attn']} of the tokens when an attention sublayer is "
        f"dropped, at {words['mlp']} for an MLP sublayer.** Above: median and quartiles over tokens of the "
        "amplification ratio at $T = 1$; the solid line marks 1. Below: share of tokens above 1 with its 95 % "
        "interval over prompts. Below 1, softmax damps: the distribution is already decided, or the logits "
        "moved mostly together."
    )
    alt = (
        f"Two rows of charts by layer. Mean share of tokens above 1: attention {words['attn']}; MLP {words['mlp']}. "
        f"Largest median ratio with the raw lens {worst['median']:.3g}, at layer {int(worst['layer'])} "
        f"({sublayer_name(worst['sublayer'])})."
    )
    return Drawn(fig, caption, alt)


@figure("fig-temperature", "Deviation against temperature")
def temperature(data: pd.DataFrame, style: Style) -> Drawn:
    """Mean 1 − cos p and KL(dense ‖ pruned) against T, with the 1/T² slope of the theorems."""
    fig, axes = style.subplots(height=2.9, ncols=2, sharex=True)
    titles = {"one_minus_cos_p": r"$1-\cos(p)$", "kl_dense_pruned": "KL(dense ‖ pruned), nats"}
    for axis, (measure, title) in zip(axes, titles.items(), strict=True):
        for i, sublayer in enumerate(("attn", "mlp")):
            rows = data[(data["measure"] == measure) & (data["sublayer"] == sublayer)].sort_values("temperature")
            axis.fill_between(
                rows["temperature"], rows["mean_lo"], rows["mean_hi"], color=style.colours[i], alpha=0.25, lw=0
            )
            axis.plot(
                rows["temperature"],
                rows["mean"],
                color=style.colours[i],
                marker=style.markers[i],
                ls=style.linestyles[i],
                label=f"{sublayer_name(sublayer)} dropped",
            )
            at_one = float(rows.loc[rows["temperature"] == 1, "mean"].iloc[0])
            t = rows["temperature"].to_numpy()
            label = "$1/T^2$ from $T=1$" if i else None
            axis.plot(t, at_one / t**2, color=style.muted, lw=0.9, ls=style.linestyles[2], label=label)
        axis.set(xscale="log", yscale="log", xlabel="temperature $T$", title=title)
        ticks = np.unique(data["temperature"])
        axis.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axis.minorticks_off()
    axes[0].legend(loc="lower left")
    rows = data[(data["measure"] == "one_minus_cos_p")].groupby("temperature")["mean"].mean()
    low, high = rows.index.min(), rows.index.max()
    fact = f"{rows[low] / rows[1.0]:.2f} times its value at $T=1$ at $T={low:g}$ and {rows[high] / rows[1.0]:.2f} times"
    steeper = rows[low] / rows[1.0] > 1 / low**2
    shape = "steeper" if steeper else "flatter"
    caption = (
        f"**Mean $1-\\cos(p)$ is {fact} at $T={high:g}$, against {1 / low**2:.1f} and {1 / high**2:.2f} if only "
        "$1/T^2$ acted.** Middle half of the layers, one sublayer dropped at a time, normed lens; shading is the "
        "95 % interval of the mean over prompts. Dotted: the $1/T^2$ of Theorems 2 and 3 with the variance held "
        f"fixed. Towards low temperatures the measured curve is {shape}, since the weights of that variance move with "
        f"$T$ too."
    )
    alt = f"Log-log line charts; 1 minus cos p is {fact} at T={high:g}, {shape} than the dotted inverse-square lines."
    return Drawn(fig, caption, alt.replace("$", ""))
