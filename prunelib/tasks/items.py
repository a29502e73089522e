"""The project's own items: a passage, a question, a short answer and three distractors.

``data/tasks/DATASHEET.md`` says how they were written. A user's file in the same
format works in the same place.
"""

import random
import re
import string
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from prunelib.errors import PrunelibError
from prunelib.files import Row, read_jsonl
from prunelib.paths import data_dir

LETTERS = "ABCDEFGH"


@dataclass(frozen=True)
class Item:
    """One question on one passage; ``options`` holds the answer among the distractors."""

    id: str
    passage_id: str
    passage: str
    question: str
    answer: str
    aliases: tuple[str, ...]
    options: tuple[str, ...]
    type: str

    @property
    def correct(self) -> int:
        """Place of the answer in ``options``."""
        return self.options.index(self.answer)

    @property
    def accepted(self) -> tuple[str, ...]:
        """What counts as right when it is written freely."""
        return (self.answer, *self.aliases)


def load_items(source: str | Path = "default", limit: int | None = None, seed: int = 0) -> list[Item]:
    """All questions of the first ``limit`` passages, passage by passage.

    ``source`` is the committed file or a user's ``.jsonl``: ``id``, ``text`` and
    ``questions``, each with ``id``, ``question``, ``answer``, ``distractors`` and
    maybe ``aliases`` and ``type``. Options are shuffled by ``seed`` and the
    question's id, so they do not depend on which other items are read. Raises
    PrunelibError with the line that is wrong.
    """
    file = data_dir() / "tasks" / "passages.jsonl" if source == "default" else Path(source).expanduser()
    if limit is not None and limit < 1:
        raise PrunelibError(f"limit must be at least 1, got {limit}")
    items, seen = [], {"passage": set(), "question": set()}
    for row in read_jsonl(file, {"id": str, "text": str, "questions": list})[:limit]:
        _once(row["id"], "passage", seen, row.where)
        for number, question in enumerate(row["questions"], 1):
            item = _item(question, row, f"{row.where}, question {number}", seed)
            _once(item.id, "question", seen, row.where)
            items.append(item)
    return items


def _once(name: str, what: str, seen: dict[str, set[str]], where: str) -> None:
    if name in seen[what]:
        raise PrunelibError(f"{where}: the {what} id '{name}' is used twice")
    seen[what].add(name)


def _item(question, passage: Row, where: str, seed: int) -> Item:
    if not isinstance(question, dict):
        raise PrunelibError(f"{where}: needs an object, got {type(question).__name__}")
    found = Row(question)
    found.where = where
    name, text, answer = (found.need(field) for field in ("id", "question", "answer"))
    lists = {"distractors": found.need("distractors", list), "aliases": found.get("aliases") or []}
    for field, values in lists.items():
        if not isinstance(values, list) or not all(isinstance(value, str) and value.strip() for value in values):
            raise PrunelibError(f'{where}: "{field}" must be a list of texts')
    options = [answer, *lists["distractors"]]
    if len({option.strip() for option in options}) < len(options) or len(options) > len(LETTERS):
        raise PrunelibError(f"{where}: options must differ, at most {len(LETTERS)}")
    random.Random(f"{seed}:{name}").shuffle(options)
    about = text, answer, tuple(lists["aliases"]), tuple(options)
    return Item(name, passage["id"], passage["text"], *about, str(found.get("type") or ""))


# ---------------------------------------------------------------- judging a written answer


def normalize(text: str) -> list[str]:
    """Words of a text in lower case without punctuation and articles (Rajpurkar et al. 2016, SQuAD)."""
    text = "".join(" " if c in string.punctuation else c for c in text.lower())
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def matches(text: str, accepted: tuple[str, ...]) -> bool:
    """Whether the normalised text is one of the accepted answers."""
    return normalize(text) in [normalize(answer) for answer in accepted]


def contains(text: str, accepted: tuple[str, ...]) -> bool:
    """Whether an accepted answer stands in the text, as whole normalised words in one run."""
    words = f" {' '.join(normalize(text))} "
    return any(f" {' '.join(normalize(answer))} " in words for answer in accepted)


def token_f1(text: str, accepted: tuple[str, ...]) -> float:
    """Largest harmonic mean of word precision and recall over the accepted answers (SQuAD's F1)."""
    return max(_f1(normalize(text), normalize(answer)) for answer in accepted)


def _f1(words: list[str], wanted: list[str]) -> float:
    shared = sum((Counter(words) & Counter(wanted)).values())
    return 2 * shared / (len(words) + len(wanted)) if shared else 0.0
