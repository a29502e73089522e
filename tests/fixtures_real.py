"""The real default model, for tests marked ``real_model`` (fetched once into the user's cache)."""

import pytest


@pytest.fixture(scope="session")
def default_lm():
    """``prunelib.load`` of the default model; shared by the session: leave it unchanged."""
    import prunelib

    return prunelib.load("smollm2-135m-instruct", device="cpu", dtype="float32")
