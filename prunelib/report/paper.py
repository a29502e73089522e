"""What the paper reports: its tables and digitised figure series, with caveats.

Source: He, Sun, Zhang, Fu, Li, *Demystifying When Pruning Works via Representation
Hierarchies* (ICML 2026, arXiv:2603.24652). The numbers live in
``data/paper/reported.json``; ``data/paper/README.md`` says how they were read and
what was left out. Reading them needs neither torch nor a model.

A figure draws the paper's curve with :func:`series` and prints :func:`caveats`
beside it.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

import pandas as pd

from prunelib.errors import PrunelibError, nearest
from prunelib.paths import data_dir


def path() -> Path:
    """The file that all functions here read."""
    return data_dir() / "paper" / "reported.json"


@cache
def _reported(file: Path) -> Mapping:
    try:
        return MappingProxyType(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise PrunelibError(f"cannot read the paper's numbers in {file}: {error}") from error


def _find(group: Mapping, name: str, what: str):
    if name not in group:
        raise PrunelibError(f"the paper has no {what} '{name}'{nearest(name, group)}")
    return group[name]


def _figure(figure: str) -> Mapping:
    return _find(_reported(path())["figures"], figure, "figure")


def figures() -> list[str]:
    """Ids of the digitised figures, such as ``fig:pruning_hierarchies_attn``."""
    return list(_reported(path())["figures"])


def tables() -> list[str]:
    """Ids of the copied tables, such as ``table:task_suite``."""
    return list(_reported(path())["tables"])


def series_names(figure: str) -> list[str]:
    """Names of the series in a figure, such as ``["embedding", "logit", "probability"]``."""
    return list(_figure(figure)["series"])


def axes(figure: str) -> tuple[str, str]:
    """What the figure's ``x`` and ``y`` are, with units."""
    found = _figure(figure)
    return found["x"], found["y"]


def series(figure: str, name: str) -> pd.DataFrame:
    """One digitised curve: columns ``x`` (int, strictly increasing) and ``y`` (float).

    Some steps are missing from some series and a few values carry a visible
    reading error: see :func:`caveats`. Raises :class:`PrunelibError` on an
    unknown figure or series name.
    """
    found = _find(_figure(figure)["series"], name, f"series in {figure} called")
    return pd.DataFrame({"x": found["x"], "y": found["y"]}).astype({"x": "int64", "y": "float64"})


def source(figure: str, name: str) -> tuple[str | None, int | None]:
    """Model of one series and its number of layers; None where the paper does not say."""
    found = _find(_figure(figure)["series"], name, f"series in {figure} called")
    return found["model"], found["layers"]


def kept_above_chance(figure: str, name: str) -> pd.DataFrame:
    """A drop curve as shares: ``x``, percent of the model's layers dropped, and ``kept``.

    ``kept`` is ``(score − chance) / (first score − chance)``; the first point stands for the
    dense model where 0 is missing. Chance is what guessing scores in the figure's task.
    """
    curve, guess = series(figure, name), _figure(figure)["chance"]
    layers = source(figure, name)[1]
    return pd.DataFrame({"x": 100 * curve["x"] / layers, "kept": (curve["y"] - guess) / (curve["y"].iloc[0] - guess)})


def table(name: str) -> pd.DataFrame:
    """One table of the paper, with the column names of ``reported.json``.

    Scores are percentages as printed; ``params_billion`` counts 1e9 parameters.
    """
    found = _find(_reported(path())["tables"], name, "table")
    return pd.DataFrame(found["rows"], columns=found["columns"])


def stat(name: str) -> dict[str, dict[str, float]]:
    """Numbers derived from a figure of the paper, by quantity.

    ``stat("theory_vs_measured")["kl"]["pearson"]`` is the correlation of estimate
    and measurement in the paper's own figure. Quantities there:
    ``one_minus_cosine`` (of p, no unit) and ``kl`` (nats).
    """
    found = _find(_reported(path())["stats"], name, "statistic")
    return {key: dict(value) for key, value in found.items() if isinstance(value, dict)}


def caveats(name: str) -> list[str]:
    """What a reader must know before using a figure, table or statistic."""
    groups = _reported(path())
    everything = {**groups["figures"], **groups["tables"], **groups["stats"]}
    return list(_find(everything, name, "figure, table or statistic")["caveats"])
