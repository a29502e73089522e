"""The claims as data, the decision rule, and the ledger."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunelib import claims
from prunelib.errors import PrunelibError
from prunelib.paths import notebooks_dir

AT_LEAST = claims.Claim("X1", "A claim.", "here", "a number", ">=", 0.9)
BELOW = claims.Claim("X2", "A claim.", "here", "a number", "<", 1.0)
FINITE = st.floats(-1e6, 1e6)


def test_there_are_sixteen_claims_in_order():
    assert list(claims.CLAIMS) == [f"C{i}" for i in range(1, 17)]
    assert all(claim.id == key for key, claim in claims.CLAIMS.items())


@pytest.mark.parametrize("claim", claims.CLAIMS.values(), ids=lambda c: c.id)
def test_a_claim_says_what_decides_it(claim):
    assert claim.statement.endswith(".") and claim.statement[0].isupper()
    assert claim.source and claim.measure and not claim.measure.endswith(".")
    assert claim.rule.startswith("the number is ") and f"{claim.threshold:g}" in claim.rule


def test_claims_with_a_notebook_have_one_that_is_there():
    notebooks = {i: claim.notebook for i, claim in claims.CLAIMS.items() if claim.notebook}
    assert list(notebooks) == [*(f"C{i}" for i in range(1, 11)), "C16"]
    there = {file.stem for file in notebooks_dir().glob("*.ipynb")}
    assert set(notebooks.values()) <= there


@pytest.mark.parametrize(
    "claim, value, lo, hi, verdict",
    [
        (AT_LEAST, 0.95, 0.92, 0.97, "supported"),
        (AT_LEAST, 0.95, 0.90, 0.97, "supported"),  # the threshold itself satisfies ≥
        (AT_LEAST, 0.95, 0.89, 0.97, "undecided"),
        (AT_LEAST, 0.85, 0.80, 0.90, "undecided"),
        (AT_LEAST, 0.80, 0.70, 0.89, "not supported"),
        (AT_LEAST, 0.90, None, None, "supported"),
        (AT_LEAST, 0.89, None, None, "not supported"),
        (BELOW, 0.5, 0.4, 0.9, "supported"),
        (BELOW, 0.9, 0.8, 1.0, "undecided"),  # the threshold itself fails <
        (BELOW, 1.0, None, None, "not supported"),
        (BELOW, 1.2, 1.0, 1.3, "not supported"),
        (BELOW, math.nan, 0.4, 0.9, "undecided"),
        (BELOW, 0.5, 0.4, math.inf, "undecided"),
        (BELOW, math.nan, None, None, "undecided"),
    ],
)
def test_the_interval_decides(claim, value, lo, hi, verdict):
    assert claims.judge(claim, value, lo, hi) == verdict


@given(FINITE, FINITE, FINITE)
def test_a_narrower_interval_never_turns_a_verdict_round(a, b, c):
    lo, value, hi = sorted([a, b, c])
    wide = claims.judge(AT_LEAST, value, lo, hi)
    narrow = claims.judge(AT_LEAST, value, value, value)
    assert wide in ("undecided", narrow)


def test_half_an_interval_or_an_upside_down_one_is_a_bug():
    with pytest.raises(ValueError, match="both ends"):
        claims.judge(AT_LEAST, 0.95, 0.9)
    with pytest.raises(ValueError, match="upside down"):
        claims.judge(AT_LEAST, 0.95, 0.97, 0.9)


def test_an_empty_run_has_measured_nothing():
    rows = claims.ledger({})
    assert [row["id"] for row in rows] == list(claims.CLAIMS)
    for row in rows:
        assert row["status"] == "not yet"
        assert {row[key] for key in ("value", "lo", "hi", "exact", "verdict")} == {None}


def test_a_measured_claim_carries_its_number_verdict_and_notebook():
    entry = {"value": 0.97, "lo": 0.95, "hi": 0.98, "exact": False, "notebook": "my-notebook"}
    row = claims.ledger({"claims": {"C1": entry}})[0]
    assert (row["value"], row["lo"], row["hi"]) == (0.97, 0.95, 0.98)
    assert row["verdict"] == "supported" and row["status"] == "measured in this book"
    assert row["notebook"] == "my-notebook"


def test_the_ledger_judges_again():
    entry = {"value": 3.0, "lo": 2.5, "hi": 3.5, "exact": False, "verdict": "supported"}
    assert claims.ledger({"claims": {"C1": entry}})[0]["verdict"] == "not supported"


def test_an_exact_number_needs_no_interval_and_an_estimate_does():
    exact = claims.ledger({"claims": {"C1": {"value": 0.95, "exact": True}}})[0]
    assert exact["verdict"] == "supported" and exact["lo"] is None
    loose = claims.ledger({"claims": {"C1": {"value": 0.95, "exact": False}}})[0]
    assert loose["verdict"] == "undecided"


def test_the_ledger_is_strict_json_whatever_was_stored():
    entry = {"value": None, "lo": math.nan, "hi": math.inf, "exact": False}
    rows = claims.ledger({"claims": {"C5": entry}})
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert rows[4]["verdict"] == "undecided"


def test_an_unknown_claim_is_named():
    with pytest.raises(PrunelibError, match="unknown claim 'C17'"):
        claims.ledger({"claims": {"C17": {"value": 1.0, "exact": True}}})
