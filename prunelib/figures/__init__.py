"""Figures: tidy table in, files and a card out. Needs neither torch nor a model.

>>> card = draw("fig-layerwise-attn", data, folder, provenance)   # doctest: +SKIP
"""

import importlib
import importlib.util

from prunelib.figures.core import (
    FIGURES,
    SUFFIXES,
    Card,
    Drawn,
    Spec,
    bibtex,
    draw,
    figure,
    load_card,
    spec,
)
from prunelib.figures.drawings import check as check_drawing
from prunelib.figures.provenance import read_provenance
from prunelib.figures.style import Style

# Importing a module registers its figures; this order numbers those of one notebook.
_MODULES = ("theorems", "head", "layerwise", "middle", "methods", "tasks", "retrieval")
for _name in _MODULES:
    if importlib.util.find_spec(f"{__name__}.{_name}"):
        importlib.import_module(f"{__name__}.{_name}")

__all__ = [
    "FIGURES",
    "SUFFIXES",
    "Card",
    "Drawn",
    "Spec",
    "Style",
    "bibtex",
    "check_drawing",
    "draw",
    "figure",
    "load_card",
    "read_provenance",
    "spec",
]
