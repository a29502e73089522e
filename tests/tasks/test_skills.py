"""One-token items: answers right by construction, options without a favourite, and how they are asked."""

import re
from collections import Counter
from itertools import permutations

import pytest

from prunelib.errors import PrunelibError
from prunelib.models.lm import LM
from prunelib.report import skills as report
from prunelib.tasks import skills

SEEDS = (0, 1, 2)


def last_line(item) -> str:
    return item.prompt.rsplit("\n", 1)[1]


def shown(item) -> list[str]:
    return item.prompt.split("\n")[:-1]


def of(skill, number, seed):
    return [item for item in skills.items(number, seed) if item.skill == skill]


def value(line: str) -> int:
    first, sign, second = re.fullmatch(r"(\d) ([+-]) (\d) =", line).groups()
    return int(first) + int(second) * (1 if sign == "+" else -1)


def still_open(brackets: list[str]) -> list[str]:
    """A matcher of its own: what is open at the end; fails where a bracket closes another kind."""
    stack = []
    for one in brackets:
        if one in "([{<":
            stack.append(one)
        else:
            assert stack and stack.pop() + one in ("()", "[]", "{}", "<>")
    return stack


@pytest.mark.parametrize("seed", SEEDS)
def test_every_sum_and_difference_is_right(seed):
    found = of("arithmetic", skills.MOST, seed)
    for item in found:
        assert value(last_line(item)) == int(item.answer)
        for line in shown(item):
            assert value(line[:-2]) == int(line[-1])
    assert len(found[0].prompt.split("\n")) == 11 and {line[-1] for line in shown(found[0])} == set("0123456789")


@pytest.mark.parametrize("seed", SEEDS)
def test_every_bracket_closes_the_last_one_open(seed):
    for item in of("brackets", skills.MOST, seed):
        asked = last_line(item).split(" ")
        assert still_open([*asked, item.answer]) == still_open(asked)[:-1]
        closed = [one in ")]}>" for one in asked]
        assert any(closed) and closed == sorted(closed)  # some closed, and none opens after that
        for line in shown(item):
            whole = line.split(" ")
            assert still_open(whole) == [] and [one in ")]}>" for one in whole] == sorted(
                one in ")]}>" for one in whole
            )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("skill", skills.SKILLS)
def test_no_line_is_asked_twice_or_shown_solved(skill, seed):
    found = of(skill, skills.MOST, seed)
    asked = [last_line(item) for item in found]
    assert len(set(asked)) == len(asked) == skills.MOST
    solved = shown(found[0])
    assert all(shown(item) == solved for item in found)  # one demonstration, read once
    assert not any(line.startswith(one + " ") for line in solved for one in asked if skill == "arithmetic")
    wholes = {line + " " + item.answer for line, item in zip(asked, found, strict=True)}
    assert not wholes & set(solved)


@pytest.mark.parametrize("skill", skills.SKILLS)
def test_options_hold_the_answer_once_and_near_digits(skill):
    for item in of(skill, skills.MOST, 0):
        assert len(set(item.options)) == len(item.options) == skills.OPTIONS and item.answer in item.options
        if skill == "arithmetic":
            assert all(
                min((int(a) - int(item.answer)) % 10, (int(item.answer) - int(a)) % 10) <= 3 for a in item.options
            )
        else:
            assert set(item.options) == set(")]}>")


