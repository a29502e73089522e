"""Tables as pages show them."""

import math
import re

import pandas as pd
import pytest

from prunelib.report import tables


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.68412, "0.684"),
        (-2.5, "−2.5"),
        (12345, "12,345"),
        (12345.6, "12,346"),
        (123456789.5, "1.23e8"),
        (1.754e20, "1.75e20"),
        (5.67e-18, "5.67e−18"),
        (math.nan, "not defined"),
        (math.inf, "not defined"),
        (None, "not defined"),
        ("cos_p", "1 − cos p"),
        ("<b>", "&lt;b&gt;"),
    ],
)
def test_a_cell_has_few_digits_and_is_a_number_or_says_that_it_is_none(value, text):
    assert re.findall("<td>(.*?)</td>", tables.shown(pd.DataFrame({"a": [value]}, dtype=object))) == [text]


def test_a_named_index_is_a_column_and_rows_have_no_numbers():
    frame = pd.DataFrame({"exact_over_estimate": [1.0], "of_what": ["a"]})
    assert re.findall("<th [^>]*>(.*?)</th>", tables.shown(frame)) == ["exact / estimate", "of what"]
    named = frame.set_index(pd.Index(["x"], name="case"))
    assert re.findall("<t(?:h |d)[^>]*>(.*?)</t", tables.shown(named))[::3] == ["case", "x"]
