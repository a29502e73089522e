"""Figures of the task chapters: what is kept of the dense score, and the longer texts."""

import pandas as pd

from prunelib.figures.core import Drawn, figure
from prunelib.figures.style import Style
from prunelib.paper import figures, series_names, source

READOUTS = {"choice": "multiple choice", "forced": "next token, true answer so far", "generation": "generation"}
KINDS = {"attn": "attention dropped", "mlp": "MLP dropped", "block": "blocks dropped", "joint": "both dropped"}


def _looks(style: Style) -> dict[str, dict]:
    c = style.colours
    return {
        "choice": {"color": c.blue, "marker": "o", "ls": style.linestyles[0]},
        "forced": {"color": c.green, "marker": "^", "ls": style.linestyles[3]},
        "generation": {"color": c.vermillion, "marker": "s", "ls": style.linestyles[1]},
    }


def _lines(axis, data: pd.DataFrame, style: Style) -> None:
    """A line with its interval for each read-out; ``data`` has x, kept, lo, hi, readout."""
    for readout, look in _looks(style).items():
        rows = data[data["readout"] == readout].sort_values("x")
        if len(rows):
            axis.fill_between(rows["x"], rows["lo"], rows["hi"], color=look["color"], alpha=0.15, lw=0)
            axis.plot(rows["x"], rows["kept"], label=READOUTS[readout], **look)


def _reference(axis, data: pd.DataFrame, style: Style) -> None:
    """The committed reference run as hollow markers."""
    for readout, look in _looks(style).items():
        rows = data[data["readout"] == readout]
        axis.plot(rows["x"], rows["kept"], ls="", marker=look["marker"], mfc="none", mec=look["color"], ms=7, mew=0.9)


_HOLLOW = "Hollow: the committed reference run. "


def _frame(axes, data: pd.DataFrame, style: Style) -> None:
    """Reference lines, limits and labels that the panels share."""
    top = min(1.6, max(1.15, most(data["hi"]) + 0.05))
    for axis in axes:
        axis.axhline(1, color=style.muted, lw=0.8)
        axis.axhline(0, color=style.muted, lw=0.9, ls=style.linestyles[2])
        axis.set_ylim(max(-0.6, min(-0.03, -most(-data["lo"]) - 0.03)), top)
    axes[0].set_ylabel("above guessing, dense = 1")
    axes[0].text(
        0.03, 0.01, "guessing", fontsize=7, color=style.muted, va="bottom", transform=axes[0].get_yaxis_transform()
    )


def most(numbers: pd.Series) -> float:
    """The largest number that is defined; 0 where none is."""
    return float(numbers.max()) if numbers.notna().any() else 0.0


def percent(share: float) -> str:
    """A share for a caption: ``"46%"``, or "an undefined share" where the dense score is nothing to keep from."""
    return f"{share:.0%}" if pd.notna(share) else "an undefined share"


def number(share: float) -> str:
    """The same for a text alternative: ``"0.46"``."""
    return f"{share:.2f}" if pd.notna(share) else "not defined"


def _paper_model() -> str:
    """The model of the paper's drop curves, from its data."""
    drops = [name for name in figures() if name.startswith(("fig:pruning_generative", "fig:pruning_non_generative"))]
    return " and ".join(sorted({source(name, series)[0] for name in drops for series in series_names(name)}))


@figure("fig-dropping-kept", "What survives when sublayers are dropped", "08-dropping-layers")
def dropping(data: pd.DataFrame, style: Style) -> Drawn:
    """Share of the dense score kept against the share of layers dropped, by kind of sublayer."""
    own, reference, paper = (data[data["source"] == name] for name in ("this run", "reference", "paper"))
    kinds = [kind for kind in KINDS if kind in set(own.loc[own["x"] > 0, "kind"])]
    fig, axes = style.subplots(height=3.4, ncols=len(kinds), sharey=True, squeeze=False)
    axes = axes[0]
    for axis, kind in zip(axes, kinds, strict=True):
        for (readout, name), rows in paper[paper["kind"] == kind].groupby(["readout", "task"], sort=False):
            look = _looks(style)[readout]
            line = style.linestyles[2] if "HellaSwag" in name else look["ls"]
            axis.plot(rows["x"], rows["kept"], color=look["color"], ls=line, lw=1, alpha=0.6, label=name)
        _reference(axis, reference[reference["kind"] == kind], style)
        _lines(axis, own[own["kind"] == kind], style)
        axis.set(title=KINDS[kind], xlabel="% of layers", xlim=(0, None))
    _frame(axes, own, style)
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=7)
    last = own[own["x"] > 0].groupby(["kind", "readout"]).tail(1).set_index(["kind", "readout"])["kept"]
    most = {kind: own.loc[(own["kind"] == kind), "x"].max() for kind in kinds}
    words = "; ".join(
        f"{KINDS[k].split()[0]} at {most[k]:.0f} %: choice {number(last[k, 'choice'])}, generation "
        f"{number(last[k, 'generation'])}"
        for k in kinds
    )
    mean = own[own["x"] > 0].groupby("readout")["kept"].mean()
    caption = (
        f"**On the same items, multiple choice keeps {percent(mean['choice'])} of what its dense score has above "
        f"guessing, and generation {percent(mean['generation'])} of its dense score (mean over the plans drawn).** "
        "Score above guessing relative to the dense model against the share "
        "of layers whose sublayer is dropped; shading is the 95 % interval over passages, paired with dense. "
        f"{_HOLLOW if len(reference) else ''}Thin lines: the paper's MMLU and HellaSwag (choice) and GSM8K "
        f"(generation) curves of {_paper_model()}, in percent of its own layers. Dotted: guessing."
    )
    alt = f"Three line charts of the share of the dense score kept above guessing. Largest drops: {words}."
    return Drawn(fig, caption, alt)


