"""One folder a notebook: what it measures, what it draws, what its page records, what all that takes.

``measure.py`` computes tables (and is all of a chapter that enters their keys), ``figures.py`` draws
them, ``page.py`` says what they show, ``work.py`` counts the work for an estimate. No chapter
imports another; what several share is in :mod:`prunelib.runs.zoo`, :mod:`prunelib.measure` or :mod:`prunelib.report`.
"""

from importlib import import_module
from pathlib import Path

__all__ = ["load_figures", "names", "start"]


def names() -> list[str]:
    """Folders of the chapters."""
    return sorted(file.parent.name for file in Path(__file__).parent.glob("*/measure.py"))


def load_figures(*chapters: str) -> dict:
    """The registry of figures, with those of these chapters (of all, if none is named)."""
    from prunelib.report.figures import FIGURES

    for chapter in chapters or names():
        import_module(f"prunelib.chapters.{chapter.replace('-', '_')}.figures")
    return FIGURES


def __getattr__(name: str):
    if name == "start":  # needs pandas and matplotlib, which the names of chapters do not
        return import_module("prunelib.chapters.chapter").start
    raise AttributeError(f"module 'prunelib.chapters' has no attribute {name!r}")
