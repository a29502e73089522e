"""Two skills whose whole answer is one token: small sums and differences, and closing brackets.

An answer of one token cannot suffer from compounding: nothing that the model wrote is read before it. What a pruned
model loses here is a skill. The tasks follow Shrestha et al. (2026, arXiv:2602.01997), whose pruned models lose
arithmetic and balanced brackets; the items are this project's own and made by rule.

A prompt is a demonstration, one solved line after the other, and the beginning of one more line::

    3 + 4 = 7              ( [ ] )
    9 - 3 = 6              { ( < > ) }
    2 + 6 =                ( [ { }

Each read-out of an item asks for its next token. Lines of brackets open first and then only close, so that one token
alone is right.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from prunelib.errors import PrunelibError

if TYPE_CHECKING:  # items are made without torch, as a page that is only read again needs no more
    from prunelib.models.lm import LM

SKILLS = ("arithmetic", "brackets")
CLOSES = {"(": ")", "[": "]", "{": "}", "<": ">"}
OPTIONS = 4
"""Answers to choose from: the digit and three near it (0 is next to 9), or the four closing brackets."""

BALANCED = 40
"""Any multiple of so many items is balanced: every answer is right equally often, and stands in every place among its
options equally often. Then a model with a fixed liking for some answers chooses right in exactly one of four."""

MOST = 100
"""There are 110 sums and differences of digits, 11 with each digit as the result; one of these is shown solved."""

_SHOWN_BRACKETS = 8
_DEPTHS = (2, 3, 4)


@dataclass(frozen=True)
class SkillItem:
    """One line to finish: ``prompt`` ends before the space in front of the ``answer``, one of the ``options``."""

    id: str
    skill: str
    prompt: str
    answer: str
    options: tuple[str, ...]


def items(number: int, seed: int = 0) -> list[SkillItem]:
    """``number`` items of each skill, the same for a seed; raises PrunelibError beyond :data:`MOST`."""
    if not 1 <= number <= MOST:
        raise PrunelibError(f"there are 1 to {MOST} items of a skill, not {number}")
    return [*_arithmetic(number, random.Random(seed)), *_brackets(number, random.Random(seed))]


# ---------------------------------------------------------------- sums and differences


def _problems(result: int) -> list[str]:
    """All sums and differences of two digits that give this digit."""
    sums = [f"{a} + {result - a} =" for a in range(result + 1)]
    return sums + [f"{result + b} - {b} =" for b in range(10 - result)]


def _arithmetic(number: int, draw: random.Random) -> Iterator[SkillItem]:
    left = {digit: _problems(digit) for digit in range(10)}
    for problems in left.values():
        draw.shuffle(problems)
    digits = list(left)
    draw.shuffle(digits)
    shown = "".join(f"{left[digit].pop()} {digit}\n" for digit in digits)
    draw.shuffle(digits)
    for i in range(number):
        digit = digits[i % 10]
        first = digit - (i // 10 + i) % OPTIONS  # its place changes with the digit, and from round to round
        options = tuple(str((first + n) % 10) for n in range(OPTIONS))
        yield SkillItem(f"arithmetic-{i}", "arithmetic", shown + left[digit].pop(), str(digit), options)


# ---------------------------------------------------------------- brackets


def _brackets(number: int, draw: random.Random) -> Iterator[SkillItem]:
    options, seen = tuple(CLOSES.values()), set()

    def line(answer: str) -> tuple[str, str]:
        """A new line of brackets, and its beginning up to an ``answer`` that is not its first closing one."""
        while True:
            opened = [draw.choice(tuple(CLOSES)) for _ in range(draw.choice(_DEPTHS))]
            closing = [CLOSES[one] for one in reversed(opened)]
            place = draw.randrange(1, len(closing))
            whole = " ".join(opened + closing)
            if closing[place] == answer and whole not in seen:
                seen.add(whole)
                return whole, " ".join(opened + closing[:place])

    shown = [line(options[i % len(options)])[0] + "\n" for i in range(_SHOWN_BRACKETS)]
    draw.shuffle(shown)
    for i in range(number):
        answer = options[i % len(options)]
        yield SkillItem(f"brackets-{i}", "brackets", "".join(shown) + line(answer)[1], answer, options)


# ---------------------------------------------------------------- asked of a model


def one_token(lm: "LM", item: SkillItem) -> tuple[list[int], list[int]] | None:
    """Ids of the prompt and of each option, where every option is one token of its own after it; else None.

    Some tokenizers write the space before a digit with it, others as a token of its own: then it belongs to the prompt.
    """
    from prunelib.tasks.readouts import continuation_ids

    for prompt, space in ((item.prompt, " "), (item.prompt + " ", "")):
        context = lm.encode_one(prompt, chat=False)
        after = [continuation_ids(lm, prompt, space + option, context) for option in item.options]
        same = all(lm.encode_one(prompt + space + o, chat=False)[: len(context)] == context for o in item.options)
        if same and all(len(ids) == 1 for ids in after) and len({ids[0] for ids in after}) == len(after):
            return context, [ids[0] for ids in after]
    return None


def answers(lm: "LM", items: Sequence[SkillItem], batch_size: int = 128) -> pd.DataFrame:
    """Ask for the next token of every item; one row an item, a cluster of its own.

    Columns: ``item_id, passage_id`` (the same), ``type`` (the skill), ``choice`` (the answer is the likeliest of the
    options), ``free`` (of the whole vocabulary), ``chance`` (one over the number of options; it belongs to ``choice``).
    Items whose options are not one token each are left out; raises PrunelibError where none is left.
    """
    from prunelib.tasks.score import Request, loglikelihoods

    asked = [(item, *ids) for item in items if (ids := one_token(lm, item))]
    if not asked:
        raise PrunelibError("this model's tokenizer writes no digit and no closing bracket as one token of its own")
    requests = [Request(context, [token], item.skill) for item, context, tokens in asked for token in tokens]
    scores = loglikelihoods(lm, requests, batch_size)
    logprob, first = scores["logprob"].to_numpy(), scores["matched"].to_numpy()
    rows, start = [], 0
    for item, _, tokens in asked:
        correct, some = item.options.index(item.answer), slice(start, start + len(tokens))
        start = some.stop
        rows.append(
            {
                "item_id": item.id,
                "passage_id": item.id,
                "type": item.skill,
                "choice": float(logprob[some].argmax() == correct),
                "free": float(first[some][correct]),
                "chance": 1 / len(tokens),
            }
        )
    return pd.DataFrame(rows)
