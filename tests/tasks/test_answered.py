"""Text that repairs learn from: the model's own answers, after passages that no item is about."""

import pytest
import torch
from tiny_files import tokenizer

from prunelib.engine.decode import generate
from prunelib.errors import PrunelibError
from prunelib.models.lm import LM
from prunelib.runs.profiles import PROFILES
from prunelib.tasks import answered, readouts
from prunelib.tasks.items import load_items


@pytest.fixture(scope="module")
def lm(make_model):
    return LM.from_model(make_model("llama", max_position_embeddings=1024), tokenizer())


def test_no_profile_asks_an_item_of_what_is_learned_from():
    assert max(profile.passages for profile in PROFILES.values()) <= answered.ASKED
    assert len({item.passage_id for item in load_items()}) > answered.ASKED + 20


def test_rows_are_passages_with_questions_and_the_models_own_answers(lm):
    rows = answered.answered(lm, 3, 120, seed=4)
    assert rows.shape == (3, 120) and rows.dtype == torch.int64
    asked = {item.passage_id for item in load_items(limit=answered.ASKED)}
    shown, found = readouts.demonstration(4), []
    passages: dict = {}
    for item in load_items(seed=4):
        if item.passage_id not in asked:
            passages.setdefault(item.passage_id, []).append(item)
    for items in passages.values():
        prompts = [lm.encode_one(readouts.prompt(item, shown), chat=False) for item in items]
        made = generate(lm, prompts, readouts.NEW_TOKENS, stop=readouts.STOP)
        text = readouts.prompt(items[0], shown) + " " + made[0].text.strip()
        for item, one in zip(items[1:], made[1:], strict=True):
            text += f"\n\nQuestion: {item.question}\nAnswer: {one.text.strip()}"
        found.append(tuple(lm.encode_one(text, chat=False)[-120:]))
    assert all(tuple(row) in found for row in rows.tolist()) and len({tuple(row) for row in rows.tolist()}) == 3


def test_a_seed_draws_the_passages(lm):
    one, again, other = (answered.answered(lm, 4, 60, seed) for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_as_calibration_text(lm, make_model):
    tokens = answered.calibration(lm, "answers", 2, 50, 0)
    assert tokens.source == "answers" and torch.equal(tokens.ids, answered.answered(lm, 2, 50, 0))
    assert answered.calibration(lm, "self", 2, 10, 0).source == "self"
    for n, length, line in ((400, 50, "answers gives 28 sequences of 50 tokens, not 400"), (0, 50, "n ≥ 1"),
                            (2, 900, "answers gives 0 sequences of 900 tokens")):  # fmt: skip
        with pytest.raises(PrunelibError, match=line):
            answered.calibration(lm, "answers", n, length, 0)
    mute = LM.from_model(make_model("llama"))
    assert answered.answered(mute, 4, 60).shape == (0, 60)
