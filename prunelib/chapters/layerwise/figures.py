"""Figures of the layer chapter: similarity by layer, amplification, temperature."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import LogNorm

from prunelib.report import facts, looks
from prunelib.report.figures import Drawn, figure
from prunelib.report.paper import source
from prunelib.report.style import Style
from prunelib.report.words import sublayer_name


def _layer_curves(data: pd.DataFrame, style: Style, sublayer: str) -> Drawn:
    fig, axes = style.subplots(height=3.1, ncols=3, sharey=True, sharex=True)
    pooled, data = data[data["part"] == "middle"], data[data["part"] == "layer"]
    ours, paper = (data[data["source"] == name] for name in ("this model", "paper"))
    own, raw = looks.sublayers(style)[sublayer], ours[ours["lens"] == "raw"]
    for axis, (space, title) in zip(axes, looks.SPACES.items(), strict=True):
        rows = raw[raw["space"] == space]
        axis.fill_between(
            rows["layer"], rows["min"], rows["max"], color=own["color"], alpha=0.14, lw=0, label="min–max"
        )
        axis.fill_between(rows["layer"], rows["q05"], rows["q95"], color=own["color"], alpha=0.30, lw=0, label="5–95 %")
        theirs = paper[paper["space"] == space]
        model = source(f"fig:pruning_hierarchies_{sublayer}", "logit")[0]
        axis.plot(theirs["layer"], theirs["mean"], label=f"paper ({model})", **looks.paper(style))
        normed = ours[(ours["space"] == space) & (ours["lens"] == "normed")]
        if len(normed):
            axis.plot(
                normed["layer"], normed["mean"], color=style.muted, ls=style.linestyles[2], label="mean, normed lens"
            )
        spread = [rows["mean"] - rows["mean_lo"], rows["mean_hi"] - rows["mean"]]
        line = {"ms": 2.6, "elinewidth": 1, "label": "mean, 95 % interval"}
        axis.errorbar(rows["layer"], rows["mean"], spread, color=own["color"], marker=own["marker"], **line)
        axis.set(title=title, xlabel="layer")
    # Framed by the means: a few tokens of the first layer would flatten all others.
    low = min(0.0, float(raw["mean"].min())) - 0.05
    axes[0].set(ylabel="cosine, dense and pruned", ylim=(low, 1.03), xlim=(-0.5, raw["layer"].max() + 0.5))
    style.legend(fig)
    return Drawn(fig, *_layer_words(ours, paper, pooled, sublayer, low))


def _layer_words(ours, paper, pooled: pd.DataFrame, sublayer: str, low: float) -> tuple[str, str]:
    raw = ours[ours["lens"] == "raw"]
    middle = pooled[pooled["lens"] == "raw"].set_index("space")
    name = sublayer_name(sublayer)
    mean = {s: f"{middle.loc[s, 'mean']:.4f}" for s in looks.SPACES}
    tail = {s: f"{middle.loc[s, 'q05']:.3f}" for s in looks.SPACES}
    lowest = f"{middle.loc['p', 'min']:.2f}"
    beyond = raw[raw["min"] < low]
    layers = ", ".join(f"{layer:.0f}" for layer in sorted(beyond["layer"].unique()))
    lowest_of_all = f"{beyond['min'].min():.2f}".replace("-", "−")
    outside = f" Below the frame: tokens in layer {layers}, the lowest at {lowest_of_all}." if layers else ""
    model, depth = source(f"fig:pruning_hierarchies_{sublayer}", "logit")
    caption = (
        f"**Dropping one {name} sublayer in the middle half of the network leaves a mean cosine of {mean['h']} in $h$, "
        f"{mean['z']} in $z$ and {mean['p']} in $p$; the worst twentieth of tokens falls to {tail['z']} in $z$ "
        f"and {tail['p']} in $p$.** One {name} sublayer is dropped at a time along the dense model's own text "
        "($T = 1$), raw lens. Bands show the spread over prompts and decoding positions, error bars the 95 % interval "
        "of "
        f"the mean over prompts. The paper's curve ({model}, digitised) is stretched from its {depth} layers to these. "
        f"{_beside_paper(raw, paper)}{outside}"
    )
    alt = (
        f"Three line charts of cosine similarity by layer for a dropped {name} sublayer. "
        f"Middle-half means: h {mean['h']}, z {mean['z']}, p {mean['p']}; 5th percentiles: h {tail['h']}, "
        f"z {tail['z']}, p {tail['p']}; lowest cos p in those layers {lowest}."
    )
    return caption, alt


def _beside_paper(raw: pd.DataFrame, paper: pd.DataFrame) -> str:
    """Where our mean and the paper's are furthest apart in $p$, and by how much on average."""
    ours, theirs = (rows[rows["space"] == "p"].sort_values("layer") for rows in (raw, paper))
    gap = ours["mean"].to_numpy() - np.interp(ours["layer"], theirs["layer"], theirs["mean"])
    furthest = int(np.abs(gap).argmax())
    side = "below" if gap.mean() < 0 else "above"
    return (
        (
            f"In $p$ our mean lies {abs(gap.mean()):.2f} {side} the paper's on average over layers, and differs most "
            f"in layer "
            f"{ours['layer'].iloc[furthest]:.0f} (by {gap[furthest]:+.2f}). "
        )
        .replace("by -", "by −")
        .rstrip()
    )


