"""Figures of the chapter on dropped layers: what is kept of the dense score, and the longer texts."""

import pandas as pd
from matplotlib.lines import Line2D

from prunelib.report import looks
from prunelib.report.figures import Drawn, figure
from prunelib.report.paper import figures, series_names, source
from prunelib.report.share_figures import frame, hollow, hollow_words, lines, split
from prunelib.report.style import Style
from prunelib.report.words import number, percent

KINDS = {"attn": "attention dropped", "mlp": "MLP dropped", "block": "blocks dropped", "joint": "both dropped"}


def _paper_model() -> str:
    """The model of the paper's drop curves, from its data."""
    drops = [name for name in figures() if name.startswith(("fig:pruning_generative", "fig:pruning_non_generative"))]
    return " and ".join(sorted({source(name, series)[0] for name in drops for series in series_names(name)}))


@figure("fig-dropping-kept", "What survives when sublayers are dropped")
def dropping(data: pd.DataFrame, style: Style) -> Drawn:
    """Share of the dense score kept against the share of layers dropped, by kind of sublayer."""
    own, others, paper = split(data)
    names = list(dict.fromkeys(others["source"]))
    kinds = [kind for kind in KINDS if kind in set(own.loc[own["x"] > 0, "kind"])]
    fig, axes = style.subplots(height=3.4, ncols=len(kinds), sharey=True, squeeze=False)
    axes = axes[0]
    for axis, kind in zip(axes, kinds, strict=True):
        for (readout, name), rows in paper[paper["kind"] == kind].groupby(["readout", "task"], sort=False):
            look = looks.readouts(style)[readout]
            line = style.linestyles[2] if "HellaSwag" in name else look["ls"]
            axis.plot(rows["x"], rows["kept"], color=look["color"], ls=line, lw=1, alpha=0.6, label=name)
        hollow(axis, others[others["kind"] == kind], style, names)
        lines(axis, own[own["kind"] == kind], style)
        axis.set(title=KINDS[kind], xlabel="% of layers", xlim=(0, None))
    frame(axes, own, style)
    style.legend(fig)
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
        f"{hollow_words(names)}Thin lines: the paper's MMLU and HellaSwag (choice) and GSM8K "
        f"(generation) curves of {_paper_model()}, in percent of its own layers. Dotted: guessing."
    )
    alt = f"Three line charts of the share of the dense score kept above guessing. Largest drops: {words}."
    return Drawn(fig, caption, alt)


@figure("fig-dropping-texts", "Longer texts by dropped models")
def texts(data: pd.DataFrame, style: Style) -> Drawn:
    """Repetition and surprise of longer texts, model by model."""
    measures = {"repeated": "4-grams seen before", "surprise": "nats a token, dense model"}
    fig, axes = style.subplots(height=0.24 * data["label"].nunique() + 1, ncols=2, sharey=True)
    labels = list(dict.fromkeys(data["label"]))
    for axis, (name, words) in zip(axes, measures.items(), strict=True):
        rows = data[data["measure"] == name].set_index("label").loc[labels]
        for label, row in rows.iterrows():
            look = looks.model(style, row["spec"]) | {"ls": "", "elinewidth": 1}
            axis.errorbar(row["mean"], label, xerr=[[row["mean"] - row["lo"]], [row["hi"] - row["mean"]]], **look)
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


_READOUTS = {
    "h": "h",
    "z": "z",
    "p": "p",
    "choice": "multiple\nchoice",
    "forced": "next token,\ntrue answer",
    "generation": "free\ngeneration",
}


