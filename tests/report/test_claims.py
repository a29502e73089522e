"""The claims as data, the decision rule, and the ledger."""

import json
import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunelib.chapters.chapter import Chapter
from prunelib.errors import PrunelibError
from prunelib.paths import notebooks_dir
from prunelib.report import claims

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
    if not claim.parts:
        assert claim.rule.startswith("the number is ") and f"{claim.threshold:g}" in claim.rule
    for part in claim.parts:
        assert part.measure and not part.measure.endswith(".") and f"{part.name} is " in claim.rule
        assert part.rule.startswith("the number is ") and f"{part.threshold:g}" in claim.rule


def test_claims_with_a_chapter_have_a_notebook_that_is_there():
    notebooks = {row["id"]: row["notebook"] for row in claims.ledger({}) if row["notebook"]}
    assert list(notebooks) == [f"C{i}" for i in range(1, 17)]
    assert list(notebooks) == [i for i, claim in claims.CLAIMS.items() if claim.chapter]
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


PARTS = (claims.Part("kept", "a number", ">=", 0.5), claims.Part("left", "another", "<=", 0.5))
BOTH = claims.Claim("X3", "A claim.", "here", "on the same items", parts=PARTS)


@pytest.mark.parametrize(
    "kept, left, verdict",
    [
        ((0.8, 0.6, 0.9), (0.2, 0.1, 0.4), "supported"),
        ((0.8, 0.4, 0.9), (0.2, 0.1, 0.4), "undecided"),
        ((0.8, 0.6, 0.9), (0.2, 0.1, 0.6), "undecided"),
        ((0.0, -0.2, 0.2), (0.0, 0.0, 0.1), "not supported"),  # a dead model keeps nothing of either
        ((1.0, 0.9, 1.1), (1.0, 0.9, 1.1), "not supported"),  # an unhurt one keeps both
        ((math.nan,) * 3, (0.2, 0.1, 0.4), "undecided"),
        ((math.nan,) * 3, (0.9, 0.8, 1.0), "not supported"),
    ],
)
def test_a_claim_of_two_parts_needs_both(kept, left, verdict):
    parts = [claims.judge(part, *found) for part, found in zip(BOTH.parts, (kept, left), strict=True)]
    assert claims.whole(parts) == verdict
    with pytest.raises(ValueError, match="judge each"):
        claims.judge(BOTH, 0.5)


@given(st.lists(st.floats(0, 1), min_size=1))
def test_models_that_lose_both_alike_never_support_c8(shares):
    """Unhurt and dead plans in any mixture: the mean of both parts is the same number."""
    mean = sum(shares) / len(shares)
    spread = 1e-9
    parts = [claims.judge(part, mean, mean - spread, mean + spread) for part in claims.CLAIMS["C8"].parts]
    assert claims.whole(parts) != "supported"


def test_a_claim_has_one_number_or_parts():
    with pytest.raises(ValueError, match="X4"):
        claims.Claim("X4", "A claim.", "here", "a number")
    with pytest.raises(ValueError, match="X4"):
        claims.Claim("X4", "A claim.", "here", "a number", ">", 0.0, parts=PARTS)


def test_the_ledger_shows_both_parts():
    entry = {"parts": {"choice kept": {"value": 0.8, "lo": 0.6, "hi": 0.9, "exact": False},
                       "generation kept": {"value": 0.2, "lo": 0.1, "hi": 0.3, "exact": False}}}  # fmt: skip
    row = {row["id"]: row for row in claims.ledger({"claims": {"C8": entry}})}["C8"]
    assert row["verdict"] == "supported" and row["status"] == "measured in this book" and row["value"] is None
    assert [(part["value"], part["verdict"]) for part in row["parts"]] == [(0.8, "supported"), (0.2, "supported")]
    assert json.loads(json.dumps(row, allow_nan=False)) == row


def test_a_chapter_records_the_parts_by_name():
    part = {"claims": {}}
    record = SimpleNamespace(note=lambda field, key, entry: part[field].update({key: entry}))
    chapter = SimpleNamespace(record=record)
    numbers = {"choice kept": (0.8, 0.6, 0.9), "generation kept": (math.nan, math.nan, math.nan)}
    over = {"passages": 12, "items": 36}
    assert Chapter.claim(chapter, "C8", parts=numbers, over=over) == "undecided"
    row = {row["id"]: row for row in claims.ledger(part)}["C8"]
    assert [(p["name"], p["value"], p["verdict"]) for p in row["parts"]] == [
        ("choice kept", 0.8, "supported"), ("generation kept", None, "undecided")]  # fmt: skip
    with pytest.raises(KeyError, match="generation kept"):
        Chapter.claim(chapter, "C8", parts={"choice kept": (0.8, 0.6, 0.9)}, over=over)


def test_a_number_of_an_older_rule_decides_nothing():
    row = {row["id"]: row for row in claims.ledger({"claims": {"C8": {"value": 0.4, "lo": 0.3, "hi": 0.5}}})}["C8"]
    assert row["verdict"] == "undecided" and {part["value"] for part in row["parts"]} == {None}


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
        for found in (row, *row["parts"]):
            assert {found[key] for key in ("value", "lo", "hi", "exact", "verdict")} == {None}


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
