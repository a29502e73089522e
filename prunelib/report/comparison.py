"""The statistics of two models as a table of plain text."""

from prunelib.measure.token_summary import TITLES
from prunelib.report.facts import show
from prunelib.runs.pair import Comparison

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
