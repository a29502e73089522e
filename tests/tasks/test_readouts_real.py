"""Read-outs of the default model: batches, their order and shared beginnings change no score."""

import random

import pandas as pd
import pytest

from prunelib.tasks import readouts
from prunelib.tasks.items import load_items

pytestmark = pytest.mark.real_model
ITEMS = 12  # four passages: several share a batch, and batches of 5 cut through them
NATS = 1e-4  # a token; float32 rounding of thirty blocks
SCORES = ["choice", "choice_raw", "choice_letter", "forced", "generation", "generation_contains", "generation_f1"]


@pytest.fixture(scope="session")
def items():
    return load_items()[:ITEMS]


@pytest.fixture(scope="session")
def plain(default_lm, items):
    """One item at a time, nothing shared."""
    return readouts.answers(default_lm, items, readouts.demonstration(), batch_size=1, share=False)


@pytest.mark.parametrize(("batch_size", "share", "shuffled"), [(5, False, False), (32, True, False), (5, True, True)])
def test_batches_order_and_sharing_change_no_score(default_lm, items, plain, batch_size, share, shuffled):
    order = list(range(ITEMS))
    if shuffled:
        random.Random(0).shuffle(order)
    asked = [items[i] for i in order]
    found = readouts.answers(default_lm, asked, readouts.demonstration(), batch_size=batch_size, share=share)
    found = found.set_index("item_id").loc[plain["item_id"]].reset_index()
    pd.testing.assert_frame_equal(found[SCORES], plain[SCORES])
    assert (found["answer_nll"] - plain["answer_nll"]).abs().max() < NATS
    assert (found["chosen"] == plain["chosen"]).all()
    assert (found["text"] == plain["text"]).mean() >= 0.99