@figure("fig-layerwise-attn", "Similarity by layer, one attention sublayer dropped")
def layerwise_attn(data: pd.DataFrame, style: Style) -> Drawn:
    """Cosine of h, z and p by layer, one attention sublayer dropped (paper's attention layer figure)."""
    return _layer_curves(data, style, "attn")


@figure("fig-layerwise-mlp", "Similarity by layer, one MLP sublayer dropped")
def layerwise_mlp(data: pd.DataFrame, style: Style) -> Drawn:
    """Cosine of h, z and p by layer, one MLP sublayer dropped (paper's MLP layer figure)."""
    return _layer_curves(data, style, "mlp")


@figure("fig-site-map", "Which sublayer moves what")
def site_map(data: pd.DataFrame, style: Style) -> Drawn:
    """Mean 1 − cos of h, z and p for every sublayer: a heat map of sites."""
    fig, axes = style.subplots(height=2.6, nrows=2, sharex=True)
    small = 10.0 ** np.floor(np.log10(data.loc[data["mean"] > 0, "mean"].min()))
    scale = LogNorm(small, 1)
    for axis, sublayer in zip(axes, ("attn", "mlp"), strict=True):
        wide = data[data["sublayer"] == sublayer].pivot(index="space", columns="layer", values="mean").loc[list("hzp")]
        step = {"xticklabels": 5, "yticklabels": list("hzp")}
        sns.heatmap(
            wide.clip(lower=small), ax=axis, norm=scale, cmap=style.density, cbar=False, rasterized=True, **step
        )
        axis.set(title=f"{sublayer_name(sublayer)} dropped", xlabel="layer", ylabel="")
        axis.tick_params(rotation=0, length=0)
        axis.grid(visible=False)
    place = {"location": "bottom", "aspect": 40} if style.column else {"location": "right"}
    fig.colorbar(axes[0].collections[0], ax=list(axes), label="mean 1 − cos", pad=0.02, **place)
    most = {s: rows.loc[rows["mean"].idxmax()] for s, rows in data.groupby("space")}
    said = {s: f"{sublayer_name(r['sublayer'])} {r['layer']:.0f} ({r['mean']:.2g})" for s, r in most.items()}
    typical = data.groupby("space")["mean"].median()
    caption = (
        f"**The median sublayer turns $h$ by {typical['h']:.1g}, $z$ by {typical['z']:.1g} and $p$ by "
        f"{typical['p']:.1g} "
        f"(mean $1-\\cos$ over tokens); what moves each of them most is {said['h']}, {said['z']} and {said['p']}.** "
        "One sublayer dropped at a time, $T = 1$, raw lens; darker is further from the dense model (on dark pages: "
        "brighter). One logarithmic scale for all cells."
    )
    listed = "; ".join(f"{s}: median {typical[s]:.2g}, largest {said[s]}" for s in "hzp")
    return Drawn(fig, caption, f"Two heat maps of mean 1 minus cosine, rows h, z and p, columns layers. {listed}.")


@figure("fig-deviation-spread", "How unequal the tokens are")
def deviations(data: pd.DataFrame, style: Style) -> Drawn:
    """Distribution over tokens of 1 − cos of h, z, p and of the KL, middle layers, normed lens."""
    fig, axes = style.subplots(height=3.1, ncols=3, sharey=True)
    of_space = looks.spaces(style)
    kinds = looks.sublayers(style)
    cells = data[data["part"] == "count"].dropna(axis="columns", how="all")
    for axis, sublayer in zip(axes[:2], ("attn", "mlp"), strict=True):
        rows = cells[(cells["sublayer"] == sublayer) & (cells["quantity"] != "kl")]
        for space, look in of_space.items():
            _outline(axis, rows[rows["quantity"] == space], look, f"1 − cos {space}")
        axis.set(title=f"{sublayer_name(sublayer)} dropped", xlabel="1 − cos", xscale="log")
    for sublayer in ("attn", "mlp"):
        rows = cells[(cells["sublayer"] == sublayer) & (cells["quantity"] == "kl")]
        _outline(axes[2], rows, kinds[sublayer], f"KL, {sublayer_name(sublayer)} dropped")
    axes[2].set(title="KL(dense ‖ pruned)", xlabel="nats", xscale="log")
    for axis in axes:
        axis.set_ylabel("share of tokens a bin")
    style.legend(fig)
    n = data[data["part"] == "summary"].set_index(["sublayer", "quantity"])
    width = {k: n.loc[k, "q95"] / n.loc[k, "q05"] for k in n.index if n.loc[k, "q05"] > 0}
    spans = {s: _times(width.get((s, "p"))) for s in ("attn", "mlp")}
    kl = {s: (n.loc[(s, "kl"), "median"], n.loc[(s, "kl"), "mean"]) for s in ("attn", "mlp")}
    caption = (
        f"**Tokens are unequal: from the 5th to the 95th percentile $1-\\cos p$ grows {spans['attn']} with an "
        f"attention "
        f"sublayer dropped and {spans['mlp']} with an MLP sublayer; the KL has a median of {kl['attn'][0]:.2g} and "
        f"{kl['mlp'][0]:.2g} nats, and a mean of {kl['attn'][1]:.2g} and {kl['mlp'][1]:.2g}.** Distribution over "
        f"prompts, "
        "positions and the middle half of the layers, one sublayer dropped at a time, normed lens, $T = 1$; ten bins a "
        "decade. Values below the smallest bin are counted in it."
    )
    listed = "; ".join(f"{sublayer_name(s)} {q}: median {r['median']:.2g}" for (s, q), r in n.iterrows())
    return Drawn(fig, caption, f"Histograms on logarithmic axes. {listed}.")


