"""Figures of the chapter on options: their KL beside that of the vocabulary, one item, the tail, bands and flips."""

import pandas as pd
import seaborn as sns
from matplotlib.lines import Line2D

from prunelib.report import looks
from prunelib.report.figures import Drawn, figure
from prunelib.report.style import Style
from prunelib.report.words import number, percent

LEAST = 1e-6
"""Nats; what is smaller, zero included, is drawn here."""

BANDS = {"1": "1", "2–10": "2–10", "11–100": "11–100", "101–1,000": "101–1k", "the rest": "rest"}
"""Rank bands as an axis names them."""


@figure("fig-options-kl", "How far the options move, and how far everything does")
def divergences(data: pd.DataFrame, style: Style) -> Drawn:
    """Spread over items of KL(dense ‖ pruned) by model: whole vocabulary, options, as many likely others."""
    labels = list(dict.fromkeys(data["label"]))
    fig, axis = style.subplots(height=min(0.36 * len(labels), 7) + 1.2)  # at most a page
    shown = {name: look for name, look in looks.subsets(style).items() if name in set(data["subset"])}
    for n, (name, look) in enumerate(shown.items()):
        rows = _clipped(data[data["subset"] == name], labels)
        y = [place + 0.22 * (n - (len(shown) - 1) / 2) for place in range(len(labels))]
        axis.hlines(y, rows["q05"], rows["q95"], color=look["color"], lw=0.7)
        axis.hlines(y, rows["q25"], rows["q75"], color=look["color"], lw=2.2)
        axis.plot(rows["median"], y, ls="", marker=look["marker"], color=look["color"], label=looks.SUBSETS[name])
    axis.set_xscale("log")
    axis.set(xlabel="KL(dense ‖ pruned), nats", yticks=range(len(labels)), yticklabels=labels)
    axis.set_ylim(len(labels) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)
    style.legend(fig)
    medians = data.pivot(index="label", columns="subset", values="median").loc[labels]
    less = (medians["options"] < medians["whole"]).sum()
    caption = (
        f"**In {less} of {len(labels)} compressed models the KL divergence among the options is below that of the "
        "whole vocabulary, by their medians over items.** Asked by letter; options are taken among themselves, and so "
        "are as many of the likeliest other tokens. Marker: median over items; thick bar: middle half; thin bar: 5th "
        "to 95th percentile."
    )
    listed = "; ".join(
        f"{label} whole {row['whole']:.2g}, options {row['options']:.2g}, others {row['others']:.2g}"
        for label, row in medians.iterrows()
    )
    return Drawn(fig, caption, f"Dot plot of KL divergences in nats by model, medians over items: {listed}.")


def _clipped(rows: pd.DataFrame, labels: list[str]) -> pd.DataFrame:
    """Quantiles in the order of the labels, none below what a logarithmic axis shows."""
    return rows.set_index("label").loc[labels, ["q05", "q25", "median", "q75", "q95"]].clip(lower=LEAST)


