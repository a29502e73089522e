"""Figures of the chapter on prediction: generation against KL, every statistic's correlation, sums against joint KL."""

import numpy as np
import pandas as pd

from prunelib.measure import predict
from prunelib.report import looks
from prunelib.report.claims import CLAIMS
from prunelib.report.facts import number, show
from prunelib.report.figures import Drawn, figure
from prunelib.report.style import Style
from prunelib.report.words import most, percent

NAMES = {
    "kl_dense_pruned": "KL(dense ‖ pruned)",
    "kl_pruned_dense": "KL(pruned ‖ dense)",
    "var_p": "variance of Δz under p",
    "var_r": "variance of Δz under p²",
    "one_minus_cos_h": "1 − cos h",
    "one_minus_cos_z": "1 − cos z",
    "one_minus_cos_p": "1 − cos p",
    "rms_dz": "RMS of Δz",
    "top_changed": "top token changed",
    "flips": "flips of the right token",
    "nll_lost": "log perplexity ratio",
    "choice_lost": "multiple choice lost",
}
"""What the statistics are called where people read them."""


def _interval(found) -> str:
    numbers = (float(number) if np.isfinite(number) else None for number in found)
    return show(dict(zip(("value", "lo", "hi"), numbers, strict=True)) | {"exact": False, "fmt": ".2f"})


@figure("fig-collapse-kl", "What is left of generation, against KL on other text")
def against_kl(data: pd.DataFrame, style: Style) -> Drawn:
    """Share of the generation score kept against mean KL, a marker a model."""
    fig, axis = style.subplots(height=3.4)
    positive = data.loc[data["kl"] > 0, "kl"]
    least = float(positive.min()) if len(positive) else 1e-6
    for method, rows in data.groupby("method", sort=False):
        look = looks.model(style, rows["spec"].iloc[0])
        x, spread = rows["kl"].clip(lower=least), [rows["kept"] - rows["lo"], rows["hi"] - rows["kept"]]
        axis.errorbar(x, rows["kept"], np.clip(spread, 0, None), fmt=look["marker"], color=look["color"], ms=5,
                      elinewidth=0.5, label=method)  # fmt: skip
    axis.axhline(0.5, color=style.muted, lw=0.8, ls=style.linestyles[2])
    cut = data["cut"].iloc[0]
    if np.isfinite(cut):
        axis.axvline(cut, color=style.foreground, lw=0.9, ls=style.linestyles[1], label="best threshold")
    axis.set(xscale="log", xlabel="KL(dense ‖ pruned) on held-out text, nats a token",
             ylabel="share of generation kept", ylim=(-0.05, min(2.0, max(1.15, most(data["hi"]) + 0.05))))  # fmt: skip
    axis.set_xlim(least / 1.5, 1.5 * max(least, data["kl"].max()))
    if data["kept"].isna().all():
        axis.text(0.5, 0.5, "not defined", ha="center", va="center", color=style.muted, transform=axis.transAxes)
    style.legend(fig)
    lost = data.assign(lost=1 - data["kept"])
    rho = predict.correlated(lost, [("kl", "lost")])
    known = data.dropna(subset=["kept"])
    head = f"The rank correlation of KL with the share of generation lost is {_interval(rho)} over {len(data)} models."
    if np.isfinite(cut) and len(known):
        below, above = known[known["kl"] <= cut], known[known["kl"] > cut]
        kept = [f"{(some['kept'] >= 0.5).sum()} of the {len(some)} models" for some in (below, above)]
        head += f" Below {number(cut, '.2g')} nats a token {kept[0]} keep half of it or more, above {kept[1]}."
    caption = (
        f"**{head}** KL is the mean over passages that no item asks about, with nothing generated; scores are "
        "shares of the dense model's, with 95 % intervals over the items' passages. Interval of the correlation: one "
        "method left out at a time. Dotted: half of the dense score; dashed: the KL that best parts the two sides."
    )
    listed = "; ".join(f"{r.label} {number(r.kl, '.2g')} nats, {percent(r.kept)}" for r in data.itertuples())
    return Drawn(fig, caption, f"Scatter of the share of generation kept against KL, by model. {listed}.")


