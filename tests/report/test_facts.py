"""Numbers as the book prints them."""

import pytest

from prunelib.errors import PrunelibError
from prunelib.report.facts import lookup, number, show

ESTIMATE = {"value": 2.314, "lo": 2.1, "hi": 2.52, "exact": False, "fmt": ".3g"}
MANIFEST = {
    "values": {"a.ratio": ESTIMATE},
    "model": {"name": "m", "vocab_size": 49152},
    "claims": {"C1": {"value": 0.5, "lo": 0.4, "hi": 0.6, "verdict": "undecided"}},
    "seed": 12345,
}


def test_an_estimate_without_an_interval_is_not_taken_for_exact():
    one = {"value": 0.5, "lo": None, "hi": None, "exact": False, "fmt": ".2f"}
    assert show(one) == "0.50 (interval not defined)" and show(one, "plain") == "0.50"
    assert show(one | {"value": None}) == "not defined" and show(one | {"exact": True}) == "0.50"


def test_lookup_finds_values_fields_and_claims():
    assert lookup(MANIFEST, "a.ratio") is ESTIMATE
    assert lookup(MANIFEST, "model.name") == "m"
    assert lookup(MANIFEST, "claims.C1.verdict") == "undecided"
    assert show(lookup(MANIFEST, "claims.C1")) == "0.500 (0.400–0.600)"
    assert show(lookup(MANIFEST, "model.vocab_size")) == "49,152"
    assert show(lookup(MANIFEST, "seed")) == "12345"


@pytest.mark.parametrize(
    ("key", "message"),
    [("a.ratoi", "did you mean 'a.ratio'"), ("model.nme", "did you mean 'model.name'"), ("model", "is a group")],
)
def test_lookup_refuses(key, message):
    with pytest.raises(PrunelibError, match=message):
        lookup(MANIFEST, key)


@pytest.mark.parametrize(("form", "text"), [("", "2.31 (2.10–2.52)"), ("plain", "2.31"), ("interval", "2.10–2.52")])
def test_forms(form, text):
    assert show(ESTIMATE, form) == text


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"value": 1200, "exact": True, "fmt": ",d"}, "1,200"),
        ({"value": 30.0, "exact": True, "fmt": "d"}, "30"),
        ({"value": 0.213, "lo": 0.2, "hi": 0.23, "fmt": ".1%"}, "21.3% (20.0–23.0%)"),
        ({"value": 0.1, "lo": -0.2, "hi": 0.4, "fmt": ".2f"}, "0.10 (−0.20 to 0.40)"),
        ({"value": 1.5e-7, "lo": 1e-7, "hi": 2e-7, "fmt": ".2g"}, "1.5 × 10⁻⁷ (1.0 × 10⁻⁷ to 2.0 × 10⁻⁷)"),
        ({"value": None, "lo": None, "hi": None, "fmt": ".2g"}, "not defined"),
        ({"value": 2.0, "exact": True, "fmt": "g"}, "2"),
        (None, "not stated"),
        ("llama", "llama"),
        (True, "yes"),
    ],
)
def test_show(entry, text):
    assert show(entry) == text


def test_show_refuses():
    with pytest.raises(PrunelibError, match="did you mean 'plain'"):
        show(ESTIMATE, "plian")
    with pytest.raises(PrunelibError, match="no interval"):
        show({"value": 1, "exact": True}, "interval")
    with pytest.raises(PrunelibError, match="cannot write"):
        show({"value": 0.5, "exact": True, "fmt": "d"})


@pytest.mark.parametrize(
    ("value", "text"),
    [(100.0, "100"), (1234.5, "1,230"), (123456.0, "123,000"), (3e7, "3.00 × 10⁷"), (-0.5, "−0.500"),
     (0.0, "0.00"), (float("nan"), "not defined"), (float("inf"), "not defined")],
)  # fmt: skip
def test_number(value, text):
    assert number(value, "#.3g") == text
