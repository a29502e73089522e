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
from prunelib.paths import data_dir
from prunelib.tasks.jsonl import read_jsonl

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
    items, seen = [], set()
    for row in read_jsonl(file, ("id", "text", "questions"))[:limit]:
        for question in row["questions"]:
            missing = {"id", "question", "answer", "distractors"} - question.keys()
            if missing:
                raise PrunelibError(f"{file}, passage {row['id']}: a question has no \"{min(missing)}\"")
            if question["id"] in seen:
                raise PrunelibError(f"{file}: the question id '{question['id']}' is used twice")
            seen.add(question["id"])
            options = [question["answer"], *question["distractors"]]
            if len(set(options)) < len(options) or len(options) > len(LETTERS):
                raise PrunelibError(f"{file}, question {question['id']}: options must differ, at most {len(LETTERS)}")
            random.Random(f"{seed}:{question['id']}").shuffle(options)
            about = (question["question"], question["answer"], tuple(question.get("aliases", ())), tuple(options))
            items.append(Item(question["id"], row["id"], row["text"], *about, question.get("type", "")))
    return items


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
