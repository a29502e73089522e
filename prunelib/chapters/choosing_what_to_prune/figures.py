"""Figures of the chapter on choosing: what is left by criterion, and how two rankings of the same sublayers differ."""

import numpy as np
import pandas as pd

from prunelib.chapters.choosing_what_to_prune.measure import COSINE, HARM, KL
from prunelib.report import looks
from prunelib.report.figures import Drawn, figure
from prunelib.report.style import Style
from prunelib.report.words import percent, sublayer_name

KINDS = {"attn": "attention dropped", "mlp": "MLP dropped", "joint": "both dropped", "block": "blocks dropped"}

MARKED = 3
"""Sublayers of a panel whose layer is written beside their mark: those that the two rankings place furthest apart."""


@figure("fig-select-kept", "What is left of generation, by what decided")
def kept(data: pd.DataFrame, style: Style) -> Drawn:
    """Share of the generation score kept against sublayers dropped, a line a criterion, a panel a kind."""
    kinds = [kind for kind in KINDS if kind in set(data["kinds"])]
    # In the width of a column all panels stand below each other.
    fig, axes = style.subplots(height=3.1 if len(kinds) < 4 else 2.9, ncols=len(kinds), sharey=True)
    axes = np.atleast_1d(axes)
    for axis, kind in zip(axes, kinds, strict=True):
        panel = data[data["kinds"] == kind]
        names = [name for name in looks.CRITERIA if name in set(panel["criterion"])]
        for place, name in enumerate(names):
            rows, look = panel[panel["criterion"] == name].sort_values("count"), looks.criteria(style)[name]
            spread = np.clip([rows["kept"] - rows["lo"], rows["hi"] - rows["kept"]], 0, None)
            x = rows["count"] + 0.12 * (place - (len(names) - 1) / 2)  # bars of one count side by side
            axis.errorbar(x, rows["kept"], spread, **look, elinewidth=0.8, label=looks.CRITERIA[name])
        axis.axhline(1, color=style.muted, lw=0.8)
        axis.set(title=KINDS[kind], xlabel="sublayers dropped" if kind != "block" else "blocks dropped")
        axis.set(xticks=sorted(set(panel["count"])), xlim=(panel["count"].min() - 1, panel["count"].max() + 1))
    high = data["hi"].max() if data["hi"].notna().any() else 1.0
    axes[0].set(ylabel="share of generation kept", ylim=(-0.05, min(2.0, max(1.1, high + 0.05))))
    if data["kept"].isna().all():
        axes[0].text(0.5, 0.5, "not defined", ha="center", va="center", color=style.muted, transform=axes[0].transAxes)
    style.legend(fig)
    caption = (
        f"**{_won(data)}** Share of the dense generation score on the items, by how many sublayers are dropped and by "
        "what decided which: the cosine of the residual stream before and after a sublayer, or what its removal does "
        "to the next-token distributions, measured again after each drop. Bars are 95 % intervals over passages, of "
        "random drops over draws too. Points of one number stand side by side."
    )
    listed = "; ".join(
        f"{KINDS[r.kinds].split()[0]} {r.count}, {looks.CRITERIA[r.criterion]}: {percent(r.kept)}"
        for r in data.itertuples()
    )
    return Drawn(fig, caption, f"Line charts of the share of generation kept against sublayers dropped. {listed}.")


def _won(data: pd.DataFrame) -> str:
    wide = data.pivot_table(index=["kinds", "count"], columns="criterion", values="kept", dropna=False)
    if not {COSINE, KL} <= set(wide):
        return "What is kept is not defined in this run, or only one criterion was tried."
    wide = wide.dropna(subset=[COSINE, KL])
    if wide.empty:
        return "The dense generation score leaves nothing to keep: no share is defined."
    more, less = int((wide[KL] > wide[COSINE]).sum()), int((wide[KL] < wide[COSINE]).sum())
    return (
        f"Sublayers chosen by the KL at the output keep more of generation than the cosine's choice at {more} of "
        f"{len(wide)} numbers of sublayers, and less at {less}."
    )


@figure("fig-select-ranks", "The same sublayers in two rankings")
def ranks(data: pd.DataFrame, style: Style) -> Drawn:
    """Rank of each sublayer by the cosine against its rank by the KL that its removal alone causes."""
    fig, axes = style.subplots(height=3.4, ncols=2, sharex=True, sharey=True)
    count = int(data.groupby("kind").size().max())
    ends, said = (0.4, count + 0.6), []
    for axis, kind in zip(axes, ("attn", "mlp"), strict=True):
        rows, look = data[data["kind"] == kind], looks.sublayers(style)[kind]
        axis.plot(ends, ends, color=style.foreground, lw=0.9, label="both rankings agree")
        axis.plot(rows[f"rank_{COSINE}"], rows[f"rank_{HARM}"], ls="", marker=look["marker"], color=look["color"],
                  label=f"{sublayer_name(kind)} sublayer")  # fmt: skip
        furthest = apart(rows).head(MARKED)
        for row in furthest.itertuples():
            axis.annotate(str(row.layer), (row.cosine_rank, row.kl_rank), xytext=(4, 3), textcoords="offset points",
                          color=style.muted, fontsize=8)  # fmt: skip
        axis.set(title=sublayer_name(kind), xlabel="rank by the cosine (1: dropped first)", xlim=ends, ylim=ends)
        if len(furthest):
            row = furthest.iloc[0]
            said.append(
                f"{sublayer_name(kind)} {row.layer}, {row.cosine_rank} by the cosine and {row.kl_rank} by the KL"
            )
    axes[0].set_ylabel("rank by KL at the output")
    style.legend(fig)
    head = f"The rankings are furthest apart at {', and at '.join(said)}." if said else "Both rankings are the same."
    caption = (
        f"**{head}** Each mark is a sublayer of the dense model, removed alone. Below the line the cosine drops it too "
        "late, above the line too early. Numbers: layers, counted from 0, of the sublayers that the two rankings "
        "place furthest apart. The ranks are those of the calibration text."
    )
    listed = "; ".join(
        f"{sublayer_name(r.kind)} {r.layer}: {getattr(r, f'rank_{COSINE}')} and {getattr(r, f'rank_{HARM}')}"
        for r in data.itertuples()
    )
    return Drawn(fig, caption, f"Scatter plots of the rank by KL against the rank by cosine. {listed}.")


def apart(rows: pd.DataFrame) -> pd.DataFrame:
    """Sublayers that two rankings place apart, furthest first: ``kind, layer, cosine_rank, kl_rank, early``.

    ``early`` is how many places the cosine drops one before the KL would; negative where later.
    """
    table = rows[["kind", "layer"]].assign(cosine_rank=rows[f"rank_{COSINE}"], kl_rank=rows[f"rank_{HARM}"])
    table["early"] = table["kl_rank"] - table["cosine_rank"]
    table = table[table["early"] != 0]
    return table.sort_values("early", key=lambda s: -s.abs(), kind="stable").reset_index(drop=True)
