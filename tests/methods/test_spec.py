"""Specification strings: parse, print, round-trip, refuse."""

import subprocess
import sys

import pytest

from prunelib.errors import PrunelibError
from prunelib.methods import parse

LABELS = {
    "dense": "dense",
    "magnitude:0.5": "Magnitude 50%",
    "wanda:0.5": "Wanda 50%",
    "wanda:2:4": "Wanda 2:4",
    "sparsegpt:4:8": "SparseGPT 4:8",
    "sparsegpt:0.625": "SparseGPT 62.5%",
    "rtn:4:g64": "RTN-4 g64",
    "rtn:8": "RTN-8",
    "gptq:4:g64": "GPTQ-4 g64",
    "gptq:3:g128:act": "GPTQ-3 g128 act",
    "awq:4:g64:sym": "AWQ-4 g64 sym",
    "drop:attn:8": "Drop-8A",
    "drop:mlp:8": "Drop-8M",
    "drop:block:8": "Drop-8B",
    "drop:joint:8": "Drop-8AM",
    "drop:attn:8:iter": "Drop-8A iter",
    "drop:joint:8:iter": "Drop-8AM iter",
    "drop:angular:8": "Drop-8B angular",
    "drop:kl:attn+mlp:8": "Drop-8AM kl",
    "drop:kl:mlp:4:once": "Drop-4M kl once",
    "drop:varp:attn:8": "Drop-8A varp",
    "drop:tv:block:2": "Drop-2B tv",
    "drop:random:mlp:4": "Drop-4M random",
    "drop:random:attn+mlp:4:seed12": "Drop-4AM random 12",
    "sites:attn:3+mlp:7": "Drop attn:3, mlp:7",
}


@pytest.mark.parametrize(("spec", "label"), LABELS.items())
def test_round_trip(spec, label):
    method = parse(spec)
    assert method.spec == spec and method.label == label and parse(method.spec) == method
    assert isinstance(method.needs, frozenset)


@pytest.mark.parametrize(
    ("spec", "canonical"), [("wanda:0.50", "wanda:0.5"), ("rtn:4:sym:g64", "rtn:4:g64:sym"), (" dense ", "dense"),
                            ("drop:kl:mlp + attn:8", "drop:kl:attn+mlp:8"),
                            ("drop:random:mlp:4:seed0", "drop:random:mlp:4"),
                            ("gptq:4:act:g64", "gptq:4:g64:act"), ("sites:attn:3 + attn:7", "sites:attn:3+attn:7")]
)  # fmt: skip
def test_other_spellings_have_one_canonical_form(spec, canonical):
    assert parse(spec).spec == canonical


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("wandaa:0.5", "did you mean 'wanda'"),
        ("", "unknown method ''"),
        ("wanda", "wanda needs a setting, such as wanda:0.5"),
        ("gptq", "such as gptq:4:g64"),
        ("dense:1", "dense takes no setting"),
        ("wanda:1.0", "sparsity must be at least 0 and below 1"),
        ("wanda:5:4", "5:4 keeps 5 of every 4"),
        ("rtn:0:g64", "bits must be 2 to 8, got 0"),
        ("rtn:four", "rtn is written as rtn:4:g64"),
        ("rtn:4:g0", "a group must hold at least 1"),
        ("rtn:4:64", "unknown option '64' of rtn"),
        ("awq:4:act", "unknown option 'act' of awq"),
        ("rtn:4:g32:g64", "an option is given twice in 'rtn:4:g32:g64'"),
        ("gptq:4:sym:sym", "an option is given twice"),
        ("gptq:4:atc", "did you mean 'act'"),
        ("sparsgpt:2:4", "did you mean 'sparsegpt'"),
        ("wanda:-0.1", "sparsity must be at least 0"),
        ("wanda:nan", "sparsity must be at least 0"),
        ("wanda:half", "written as 0.5 or 2:4"),
        ("wanda:2:4:8", "written as 0.5 or 2:4"),
        ("drop:attn:8:itre", "did you mean 'iter'"),
        ("drop:attn:-1", "written as drop:attn:8"),
        ("drop:angular:8:iter", "no iterative form"),
        ("sites:attn:3+attn:3", "dropped twice"),
        ("drop:atn:8", "did you mean 'attn'"),
        ("drop:attn", "written as drop:attn:8"),
        ("drop:kl:attn+mlp", "written as drop:kl:attn[+]mlp:8, not 'drop:kl:attn[+]mlp'"),
        ("drop:kll:mlp:4", "written as drop:attn:8"),
        ("drop:kl:mpl:4", "did you mean 'mlp'"),
        ("drop:kl:joint:4", "written as drop:kl:attn[+]mlp:4"),
        ("drop:kl:attn+attn:4", "unknown kind 'attn[+]attn'"),
        ("drop:kl:angular:4", "angular is a criterion itself"),
        ("drop:kl:mlp:4:iter", "the only one is once"),
        ("drop:random:mlp:4:once", "the only one is seedN"),
        ("drop:random:mlp:4:seed-1", "the only one is seedN"),
        ("drop:cosine:mlp:4", "unknown kind 'cosine'|written as drop:attn:8"),
        ("drop:attn:2+mlp:1", "unknown method 'mlp'"),
        ("sites:", "sites needs a setting, such as sites:attn:3"),
        ("sites:attn:x", "written as attn:12"),
        ("sites:attn:3,attn:7", "sites are joined by [+], as in sites:attn:3.mlp:7"),
    ],
)
def test_refusals_say_what_would_be_right(spec, problem):
    with pytest.raises(PrunelibError, match=problem) as caught:
        parse(spec)
    assert "\n" not in str(caught.value)


def test_parsing_needs_no_torch():
    code = "import sys; from prunelib.methods import parse; parse('gptq:4:g64'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
