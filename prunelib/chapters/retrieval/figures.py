"""The figure of the retrieval chapter: what an embedding keeps when sublayers are dropped."""

import pandas as pd

from prunelib.report import looks
from prunelib.report.figures import Drawn, figure
from prunelib.report.style import Style
from prunelib.report.words import most, number, percent

KINDS = {"attn": "attention", "mlp": "MLP", "block": "blocks"}


@figure("fig-retrieval-kept", "Retrieval when sublayers are dropped")
def kept(data: pd.DataFrame, style: Style) -> Drawn:
    """Share of the dense nDCG@10 kept against the share of layers dropped, encoder and language model."""
    names = list(dict.fromkeys(data["embedder"]))
    fig, axes = style.subplots(height=3.4, ncols=len(names), sharey=True, squeeze=False)
    of_kind = {kind: looks.sublayers(style)[kind] for kind in KINDS}
    for axis, name in zip(axes[0], names, strict=True):
        own = data[data["embedder"] == name]
        for kind, look in of_kind.items():
            for readout, line, weight in (("retrieval", 0, 1.6), ("generation", 1, 1)):
                rows = own[(own["kind"] == kind) & (own["readout"] == readout)].sort_values("x")
                if len(rows):
                    axis.fill_between(rows["x"], rows["lo"], rows["hi"], color=look["color"], alpha=0.13, lw=0)
                    axis.plot(
                        rows["x"],
                        rows["kept"],
                        **look | {"ls": style.linestyles[line], "lw": weight},
                        label=f"{KINDS[kind]}, {readout}",
                    )
        axis.axhline(1, color=style.muted, lw=0.8)
        chance = own.loc[own["readout"] == "retrieval", "chance"].iloc[0]
        if pd.notna(chance):
            axis.axhline(chance, color=style.muted, lw=0.9, ls=style.linestyles[2])
            axis.text(
                0.97,
                chance + 0.01,
                "random ranking",
                fontsize=7,
                color=style.muted,
                va="bottom",
                ha="right",
                transform=axis.get_yaxis_transform(),
            )
        axis.set(title=name, xlabel="% of layers dropped", xlim=(0, None))
    axes[0][0].set_ylabel("score, dense = 1")
    axes[0][0].set_ylim(-0.03, min(1.6, max(1.15, most(data["hi"]) + 0.05)))
    style.legend(fig)
    pruned = data[data["x"] > 0]
    mean = pruned.groupby(["embedder", "readout"])["kept"].mean()
    by_model = [mean.get(("language model", readout), float("nan")) for readout in ("retrieval", "generation")]
    caption = (
        f"**The encoder keeps {percent(mean['encoder', 'retrieval'])} of its nDCG@10; the language model keeps "
        f"{percent(by_model[0])} of it as an embedder and {percent(by_model[1])} of its generation score (means over "
        "the plans drawn).** Scores relative to the dense model against the share of layers whose sublayer is "
        "dropped; shading is the 95 % interval over documents, paired with dense. Dashed: generation by the same "
        "dropped model."
    )
    last = pruned.groupby(["embedder", "kind", "readout"], sort=False).tail(1)
    words = (f"{r.embedder}, {KINDS[r.kind]} at {r.x:.0f} %: {r.readout} {number(r.kept)}" for r in last.itertuples())
    listed = "; ".join(words)
    return Drawn(fig, caption, f"Two line charts of the share kept. Largest drops: {listed}.")
