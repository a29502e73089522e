"""The numbers of a figure's curves and where they lie in the drawing, for readers who point at it.

Everything that a legend names is read from what was drawn, so no figure needs to say its values twice.
"""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

MOST = 120
"""Places along an axis; a curve of more is a texture whose single values nobody reads."""


def of(fig: Figure) -> list[dict]:
    """A panel a row: ``title``, ``x`` (its label), ``box`` (left, bottom, right, top) and ``places``.

    Places are sorted ``[x, text of x, [[name, value], …]]``. Positions are shares of the drawing's width and
    height, the height from below. Panels whose legend names no curve are left out. The figure must be laid out.
    """
    found = [_panel(axis, fig) for axis in fig.axes if axis.get_visible()]
    return [panel for panel in found if panel]


def _panel(axis: Axes, fig: Figure) -> dict | None:
    values: dict[float, list] = {}
    for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
        for x, text in _points(handle):
            values.setdefault(x, []).append([label, text])
    inside = sorted(x for x in values if min(axis.get_xlim()) <= x <= max(axis.get_xlim()))
    if not 2 <= len(inside) <= MOST:
        return None
    across = axis.transData.transform([(x, axis.get_ylim()[0]) for x in inside])[:, 0] / fig.bbox.width
    box = axis.get_window_extent().transformed(fig.transFigure.inverted())
    places = [[round(float(at), 4), _number(x), values[x]] for at, x in zip(across, inside, strict=True)]
    return {
        "title": axis.get_title(loc="left"),
        "x": _bottom_label(axis),
        "box": [round(float(end), 4) for end in (box.x0, box.y0, box.x1, box.y1)],
        "places": places,
    }


def _bottom_label(axis: Axes) -> str:
    """The axis label, or that of the panel it shares its axis with and that shows it."""
    shared = (other.get_xlabel() for other in axis.get_shared_x_axes().get_siblings(axis))
    return axis.get_xlabel() or next(filter(None, shared), "")


def _points(handle) -> list[tuple[float, str]]:
    """``(x, text of y)`` of a curve, with its interval where error bars show one; numbers only."""
    ends: dict[int, tuple[float, float]] = {}
    line = handle
    if isinstance(handle, ErrorbarContainer):
        line, _, bars = handle
        upright = [bar for bar in bars if all(np.ptp(part[:, 0]) == 0 for part in bar.get_segments() if len(part))]
        for bar in upright[:1] if handle.has_yerr else []:
            ends = {i: (part[0, 1], part[-1, 1]) for i, part in enumerate(bar.get_segments()) if len(part)}
    if not isinstance(line, Line2D):
        return []
    try:
        pairs = np.column_stack([line.get_xdata(), line.get_ydata()]).astype(float)
    except ValueError:  # words along an axis
        return []
    found = []
    for i, (x, y) in enumerate(pairs):
        if math.isfinite(x) and math.isfinite(y):
            low, high = ends.get(i, (math.nan, math.nan))
            interval = f" ({_number(low)} to {_number(high)})" if math.isfinite(low + high) else ""
            found.append((float(x), _number(y) + interval))
    return found


def _number(value: float) -> str:
    text = f"{value:.3g}"
    if "e" in text:
        mantissa, exponent = text.split("e")
        text = f"{mantissa}e{int(exponent)}" if abs(value) < 1 else f"{value:,.0f}"
    return text.replace("-", "−")
