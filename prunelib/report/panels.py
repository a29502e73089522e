"""Panels of a figure: side by side on a page, below each other in one column of a paper or on a phone.

What a drawing function says of a grid (its labels, shared axes, legend) is said once; :func:`finish` makes
it right for both arrangements.
"""

import numpy as np
from matplotlib import ticker
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_FLATTER = 0.72  # a panel that gets the whole column is wider than beside others; its height need not grow as much
_TICK = 0.45  # inches from one number of a logarithmic axis to the next
_LEGEND = 0.35  # inches that a legend below the panels takes in one column more than on a page


class Panels(Figure):
    """A figure that knows the grid which was asked for: ``asked`` holds its axes, None where there is none."""

    asked: np.ndarray
    stacked = False
    share_x: bool | str = False
    share_y: bool | str = False


def grid(
    width: float,
    height: float,
    nrows: int = 1,
    ncols: int = 1,
    *,
    stacked: bool = False,
    count: int | None = None,
    columns: int = 1,
    sharex: bool | str = False,
    sharey: bool | str = False,
    squeeze: bool = True,
    dpi: float = 100,
):
    """A :class:`Panels` of ``width`` inches and its axes; ``height`` is that of the unstacked grid.

    ``stacked`` puts the panels below each other, ``columns`` abreast. ``count`` makes only the first so many panels
    and gives them as a flat array. ``sharex`` and ``sharey`` are True, "row" or "col" of the grid that was asked for.
    """
    count = nrows * ncols if count is None else count
    shape = (nrows, ncols)
    if stacked and ncols > columns:
        shape = (-(-count // columns), columns)
        height = _FLATTER * height / nrows * shape[0] + _LEGEND
    elif stacked:
        height += _LEGEND
    fig = Panels(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(fig)  # measures texts
    places = fig.add_gridspec(*shape)
    asked = np.full((nrows, ncols), None, dtype=object)
    for place in range(count):
        asked.flat[place] = fig.add_subplot(places[divmod(place, shape[1])])
    fig.asked, fig.stacked = asked, stacked and shape != (nrows, ncols)
    fig.share_x, fig.share_y = sharex, sharey
    for sharing, join in ((sharex, "sharex"), (sharey, "sharey")):
        for group in _groups(asked, sharing):
            for axis in group[1:]:
                getattr(axis, join)(group[0])
    if nrows * ncols != count:
        return fig, asked.ravel()[:count]
    if not squeeze:
        return fig, asked
    found = asked.squeeze()
    return fig, found.item() if found.ndim == 0 else found


def _groups(asked: np.ndarray, sharing: bool | str) -> list[list]:
    """Axes that share a scale."""
    rows = {True: [asked.ravel()], "row": list(asked), "col": list(asked.T)}.get(sharing, [])
    return [[axis for axis in row if axis is not None] for row in rows]


def finish(fig: Figure) -> None:
    """Labels and ticks, once everything is drawn: shared ones stand once, stacked panels have their own.

    Logarithmic axes get plain numbers, whose letters are all of one size. Figures that are no
    :class:`Panels` keep what they have.
    """
    width, height = fig.get_size_inches()
    for axis in fig.axes:
        spec = axis.get_subplotspec()
        lines, columns = spec.get_gridspec().get_geometry() if spec else (1, 1)
        _plain_log(axis.xaxis, width / columns)
        _plain_log(axis.yaxis, 1.6 * height / lines)  # numbers are wider than high
    if not isinstance(fig, Panels):
        return
    _labels(fig)
    FigureCanvasAgg(fig)


def _labels(fig: Panels) -> None:
    asked = fig.asked
    places = {axis: axis.get_subplotspec() for axis in asked.flat if axis is not None}
    below = {(spec.rowspan.start, spec.colspan.start) for spec in places.values()}
    for (row, column), axis in np.ndenumerate(asked):
        if axis is None:
            continue
        spec = places[axis]
        has_below = (spec.rowspan.start + 1, spec.colspan.start) in below
        lowest = next(a for a in asked[::-1, column] if a is not None)
        first = asked[row, 0]
        if not axis.get_xlabel():
            axis.set_xlabel(lowest.get_xlabel())
        if fig.stacked and not axis.get_ylabel():
            axis.set_ylabel(first.get_ylabel())
        one_scale = fig.share_x is True or (fig.share_x == "col" and not fig.stacked)
        if one_scale and has_below:
            axis.set_xlabel("")
            axis.tick_params(labelbottom=False)
        if fig.share_y in (True, "row") and spec.colspan.start > 0:
            axis.set_ylabel("")
            axis.tick_params(labelleft=False)


def plain(number: float, _position=None) -> str:
    """A tick of a logarithmic axis: ``0.01``, ``1``, ``1,000``, beyond them ``1e−5``; no raised digits."""
    if number == 0 or 1e-3 <= abs(number) < 1e4:
        return f"{number:,g}".replace("-", "−")
    mantissa, exponent = f"{number:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}".replace("-", "−")


def _plain_log(axis, inches: float) -> None:
    """Plain numbers on a logarithmic axis that has no ticks of its own; 1, 2 and 5 where it is short."""
    if axis.get_scale() != "log" or isinstance(axis.get_major_locator(), ticker.FixedLocator):
        return
    low, high = sorted(abs(end) for end in axis.get_view_interval())
    subs = (1.0, 2.0, 5.0) if low > 0 and high / low < 60 else (1.0,)
    axis.set_major_locator(ticker.LogLocator(subs=subs, numticks=max(3, int(inches / _TICK))))
    axis.set_major_formatter(ticker.FuncFormatter(plain))
    axis.set_minor_formatter(ticker.NullFormatter())
    axis.set_minor_locator(ticker.NullLocator())


def legend(fig: Figure, handles=None, labels=None, **options):
    """One legend below the panels, in the most columns that fit the width; None where nothing is labelled."""
    if handles is None:
        found = [pair for axis in fig.axes for pair in zip(*axis.get_legend_handles_labels(), strict=True)]
        named = {label: handle for handle, label in reversed(found)}
        order = dict.fromkeys(label for _, label in found)
        labels, handles = list(order), [named[label] for label in order]
    labels = labels or [handle.get_label() for handle in handles]
    if not handles:
        return None
    renderer = FigureCanvasAgg(fig).get_renderer()
    for ncols in range(min(len(handles), 6), 0, -1):
        made = fig.legend(handles, labels, loc="outside lower center", ncols=ncols, **options)
        if ncols == 1 or made.get_window_extent(renderer).width <= fig.bbox.width - 4:
            return made
        made.remove()
    return None
