"""Figures along the temperature: what amplifies, what damps, where deviations peak, and what bounds them."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.patches import Patch

from prunelib.report import looks
from prunelib.report.figures import Drawn, figure
from prunelib.report.style import Style
from prunelib.report.words import sublayer_name

FEW = 5
"""Groups of fewer points are in the data of a figure, not in its drawing."""

SUBLAYERS = ("attn", "mlp")
_TICKS = (0.1, 0.2, 0.5, 1, 2, 4)
_WHERE = "One sublayer dropped at a time in three layers of the middle half, normed lens"
_LOW = 1e-5  # below are roundings of saturated distributions


def _along(axis, **options) -> None:
    """The temperature as the logarithmic axis below, with a few of its numbers."""
    axis.set(xscale="log", xlabel="temperature T", **options)
    axis.set_xticks(_TICKS, [f"{t:g}" for t in _TICKS])
    axis.minorticks_off()


def _ends(data: pd.DataFrame) -> tuple[float, float]:
    return data["temperature"].min(), data["temperature"].max()


def _label(band: str) -> str:
    return "all tokens" if band == "all" else f"largest probability {band}"


@figure("fig-heat-regimes", "The mean change against temperature, by confidence and by top token")
def regimes(data: pd.DataFrame, style: Style) -> Drawn:
    """Mean 1 − cos p against T by confidence of the dense model, for kept, overtaken and all tokens."""
    fig, axes = style.subplots(height=4.8, nrows=2, ncols=3, columns=2, sharex=True, sharey=True)
    titles = {"kept": "top kept", "overtaken": "top overtaken", "all tokens": "all tokens"}
    for row, sublayer in zip(axes, SUBLAYERS, strict=True):
        for axis, (top, title) in zip(row, titles.items(), strict=True):
            some = data[(data["sublayer"] == sublayer) & (data["top"] == top) & (data["points"] >= FEW)]
            for band, look in looks.confidence(style).items():
                rows = some[some["band"] == band].sort_values("temperature")
                if band == "all":
                    low, high = (rows[end].clip(_LOW, 1) for end in ("mean_lo", "mean_hi"))
                    axis.fill_between(rows["temperature"], low, high, color=look["color"], alpha=0.15, lw=0)
                axis.plot(rows["temperature"], rows["mean"], label=_label(band), **look)
            _along(axis, yscale="log", ylim=(_LOW, 1.5), title=f"{sublayer_name(sublayer)}: {title}")
        row[0].set_ylabel("mean 1 − cos p")
    style.legend(fig)
    low, _ = _ends(data)
    pooled = data[data["band"] == "all"].set_index(["top", "sublayer", "temperature"])["mean"]

    def ratio(top: str, sublayer: str) -> float:
        at = pooled.get((top, sublayer, low), np.nan), pooled.get((top, sublayer, 1.0), np.nan)
        return at[0] / at[1]

    times = {(t, s): _times(ratio(t, s)) for t in titles for s in SUBLAYERS}
    counts = data[(data["band"] == "all") & (data["temperature"] == 1)].groupby("top")["points"].sum()
    overtaken = counts.get("overtaken", 0) / counts["all tokens"]
    caption = (
        f"**From $T = 1$ down to $T = {low:g}$ the mean of $1-\\cos p$ changes {times['kept', 'attn']} (attention "
        f"dropped) and {times['kept', 'mlp']} (MLP dropped) where the top token is kept, "
        f"{times['overtaken', 'attn']} and {times['overtaken', 'mlp']} where it is overtaken, at {overtaken:.1%} of "
        f"the points.** {_WHERE}; curves by the dense model's largest probability at $T = 1$. Shading: 95 % interval "
        "over prompts of the mean over all tokens. "
        f"Groups of fewer than {FEW} points are not drawn, values below {_LOW:.5f} lie below the frame."
    )
    listed = "; ".join(f"{sublayer_name(s)}, {titles[t]}: {times[t, s]}" for t, s in times)
    alt = f"Six log-log charts of mean 1 minus cos p against T. From T=1 to T={low:g} it changes: {listed}."
    return Drawn(fig, caption, alt)


def _times(factor: float) -> str:
    return f"by a factor of {factor:.2g}" if np.isfinite(factor) else "by an undefined factor"


@figure("fig-heat-amplification", "Does softmax amplify? By temperature and confidence")
def amplification(data: pd.DataFrame, style: Style) -> Drawn:
    """Amplification ratio and the share of points above 1, against T, by confidence of the dense model."""
    fig, axes = style.subplots(height=4.8, nrows=2, ncols=2, sharex=True, sharey="row")
    for column, sublayer in enumerate(SUBLAYERS):
        ratio, share = axes[0][column], axes[1][column]
        for band, look in looks.confidence(style).items():
            rows = data[(data["sublayer"] == sublayer) & (data["band"] == band) & (data["points"] >= FEW)]
            if rows.empty:
                continue
            t = rows["temperature"]
            ratio.fill_between(t, rows["q25"].clip(1e-3), rows["q75"].clip(1e-3), color=look["color"], alpha=0.14, lw=0)
            ratio.plot(t, rows["median"], label=_label(band), **look)
            share.fill_between(t, rows["share_lo"], rows["share_hi"], color=look["color"], alpha=0.14, lw=0)
            share.plot(t, rows["share"], label=_label(band), **look)
        ratio.axhline(1, color=style.foreground, lw=0.9)
        most = data.loc[data["points"] >= FEW, "q75"].max()
        _along(ratio, yscale="log", ylim=(1e-3, 2 * max(1, most)), title=f"{sublayer_name(sublayer)} dropped")
        share.axhline(0.5, color=style.muted, lw=0.8, ls=style.linestyles[2])
        _along(share, ylim=(-0.03, 1.03), title=f"{sublayer_name(sublayer)} dropped")
    axes[0][0].set_ylabel("(1 − cos p) / (1 − cos z)")
    axes[1][0].set_ylabel("share of points above 1")
    style.legend(fig)
    drawn = data[data["points"] >= FEW]
    at_one = drawn[drawn["temperature"] == 1]
    means = at_one.assign(above=at_one["share"] * at_one["points"]).groupby("band")[["above", "points"]].sum()
    shares = {b: means.loc[b, "above"] / means.loc[b, "points"] for b in looks.confidence(style) if b in means.index}
    said = "; ".join(f"{band}: {share:.0%}" for band, share in shares.items())
    caption = (
        "**At $T = 1$ softmax turns the probabilities further than the logits at these shares of the points, by the "
        f"dense model's largest probability: {said}.** {_WHERE}. Above: median and quartiles of the ratio; the line "
        "marks 1. Below: share of points above 1 with its 95 % interval over prompts. The groups are those of $T = 1$ "
        "at every temperature; ratios below 0.001 lie below the frame."
    )
    return Drawn(fig, caption, f"Charts against T by confidence. Share of points above 1 at T=1, {said}.")


@figure("fig-heat-absolute", "The absolute size of the change, and its bounds")
def absolute(data: pd.DataFrame, style: Style) -> Drawn:
    """‖Δp‖₂/‖Δz‖₂ against T, and the share used of the ½-Lipschitz bound and of the bound in the range."""
    fig, axes = style.subplots(height=3.0, ncols=3, sharex=True)
    titles = {
        "gain": "‖Δp‖₂ / ‖Δz‖₂",
        "lipschitz": "share used of ‖Δz‖₂/(2T)",
        "range": "share used of √2·tanh(R/4T)",
    }
    for axis, (quantity, title) in zip(axes, titles.items(), strict=True):
        of = data[data["quantity"] == quantity]
        for sublayer in SUBLAYERS:
            look, rows = looks.sublayers(style)[sublayer], of[of["sublayer"] == sublayer]
            t, name = rows["temperature"], sublayer_name(sublayer)
            axis.fill_between(t, rows["q05"], rows["q95"], color=look["color"], alpha=0.2, lw=0)
            axis.plot(t, rows["median"], label=f"{name} dropped: median, 5–95 %", **look)
            line = {"color": look["color"], "lw": 0.8, "ls": look["ls"]}
            axis.plot(t, rows["max"], label=f"{name} dropped: largest", **line)
        bound = {"color": style.foreground, "lw": 1, "ls": style.linestyles[3], "label": "bound"}
        grid = np.unique(of["temperature"])
        axis.plot(grid, 1 / (2 * grid) if quantity == "gain" else np.ones_like(grid), **bound)
        floor = float(of["median"].min()) / 10
        _along(axis, yscale="log", ylim=(max(floor, 1e-9), None), title=title)
    style.legend(fig)
    most = {q: data.loc[data["quantity"] == q, "max"].max() for q in titles}
    one = data[data["temperature"] == 1].groupby("quantity")["median"].mean()
    caption = (
        f"**Of what the ½-Lipschitz bound allows, a median point uses {one['lipschitz']:.2g} at $T = 1$, and no point "
        f"at any temperature more than {most['lipschitz']:.2g}; of the bound by the range $R$ of $\\Delta z$ "
        f"{one['range']:.2g} and {most['range']:.2g}.** {_WHERE}; $\\Delta z$ without its mean. Left: length of "
        f"$\\Delta p$ over length of $\\Delta z$, at most {most['gain']:.2g}."
    )
    listed = "; ".join(f"{title}: median at T=1 {one[q]:.2g}, largest {most[q]:.2g}" for q, title in titles.items())
    return Drawn(fig, caption, f"Log-log charts against T. {listed}.")


@figure("fig-heat-peaks", "Where along the temperature deviations peak")
def peaks(data: pd.DataFrame, style: Style) -> Drawn:
    """Distribution over points of the temperature at which each deviation is largest."""
    fig, axes = style.subplots(height=4.4, nrows=2, ncols=2, sharex=True, sharey=True)
    of = looks.tops(style)
    temperatures = np.unique(data["peak"])
    names = [f"{t:g}" for t in temperatures]
    hatches = dict(zip(of, ("", "////"), strict=True))
    medians = {}
    for axis, (quantity, title) in zip(axes.flat, looks.DEVIATIONS.items(), strict=True):
        rows = data[data["quantity"] == quantity].assign(peak=lambda f: f["peak"].map("{:g}".format))
        bars = {"order": names, "hue_order": list(of), "palette": [look["color"] for look in of.values()]}
        sns.barplot(rows, x="peak", y="share", hue="top", ax=axis, legend=False, errorbar=None, **bars)
        for container, hatch in zip(axis.containers, hatches.values(), strict=False):
            for bar in container:
                bar.set(hatch=hatch, edgecolor=style.page, lw=0)
        axis.set(title=title, xlabel="temperature of the peak", ylabel="share of points")
        axis.grid(visible=False, axis="x")
        axis.set_xticks(range(1, len(names), 2), names[1::2])  # every other number: they would touch
        axis.set_xlim(-0.6, len(names) - 0.4)
        share = data[data["quantity"] == quantity].groupby("peak")["share"].sum().cumsum()
        medians[title] = share.index[int((share >= 0.5).argmax())]
    patches = [
        Patch(facecolor=look["color"], hatch=hatches[top], edgecolor=style.page, label=f"top token {top}")
        for top, look in of.items()
    ]
    style.legend(fig, patches)
    first = data[data["peak"] == data["peak"].min()].groupby("quantity")["share"].sum()
    cold = {title: f"{first.get(q, 0):.0%}" for q, title in looks.DEVIATIONS.items()}
    said = ", ".join(f"{title} {t:g}" for title, t in medians.items())
    caption = (
        f"**The median temperatures of the peak are: {said}.** {_WHERE}. Every point counts once in each panel, at the "
        "temperature at which its deviation is largest; the first and the last bar stand for all that lies beyond. "
        f"At the lowest temperature peak: {', '.join(f'{title} {share}' for title, share in cold.items())}."
    )
    return Drawn(fig, caption, f"Bar charts of the temperature of the peak. Medians: {said}.")


@figure("fig-heat-theorems", "Theorems 2 and 3 along the temperature")
def theorems(data: pd.DataFrame, style: Style) -> Drawn:
    """Means over points of measurement, estimate and proven interval against T, for 1 − cos p and both KLs."""
    fig, axes = style.subplots(height=4.8, nrows=2, ncols=3, columns=2, sharex=True, sharey="col")
    sides = looks.sides(style)
    quantities = {q: looks.DEVIATIONS[q] for q in ("one_minus_cos_p", "kl_dense_pruned", "kl_pruned_dense")}
    for row, sublayer in zip(axes, SUBLAYERS, strict=True):
        for axis, (quantity, title) in zip(row, quantities.items(), strict=True):
            rows = data[(data["sublayer"] == sublayer) & (data["quantity"] == quantity)].sort_values("temperature")
            t, floor = rows["temperature"], float(rows["mean"].min()) / 30
            interval = {"color": style.muted, "alpha": 0.2, "lw": 0, "label": "mean of the proven intervals"}
            axis.fill_between(t, rows["lower"].clip(lower=floor), rows["upper"].clip(lower=floor), **interval)
            axis.fill_between(
                t, rows["mean_lo"].clip(lower=floor), rows["mean_hi"], color=sides["measured"]["color"], alpha=0.2, lw=0
            )
            axis.plot(t, rows["mean"], label="measured", **sides["measured"])
            axis.plot(t, rows["estimate"], label="estimated", **sides["estimated"])
            _along(axis, yscale="log", title=title)
        row[0].set_ylabel(f"mean, {sublayer_name(sublayer)} dropped")
    style.legend(fig)
    low, high = _ends(data)
    factor = data.groupby(["quantity", "temperature"])["factor"].mean()
    words = {q: ", ".join(f"{factor[q, t]:.2g}" for t in (low, 1.0, high)) for q in quantities}
    said = "; ".join(f"{title} {words[q]}" for q, title in quantities.items())
    caption = (
        f"**The estimates are typically off by these factors at $T = {low:g}$, 1 and {high:g}: {said}. "
        f"{_held(data)}** {_WHERE}. Means over points; shading around the measurement: 95 % interval over prompts. "
        "KLs in nats. The factor is the median over points, the mean over attention and MLP."
    )
    return Drawn(fig, caption, f"Log-log charts against T of measured and estimated means. Factors: {said}.")


def _held(data: pd.DataFrame) -> str:
    least = data["inside"].min()
    if least == 1:
        return "The proven intervals hold at every point and temperature."
    worst = data.loc[data["inside"].idxmin()]
    at = f"{least:.2%} of the points at $T = {worst['temperature']:g}$"
    return f"The proven intervals hold at {at}, and at more elsewhere."