@pytest.mark.parametrize("number", [skills.BALANCED, 2 * skills.BALANCED])
def test_a_liking_for_some_answers_is_right_in_one_of_four(number):
    """Exactly, whatever the order of liking; and so is a liking for a place among the options."""
    digits = of("arithmetic", number, 0)
    for liking in ("0123456789", "9876543210", "5062718349"):
        right = sum(min(item.options, key=liking.index) == item.answer for item in digits)
        assert right / number == 0.25, liking
    places = Counter(item.options.index(item.answer) for item in digits)
    assert set(places.values()) == {number // 4} and len(places) == 4
    found = of("brackets", number, 0)
    for liking in permutations(")]}>"):
        assert sum(min(item.options, key=liking.index) == item.answer for item in found) / number == 0.25


def test_items_are_the_same_for_a_seed_and_a_smaller_number_asks_the_first():
    assert skills.items(8, 3) == skills.items(8, 3) != skills.items(8, 4)
    for skill in skills.SKILLS:
        assert of(skill, 8, 3) == of(skill, 20, 3)[:8]
    assert len({item.id for item in skills.items(8, 3)}) == 16
    for number in (0, skills.MOST + 1):
        with pytest.raises(PrunelibError, match="1 to 100 items"):
            skills.items(number)


def test_the_report_knows_the_skills():
    assert report.SKILLS == skills.SKILLS


# ---------------------------------------------------------------- asked of a model


def tokenizer(with_space: bool, without: str = ""):
    """Characters, or pieces of a space and a character as GPT-2 has them; ``without`` some."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    plain = [c for c in "0123456789+-=()[]{}< >\n" if c not in without]
    pieces = plain + [" " + c for c in plain if c != " "] * with_space
    words = {word: i for i, word in enumerate(["<s>", "</s>", "<unk>", *pieces])}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    pattern = r" ?[^ ]| " if with_space else r"[\s\S]"
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="module")
def bare(make_model):
    return make_model("llama", max_position_embeddings=512)


@pytest.mark.parametrize("with_space", [True, False])
def test_the_answer_is_one_token_whether_or_not_a_space_is_written_with_it(bare, with_space):
    lm = LM.from_model(bare, tokenizer(with_space))
    for item in skills.items(4):
        context, tokens = skills.one_token(lm, item)
        assert [lm.tokenizer.decode([t]).strip() for t in tokens] == list(item.options)
        assert lm.tokenizer.decode(context, skip_special_tokens=True).endswith(" ") is not with_space


def test_scores_by_hand(bare):
    """Plain forward passes, one prompt at a time, without any sharing."""
    import torch

    lm, items = LM.from_model(bare, tokenizer(False)), skills.items(6, 1)
    found = skills.answers(lm, items, batch_size=7).set_index("item_id")
    assert found.index.tolist() == [item.id for item in items]
    for item in items:
        context, tokens = skills.one_token(lm, item)
        with torch.no_grad():
            z = lm.model(input_ids=torch.tensor([context])).logits[0, -1]
        row, correct = found.loc[item.id], item.options.index(item.answer)
        assert row["choice"] == float(z[tokens].argmax() == correct)
        assert row["free"] == float(z.argmax() == tokens[correct])
        assert (row["type"], row["passage_id"], row["chance"]) == (item.skill, item.id, 0.25)


def test_a_model_that_knows_the_answer_is_right_in_both_and_another_in_none(bare, monkeypatch):
    """``loglikelihoods`` replaced: every request of the right token is likeliest, or every other."""
    from prunelib.tasks import score

    lm, items = LM.from_model(bare, tokenizer(False)), skills.items(4)
    right = [item.answer == option for item in items for option in item.options]

    def told(knows):
        import pandas as pd

        rows = [(0.0 if one is knows else -9.0, 1, int(one is knows and knows)) for one in right]
        return lambda *_, **__: pd.DataFrame(rows, columns=["logprob", "tokens", "matched"])

    for knows, expected in ((True, 1.0), (False, 0.0)):
        monkeypatch.setattr(score, "loglikelihoods", told(knows))
        assert (skills.answers(lm, items)[["choice", "free"]] == expected).all(axis=None)


def test_items_that_are_not_one_token_are_left_out_and_none_is_an_error(bare):
    items = skills.items(8)
    found = skills.answers(LM.from_model(bare, tokenizer(False, without=">}")), items)
    assert set(found["type"]) == {"arithmetic"} and len(found) == 8  # two options are the same unknown token
    with pytest.raises(PrunelibError, match="no digit and no closing bracket"):
        skills.answers(LM.from_model(bare, tokenizer(False, without="0123456789)]}>")), items)
