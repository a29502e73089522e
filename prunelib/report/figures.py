"""The registry of figures, and how one becomes files.

A figure is a pure function of a table: ``draw`` writes the table as CSV, reads
it back, and hands that to the function, so the CSV a reader downloads is all
that the figure shows. The same CSV and provenance give the same bytes.
"""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from prunelib.errors import PrunelibError, nearest
from prunelib.files import is_plain, sha256, write_json, writing
from prunelib.report import cite, panels, provenance, readings, style
from prunelib.runs import schema
from prunelib.runs.tables import read_csv

PAGE = {False: (".light.svg", ".pdf", ".png"), True: (".dark.svg",)}
"""Files of a figure in a paper's whole width, by whether it is for dark pages."""

COLUMN = {False: (".column.light.svg", ".column.pdf"), True: (".column.dark.svg",)}
"""Those in the width of one column, drawn for it: for two-column papers, and for phones."""

SUFFIXES = (*PAGE[False], *PAGE[True], *COLUMN[False], *COLUMN[True], ".csv", ".bib", ".json")


class Drawn(NamedTuple):
    """What a drawing function returns.

    ``caption`` is finding-first markdown (inline ``$math$`` and emphasis);
    ``alt`` is plain text with the values a reader cannot see.
    """

    fig: Figure
    caption: str
    alt: str


@dataclass(frozen=True)
class Spec:
    """A registered figure."""

    id: str
    title: str
    chapter: str  # name of its folder in prunelib/chapters
    order: int  # place among the figures of its chapter, from 1
    function: Callable[[pd.DataFrame, style.Style], Drawn]

    def number(self, notebook: str) -> str:
        """``"5.2"``: second figure of the notebook numbered 05; the book's own numbering agrees."""
        return f"{int(notebook.split('-')[0])}.{self.order}"


FIGURES: dict[str, Spec] = {}


def figure(id: str, title: str, chapter: str = ""):
    """Register a drawing function ``(data, style) -> Drawn`` under a permanent id.

    It belongs to the chapter in whose folder it stands, unless ``chapter`` names another. Figures of one
    chapter are numbered in the order in which they are registered, which must be the order in which its
    page shows them.
    """

    def register(function):
        own = chapter or function.__module__.split(".")[2]
        known = FIGURES.get(id)
        name = (function.__module__, function.__qualname__)
        if known and (known.function.__module__, known.function.__qualname__) != name:
            raise ValueError(f"two figures are called '{id}'")
        before = [spec for spec in FIGURES.values() if spec.chapter == own and spec.id != id]
        order = known.order if known else len(before) + 1
        FIGURES[id] = Spec(id, title, own, order, function)
        return function

    return register


def spec(figure_id: str) -> Spec:
    """The registered figure, or PrunelibError with the nearest id."""
    try:
        return FIGURES[figure_id]
    except KeyError:
        raise PrunelibError(f"unknown figure '{figure_id}'{nearest(figure_id, FIGURES)}") from None


@dataclass(frozen=True)
class Card:
    """A drawn figure: what its page, its citation and a notebook need to show it."""

    id: str
    number: str
    title: str
    notebook: str
    caption: str
    alt: str
    size: tuple[float, float]  # width and height in inches
    column_size: tuple[float, float]  # the same of the drawing for one column
    readings: list[dict]  # values of its curves and where they lie, see report/readings.py
    column_readings: list[dict]
    provenance: dict
    folder: Path

    def file(self, suffix: str) -> Path:
        """The path of one of its files, ``suffix`` from :data:`SUFFIXES`."""
        return self.folder / f"{self.id}{suffix}"

    def _repr_png_(self) -> bytes:
        return self.file(".png").read_bytes()

    def __repr__(self) -> str:
        return f"Figure {self.number} ({self.id}): {self.title}"


