"""How figures look: a light and a dark page, a paper's whole width and one of its columns.

The hues and their order are Okabe and Ito's colour-safe set (2008). A hue whose
contrast with the page is below 3:1 is made darker (light page) or lighter (dark
page); markers and line styles repeat what the colour says. What has which look is in
:mod:`prunelib.report.looks`, how panels are placed in :mod:`prunelib.report.panels`.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import matplotlib
import matplotlib.style
from matplotlib.colors import Colormap, LinearSegmentedColormap

from prunelib.report import panels

PAGE, COLUMN = 6.75, 3.35
"""Widths in inches: both columns of a two-column paper, and one."""

SMALLEST = 7
"""Points of the smallest letter: what journals ask for at the size at which a figure is printed."""

DPI = 200
LIGHT_PAGE, DARK_PAGE = "#ffffff", "#121212"  # the same as in book/_static/prunelib.css


class Palette(NamedTuple):
    """Six hues, usable by name or, in this order, by index."""

    blue: str
    vermillion: str
    green: str
    purple: str
    orange: str
    sky: str


_ON_LIGHT = Palette("#0072B2", "#D55E00", "#009E73", "#C0699A", "#B07C00", "#3A9BDC")
_ON_DARK = Palette("#3A9BDC", "#F07A2A", "#00B386", "#CC79A7", "#E69F00", "#9AD3F5")


_DENSITY_LIGHT = LinearSegmentedColormap.from_list("on_light", ["#a9cce6", "#0072B2", "#08233f"])
_DENSITY_DARK = LinearSegmentedColormap.from_list("on_dark", ["#1d4c70", "#3A9BDC", "#eaf6ff"])
# Solid, dashed, dotted, dash-dotted, long-dashed, short-dashed (offset, on-off lengths).
_LINESTYLES = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)), (0, (8, 3)), (0, (3, 1)))


@dataclass(frozen=True)
class Style:
    """What a drawing function may ask for; made by :func:`light` and :func:`dark`."""

    dark: bool
    colours: Palette
    foreground: str  # text, axes, reference lines
    muted: str  # second-rank text, zero lines
    grid: str
    page: str  # background
    density: Colormap  # few to many, for hexbins and heat maps; its ends differ from the page
    column: bool = False  # drawn for one column of a paper, and for a phone: panels stand below each other
    markers: tuple[str, ...] = ("o", "s", "^", "D", "v", "P")
    linestyles: tuple = _LINESTYLES

    def subplots(self, height: float = 2.8, nrows: int = 1, ncols: int = 1, **options):
        """A figure and its axes, as ``pyplot.subplots`` returns them, in this style's width.

        ``height`` is in inches at the page's width; ``options`` are those of :func:`panels.grid`. In one
        column the panels stand below each other, the axes come in the same order and shape. No pyplot
        state is touched, so nothing is left open in a notebook.
        """
        width = COLUMN if self.column else PAGE
        return panels.grid(width, height, nrows, ncols, stacked=self.column, dpi=DPI, **options)

    def legend(self, fig, handles=None, labels=None, **options):
        """The figure's one legend: below the panels, complete, in as many columns as the width holds.

        Without ``handles`` it lists every labelled artist of all panels once.
        """
        return panels.legend(fig, handles, labels, **options)


def light(column: bool = False) -> Style:
    """For paper and the light page."""
    return Style(False, _ON_LIGHT, "#1f2328", "#5f6b76", "#e3e6ea", LIGHT_PAGE, _DENSITY_LIGHT, column)


def dark(column: bool = False) -> Style:
    """For the dark page."""
    return Style(True, _ON_DARK, "#e6e6e6", "#a3adb8", "#30353b", DARK_PAGE, _DENSITY_DARK, column)


@contextlib.contextmanager
def applied(style: Style, salt: str) -> Iterator[None]:
    """matplotlib's settings for ``style``, put back on leaving.

    Starts from matplotlib's own defaults, so that a user's matplotlibrc changes
    no byte of a figure. ``salt`` makes the ids inside an SVG repeatable.
    """
    text, small = (8, SMALLEST) if style.column else (9, 8)
    settings = {
        "svg.hashsalt": salt,
        "svg.fonttype": "path",  # looks the same where the font is missing
        "pdf.fonttype": 42,
        "savefig.dpi": DPI,
        "savefig.facecolor": style.page,
        "figure.facecolor": style.page,
        "axes.facecolor": style.page,
        "font.family": "DejaVu Sans",  # comes with matplotlib
        "font.size": text,
        "axes.titlesize": text,
        "axes.labelsize": text,
        "xtick.labelsize": small,
        "ytick.labelsize": small,
        "legend.fontsize": small,
        "legend.frameon": False,
        "legend.columnspacing": 1.2,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.linewidth": 0.8,
        "grid.linewidth": 0.6,
        "grid.color": style.grid,
        "lines.linewidth": 1.3 if style.column else 1.5,
        "lines.markersize": 3 if style.column else 4,
        "axes.prop_cycle": matplotlib.cycler(color=list(style.colours)),
    }
    inked = "text.color axes.labelcolor axes.edgecolor axes.titlecolor xtick.color ytick.color"
    settings |= dict.fromkeys(inked.split(), style.foreground)
    with matplotlib.style.context(["default", settings]):
        yield
