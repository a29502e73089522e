"""Figures of the chapter: theory against measurement at one middle attention layer."""

import numpy as np
import pandas as pd

from prunelib.chapters.theory_meets_measurement.measure import closeness
from prunelib.report import looks
from prunelib.report.figures import Drawn, figure
from prunelib.report.style import Style

SHOWN = 3  # prompts in the step-by-step panel


def _compare(data: pd.DataFrame, style: Style, symbol: str, theorem: int) -> Drawn:
    fig, axes = style.subplots(height=5.4, nrows=2, ncols=2)
    data = data[data["measured"] > 0]
    ours = data[data["source"] == "this model"]
    paper = data[data["source"] == "paper"]
    normed = ours[ours["lens"] == "normed"]
    shown = normed[normed["prompt_id"].isin(normed["prompt_id"].unique()[:SHOWN])]
    series = {"this model, normed lens": shown, "the paper": paper}
    sides = looks.sides(style)
    # Points below a hundredth of the paper's smallest are rounding, not agreement.
    low = max(float(ours["measured"].min()), float(paper["measured"].min()) / 100)
    high = 1.5 * float(max(ours["measured"].max(), ours["estimated"].max()))
    for axis, (name, rows) in zip(axes[0], series.items(), strict=True):
        steps = np.arange(1, len(rows) + 1)
        for side in ("measured", "estimated"):
            look = {"color": sides[side]["color"], "ls": sides[side]["ls"], "lw": 1, "label": side}
            axis.plot(steps, rows[side], **look)
        ends = float(rows[["measured", "estimated"]].to_numpy().max())
        axis.set(xlabel="decoding step", title=name, yscale="log", ylim=(max(low, ends / 3e4), 1.5 * ends))
    axes[0][0].set_ylabel(symbol)
    stats = {}
    for axis, lens in zip(axes[1], ("raw", "normed"), strict=True):
        rows = ours[ours["lens"] == lens]
        dots = {"s": 5, "color": looks.lenses(style)[lens]["color"], "alpha": 0.5, "lw": 0, "rasterized": True}
        axis.scatter(rows["measured"], rows["estimated"], label=f"this model, {lens} lens", **dots)
        if lens == "raw":
            ring = {"s": 12, "facecolor": "none", "edgecolor": style.foreground, "lw": 0.6, "rasterized": True}
            axis.scatter(paper["measured"], paper["estimated"], marker=style.markers[2], label="paper", **ring)
        axis.plot([low, high], [low, high], color=style.foreground, lw=0.9)
        stats[lens] = closeness(rows)
        axis.text(
            0.03,
            0.97,
            f"typically off ×{stats[lens]['factor']:.2f}\nlog r = {stats[lens]['pearson_log']:.3f}",
            va="top",
            transform=axis.transAxes,
            fontsize=7,
        )
        axis.set(xscale="log", yscale="log", xlabel=f"measured {symbol}", title=looks.LENSES[lens])
        axis.set(xlim=(low, high), ylim=(low, high))
    axes[1][0].set_ylabel(f"estimated {symbol}")
    style.legend(fig, markerscale=2)
    theirs = closeness(paper)
    r, n = stats["raw"], stats["normed"]
    caption = (
        f"**The estimate of Theorem {theorem} is typically off by a factor of {n['factor']:.2f} through the normed "
        f"lens and "
        f"of {r['factor']:.2f} through the raw lens; the correlation of the logarithms is {n['pearson_log']:.3f} and "
        f"{r['pearson_log']:.3f}. In the paper's digitised series: {theirs['factor']:.2f} and "
        f"{theirs['pearson_log']:.3f}.** "
        f"Measured and estimated {symbol}, one middle attention sublayer dropped, every decoding position. Above: "
        f"step by "
        f"step through the normed lens, {SHOWN} of this model's prompts one after another, beside the paper's run. "
        f"Below: "
        "estimate against measurement; on the line they agree. The factor is the median over positions."
    )
    said = {"raw lens": r, "normed lens": n, "paper": theirs}
    listed = "; ".join(
        f"{k}: off by {v['factor']:.2f}, log correlation {v['pearson_log']:.3f}" for k, v in said.items()
    )
    alt = f"Series and log-log scatter of estimated against measured {symbol}. {listed}. {len(rows)} positions."
    return Drawn(fig, caption, alt.replace("$", "").replace("\\", ""))


@figure("fig-middle-cosine", "Theorem 2 at a middle attention layer")
def middle_cosine(data: pd.DataFrame, style: Style) -> Drawn:
    """Measured and estimated 1 − cos p over decoding positions (paper, Fig. 6 left)."""
    return _compare(data, style, "1 − cos p", 2)


@figure("fig-middle-kl", "Theorem 3 at a middle attention layer")
def middle_kl(data: pd.DataFrame, style: Style) -> Drawn:
    """Measured and estimated KL(dense ‖ pruned) over decoding positions (paper, Fig. 6 right)."""
    return _compare(data, style, "KL(dense ‖ pruned)", 3)