def draw(figure_id: str, data: pd.DataFrame, folder: Path, record: dict) -> Card:
    """Draw a figure from tidy ``data`` and write its files (:data:`SUFFIXES`) into ``folder``.

    ``record`` (JSON-serialisable: notebook, model, profile, seed, code) is
    embedded with the figure's id, number, title and the SHA-256 of its CSV;
    :func:`read_provenance` gives it back. Raises PrunelibError on an unknown id
    or an unwritable folder.
    """
    chosen = spec(figure_id)
    folder = Path(folder)
    csv = folder / f"{figure_id}.csv"
    with writing(csv) as temporary:
        data.to_csv(temporary, index=False, lineterminator="\n")
    data = read_csv(csv)
    number = chosen.number(record["notebook"])
    own = {"figure": figure_id, "number": number, "title": chosen.title}
    own |= {"data_sha256": sha256(csv), "release": cite.release()["version"]}
    record = json.loads(json.dumps(record | own, sort_keys=True))

    wide, narrow = (_draw(chosen, data, form, folder, record) for form in (False, True))
    card = Card(
        figure_id,
        number,
        chosen.title,
        record["notebook"],
        caption=" ".join(wide.caption.split()),
        alt=" ".join(wide.alt.split()),
        size=_size(wide.fig),
        column_size=_size(narrow.fig),
        readings=readings.of(wide.fig),
        column_readings=readings.of(narrow.fig),
        provenance=record,
        folder=folder,
    )
    with writing(card.file(".bib")) as temporary:
        temporary.write_text(bibtex(card))
    fields = {name: value for name, value in asdict(card).items() if name != "folder"}
    write_json(card.file(".json"), fields)
    return card


def _draw(chosen: Spec, data, column: bool, folder: Path, record: dict) -> Drawn:
    """Draw and save one form of a figure, light and dark; returns the light one."""
    files = COLUMN if column else PAGE
    _save(chosen, data, style.dark(column), folder, record, files[True])
    return _save(chosen, data, style.light(column), folder, record, files[False])


def _save(chosen: Spec, data, look: style.Style, folder: Path, record: dict, suffixes) -> Drawn:
    with style.applied(look, salt=chosen.id):
        drawn = chosen.function(data.copy(), look)
        panels.finish(drawn.fig)
        # Lay out once: each format would do it again, for the same result.
        drawn.fig.draw_without_rendering()
        # Its own "none" leaves a placeholder, for which every savefig would draw all once more: a quarter of the time.
        drawn.fig._layout_engine = None
        for suffix in suffixes:
            kind = suffix.rsplit(".", 1)[1]
            about = provenance.metadata(kind, chosen.title, record)
            with writing(folder / f"{chosen.id}{suffix}") as temporary:
                drawn.fig.savefig(temporary, format=kind, metadata=about)
                if kind == "svg":
                    temporary.write_text(_lighter(temporary.read_text(encoding="utf-8")), encoding="utf-8")
    return drawn


_PLACES = re.compile(r' (?:d|x|y)="[^"]*"')
_FINER = re.compile(r"(\.\d\d)\d+")


def _lighter(svg: str) -> str:
    """A drawing with its places to a hundredth of a point and without indentation: a fifth of its bytes less."""
    svg = _PLACES.sub(lambda found: _FINER.sub(r"\1", found[0]), svg)
    return re.sub(r"\n +(?=<)", "\n", svg)


def _size(fig: Figure) -> tuple[float, float]:
    return tuple(round(float(inches), 3) for inches in fig.get_size_inches())


def load_card(folder: Path, figure_id: str) -> Card:
    """The card of a figure drawn before, or PrunelibError with the nearest id in ``folder``."""
    folder = Path(folder)
    file = folder / f"{figure_id}.json"
    if not file.is_file():
        drawn = [found.stem for found in folder.glob("*.json")] if is_plain(figure_id) else []
        raise PrunelibError(f"no figure '{figure_id}' in {folder}{nearest(figure_id, drawn)}")
    fields = schema.read(file, "card")
    sizes = {name: tuple(fields[name]) for name in ("size", "column_size")}
    return Card(**fields | sizes | {"folder": folder})


def bibtex(card: Card) -> str:
    """BibTeX ``@misc`` entry that cites this figure of this run."""
    return cite.figure_entry(card.id, card.number, card.title, card.provenance, card.file(".csv"))
