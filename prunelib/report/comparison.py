"""The statistics of two models as a table: of plain text for one pair, for the page for several."""

import math
from collections.abc import Sequence

import pandas as pd

from prunelib.measure.token_summary import TITLES, summarise
from prunelib.report.facts import show
from prunelib.runs.pair import Comparison
from prunelib.runs.run import Run
from prunelib.runs.zoo.one_step import one_step

_UNITS = {"1": "", "share": ""}


def table(found: Comparison) -> str:
    """A line a statistic: what it is, its value with its 95 % interval, its unit."""
    text = found.text
    counts = ", ".join(f"{text[one]} {one if text[one] > 1 else one[:-1]}" for one in ("texts", "pieces"))
    lines = [
        f"dense   {found.dense['name']}",
        f"pruned  {found.pruned['name']}",
        f"text    {text['source']}: {counts} of at most {text['window']} tokens",
        "",
    ]
    rows = [
        (TITLES[row["name"]], show(row | {"fmt": _format(row)}), _UNITS.get(row["unit"], row["unit"]))
        for row in found.rows()
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    lines += [f"{title:<{widths[0]}}  {value:<{widths[1]}}  {unit}".rstrip() for title, value, unit in rows]
    return "\n".join(lines)


def _format(row: dict) -> str:
    return ",.0f" if row["name"] in ("tokens", "clusters") else ".3g"


def against_dense(run: Run, specs: Sequence[str]) -> pd.DataFrame:
    """:func:`block` of some models of a run, on its held-out text."""
    return block(one_step(run, [spec for spec in specs if spec != "dense"]), run.seed)


def block(tokens: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """For the page, what :func:`table` says of one model in a column a model: a row a statistic, its unit last.

    ``tokens`` are rows of ``runs.zoo.one_step``; of a model compressed with several seeds the first counts.
    """
    columns: dict[str, list[str]] = {}
    for label, some in tokens[tokens["spec"] != "dense"].groupby("label", sort=False):
        found = summarise(some[some["seed"] == some["seed"].iloc[0]], seed)
        columns["statistic"] = [TITLES[name] for name in found["name"]]
        columns[label] = [_shown(row) for row in found.to_dict("records")]
        units = [_UNITS.get(unit, unit) for unit in found["unit"]]
    return pd.DataFrame(columns | {"unit": units} if columns else {"statistic": []})


def _shown(row: dict) -> str:
    ends = {end: row[end] if math.isfinite(row[end]) else None for end in ("value", "lo", "hi")}
    return show(row | ends | {"fmt": _format(row)})