@figure("fig-dropping-texts", "Longer texts by dropped models", "08-dropping-layers")
def texts(data: pd.DataFrame, style: Style) -> Drawn:
    """Repetition and surprise of longer texts, model by model."""
    measures = {"repeated": "4-grams seen before", "surprise": "nats a token, dense model"}
    fig, axes = style.subplots(height=0.24 * data["label"].nunique() + 1, ncols=2, sharey=True)
    labels = list(dict.fromkeys(data["label"]))
    for axis, (name, words), colour in zip(axes, measures.items(), style.colours, strict=False):
        rows = data[data["measure"] == name].set_index("label").loc[labels]
        spread = [rows["mean"] - rows["lo"], rows["hi"] - rows["mean"]]
        axis.errorbar(rows["mean"], labels, xerr=spread, fmt="o", color=colour, elinewidth=1)
        axis.axvline(rows["mean"].iloc[0], color=style.muted, lw=0.8)
        axis.set(xlabel=words, xlim=(0, None))
    axes[0].invert_yaxis()
    wide = data.pivot(index="label", columns="measure", values="mean").loc[labels]
    most = wide["repeated"].idxmax()
    odd = wide["surprise"].idxmax()
    first = wide.iloc[0]
    caption = (
        f"**{most} repeats itself most ({wide.loc[most, 'repeated']:.0%} of its 4-grams stood in the text before, "
        f"dense {first['repeated']:.0%}); {odd} is the strangest to the dense model ({wide.loc[odd, 'surprise']:.1f} "
        f"nats a token, dense {first['surprise']:.1f}).** Greedy texts on open prompts; bars are 95 % intervals over "
        "prompts. A collapsed model loops (left) or writes what the dense model finds unlikely (right)."
    )
    listed = "; ".join(f"{r.Index} {r.repeated:.2f} and {r.surprise:.2f}" for r in wide.itertuples())
    return Drawn(fig, caption, f"Dot plots of repeated 4-grams and of surprise by model. {listed}.")


@figure("fig-sparsity-kept", "What survives when weights are removed", "09-sparsity")
def sparsity(data: pd.DataFrame, style: Style) -> Drawn:
    """Share of the dense score kept against sparsity, by method; patterns as single points."""
    data = data.assign(pattern=data["pattern"].fillna(""))  # an empty field of the CSV
    data, reference = data[data["source"] == "this run"], data[data["source"] == "reference"]
    methods = list(dict.fromkeys(data.loc[data["method"] != "dense", "method"]))
    fig, axes = style.subplots(height=3.3, ncols=len(methods), sharey=True, squeeze=False)
    for axis, method in zip(axes[0], methods, strict=True):
        rows, others = data[data["method"] == method], reference[reference["method"] == method]
        plain = rows[rows["pattern"] == ""]
        _reference(axis, others[others["pattern"] == ""], style)
        if len(plain):
            start = data[data["method"] == "dense"]
            _lines(axis, pd.concat([start, plain]), style)
        for n, (pattern, some) in enumerate(rows[rows["pattern"] != ""].groupby("pattern", sort=False)):
            place = 82 + 9 * n
            _reference(axis, others[others["pattern"] == pattern].assign(x=place), style)
            for readout, look in _looks(style).items():
                one = some[some["readout"] == readout]
                spread = [one["kept"] - one["lo"], one["hi"] - one["kept"]]
                axis.errorbar([place], one["kept"], spread, fmt=look["marker"], color=look["color"], elinewidth=1)
            axis.text(place, 1.02, pattern, ha="center", fontsize=7, color=style.foreground)
        axis.set(title=method, xlabel="% of weights removed", xlim=(0, 98), xticks=[0, 30, 50, 70])
    _frame(axes[0], data, style)
    handles, labels = axes[0][-1].get_legend_handles_labels()
    for axis in axes[0]:
        if len(axis.get_legend_handles_labels()[0]) > len(handles):
            handles, labels = axis.get_legend_handles_labels()
    if handles:
        fig.legend(handles, labels, loc="outside lower center", ncols=3)
    pruned = data[data["method"] != "dense"]
    mean = pruned.groupby("readout")["kept"].mean()
    caption = (
        f"**With weights removed, multiple choice keeps {percent(mean['choice'])} of what its dense score has above "
        f"guessing, and generation {percent(mean['generation'])} of its dense score (mean over the settings drawn).** "
        "Same items in every read-out; bars and shading "
        "are 95 % intervals over passages, paired with dense. N:M patterns stand at the right. "
        f"{_HOLLOW if len(reference) else ''}Dotted: guessing."
    )
    wide = pruned.pivot(index="label", columns="readout", values="kept")
    listed = "; ".join(
        f"{label} {number(row['choice'])} and {number(row['generation'])}" for label, row in wide.iterrows()
    )
    return Drawn(fig, caption, f"Line charts of the share kept in multiple choice and generation. {listed}.")


