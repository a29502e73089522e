"""Figure of the case study: how sure the models are of what they write."""

import pandas as pd

from prunelib.report.figures import Drawn, figure
from prunelib.report.style import Style


@figure("fig-case-tokens", "How sure the models are of what they write")
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
