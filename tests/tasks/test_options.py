"""The answer position: shared reading equals each text read alone, and the two ways of asking are those of the book."""

import dataclasses
import random

import pytest
import tiny_files
import torch

from prunelib.errors import PrunelibError
from prunelib.models.lm import LM
from prunelib.tasks import options, readouts
from prunelib.tasks.items import LETTERS, Item
from prunelib.tasks.score import Request, loglikelihoods

CLOSE = 1e-4  # float32 rounding of a few hundred operations


@pytest.fixture(scope="module")
def lm(make_model):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_files, "WORDS", [*tiny_files.WORDS, *"ABCD"])  # it knows small letters only
        return LM.from_model(make_model("llama", max_position_embeddings=256), tiny_files.tokenizer())


@pytest.fixture(scope="module")
def items():
    draw = random.Random(0)

    def words(n):
        return " ".join(draw.choice("abcdefghij") for _ in range(n))

    made = []
    for n in range(5):
        texts = tuple(f"{words(1 + i)} {'klmn'[i]}" for i in range(4 - n % 2))
        made.append(Item(f"q{n}", f"p{n // 2}", f"passage {n // 2} " + words(4), words(4), texts[1], (), texts, ""))
    return made


@pytest.fixture(scope="module")
def shown(items):
    return [dataclasses.replace(items[0], id="shown", passage="x y z")]


@pytest.mark.parametrize("readout", options.READOUTS)
@pytest.mark.parametrize("share", [True, False])
def test_every_text_read_alone_says_the_same(lm, items, shown, readout, share, monkeypatch):
    if not share:
        monkeypatch.setattr(options, "can_share", lambda *_: False)
    questions = [options.asked(lm, item, shown, readout) for item in items]
    found = options.said(lm, items, questions)
    for i, question in enumerate(questions):
        with torch.no_grad():
            z = lm.model(input_ids=torch.tensor([question.context])).logits[0, -1]
        torch.testing.assert_close(lm.logits(found.states[i : i + 1])[0], z, atol=CLOSE, rtol=0)
        alone = loglikelihoods(lm, [Request(question.context, o) for o in question.options], 1, share=False)
        assert found.loglikelihoods[i] == pytest.approx(alone["logprob"].tolist(), abs=CLOSE)


def test_letters_and_texts_choose_as_the_read_outs_do(lm, items, shown):
    """The same options are chosen as in readouts.answers, which other chapters count."""
    plain = readouts.answers(lm, items, shown)
    for readout, column in (("letter", "choice_letter"), ("text", "choice_raw")):
        found = options.said(lm, items, [options.asked(lm, item, shown, readout) for item in items])
        for item, scores, right in zip(items, found.loglikelihoods, plain[column], strict=True):
            assert float(scores.index(max(scores)) == item.correct) == right


def test_the_letters_differ_at_the_answer_position(lm, items, shown):
    question = options.asked(lm, items[0], shown, "letter")
    assert all(len(option) == 1 for option in question.options) and len(question.first) == 4
    text = readouts.prompt(items[0], shown, letters=True)
    for letter, option in zip(LETTERS, question.options, strict=False):
        whole = lm.encode_one(f"{text} {letter}", chat=False)
        assert whole[: len(question.context) + 1] == question.context + option


def test_option_texts_may_begin_alike(lm, items, shown):
    item = dataclasses.replace(items[0], options=("a b", "a c"), answer="a b")
    question = options.asked(lm, item, shown, "text")
    assert len(question.options) == 2 and len(question.first) == 1


def test_letters_that_a_tokenizer_cannot_tell_apart_are_refused(lm, items, shown, monkeypatch):
    monkeypatch.setattr(options, "continuation_ids", lambda *_: [5, 6])
    with pytest.raises(PrunelibError, match="does not tell the letters A, B, C, D apart"):
        options.asked(lm, items[0], shown, "letter")
    monkeypatch.setattr(options, "continuation_ids", lambda *_: [])
    with pytest.raises(PrunelibError, match="has no token"):
        options.asked(lm, items[0], shown, "text")
