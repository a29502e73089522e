"""The same items asked in several ways, so that only the read-out changes.

Multiple choice ranks given answers by their log-likelihood; teacher forcing asks
for each token of the reference answer after the true ones; generation writes
freely. All three read the same prompt: a passage with its questions answered as a
demonstration, then the item's passage and question. A base model can be asked too,
as no chat template is used.
"""

from collections.abc import Callable, Sequence

import pandas as pd

from prunelib.engine.decode import generate
from prunelib.errors import PrunelibError
from prunelib.models.lm import LM
from prunelib.paths import data_dir
from prunelib.tasks.items import LETTERS, Item, contains, load_items, matches, token_f1
from prunelib.tasks.score import Request, loglikelihoods

COLUMNS = {
    "choice": "multiple choice, log-likelihood of the option text by its length in characters",
    "choice_raw": "multiple choice, log-likelihood of the option text",
    "choice_letter": "multiple choice, log-likelihood of the option's letter",
    "forced": "share of the reference answer's tokens that are the first choice after the true ones",
    "generation": "free greedy answer, equal to an accepted one after normalisation",
    "generation_contains": "free greedy answer that contains an accepted one",
    "generation_f1": "free greedy answer, word F1",
}
"""What each score column of :func:`answers` holds; all between 0 and 1."""

NEW_TOKENS = 16
STOP = ("\n",)
"""A written answer ends with its line."""


def demonstration(seed: int = 0) -> list[Item]:
    """A short passage with three questions, shown with its answers before every item."""
    return load_items(data_dir() / "tasks" / "demonstration.jsonl", seed=seed)


def prompt(item: Item, shown: Sequence[Item], letters: bool = False) -> str:
    """The text before the answer; ``letters`` lists the options and asks for a letter."""
    example = "\n\n".join(_question(one, letters) + " " + _answer(one, letters) for one in shown)
    return f"{shown[0].passage}\n\n{example}\n\n\n{item.passage}\n\n{_question(item, letters)}"


def conversation(answered: Sequence[tuple[Item, str]], shown: Sequence[Item]) -> str:
    """The text of :func:`prompt` with several questions on one passage, each with an answer."""
    (first, answer), *others = answered
    return "\n\n".join([f"{prompt(first, shown)} {answer}", *(f"{_question(i, False)} {a}" for i, a in others)])


def _question(item: Item, letters: bool) -> str:
    listed = "".join(f"{letter}. {option}\n" for letter, option in zip(LETTERS, item.options, strict=False))
    return f"Question: {item.question}\n{listed if letters else ''}Answer:"


def _answer(item: Item, letters: bool) -> str:
    return LETTERS[item.correct] if letters else item.answer


def answers(
    lm: LM,
    items: Sequence[Item],
    shown: Sequence[Item],
    batch_size: int = 48,
    share: bool = True,
    letters: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Ask every item in all read-outs; one row an item.

    Columns: ``item_id, passage_id, type``; the scores of :data:`COLUMNS`
    (``letters=False`` leaves ``choice_letter`` NaN); ``answer_nll`` (nats a token of the
    reference answer), ``chosen`` (the option that ``choice`` takes), ``text`` (what was
    written) and ``ended``. ``batch_size`` counts items; questions on one passage read
    it once. Raises PrunelibError for an option that has no token.
    """
    encoded = [lm.encode_one(prompt(item, shown), chat=False) for item in items]
    parts, done = [], 0
    for some in _chunks(items, encoded, batch_size):
        asked = [items[i] for i in some]
        parts.append(_answers(lm, asked, [encoded[i] for i in some], shown, share, letters).assign(order=some))
        done += len(some)
        if progress:
            progress(done, len(items))
    return pd.concat(parts).sort_values("order").drop(columns="order").reset_index(drop=True)


def _chunks(items: Sequence[Item], encoded: list[list[int]], size: int) -> list[list[int]]:
    """Numbers of the items that are read together, at most ``size``: whole passages where they fit, by length."""
    passages: dict[str, list[int]] = {}
    for i, item in enumerate(items):
        passages.setdefault(item.passage_id, []).append(i)
    rows = [row[start : start + size] for row in passages.values() for start in range(0, len(row), size)]
    chunks: list[list[int]] = []
    for row in sorted(rows, key=lambda row: max(len(encoded[i]) for i in row)):
        if not chunks or len(chunks[-1]) + len(row) > size:
            chunks.append([])
        chunks[-1] += row
    return chunks


def _answers(lm: LM, items, encoded: list[list[int]], shown, share: bool, letters: bool) -> pd.DataFrame:
    """:func:`answers` for items that fit one batch; choice and generation read the passages once."""
    memo = {} if share else None
    plain = [prompt(item, shown) for item in items]
    options = [(i, option) for i, item in enumerate(items) for option in item.options]
    by_text = _score(lm, items, plain, options, share, memo)
    groups = [item.passage_id for item in items] if share else None
    written = generate(lm, encoded, NEW_TOKENS, stop=STOP, groups=groups, batch_size=len(items), memo=memo)
    if letters:
        lettered = [prompt(item, shown, letters=True) for item in items]
        marks = [(i, LETTERS[n]) for i, item in enumerate(items) for n in range(len(item.options))]
        by_letter = _score(lm, items, lettered, marks, share)["logprob"].to_numpy()
    rows, start = [], 0
    for item, made in zip(items, written, strict=True):
        some = slice(start, start + len(item.options))
        start = some.stop
        scores = by_text[some].reset_index(drop=True)
        by_length = scores["logprob"] / [len(option) for option in item.options]
        reference = scores.loc[item.correct]
        rows.append(
            {
                "item_id": item.id,
                "passage_id": item.passage_id,
                "type": item.type,
                "choice": float(by_length.idxmax() == item.correct),
                "choice_raw": float(scores["logprob"].idxmax() == item.correct),
                "choice_letter": float(by_letter[some].argmax() == item.correct) if letters else float("nan"),
                "forced": reference["matched"] / reference["tokens"],
                "generation": float(matches(made.text, item.accepted)),
                "generation_contains": float(contains(made.text, item.accepted)),
                "generation_f1": token_f1(made.text, item.accepted),
                "answer_nll": -reference["logprob"] / reference["tokens"],
                "chosen": item.options[by_length.idxmax()],
                "text": made.text,
                "ended": made.ended,
            }
        )
    return pd.DataFrame(rows)


def _score(lm: LM, items, prompts: list[str], answers: list[tuple[int, str]], share: bool, memo: dict | None = None):
    """Log-likelihoods of ``(item number, answer text)`` after their prompts."""
    contexts = [lm.encode_one(text, chat=False) for text in prompts]
    requests = []
    for i, answer in answers:
        continuation = continuation_ids(lm, prompts[i], " " + answer, contexts[i])
        if not continuation:
            raise PrunelibError(f"item {items[i].id}: the option '{answer}' has no token")
        requests.append(Request(contexts[i], continuation, items[i].passage_id))
    return loglikelihoods(lm, requests, len(requests), share, memo=memo)


def continuation_ids(lm: LM, context: str, text: str, context_ids: Sequence[int]) -> list[int]:
    """Ids of ``text`` after ``context``: what the ids of both have more than those of the context.

    A tokenizer may write a word differently at the start of a text, so it is never encoded alone.
    """
    return lm.encode_one(context + text, chat=False)[len(context_ids) :]
