"""Read-outs on a tiny model: batching, order and sharing change no score; collapse measures by hand."""

import dataclasses
import random

import pandas as pd
import pytest
import torch
from tiny_files import tokenizer

from prunelib.engine.text import Prompt
from prunelib.errors import PrunelibError
from prunelib.models.lm import LM
from prunelib.tasks import collapse, readouts
from prunelib.tasks.items import Item

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def lm(make_model):
    return LM.from_model(make_model("llama", max_position_embeddings=256), tokenizer())


@pytest.fixture(scope="module")
def items():
    draw = random.Random(0)

    def words(n):
        return " ".join(draw.choice(LETTERS) for _ in range(n))

    made = []
    for passage in range(3):
        text = words(12 + passage)
        for n in range(3):
            options = tuple({words(1 + i) + " " + LETTERS[i]: 0 for i in range(4)})
            answer = options[(passage + n) % 4]
            made.append(Item(f"p{passage}q{n}", f"p{passage}", text, words(4), answer, (), options, "object"))
    return made


@pytest.fixture(scope="module")
def shown(items):
    return [dataclasses.replace(item, id="s" + item.id, passage="x y z") for item in items[:2]]


@pytest.fixture(scope="module")
def plain(lm, items, shown):
    return readouts.answers(lm, items, shown, batch_size=1, share=False)


@pytest.mark.parametrize("batch_size", [1, 2, 32])
@pytest.mark.parametrize("share", [True, False])
def test_batches_and_sharing_change_no_score(lm, items, shown, plain, batch_size, share):
    found = readouts.answers(lm, items, shown, batch_size=batch_size, share=share)
    pd.testing.assert_frame_equal(found, plain, atol=1e-4, rtol=0)


def test_every_family_answers_the_same_alone_and_in_a_batch(family, make_model, items):
    """Shared beginnings, padding and trees of options change nothing, longer than any window of attention."""
    lm = LM.from_model(make_model(family), tokenizer())
    some = [dataclasses.replace(item, passage=item.passage[:15], question=item.question[:3]) for item in items[:4]]
    shown = [dataclasses.replace(some[0], id="s", passage="x", question="y", answer="z")]
    alone = readouts.answers(lm, some, shown, batch_size=1, share=False, letters=False)
    together = readouts.answers(lm, some, shown, batch_size=4, share=True, letters=False)
    pd.testing.assert_frame_equal(together, alone, atol=1e-4, rtol=0)


def test_order_changes_no_score(lm, items, shown, plain):
    found = readouts.answers(lm, items[::-1], shown)[::-1].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, plain, atol=1e-4, rtol=0)


def test_choice_and_generation_read_a_passage_once(lm, items, shown, monkeypatch):
    """All passages of a batch pass through the model one time, whatever is asked about them afterwards."""
    rows, real = [], lm.body.forward

    def counting(*args, **kwargs):
        rows.append(kwargs["input_ids"])
        return real(*args, **kwargs)

    monkeypatch.setattr(lm.body, "forward", counting)
    readouts.answers(lm, items, shown, letters=False)
    start = lm.encode_one(readouts.prompt(items[0], shown)[:60], chat=False)
    assert sum(start == row[: len(start)].tolist() for ids in rows for row in ids) == 1  # what all begin with
    passage = lm.encode_one(items[0].passage, chat=False)
    read = [row.tolist() for ids in rows for row in ids]
    found = [row for row in read if any(row[i : i + len(passage)] == passage for i in range(len(row)))]
    assert len(found) == 1


def test_choice_is_the_likeliest_option_by_length(lm, items, shown, plain):
    """One item scored by hand, through the model's own forward."""
    item = items[4]
    values = []
    for option in item.options:
        context = lm.encode_one(readouts.prompt(item, shown), chat=False)
        whole = lm.encode_one(readouts.prompt(item, shown) + " " + option, chat=False)
        with torch.no_grad():
            logp = torch.log_softmax(lm.model(torch.tensor([whole])).logits[0].double(), -1)
        values.append(sum(logp[i - 1, whole[i]].item() for i in range(len(context), len(whole))))
    by_length = [value / len(option) for value, option in zip(values, item.options, strict=True)]
    row = plain.iloc[4]
    assert row["chosen"] == item.options[by_length.index(max(by_length))]
    assert row["choice"] == (row["chosen"] == item.answer)
    assert row["choice_raw"] == (values.index(max(values)) == item.correct)
    tokens = len(lm.encode_one(item.answer, chat=False))
    assert row["answer_nll"] == pytest.approx(-values[item.correct] / tokens, abs=1e-4)


def test_scores_are_between_0_and_1(plain):
    assert plain[list(readouts.COLUMNS)].apply(lambda column: column.between(0, 1).all()).all()


def test_an_option_without_tokens_is_one_line(lm, items, shown):
    bad = dataclasses.replace(items[0], answer=" ", options=(" ", "a", "b", "c"))
    with pytest.raises(PrunelibError, match="item p0q0: the option ' ' has no token"):
        readouts.answers(lm, [bad], shown)


def test_the_lettered_prompt_lists_the_options(items, shown):
    text = readouts.prompt(items[0], shown, letters=True)
    assert all(f"{letter}. {option}\n" in text for letter, option in zip("ABCD", items[0].options, strict=True))
    assert text.endswith("Answer:") and items[0].passage in text


# ---------------------------------------------------------------- longer texts


def test_collapse_measures_by_hand():
    assert collapse.repeated([1, 2, 3, 4, 5]) == 0
    assert collapse.repeated([1, 1, 1, 1, 1, 1]) == pytest.approx(2 / 3)  # three equal 4-grams, two seen before
    assert collapse.repeated([1, 2]) == 0
    assert collapse.distinct([1, 2, 1, 2]) == 0.5
    assert collapse.distinct([]) == 1


def test_written_texts_and_their_probabilities_agree(lm):
    prompts = [Prompt("one", "x", "a b c"), Prompt("two", "x", "h e l l o")]
    texts = collapse.write(lm, prompts, 12)
    assert (texts["length"] == texts["ids"].map(len)).all() and (texts["length"] > 0).all()
    surprise = collapse.surprise(lm, texts)
    for value, p, ids in zip(surprise, collapse.token_probabilities(lm, texts), texts["ids"], strict=True):
        assert len(p) == len(ids)
        assert value == pytest.approx(-torch.tensor(p).log().mean().item(), abs=1e-4)
        # A greedy writer always takes its own first choice.
        assert min(p) > 1 / lm.vocab_size
