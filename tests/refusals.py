"""A mistake of the user's must end in one clear line."""

import contextlib

import pytest

from prunelib.errors import PrunelibError


@contextlib.contextmanager
def refused(*words: str):
    """The block raises one clear line that holds all ``words``."""
    with pytest.raises(PrunelibError) as caught:
        yield
    line = str(caught.value)
    assert "\n" not in line and len(line) < 500
    for word in words:
        assert word in line, f"{word!r} not in {line!r}"