@figure("fig-dropping-readouts", "What each read-out keeps of the same pruned models")
def readouts(data: pd.DataFrame, style: Style) -> Drawn:
    """From the last hidden state to free text: a line a model, and their mean with its interval."""
    fig, axes = style.subplots(height=3.1, ncols=2, sharey=True)
    kinds = looks.sublayers(style)
    panels = (("h", "z", "p"), ("choice", "forced", "generation"))
    titles = ("cosine with the dense vector", "share of the dense score above guessing")
    for axis, names, title in zip(axes, panels, titles, strict=True):
        wide = data[data["readout"].isin(names)].pivot(index="spec", columns="readout", values="kept")[list(names)]
        for spec, row in wide.drop(index="mean").iterrows():
            look = kinds[data.loc[data["spec"] == spec, "kind"].iloc[0]]
            axis.plot(range(3), row, **look | {"ls": "-", "lw": 1, "ms": 3.5, "alpha": 0.8})
        mean = data[data["spec"] == "mean"].set_index("readout").loc[list(names)]
        spread = [mean["kept"] - mean["lo"], mean["hi"] - mean["kept"]]
        axis.errorbar(range(3), mean["kept"], yerr=spread, color=style.foreground, fmt="-o", lw=2.2, ms=5, zorder=4)
        axis.set_xticks(range(3), [_READOUTS[name] for name in names])
        axis.set(title=title, xlim=(-0.25, 2.25))
        axis.axhline(1, color=style.muted, lw=0.8)
        axis.axhline(0, color=style.muted, lw=0.8, ls=style.linestyles[2])
    axes[0].set_ylabel("kept, dense = 1")
    drawn = [kind for kind in kinds if kind in set(data["kind"])]
    handles = [Line2D([], [], **kinds[kind] | {"ls": "-", "lw": 1, "ms": 3.5}, label=KINDS[kind]) for kind in drawn]
    handles.append(Line2D([], [], color=style.foreground, marker="o", lw=2.2, ms=5, label="mean, 95 % interval"))
    style.legend(fig, handles)
    mean = data[data["spec"] == "mean"].set_index("readout")["kept"]
    models = data.loc[data["spec"] != "mean", "spec"].nunique()
    caption = (
        f"**Of the same {models} pruned models, $h$ keeps a cosine of {number(mean['h'])}, $z$ {number(mean['z'])} "
        f"and $p$ {number(mean['p'])}; multiple choice keeps {percent(mean['choice'])} and free generation "
        f"{percent(mean['generation'])} (means).** "
        "Left: last hidden state, logits and probabilities of the dense and the pruned model, "
        "both reading the dense model's own text. Right: the same items asked in three ways, score above guessing as "
        "a share of the dense one. A line is a model; the two panels measure different things and share only their "
        "ends, 1 as the dense model and 0 as nothing in common."
    )
    listed = ", ".join(f"{name} {number(value)}" for name, value in mean.items())
    return Drawn(fig, caption, f"Two line charts of what pruned models keep, by read-out. Means: {listed}.")


@figure("fig-skills-kept", "Skills of one token against free generation")
def skills(data: pd.DataFrame, style: Style) -> Drawn:
    """Share of the dense score kept against the share of layers dropped: in one token, and in longer answers."""
    drawn, mean = data[data["kind"] != "mean"], data[data["kind"] == "mean"].set_index("readout")["kept"]
    kinds = [kind for kind in KINDS if kind in set(drawn["kind"])]
    fig, axes = style.subplots(height=3.2, ncols=len(kinds), sharey=True, squeeze=False)
    axes, shown = axes[0], looks.one_token(style)
    for axis, kind in zip(axes, kinds, strict=True):
        rows = drawn[drawn["kind"] == kind].sort_values("x")
        for name, look in shown.items():
            some = rows[rows["readout"] == name]
            if some["kept"].notna().any():
                axis.fill_between(some["x"], some["lo"], some["hi"], color=look["color"], alpha=0.15, lw=0)
                axis.plot(some["x"], some["kept"], label=looks.ONE_TOKEN[name], **look)
            chosen = rows[rows["readout"] == f"{name}_choice"]
            if chosen["kept"].notna().any():
                thin = look | {"marker": "", "lw": 0.9, "alpha": 0.8}
                axis.plot(chosen["x"], chosen["kept"], label=f"{name}, one of four options", **thin)
        axis.set(title=KINDS[kind], xlabel="% of layers", xlim=(0, None))
    frame(axes, drawn[drawn["readout"].isin(shown)], style)
    style.legend(fig)
    caption = (
        f"**In one token, where nothing can compound, arithmetic keeps {percent(mean['arithmetic'])} of the dense "
        f"score and bracket closing {percent(mean['brackets'])}; free generation of longer answers keeps "
        f"{percent(mean['generation'])} (means over the plans drawn).** "
        "One token: sums and differences of digits, and the closing bracket that comes next, each the first choice of "
        "the whole vocabulary; thin lines: the likeliest of four options, above guessing. Generation: the questions "
        "on passages. Shading is the 95 % interval over lines and over passages. A skill whose line falls is lost "
        "before anything can compound; where generation falls alone, the loss shows only in longer answers."
    )
    rest = drawn[drawn["x"] > 0].pivot_table("kept", "label", "readout", sort=False, dropna=False)
    listed = "; ".join(
        f"{label} {', '.join(number(row[name]) for name in shown)}"
        for label, row in rest.reindex(columns=list(shown)).iterrows()
    )
    alt = f"Line charts of the share kept against the layers dropped. Arithmetic, brackets, generation: {listed}."
    return Drawn(fig, caption, alt)