@figure("fig-options-item", "One item: the top of the distribution and the options")
def one_item(data: pd.DataFrame, style: Style) -> Drawn:
    """Bars of the likeliest tokens and of the options among themselves, dense and pruned (the paper's two figures)."""
    names = list(dict.fromkeys(data["label"]))
    panels = list(dict.fromkeys(data["panel"]))
    fig, axes = style.subplots(height=3.2, ncols=len(panels), squeeze=False)
    pruned = looks.model(style, data.loc[data["label"] == names[-1], "spec"].iloc[0])["color"]
    for axis, panel in zip(axes[0], panels, strict=True):
        rows = data[data["panel"] == panel]
        rows = rows.assign(place=rows["place"].astype(str))
        order = list(dict.fromkeys(rows["place"]))
        sns.barplot(
            rows, x="p", y="place", hue="label", order=order, hue_order=names, palette=[style.muted, pruned],
            saturation=1, ax=axis, errorbar=None, legend=False,
        )  # fmt: skip
        for bars, hatch, label in zip(axis.containers, ("", "////"), names, strict=True):
            for bar in bars:
                bar.set(hatch=hatch, edgecolor=style.page, linewidth=0)
            bars.set_label(label)
        words = [tidy(token) for token in rows.drop_duplicates("place")["token"]]
        axis.set_yticks(range(len(order)), words)
        axis.set(title=panel, xlabel="probability", ylabel="", xlim=(0, None))
        axis.grid(axis="y", visible=False)
    style.legend(fig)
    wide = data.pivot(index=["panel", "place"], columns="label", values="p")
    top, own = (wide.loc[panel] for panel in panels)
    changed, kept = ("stays" if one[names[-1]].idxmax() == one[names[0]].idxmax() else "changes" for one in (top, own))
    caption = (
        f"**One item: among the dense model's likeliest tokens the first choice {changed}; the choice among the "
        f"options {kept}.** Question: {data['question'].iloc[0]} Left, the dense model's likeliest tokens with their "
        "probabilities under both models; right, the options, renormalised. ␣ is a space, ↵ a line break. The item is "
        f"the one with the median ratio of the two KL divergences under {names[-1]}, unless it was named."
    )
    listed = "; ".join(
        f"{panel}, {tidy(r.token)}: {r.label} {number(r.p)}" for panel in panels
        for r in data[data["panel"] == panel].itertuples()
    )  # fmt: skip
    return Drawn(fig, caption, f"Two bar charts of probabilities. {listed}.")


def tidy(token: str) -> str:
    """A token for an axis: spaces and line breaks visible, nothing that is read as a formula, at most 14 letters."""
    seen = {" ": "␣", "\n": "↵"}
    shown = "".join(seen.get(c, c if " " < c < "ɐ" and c != "$" else f"U+{ord(c):04X}") for c in str(token))
    return shown if len(shown) <= 14 else shown[:13] + "…"


@figure("fig-options-tail", "Are the options in the tail?")
def tail(data: pd.DataFrame, style: Style) -> Drawn:
    """Distribution over items of the options' mass and of the ranks of the first and the last of their tokens."""
    panels = {
        "mass": "options' share of the probability",
        "first rank": "rank of the likeliest option",
        "last rank": "rank of the least likely option",
    }
    fig, axes = style.subplots(height=2.9, ncols=len(panels), sharey=True)
    shown: dict[str, Line2D] = {}
    for axis, (quantity, label) in zip(axes, panels.items(), strict=True):
        for name, look in looks.asked(style).items():
            for model, line, weight in (("dense", 0, 1.6), ("pruned", 1, 1.0)):
                chosen = (data["quantity"] == quantity) & (data["readout"] == name) & (data["model"] == model)
                rows = data[chosen].sort_values("share")
                drawn = {"color": look["color"], "ls": style.linestyles[line], "lw": weight, "marker": look["marker"]}
                # The legend has handles of its own: a curve that rises upright has too many values at one place.
                axis.plot(rows["value"], rows["share"], **drawn, markevery=10, ms=3)
                shown[f"{looks.ASKED[name]}, {model}"] = Line2D([], [], **drawn, ms=3)
        if quantity != "mass":
            axis.set_xscale("log")
        axis.set(xlabel=label)
    axes[0].set_ylabel("share of items at or below")
    style.legend(fig, list(shown.values()), list(shown))
    middle = data[data["share"] == 0.5].set_index(["quantity", "readout", "model"])["value"]
    first = middle["first rank", "letter", "dense"]
    caption = (
        f"**Asked by letter, the options hold {percent(middle['mass', 'letter', 'dense'])} of the dense probability at "
        f"the median item and {percent(middle['mass', 'letter', 'pruned'])} of the pruned one; their likeliest token "
        f"has rank {first:.0f}.** Cumulative distributions over items, and for pruned models over items and models. "
        "Whole texts are looked at by the tokens that they begin with."
    )
    listed = "; ".join(
        f"{looks.ASKED[readout]}, {model}: {quantity} {number(value) if quantity == 'mass' else f'{value:.0f}'}"
        for (quantity, readout, model), value in middle.items()
    )
    return Drawn(fig, caption, f"Cumulative distributions; medians: {listed}.")


