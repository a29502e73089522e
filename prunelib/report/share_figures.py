"""How shares of the dense score are drawn: lines by read-out, other runs as hollow markers, a common frame."""

import pandas as pd

from prunelib.report import looks
from prunelib.report.style import Style
from prunelib.report.words import most
from prunelib.runs.beside import REFERENCE


def lines(axis, data: pd.DataFrame, style: Style) -> None:
    """A line with its interval for each read-out; ``data`` has x, kept, lo, hi, readout."""
    for readout, look in looks.readouts(style).items():
        rows = data[data["readout"] == readout].sort_values("x")
        if len(rows):
            axis.fill_between(rows["x"], rows["lo"], rows["hi"], color=look["color"], alpha=0.15, lw=0)
            axis.plot(rows["x"], rows["kept"], label=looks.READOUTS[readout], **look)


OURS = ("this run", "paper")
"""Sources of a figure's rows that are no runs beside this one."""


def split(data: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Rows of this run, of the runs beside it, and of the paper, by ``source``."""
    return data[data["source"] == OURS[0]], data[~data["source"].isin(OURS)], data[data["source"] == OURS[1]]


def hollow(axis, data: pd.DataFrame, style: Style, names: list[str]) -> None:
    """Runs beside this one as hollow markers, the first the smallest; ``names`` are those of the whole figure."""
    for (source, readout), rows in data.groupby(["source", "readout"], sort=False):
        look, size = looks.readouts(style)[readout], 7 + 2.5 * names.index(source)
        axis.plot(
            rows["x"], rows["kept"], ls="", marker=look["marker"], mfc="none", mec=look["color"], ms=size, mew=0.9
        )


def hollow_words(names: list[str]) -> str:
    """What the hollow markers are, for a caption; empty where there are none."""
    if not names:
        return ""
    said = ["the committed reference run" if name == REFERENCE else name for name in names]
    return f"Hollow{', from small to large' if len(said) > 1 else ''}: {', '.join(said)}. "


def frame(axes, data: pd.DataFrame, style: Style) -> None:
    """Reference lines, limits and labels that the panels share."""
    top = min(1.6, max(1.15, most(data["hi"]) + 0.05))
    for axis in axes:
        axis.axhline(1, color=style.muted, lw=0.8)
        axis.axhline(0, color=style.muted, lw=0.9, ls=style.linestyles[2])
        axis.set_ylim(max(-0.6, min(-0.03, -most(-data["lo"]) - 0.03)), top)
    axes[0].set_ylabel("above guessing, dense = 1")
    axes[0].text(
        0.03, 0.01, "guessing", fontsize=7, color=style.muted, va="bottom", transform=axes[0].get_yaxis_transform()
    )
