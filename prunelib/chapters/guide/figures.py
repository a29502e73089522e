"""Figure of the guide: what is kept against the size of the whole model, a panel a task type."""

import numpy as np
import pandas as pd

from prunelib.report.figures import Drawn, figure
from prunelib.report.sentences import listed
from prunelib.report.style import Style
from prunelib.report.words import most, percent

TITLES = {
    "retrieval": "retrieval",
    "choice": "choosing among options",
    "one_token": "one-token answers",
    "short": "short generation",
    "long": "reading long text",
}
"""Task types as figures and tables call them; their order is the page's."""

NAMES = {
    "drop": "sublayers dropped",
    "sparsify": "weights removed",
    "quantize": "weights quantized",
    "joined": "several",
}


def look(style: Style, kind: str) -> dict:
    """A kind of method: hue and marker."""
    hues = {
        "drop": ("orange", "^"),
        "sparsify": ("blue", "s"),
        "quantize": ("vermillion", "o"),
        "joined": ("green", "D"),
    }
    colour, marker = hues[kind]
    return {"color": getattr(style.colours, colour), "marker": marker, "ls": ""}


@figure("fig-guide-kept", "What is kept at which size, by task type")
def kept(data: pd.DataFrame, style: Style) -> Drawn:
    """Share of the dense score kept against the share of the dense bytes, by task type."""
    fig, axes = style.subplots(height=4.6, nrows=2, ncols=3, count=len(TITLES), sharey=True)
    top = min(1.6, max(1.15, most(data["hi"]) + 0.05))
    for axis, (task, title) in zip(axes, TITLES.items(), strict=True):
        rows = data[data["task"] == task]
        for kind, some in rows.groupby("kind", sort=False):
            ends = np.clip([some["kept"] - some["lo"], some["hi"] - some["kept"]], 0, None)
            axis.errorbar(
                some["share"], some["kept"], ends, label=NAMES[kind], ms=4, elinewidth=0.6, **look(style, kind)
            )
        axis.axhline(1, color=style.muted, lw=0.8)
        axis.axhline(data["floor"].iloc[0], color=style.foreground, lw=0.8, ls=style.linestyles[2])
        if rows["kept"].isna().all():
            axis.text(0.5, 0.5, "not defined", ha="center", va="center", color=style.muted, transform=axis.transAxes)
        axis.set(title=title, xlabel="stored bytes, dense = 1", xlim=(0, 1.05), ylim=(min(-0.05, low(data)), top))
    for axis in axes[::3]:
        axis.set_ylabel("kept, dense = 1")
    style.legend(fig)
    floor = data["floor"].iloc[0]
    caption = (
        f"**{_finding(data)}** Share of the dense score against the stored bytes of the whole model, each in its own "
        "format; bars are 95 % intervals, paired with the dense model. "
        f"Dotted: the floor of {percent(floor)} that the guide asks of the whole interval. Choosing is taken above "
        "guessing; long text is the probability of a token of held-out text (one over the ratio of perplexities)."
    )
    return Drawn(fig, caption, f"Scatter plots of the share kept against size. {_listed(data)}")


def low(data: pd.DataFrame) -> float:
    """Where the axis may begin: no panel is squeezed by a single far interval."""
    return max(-0.6, -most(-data["lo"]) - 0.03)


def named(data: pd.DataFrame) -> dict[str, pd.Series]:
    """The smallest model above the floor, by task type, where there is one."""
    fits = data[data["lo"] >= data["floor"]].sort_values(["share", "kept"], ascending=[True, False], kind="stable")
    return {task: rows.iloc[0] for task, rows in fits.groupby("task", sort=False)}


def _finding(data: pd.DataFrame) -> str:
    found, floor = named(data), percent(data["floor"].iloc[0])
    judged = set(data.loc[data["lo"].notna(), "task"])
    said = [
        f"{title}: {found[task]['label']} ({found[task]['share']:.0%} of the bytes)"
        for task, title in TITLES.items()
        if task in found
    ]
    none = [title for task, title in TITLES.items() if task in judged - found.keys()]
    undefined = [title for task, title in TITLES.items() if task not in judged]
    parts = []
    if said:
        parts.append(f"The smallest models that keep {floor} or more with their whole interval: {'; '.join(said)}.")
    if none:
        parts.append(f"No model keeps {floor} with its whole interval for {listed(none)}.")
    if undefined:
        parts.append(f"Not defined: {listed(undefined)}.")
    return " ".join(parts)


def _listed(data: pd.DataFrame) -> str:
    parts = []
    for task, title in TITLES.items():
        rows = data[data["task"] == task].sort_values("share", kind="stable")
        parts.append(f"{title}: " + ", ".join(f"{r.label} {r.share:.2f} {_number(r.kept)}" for r in rows.itertuples()))
    return "; ".join(parts) + "."


def _number(share: float) -> str:
    return f"{share:.2f}" if pd.notna(share) else "not defined"
