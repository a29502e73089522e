"""The default model rewritten as other families: chapters 5 and 8 give the same tables, orders and texts included."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from rewritten import CLOSE, EXACT, rewritten

pytestmark = pytest.mark.real_model
ALWAYS = ("phi3", "mixtral-4")
"""One of the same arithmetic with other matrices, and one whose MLP is another module."""
TIMES = ("seconds", "tokens_per_second")


def tables(lm, kind: str, folder) -> dict[str, pd.DataFrame]:
    """All tables of a run of both chapters on the model in another family."""
    model = lm.model if kind == "llama" else rewritten(lm.model, kind)
    model.save_pretrained(folder / kind)
    lm.tokenizer.save_pretrained(folder / kind)
    command = [sys.executable, "-m", "prunelib.cli", "run", "05", "08", "--model", kind, "--profile", "smoke",
               "--device", "cpu", "--out", f"run-{kind}"]  # fmt: skip
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900, env=os.environ)
    assert done.returncode == 0, done.stderr
    files = sorted((folder / f"run-{kind}" / "tables").glob("*.parquet"))
    return {file.name: pd.read_parquet(file).drop(columns=list(TIMES), errors="ignore") for file in files}


@pytest.fixture(scope="session")
def original(default_lm, tmp_path_factory):
    found = tables(default_lm, "llama", tmp_path_factory.mktemp("llama"))
    assert len(found) > 5
    return found


@pytest.mark.parametrize(
    "kind", [*ALWAYS, *(pytest.param(one, marks=pytest.mark.slow) for one in EXACT + CLOSE if one not in ALWAYS)]
)
def test_the_same_function_gives_the_same_tables(default_lm, original, kind, tmp_path):
    found = tables(default_lm, kind, tmp_path)
    assert found.keys() == original.keys()
    for name, table in found.items():
        if kind in EXACT:
            pd.testing.assert_frame_equal(table, original[name], check_exact=True, obj=f"{kind} {name}")
        else:
            agree(table, original[name], f"{kind} {name}")


def agree(table: pd.DataFrame, other: pd.DataFrame, what: str) -> None:
    """Words are the same; numbers differ by float32 rounding of thirty blocks, as logits do by 1e-4."""
    assert list(table) == list(other) and len(table) == len(other), what
    for column in table:
        one, two = table[column], other[column]
        if one.dtype.kind == "f":
            np.testing.assert_allclose(one, two, rtol=5e-3, atol=1e-4, err_msg=f"{what} {column}")
        else:
            assert one.equals(two), f"{what} {column}"
