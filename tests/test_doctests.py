"""The examples in docstrings, which the book shows, say what is so."""

import doctest
from importlib import import_module

import pytest

from prunelib.paths import project_root

ROOT = project_root() / "prunelib"
MODULES = [
    ".".join(["prunelib", *file.relative_to(ROOT).with_suffix("").parts])
    for file in sorted(ROOT.rglob("*.py"))
    if ">>> " in file.read_text()
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    found = doctest.testmod(import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted and not found.failed


def test_every_public_function_has_an_example():
    """All that the book's page on the library documents, but what needs a model to be fetched."""
    assert {"prunelib.methods.apply", "prunelib.methods.base", "prunelib.measure.theory", "prunelib.measure.trace"} <= {
        *MODULES
    }