@figure("fig-collapse-statistics", "Which statistic ranks models as generation does?")
def statistics(data: pd.DataFrame, style: Style) -> Drawn:
    """Rank correlation of each statistic with the share of generation lost, best on top."""
    data = data.sort_values("rho", ascending=False, kind="stable").reset_index(drop=True)
    fig, axis = style.subplots(height=0.2 * len(data) + 1.0)
    shown = {"kl_dense_pruned": ("vermillion", "s"), "choice_lost": ("green", "^")}
    for place, row in data.iterrows():
        colour, marker = shown.get(row["statistic"], ("blue", "o"))
        ends = np.nan_to_num([[row["rho"] - row["lo"]], [row["hi"] - row["rho"]]]).clip(0)
        axis.errorbar([row["rho"]], [place], xerr=ends, fmt=marker, color=getattr(style.colours, colour), ms=5,
                      elinewidth=0.9)  # fmt: skip
    axis.axvline(CLAIMS["C14"].threshold, color=style.muted, lw=0.8, ls=style.linestyles[2])
    left = max(-1.05, np.nanmin([0.0, data["lo"].min(), data["rho"].min()]) - 0.05)
    axis.set(yticks=range(len(data)), yticklabels=[NAMES[name] for name in data["statistic"]],
             xlabel="rank correlation", xlim=(left, 1.05))  # fmt: skip
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    known = data.dropna(subset=["rho"])
    if len(known):
        best, worst = known.iloc[0], known.iloc[-1]
        head = (
            f"{NAMES[best['statistic']]} ranks the models most like generation, "
            f"{_interval(best[['rho', 'lo', 'hi']])}, and {NAMES[worst['statistic']]} least, "
            f"{_interval(worst[['rho', 'lo', 'hi']])}."
        )
    else:
        head = "The dense generation score leaves nothing to lose: no correlation is defined."
    caption = (
        f"**{head}** Spearman correlation with generation lost, over models, with 95 % intervals that leave out one "
        "method at a time. Square: what claim C14 asks, with its threshold dotted. Triangle: multiple choice on one "
        "half of the items' passages, generation on the other; all others are read from held-out text."
    )
    listed = "; ".join(f"{NAMES[r.statistic]} {_interval((r.rho, r.lo, r.hi))}" for r in data.itertuples())
    return Drawn(fig, caption, f"Dot plot of rank correlations with their intervals. {listed}.")


@figure("fig-collapse-additivity", "Do single sublayers add up?")
def additivity(data: pd.DataFrame, style: Style) -> Drawn:
    """Sum of the KL of single sublayers against the KL of dropping them together."""
    fig, axis = style.subplots(height=3.4)
    names = {"attn": "attention", "mlp": "MLP", "both": "both, or blocks"}
    kinds = {"attn": "attn", "mlp": "mlp", "both": "joint"}
    for kind, name in names.items():
        rows, look = data[data["dropped"] == kind].sort_values("count"), looks.sublayers(style)[kinds[kind]]
        if len(rows):
            axis.plot(rows["sum"], rows["joint"], ls="", marker=look["marker"], color=look["color"], ms=5, label=name)
        for row in rows.itertuples():
            axis.annotate(str(row.count), (row.sum, row.joint), xytext=(4, -6), textcoords="offset points", fontsize=7,
                          color=style.muted)  # fmt: skip
    ends = np.array([data[["sum", "joint"]].min().min() / 1.3, data[["sum", "joint"]].max().max() * 1.3])
    axis.plot(ends, ends, color=style.foreground, lw=0.9, label="sum = together")
    axis.fill_between(ends, ends / 2, ends * 2, color=style.muted, alpha=0.15, lw=0)
    axis.set(xscale="log", yscale="log", xlabel="sum over single sublayers, nats a token",
             ylabel="dropped together, nats a token", xlim=ends, ylim=ends)  # fmt: skip
    style.legend(fig)
    off = np.abs(np.log(data["ratio"])) > np.log(2)
    least, largest = data.loc[data["ratio"].idxmin()], data.loc[data["ratio"].idxmax()]
    caption = (
        f"**At {int((~off).sum())} of {len(data)} drops the sum of the single KL divergences is within a factor 2 of "
        f"that of the joint drop; it is {number(least['ratio'], '.2g')} times as large for {least['label']} and "
        f"{number(largest['ratio'], '.2g')} times for {largest['label']}.** KL(dense ‖ pruned) of the next token, mean "
        "over held-out texts; numbers: sublayers dropped, a block being two. Above the line together is worse "
        "than the sum, below it is better; shaded: within a factor 2."
    )
    listed = "; ".join(
        f"{r.label} sum {number(r.sum, '.2g')}, together {number(r.joint, '.2g')}" for r in data.itertuples()
    )
    return Drawn(fig, caption, f"Scatter of joint KL against the sum over single sublayers. {listed}.")
