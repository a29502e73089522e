"""Tables as pages show them: no index of row numbers, plain names, few digits, nothing that is not a number."""

import html
import math
import re

import pandas as pd

HEADS = {
    "lo": "95 % from",
    "hi": "to",
    "exact_over_estimate": "exact / estimate",
    "kl_dense_pruned": "KL(dense ‖ pruned)",
    "kl_pruned_dense": "KL(pruned ‖ dense)",
    "cos_p": "1 − cos p",
    "kept": "share kept",
}
"""Names of columns, and of entries that are names, where they are not words already; others lose their underscores."""

DIGITS = 3


def shown(frame: pd.DataFrame) -> str:
    """A table as HTML: a named index is the first column, another one is left out.

    Numbers have three significant digits, whole ones all of theirs; what is not finite reads "not defined".
    """
    frame = frame.reset_index() if frame.index.name else frame
    head = "".join(f'<th scope="col">{html.escape(_name(column))}</th>' for column in frame.columns)
    rows = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in frame.itertuples(index=False, name=None))
    return f'<table class="dataframe"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'


def _name(name) -> str:
    return HEADS.get(name, str(name).replace("_", " "))


def _cell(value) -> str:
    return f"<td>{html.escape(_text(value))}</td>"


def _text(value) -> str:
    if value is None:
        return "not defined"
    if isinstance(value, str):
        return HEADS.get(value, value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if not math.isfinite(value):
        return "not defined"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}".replace("-", "−")
    text = f"{value:.{DIGITS}g}"
    if "e+" in text and abs(value) < 1e7:
        text = f"{value:,.0f}"
    return re.sub(r"e\+?(-?)0*", r"e\1", text).replace("-", "−")


def show_frames_so() -> None:
    """From here on, tables of this notebook are shown as :func:`shown` gives them."""
    try:
        from IPython import get_ipython
    except ImportError:
        return
    if shell := get_ipython():
        shell.display_formatter.formatters["text/html"].for_type(pd.DataFrame, shown)
