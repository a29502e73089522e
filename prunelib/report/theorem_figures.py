"""How the figures of the three theorem chapters are drawn: a theorem on paper, then on the real model.

Their tables are those of :func:`prunelib.measure.theorem_checks.on_paper` and
:func:`prunelib.measure.agreement.every_sublayer`.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm

from prunelib.report import facts
from prunelib.report.style import Style

_BIN = 0.1  # width of a histogram cell, in decades, as in the table


ASKED = 0.1  # the size of a perturbation at which captions quote the proven factor


class _Words(NamedTuple):
    """How one theorem is spoken of in its figures."""

    size: str  # axis label of the size of a perturbation
    symbol: str  # that size in captions
    remainder: str
    deviation: str  # what is predicted, for the axes of the model figure
    names: dict  # quantity -> legend text


_WORDS = {
    "T1": _Words(
        "size ε = ‖Δh‖ / ‖h‖",
        "ε",
        "error of 1 − cos h",
        "1 − cos",
        {"paper": "paper, β²/2", "refined": "with (1+α), γ²/2"},
    ),
    "T2": _Words(
        "size R = (max Δz − min Δz) / T",
        "R",
        "error of 1 − cos p",
        "1 − cos p",
        {"cos_p": "1 − cos p"},
    ),
    "T3": _Words(
        "size R = (max Δz − min Δz) / T",
        "R",
        "error of the KL, nats",
        "KL, nats",
        {"kl_dense_pruned": "KL(dense‖pruned)", "kl_pruned_dense": "KL(pruned‖dense)"},
    ),
}


_PANELS = {
    "h": "hidden state h",
    "z.raw": "logits z, raw lens",
    "z.normed": "logits z, normed lens",
    "raw": "raw lens",
    "normed": "normed lens",
    "raw.reverse": "raw lens, KL(pruned‖dense)",
    "normed.reverse": "normed lens, KL(pruned‖dense)",
}


def on_paper(theorem: str, data: pd.DataFrame, style: Style):
    words = _WORDS[theorem]
    fig, (left, right) = style.subplots(height=3.6, ncols=2)
    _remainders(left, data, style, words)
    _envelopes(right, data, style, words)
    style.legend(fig)
    return fig


def _cases(style: Style) -> list[dict]:
    """Kinds of perturbations; their hues are not those of the estimates."""
    c = style.colours
    return [{"color": colour, "marker": style.markers[i]} for i, colour in enumerate((c.blue, c.green, c.orange))]


def _estimates(style: Style) -> list[dict]:
    """The estimates, or the two directions of a KL: dots and squares, the second ones hollow."""
    c = style.colours
    return [
        {"color": c.vermillion, "marker": "o", "ls": style.linestyles[0], "mfc": c.vermillion},
        {"color": c.purple, "marker": "s", "ls": style.linestyles[1], "mfc": style.page},
    ]


def _remainders(ax, data: pd.DataFrame, style: Style, words: _Words) -> None:
    rows = data[data["part"] == "remainder"]
    cases = list(dict.fromkeys(rows["case"]))
    for number, quantity in enumerate(words.names):
        for look, case in zip(_cases(style), cases, strict=True):
            curve = rows[(rows["quantity"] == quantity) & (rows["case"] == case)]
            curve = curve[curve["value"] > 1e-17]  # below: rounding, not the remainder
            ax.plot(curve["size"], curve["upper"], color=look["color"], lw=0.6, alpha=0.6)
            face = style.page if number else look["color"]
            line = style.linestyles[number]
            ax.plot(curve["size"], curve["value"], markevery=(number, 4), mfc=face, ls=line, **look)
    for look, case in zip(_cases(style), cases, strict=True):
        ax.plot([], [], ls="", label=case, **look)
    if len(words.names) > 1:
        for look, name in zip(_estimates(style), words.names.values(), strict=True):
            ax.plot([], [], color=style.foreground, ls=look["ls"], label=f"a: {name}")
    ax.plot([], [], color=style.muted, lw=0.6, label="a: proven most")
    ax.set(xscale="log", yscale="log", xlabel=words.size, ylabel=words.remainder)
    ax.set_ylim(bottom=1e-17)
    ax.set_title("a  How fast the error of ≈ vanishes")
    _guides(ax, data, style)


def _guides(ax, data: pd.DataFrame, style: Style) -> None:
    """A grey line of the slope that the curves have, in the empty lower right corner."""
    slopes = data.loc[data["part"] == "slope", "value"].round().unique()
    for slope in sorted(slopes):
        x = np.array([3e-2, 3e-1])
        y = 3e-17 * (x / x[0]) ** slope
        ax.plot(x, y, color=style.muted, lw=1, ls=(0, (4, 2)))
        ax.annotate(
            f"slope {slope:.0f}",
            (x[1], y[1]),
            xytext=(3, 0),
            textcoords="offset points",
            color=style.muted,
            fontsize=7,
            va="center",
        )


def _envelopes(ax, data: pd.DataFrame, style: Style, words: _Words) -> None:
    bands, worst = (data[data["part"] == part] for part in ("proven", "worst case"))
    drawn: list[tuple] = []
    for look, (quantity, name) in zip(_estimates(style), words.names.items(), strict=False):
        band = bands[bands["quantity"] == quantity]
        edges = (tuple(band["lower"]), tuple(band["upper"]))
        if edges not in drawn:  # both directions of a KL have the same proven band
            drawn.append(edges)
            own = quantity in ("paper", "refined")
            said = f"b: proven, {name}" if own else "b: proven"
            ax.fill_between(band["size"], *edges, color=look["color"], alpha=0.22, lw=0, label=said)
            for edge in edges:
                ax.plot(band["size"], edge, color=look["color"], lw=1, ls=look["ls"])
        found = worst[worst["quantity"] == quantity]
        points = look | {"ls": ""}
        ax.plot(found["size"], found["value"], label=f"b: worst found, {name}", **points)
    ax.axhline(1, color=style.foreground, lw=0.8)
    ax.set(xscale="log", yscale="log", xlabel=words.size, ylabel="exact / estimate")
    ax.set_title("b  How wrong ≈ can be at a given size")


def factor(data: pd.DataFrame, quantity: str, size: float) -> tuple[float, float]:
    rows = data[(data["part"] == "worst case") & (data["quantity"] == quantity)]
    row = rows[np.isclose(rows["size"], size)].iloc[0]
    return row["lower"], row["upper"]


def slopes(data: pd.DataFrame, quantity: str) -> str:
    found = data.loc[(data["part"] == "slope") & (data["quantity"] == quantity), "value"]
    low, high = f"{found.min():.2f}", f"{found.max():.2f}"
    return low if low == high else f"{low} to {high}"


def broken(data: pd.DataFrame) -> str:
    draws = data[data["part"] == "random draws"]
    worst = data[data["part"] == "worst case"]
    left = int(draws["value"].sum() + worst["violations"].sum())
    outcome = "none left" if left == 0 else f"{left:,} left"
    return f"Of {int(draws['size'].sum()):,} random draws and every step of the search, {outcome} "


HOW = (
    "*How to read.* (a) Error, the distance between exact value and estimate, as a fixed perturbation shrinks; "
    "thin lines: the most that the proven interval allows. (b) The shaded band is proven to hold "
    "the ratio exact/estimate for every perturbation of that size; points are the extremes that "
    "a gradient search found."
)


def range_text(data: pd.DataFrame, number: int, quantity: str, what: str) -> tuple[str, str]:
    """Caption and alt text of the theory figure of Theorems 2 and 3."""
    (low, high), (low4, high4) = (factor(data, quantity, size) for size in (ASKED, 4.0))
    found = data.loc[data["part"] == "slope", "value"]
    slope = " to ".join(dict.fromkeys(f"{end:.2f}" for end in (found.min(), found.max())))
    caption = (
        f"The estimate of Theorem {number} is one for small perturbations: its error shrinks with "
        f"the third power of their size (fitted slopes {slope}). At $R = {ASKED:g}$, {what} lies "
        f"between {low:.2f} and {high:.2f} times the estimate, at $R = 4$ anywhere between "
        f"{low4:.2g} and {facts.number(high4)} times. {broken(data)}the proven interval, "
        f"and the search reaches its edges. {HOW}"
    )
    alt = (
        f"Two panels. Left: log-log remainder curves with slopes {slope}. Right: exact over "
        f"estimate against R; the proven band is {low:.3f} to {high:.3f} at R = {ASKED:g} and "
        f"{low4:.2g} to {facts.number(high4)} at R = 4; worst cases found lie on its edges."
    )
    return caption, alt


def on_model(theorem: str, data: pd.DataFrame, style: Style, nrows: int = 1):
    panels = list(dict.fromkeys(data["panel"]))
    fig, axes = style.subplots(
        height=2.6 * nrows + 0.5,
        nrows=nrows,
        ncols=len(panels) // nrows,
        squeeze=False,
        sharex=theorem != "T1",
        sharey=theorem != "T1",
    )
    cells = data[data["part"] == "density"]
    norm = LogNorm(1, max(2, cells["count"].max()))
    for letter, ax, panel in zip("abcd", axes.flat, panels, strict=False):
        mesh = _panel(ax, data[data["panel"] == panel], norm, style)
        name = _PANELS[panel]
        if theorem == "T3" and "reverse" not in panel:
            name += ", KL(dense‖pruned)"
        ax.set_title(f"{letter}  {name}", pad=33)
    words = _WORDS[theorem]
    for ax in axes[-1]:
        ax.set_xlabel(f"estimated {words.deviation}")
    for ax in axes[:, 0]:
        ax.set_ylabel(f"measured {words.deviation}")
    if cells.size:
        place = {"location": "bottom", "aspect": 40} if style.column else {"location": "right"}
        fig.colorbar(mesh, ax=list(axes.flat), label="points", shrink=0.8, pad=0.01, **place)
    style.legend(fig)
    return fig


def _panel(ax, data: pd.DataFrame, norm: LogNorm, style: Style):
    cells = data[data["part"] == "density"]
    column, row = (
        np.rint(np.log10(cells[name].to_numpy()) / _BIN - 0.5).astype(int) for name in ("estimate", "measured")
    )
    grid = np.full((np.ptp(row) + 1, np.ptp(column) + 1), np.nan)
    grid[row - row.min(), column - column.min()] = cells["count"]
    x, y = (
        10.0 ** (_BIN * (np.arange(size + 1) + first))
        for size, first in ((grid.shape[1], column.min()), (grid.shape[0], row.min()))
    )
    mesh = ax.pcolormesh(x, y, grid, norm=norm, cmap=style.density, rasterized=True)
    ends = [max(x[0], y[0]), min(x[-1], y[-1])]
    ax.plot(ends, ends, color=style.foreground, lw=1, label="measured = estimated")
    strips = data[data["part"] == "strip"]
    reach = np.abs(strips[["lo", "hi"]].to_numpy().T - strips["measured"].to_numpy())
    ax.errorbar(
        strips["estimate"],
        strips["measured"],
        yerr=reach,
        color=style.colours.vermillion,
        marker="o",
        ms=3,
        lw=1.2,
        elinewidth=0.8,
        label="median and 5–95 % of the measured",
    )
    ax.set(xscale="log", yscale="log")
    numbers = _numbers(data)
    ax.text(
        0,
        1.02,
        f"off ×{facts.number(numbers['factor'])}, log r = {numbers['pearson_log']:.3f}\n"
        f"est./meas. = {numbers['ratio']:.2f}\n"
        f"inside {numbers['inside']:.1%}, width ×{facts.number(numbers['width'])}",
        transform=ax.transAxes,
        va="bottom",
        color=style.muted,
        fontsize=7,
    )
    return mesh


def _numbers(data: pd.DataFrame) -> pd.Series:
    return data[data["part"] == "summary"].set_index("statistic")["value"]


def model_text(data: pd.DataFrame, what: str, main: str) -> tuple[str, str]:
    """Caption and alt text; ``main`` is the panel that decides the claim."""
    stats = {panel: _numbers(rows) for panel, rows in data.groupby("panel", sort=False)}
    n = stats[main]
    useless = ", too wide to say much" if n["width"] > 10 else ""
    caption = (
        f"On the real model the estimate of {what} is typically off by a factor of "
        f"{n['factor']:.2f} (median over points, then over sublayers; {_PANELS[main]}, "
        f"{int(n['points']):,} points), furthest in layer {int(n['worst_layer'])}; the correlation "
        f"of the logarithms is {n['pearson_log']:.3f} over all sublayers and "
        f"{n['later_pearson_log']:.3f} without the first layer. "
        f"{n['within2']:.0%} of the estimates are within a factor of 2 (equal weight to every "
        f"sublayer). "
        f"{n['inside']:.1%} of the measurements are inside the proven interval, whose ends differ "
        f"by a factor of {facts.number(n['width'])} at the median point{useless}. *How to read.* Each cell "
        f"counts (prompt, position, layer, sublayer) points, one sublayer dropped at a time, "
        f"$T = 1$; on the diagonal the estimate is right. Dots: median of the measured values at "
        f"that estimate, bars: 5 to 95 %. Above: typical factor, correlation of the logarithms, "
        f"median estimate/measured, share inside the interval and the median width of the interval. "
        f"Values below the resolution of their point are drawn at it."
    )
    listed = "; ".join(
        f"{_PANELS[panel]}: typically off by a factor of {s['factor']:.2f}, log correlation "
        f"{s['pearson_log']:.3f}, median ratio "
        f"{facts.number(s['ratio'])}, within 10 % {s['within10']:.1%}, inside interval {s['inside']:.1%}"
        for panel, s in stats.items()
    )
    return caption, f"Two-dimensional histograms of measured against estimated values. {listed}."