@figure("fig-options-bands", "Which tokens move")
def bands(data: pd.DataFrame, style: Style) -> Drawn:
    """Mean movement in log p and in centred z by rank band of the dense distribution, and of the options."""
    panels = {"logp": "|Δ log p|, nats", "z": "|Δz − mean Δz|"}
    fig, axes = style.subplots(height=2.9, ncols=len(panels))
    shown = looks.asked(style)
    for axis, (quantity, label) in zip(axes, panels.items(), strict=True):
        for n, (name, look) in enumerate(shown.items()):
            rows = data[(data["quantity"] == quantity) & (data["readout"] == name)]
            ranked = rows[rows["band"] != "options"].dropna(subset=["mean"])
            ranked = ranked.assign(place=[list(BANDS).index(band) + 0.1 * (n - 0.5) for band in ranked["band"]])
            own = rows[rows["band"] == "options"].assign(place=len(BANDS) + 0.1 * (n - 0.5))
            for some, extra in ((ranked, {"label": looks.ASKED[name]}), (own, {"mfc": style.page})):
                axis.errorbar(
                    some["place"], some["mean"], [some["mean"] - some["lo"], some["hi"] - some["mean"]],
                    elinewidth=1, **look, **extra,
                )  # fmt: skip
        axis.set_xticks([*range(len(BANDS)), len(BANDS)], [*BANDS.values(), "options"])
        axis.set(xlabel="rank in the dense distribution", ylabel=label, ylim=(0, None))
    style.legend(fig)
    mean = data[data["quantity"] == "logp"].set_index(["readout", "band"])["mean"]
    rest = [band for band in BANDS if pd.notna(mean.get(("letter", band)))][-1]
    caption = (
        f"**Asked by letter, log p moves by {mean['letter', '1']:.2g} nats at the dense model's first choice, by "
        f"{mean['letter', '2–10']:.2g} at ranks 2 to 10, by {mean['letter', rest]:.2g} at the last ranks, and by "
        f"{mean['letter', 'options']:.2g} at the options.** Means over items, models and the tokens of a band, with 95 "
        "% intervals over passages; hollow: the options' tokens, or those that option texts begin with. Logits are "
        "centred, since a constant added to all of them changes nothing."
    )
    listed = "; ".join(f"{looks.ASKED[a]}, {band} {value:.2g}" for (a, band), value in mean.items() if pd.notna(value))
    return Drawn(fig, caption, f"Mean movement by rank. In log p, nats: {listed}.")


@figure("fig-options-flips", "Which decisions flip")
def flips(data: pd.DataFrame, style: Style) -> Drawn:
    """Share of choices that differ from the dense model's, against the margin of the dense choice."""
    fig, axis = style.subplots(height=2.9)
    for name, look in looks.asked(style).items():
        rows = data[data["readout"] == name].sort_values("margin")
        axis.fill_between(rows["margin"], rows["lo"], rows["hi"], color=look["color"], alpha=0.15, lw=0)
        axis.plot(rows["margin"], rows["flipped"], label=looks.ASKED[name], **look)
    axis.set_xscale("log")
    axis.set(
        xlabel="margin of the dense choice over the second, nats",
        ylabel="share of choices that flip",
        ylim=(-0.02, 1.02),
    )
    style.legend(fig)
    ends = {
        name: data[data["readout"] == name].sort_values("margin")["flipped"].iloc[[0, -1]].tolist()
        for name in looks.ASKED
    }
    caption = (
        f"**Asked by letter, {percent(ends['letter'][0])} of the choices with the smallest dense margins flip and "
        f"{percent(ends['letter'][1])} of those with the largest; asked by whole text, {percent(ends['text'][0])} and "
        f"{percent(ends['text'][1])}.** Items in groups of equal number by margin, over all compressed models; each "
        "marker stands at the median margin of its group; shading is the 95 % interval over passages."
    )
    listed = "; ".join(f"{looks.ASKED[r.readout]}, {r.margin:.2g} nats {number(r.flipped)}" for r in data.itertuples())
    return Drawn(fig, caption, f"Line chart of flipped choices by margin. {listed}.")
