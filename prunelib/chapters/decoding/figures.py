"""Figures of the decoding chapter: divergence by step, survival of agreement, direct and history part."""

import numpy as np
import pandas as pd

from prunelib.report import looks
from prunelib.report.facts import number
from prunelib.report.figures import Drawn, figure
from prunelib.report.style import Style

_SHOWN = ("direct", "own", "free")
_COLUMNS = 4  # panels abreast at most


def _panels(style: Style, labels: list[str], height: float, **options):
    """A panel a model."""
    ncols = min(_COLUMNS, len(labels))
    nrows = -(-len(labels) // ncols)
    fig, axes = style.subplots(height * nrows, nrows, ncols, count=len(labels), columns=2, squeeze=False, **options)
    return fig, np.ravel(axes)


@figure("fig-decoding-steps", "KL divergence step by step, along whose text?")
def steps(data: pd.DataFrame, style: Style) -> Drawn:
    """Mean KL a token at each step, both models on the dense text, both on the pruned one, each on its own."""
    labels = list(dict.fromkeys(data["label"]))
    fig, axes = _panels(style, labels, 2.1, sharex=True, sharey=True)
    for axis, label in zip(axes, labels, strict=True):
        for pair in _SHOWN:
            rows = data[(data["label"] == label) & (data["pair"] == pair)].sort_values("step")
            look = looks.trajectories(style)[pair]
            x, lowest = rows["step"] + 1, rows["mean"].clip(lower=1e-6)
            axis.plot(x, lowest, label=looks.TRAJECTORIES[pair], markevery=max(1, len(rows) // 6), **look)
            axis.fill_between(x, rows["lo"].clip(lower=lowest / 10), rows["hi"], color=look["color"], alpha=0.15, lw=0)
        axis.set(title=label, yscale="log", xlabel="token written", ylabel="KL(dense ‖ pruned), nats")
    style.legend(fig)
    mean = data.groupby(["label", "pair"])["mean"].mean().unstack()
    worst = (mean["own"] / mean["direct"]).idxmax()
    caption = (
        f"**On the texts of {worst} the KL a token is {number(mean.loc[worst, 'own'])} nats, on the dense texts "
        f"{number(mean.loc[worst, 'direct'])}; with each model on its own text {number(mean.loc[worst, 'free'])}.** "
        "KL(dense ‖ pruned) of the next token, mean over sampled texts (T = 1, noise in common) with its 95 % interval "
        "over prompts. Errors that fed on each other would lift the pruned text's curve above the dense text's, more "
        "and more. "
        "Curves with each model on its own text compare different texts once they have parted."
    )
    listed = "; ".join(
        f"{label} {', '.join(f'{pair} {number(mean.loc[label, pair])}' for pair in _SHOWN)}" for label in labels
    )
    return Drawn(fig, caption, f"Line charts of the KL a token against the step, by model. Means in nats: {listed}.")


@figure("fig-decoding-survival", "How long free texts agree, seen and foretold")
def survival(data: pd.DataFrame, style: Style) -> Drawn:
    """Share of texts that have not parted, by the number of tokens, beside the law."""
    labels = list(dict.fromkeys(data["label"]))
    fig, axes = _panels(style, labels, 2.1, sharex=True, sharey=True)
    sides = looks.sides(style)
    for axis, label in zip(axes, labels, strict=True):
        rows = data[(data["label"] == label) & (data["how"] == "sampled")].sort_values("step")
        seen, law = sides["measured"], sides["estimated"]
        spread = [rows["seen"] - rows["seen_lo"], rows["seen_hi"] - rows["seen"]]
        axis.errorbar(rows["step"], rows["seen"], np.clip(spread, 0, None), fmt=seen["marker"], color=seen["color"],
                      elinewidth=0.8, label="seen, noise in common")  # fmt: skip
        axis.plot(rows["step"], rows["law"], color=law["color"], ls=law["ls"], label="the law, from forced steps")
        axis.fill_between(rows["step"], rows["law_lo"], rows["law_hi"], color=law["color"], alpha=0.15, lw=0)
        greedy = data[(data["label"] == label) & (data["how"] == "greedy")].sort_values("step")
        axis.step(greedy["step"], greedy["seen"], where="mid", color=style.muted, lw=1, label="seen, greedy")
        axis.set(title=label, xlabel="tokens written", ylabel="share that still agrees", ylim=(-0.03, 1.03))
    style.legend(fig)
    sampled = data[data["how"] == "sampled"]
    inside = ((sampled["gap_lo"] <= 0) & (sampled["gap_hi"] >= 0)).mean()
    first = sampled[sampled["step"] == 1].set_index("label")["seen"]
    last = sampled[sampled["step"] == sampled["step"].max()].set_index("label")["seen"]
    best = last.idxmax()
    caption = (
        f"**After one token {first.max():.0%} of the texts of {first.idxmax()} agree with the dense model's, after "
        f"{int(sampled['step'].max())} {last[best]:.0%} of {best}; the law lies within the interval of what is seen at "
        f"{inside:.0%} of the steps.** Share of sampled texts that are the dense model's so far, when both draw with "
        "the same Gumbel noise, with 95 % intervals over prompts; line: product of one-step probabilities along dense "
        "texts, where no free text of the pruned model is used. Grey: greedy texts."
    )
    listed = "; ".join(f"{label} {first[label]:.2f} after 1, {last[label]:.2f} at the end" for label in labels)
    return Drawn(fig, caption, f"Survival curves, by model, with the law beside them. {listed}.")


@figure("fig-decoding-causes", "Direct effect and history")
def causes(data: pd.DataFrame, style: Style) -> Drawn:
    """Parts of the free divergence of greedy texts by step, and the dense model after one other token."""
    labels = list(dict.fromkeys(data["label"]))
    fig, axes = _panels(style, labels, 2.1, sharex=True, sharey=True)
    shown = looks.trajectories(style)
    names = {"direct": "direct: another model", "history": "history: another text"}
    for axis, label in zip(axes, labels, strict=True):
        rows = data[data["label"] == label]
        for cause, name in names.items():
            some = rows[rows["cause"] == cause].sort_values("step")
            if len(some):
                axis.plot(some["step"] + 1, some["mean"], label=name, markevery=max(1, len(some) // 6), **shown[cause])
                axis.fill_between(
                    some["step"] + 1, some["lo"], some["hi"], color=shown[cause]["color"], alpha=0.15, lw=0
                )
        axis.set(title=label, xlabel="token written", ylabel="KL, nats")
        axis.axhline(0, color=style.muted, lw=0.8)
        top = 1.3 * data["mean"].max()
        axis.set_ylim(-0.1 * top, top)
    style.legend(fig)
    mean = data[data["cause"] != "free"].groupby(["label", "cause"])["mean"].mean().unstack()
    changed = mean.loc["one token changed", "history"]
    models = mean.drop(index="one token changed")
    part = (models["history"] / models.sum(axis=1)).sort_values()
    caption = (
        f"**When each model reads its own greedy text, {part.iloc[0]:.0%} ({part.index[0]}) to {part.iloc[-1]:.0%} "
        f"({part.index[-1]}) of the divergence is that the texts differ; the dense model after one other token differs "
        f"from itself by {number(changed)} nats a token.** KL(dense ‖ pruned) of each on its own text, split into what "
        "another model and what another text adds (mean over both orders; the two add up), with 95 % intervals over "
        "prompts."
    )
    listed = "; ".join(
        f"{label}: direct {number(r['direct'])}, history {number(r['history'])}" for label, r in models.iterrows()
    )
    return Drawn(fig, caption, f"Line charts of the two parts against the step, by model. Means in nats: {listed}.")
