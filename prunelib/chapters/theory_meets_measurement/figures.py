"""Figures of the chapter: theory against measurement at one middle attention layer."""

import numpy as np
import pandas as pd

from prunelib.chapters.theory_meets_measurement.measure import closeness
from prunelib.report.figures import Drawn, figure
from prunelib.report.style import Style
from prunelib.report.words import LENS_NAMES

SHOWN = 3  # prompts in the step-by-step panel


def _compare(data: pd.DataFrame, style: Style, symbol: str, theorem: int) -> Drawn:
    fig, axes = style.subplots(height=5.4, nrows=2, ncols=2)
    data = data[data["measured"] > 0]
    ours = data[data["source"] == "this model"]
    paper = data[data["source"] == "paper"]
    normed = ours[ours["lens"] == "normed"]
    shown = normed[normed["prompt_id"].isin(normed["prompt_id"].unique()[:SHOWN])]
    series = {"this model, normed lens": shown, "the paper": paper}
    for axis, (name, rows) in zip(axes[0], series.items(), strict=True):
        steps = np.arange(1, len(rows) + 1)
        axis.plot(steps, rows["measured"], color=style.colours.blue, lw=1.1, label="measured")
        axis.plot(
            steps, rows["estimated"], color=style.colours.vermillion, lw=1.0, ls=style.linestyles[1], label="estimated"
        )
        axis.set(xlabel="decoding step", title=name, ylim=(0, None))
    axes[0][0].set_ylabel(symbol)
    axes[0][0].legend(loc="upper right")
    # Points below a hundredth of the paper's smallest are rounding, not agreement.
    low = max(float(ours["measured"].min()), float(paper["measured"].min()) / 100)
    high = 1.5 * float(max(ours["measured"].max(), ours["estimated"].max()))
    stats = {}
    for axis, lens in zip(axes[1], ("raw", "normed"), strict=True):
        rows = ours[ours["lens"] == lens]
        axis.scatter(
            rows["measured"],
            rows["estimated"],
            s=5,
            color=style.colours.blue,
            alpha=0.5,
            lw=0,
            rasterized=True,
            label="this model",
        )
        if lens == "raw":
            axis.scatter(
                paper["measured"],
                paper["estimated"],
                s=12,
                marker=style.markers[2],
                facecolor="none",
                edgecolor=style.colours.vermillion,
                lw=0.7,
                label="paper",
                rasterized=True,
            )
            axis.legend(loc="lower right")
        axis.plot([low, high], [low, high], color=style.foreground, lw=0.9)
        stats[lens] = closeness(rows)
        axis.text(
            0.03,
            0.97,
            f"typically off ×{stats[lens]['factor']:.2f}\nlog r = {stats[lens]['pearson_log']:.3f}",
            va="top",
            transform=axis.transAxes,
            fontsize=8,
        )
        axis.set(
            xscale="log",
            yscale="log",
            xlabel=f"measured {symbol}",
            title=LENS_NAMES[lens],
            xlim=(low, high),
            ylim=(low, high),
        )
    axes[1][0].set_ylabel(f"estimated {symbol}")
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
    return _compare(data, style, r"$1-\cos(p)$", 2)


@figure("fig-middle-kl", "Theorem 3 at a middle attention layer")
def middle_kl(data: pd.DataFrame, style: Style) -> Drawn:
    """Measured and estimated KL(dense ‖ pruned) over decoding positions (paper, Fig. 6 right)."""
    return _compare(data, style, "KL(dense ‖ pruned)", 3)