def _outline(axis, rows: pd.DataFrame, look: dict, label: str) -> None:
    edges = np.unique(rows[["left", "right"]].to_numpy())
    drawn = {"element": "step", "fill": True, "alpha": 0.12, "color": look["color"], "ls": look["ls"], "lw": 1.3}
    middle = np.sqrt(rows["left"] * rows["right"])
    sns.histplot(x=middle, weights=rows["share"], bins=list(edges), ax=axis, label=label, **drawn)


def _times(factor: float | None) -> str:
    return "from nothing" if factor is None or not np.isfinite(factor) else f"{factor:,.0f} times"


@figure("fig-amplification", "Does softmax amplify? By layer")
def amplification(data: pd.DataFrame, style: Style) -> Drawn:
    """Amplification ratio (1 − cos p)/(1 − cos z) and the share of tokens above 1, by layer, T = 1."""
    fig, axes = style.subplots(height=4.6, nrows=2, ncols=2, sharex=True, sharey="row")
    for column, sublayer in enumerate(("attn", "mlp")):
        ratio, share = axes[0][column], axes[1][column]
        for lens, look in looks.lenses(style).items():
            rows = data[(data["sublayer"] == sublayer) & (data["lens"] == lens)]
            drawn = look | {"ms": 3, "label": looks.LENSES[lens]}
            ratio.fill_between(rows["layer"], rows["q25"], rows["q75"], color=look["color"], alpha=0.2, lw=0)
            ratio.plot(rows["layer"], rows["median"], **drawn)
            share.fill_between(rows["layer"], rows["share_lo"], rows["share_hi"], color=look["color"], alpha=0.2, lw=0)
            share.plot(rows["layer"], rows["share"], **drawn)
        ratio.axhline(1, color=style.foreground, lw=0.9)
        # Where softmax is saturated the ratio falls to rounding; how far below 1 says no more.
        ratio.set(yscale="log", ylim=(1e-3, 2 * data["q75"].max()), title=f"{sublayer_name(sublayer)} dropped")
        share.axhline(0.5, color=style.muted, lw=0.8, ls=style.linestyles[2])
        share.set(ylim=(-0.03, 1.03), xlabel="layer")
    axes[0][0].set_ylabel("(1 − cos p) / (1 − cos z)")
    axes[1][0].set_ylabel("share of tokens above 1")
    style.legend(fig)
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
        f"Largest median ratio with the raw lens {facts.number(worst['median'])}, at layer {int(worst['layer'])} "
        f"({sublayer_name(worst['sublayer'])})."
    )
    return Drawn(fig, caption, alt)


@figure("fig-temperature", "Deviation against temperature")
def temperature(data: pd.DataFrame, style: Style) -> Drawn:
    """Mean 1 − cos p and KL(dense ‖ pruned) against T, with the 1/T² slope of the theorems."""
    fig, axes = style.subplots(height=3.1, ncols=2, sharex=True)
    titles = {"one_minus_cos_p": "1 − cos p", "kl_dense_pruned": "KL(dense ‖ pruned), nats"}
    for axis, (measure, title) in zip(axes, titles.items(), strict=True):
        for sublayer in ("attn", "mlp"):
            look = looks.sublayers(style)[sublayer]
            rows = data[(data["measure"] == measure) & (data["sublayer"] == sublayer)].sort_values("temperature")
            t = rows["temperature"].to_numpy()
            axis.fill_between(t, rows["mean_lo"], rows["mean_hi"], color=look["color"], alpha=0.25, lw=0)
            axis.plot(t, rows["mean"], label=f"{sublayer_name(sublayer)} dropped", **look)
            at_one = float(rows.loc[rows["temperature"] == 1, "mean"].iloc[0])
            line = {"color": style.muted, "lw": 0.9, "ls": style.linestyles[2]}
            axis.plot(t, at_one / t**2, label="1/T² from T = 1" if sublayer == "mlp" else None, **line)
        axis.set(xscale="log", yscale="log", xlabel="temperature T", title=title)
        ticks = np.unique(data["temperature"])
        axis.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axis.minorticks_off()
    style.legend(fig)
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
