"""Figures of the sparsity chapter: what is kept by method, and choice against generation."""

import pandas as pd
import seaborn as sns

from prunelib.report import looks
from prunelib.report.figures import Drawn, figure
from prunelib.report.share_figures import frame, hollow, hollow_words, lines, split
from prunelib.report.style import Style
from prunelib.report.words import most, number, percent


@figure("fig-sparsity-kept", "What survives when weights are removed")
def sparsity(data: pd.DataFrame, style: Style) -> Drawn:
    """Share of the dense score kept against sparsity, by method; patterns as single points."""
    data = data.assign(pattern=data["pattern"].fillna(""))  # an empty field of the CSV
    data, beside, _ = split(data)
    names = list(dict.fromkeys(beside["source"]))
    methods = list(dict.fromkeys(data.loc[data["method"] != "dense", "method"]))
    fig, axes = style.subplots(height=3.3, ncols=len(methods), sharey=True, squeeze=False)
    for axis, method in zip(axes[0], methods, strict=True):
        rows, others = (some[some["method"] == method] for some in (data, beside))
        plain = rows[rows["pattern"] == ""]
        hollow(axis, others[others["pattern"] == ""], style, names)
        if len(plain):
            start = data[data["method"] == "dense"]
            lines(axis, pd.concat([start, plain]), style)
        for n, (pattern, some) in enumerate(rows[rows["pattern"] != ""].groupby("pattern", sort=False)):
            place = 82 + 9 * n
            hollow(axis, others[others["pattern"] == pattern].assign(x=place), style, names)
            for readout, look in looks.readouts(style).items():
                one = some[some["readout"] == readout]
                spread = [one["kept"] - one["lo"], one["hi"] - one["kept"]]
                axis.errorbar([place], one["kept"], spread, fmt=look["marker"], color=look["color"], elinewidth=1)
            axis.text(place, 1.02, pattern, ha="center", fontsize=7, color=style.foreground)
        axis.set(title=method, xlabel="% of weights removed", xlim=(0, 98), xticks=[0, 30, 50, 70])
    frame(axes[0], data, style)
    style.legend(fig)
    pruned = data[data["method"] != "dense"]
    mean = pruned.groupby("readout")["kept"].mean()
    caption = (
        f"**With weights removed, multiple choice keeps {percent(mean['choice'])} of what its dense score has above "
        f"guessing, and generation {percent(mean['generation'])} of its dense score (mean over the settings drawn).** "
        "Same items in every read-out; bars and shading "
        "are 95 % intervals over passages, paired with dense. N:M patterns stand at the right. "
        f"{hollow_words(names)}Dotted: guessing."
    )
    wide = pruned.pivot(index="label", columns="readout", values="kept")
    listed = "; ".join(
        f"{label} {number(row['choice'])} and {number(row['generation'])}" for label, row in wide.iterrows()
    )
    return Drawn(fig, caption, f"Line charts of the share kept in multiple choice and generation. {listed}.")


@figure("fig-choice-generation", "Choice against generation, model by model")
def proxy(data: pd.DataFrame, style: Style) -> Drawn:
    """Shares kept in multiple choice and in generation, a row a compressed model, best in multiple choice first."""
    data = data.sort_values("choice", ascending=False, kind="stable").reset_index(drop=True)
    fig, axis = style.subplots(height=0.2 * len(data) + 1.2)
    axis.hlines(data.index, data["generation"], data["choice"], color=style.muted, lw=1)
    shown = {name: looks.readouts(style)[name] for name in ("choice", "generation")}
    ends = [
        data.assign(x=data[f"{name}{end}"], readout=looks.READOUTS[name])
        for name in shown
        for end in ("", "_lo", "_hi")
    ]
    long = pd.concat(ends, ignore_index=True)
    sns.pointplot(
        long,
        x="x",
        y="label",
        hue="readout",
        ax=axis,
        estimator="median",  # of the value and the two ends of its interval: the value
        errorbar=("pi", 100),  # from end to end
        dodge=0.3,
        palette=[look["color"] for look in shown.values()],
        markers=[look["marker"] for look in shown.values()],
        ls="",
        ms=4,
        err_kws={"lw": 0.9},
    )
    axis.legend().remove()
    axis.axvline(1, color=style.muted, lw=0.8)
    axis.axvline(0, color=style.muted, lw=0.9, ls=style.linestyles[2])
    ends = pd.concat([data["choice_lo"], data["choice_hi"], data["generation_lo"], data["generation_hi"]])
    left, right = min(0.0, -most(-ends)) - 0.03, max(1.0, most(ends)) + 0.05
    axis.set(ylabel="", xlabel="score above guessing, dense = 1", xlim=(max(-0.6, left), min(1.6, right)))
    axis.tick_params(axis="y", labelsize=7)
    axis.grid(axis="y", visible=False)
    style.legend(fig)
    gap = (data["choice"] - data["generation"]).dropna()
    if len(gap):
        worst = data.loc[gap.idxmax()]
        head = (
            f"{(gap > 0).mean():.0%} of the compressed models keep more of their multiple-choice score than of their "
            f"generation score, both above guessing; {worst['label']} keeps {worst['choice']:.0%} of the one and "
            f"{worst['generation']:.0%} of the other."
        )
    else:
        head = "The dense model leaves nothing to compare: one of its two scores cannot be told from guessing or 0."
    caption = (
        f"**{head}** Each row is a model with sublayers dropped or weights removed, best in multiple choice first; "
        "bars are 95 % intervals over passages, paired with dense. If the one score stood for the other, the markers "
        "would coincide."
    )
    listed = "; ".join(f"{r.label} {number(r.choice)}, {number(r.generation)}" for r in data.itertuples())
    return Drawn(fig, caption, f"Dot plot of the shares kept in multiple choice and generation, by model. {listed}.")
