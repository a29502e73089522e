"""Figures of the chapter on dropped layers: what is kept of the dense score, and the longer texts."""

import pandas as pd

from prunelib.report.figures import Drawn, figure
from prunelib.report.paper import figures, series_names, source
from prunelib.report.share_figures import frame, hollow, hollow_words, lines, looks, split
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
            look = looks(style)[readout]
            line = style.linestyles[2] if "HellaSwag" in name else look["ls"]
            axis.plot(rows["x"], rows["kept"], color=look["color"], ls=line, lw=1, alpha=0.6, label=name)
        hollow(axis, others[others["kind"] == kind], style, names)
        lines(axis, own[own["kind"] == kind], style)
        axis.set(title=KINDS[kind], xlabel="% of layers", xlim=(0, None))
    frame(axes, own, style)
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
