"""Figure of the case study: how sure the models are of what they write."""

import pandas as pd

from prunelib.report import looks
from prunelib.report.figures import Drawn, figure
from prunelib.report.style import Style


@figure("fig-case-tokens", "How sure the models are of what they write")
def case(data: pd.DataFrame, style: Style) -> Drawn:
    """Probability of each written token, under the model that wrote it and under the dense one."""
    fig, axes = style.subplots(height=3.2, ncols=2, sharey=True)
    models = list(dict.fromkeys(zip(data["spec"], data["label"], strict=True)))
    for axis, column, title in zip(
        axes, ("p_own", "p_dense"), ("under its own writer", "under the dense model"), strict=True
    ):
        seen: dict[str, int] = {}  # plans of one kind: colour of the kind, a line style each
        for spec, label in models:
            rows = data[data["label"] == label].groupby("position")[column].mean().rolling(8, min_periods=1).mean()
            colour = looks.model(style, spec)["color"]
            line = style.linestyles[seen.setdefault(colour, 0)]
            seen[colour] += 1
            axis.plot(rows.index + 1, rows, label=label, color=colour, ls=line, lw=1.3)
        axis.set(title=title, xlabel="token written", ylim=(0, 1.02))
    axes[0].set_ylabel("probability of the token")
    style.legend(fig)
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