@figure("fig-choice-generation", "Multiple choice is no proxy for writing", "09-sparsity")
def proxy(data: pd.DataFrame, style: Style) -> Drawn:
    """Shares kept in multiple choice and in generation, a row a compressed model, best in multiple choice first."""
    data = data.sort_values("choice", ascending=False, kind="stable").reset_index(drop=True)
    fig, axis = style.subplots(height=0.2 * len(data) + 1.2)
    axis.hlines(data.index, data["generation"], data["choice"], color=style.muted, lw=1)
    for readout, shift in (("choice", -0.12), ("generation", 0.12)):
        look, x = _looks(style)[readout], data[readout]
        axis.errorbar(
            x,
            data.index + shift,
            xerr=[x - data[f"{readout}_lo"], data[f"{readout}_hi"] - x],
            fmt=look["marker"],
            color=look["color"],
            elinewidth=0.8,
            label=READOUTS[readout],
        )
    axis.axvline(1, color=style.muted, lw=0.8)
    axis.axvline(0, color=style.muted, lw=0.9, ls=style.linestyles[2])
    ends = pd.concat([data["choice_lo"], data["choice_hi"], data["generation_lo"], data["generation_hi"]])
    left, right = min(0.0, -most(-ends)) - 0.03, max(1.0, most(ends)) + 0.05
    axis.set(xlabel="score above guessing, dense = 1", xlim=(max(-0.6, left), min(1.6, right)))
    axis.set_yticks(data.index, data["label"], fontsize=7)
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    fig.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=2)
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


@figure("fig-case-tokens", "How sure the models are of what they write", "10-case-study")
def case(data: pd.DataFrame, style: Style) -> Drawn:
    """Probability of each written token, under the model that wrote it and under the dense one."""
    fig, axes = style.subplots(height=3.2, ncols=2, sharey=True)
    labels = list(dict.fromkeys(data["label"]))
    for axis, column, title in zip(
        axes, ("p_own", "p_dense"), ("under its own writer", "under the dense model"), strict=True
    ):
        for i, label in enumerate(labels):
            rows = data[data["label"] == label].groupby("position")[column].mean().rolling(8, min_periods=1).mean()
            colour = style.foreground if label == labels[0] else style.colours[(i - 1) % 6]
            axis.plot(rows.index + 1, rows, label=label, color=colour, ls=style.linestyles[i % 6], lw=1.3)
        axis.set(title=title, xlabel="token written", ylim=(0, 1.02))
    axes[0].set_ylabel("probability of the token")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7)
    means = data.groupby("label", sort=False)[["p_own", "p_dense"]].mean()
    worst = means["p_dense"].idxmin()
    caption = (
        f"**What {worst} writes is the least likely to the dense model: its tokens have a mean probability of "
        f"{means.loc[worst, 'p_dense']:.2f} there and {means.loc[worst, 'p_own']:.2f} under {worst} itself (dense "
        f"text: {means['p_dense'].iloc[0]:.2f}).** A curve that rises on both sides is a loop. Probability of each "
        "token of the texts on this page under the model that wrote it and under the dense model, running mean "
        "over 8 tokens."
    )
    listed = "; ".join(f"{r.Index} {r.p_own:.2f} and {r.p_dense:.2f}" for r in means.itertuples())
    return Drawn(fig, caption, f"Two line charts of token probability by position. Means own and dense: {listed}.")
