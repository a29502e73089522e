"""Texts as pieces of tokens that a model reads alone: the project's passages, or a user's file."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from prunelib.errors import PrunelibError
from prunelib.files import parse_row, read_text, text_lines
from prunelib.paths import data_dir

DEFAULT = "passages"
"""The project's own passages, which no calibration sees."""

WINDOW = 2048
"""Most tokens of a piece, as in the papers' tables of perplexities; fewer where a model reads fewer."""


def load_texts(source: str = DEFAULT) -> list[str]:
    """The texts of a source: :data:`DEFAULT`, a ``.txt`` (one text) or a ``.jsonl`` (a text a row, field ``text``).

    Texts without a letter are left out (WikiText has empty rows). Raises PrunelibError, naming file
    and line, for what cannot be read, and for a file without any text.
    """
    file = data_dir() / "tasks" / "passages.jsonl" if source == DEFAULT else Path(source).expanduser()
    if file.suffix not in (".txt", ".jsonl"):
        raise PrunelibError(f"{source} must end in .txt or .jsonl")
    if file.suffix == ".txt":
        texts = [read_text(file)]
    else:
        rows = (parse_row(line, f"{file}, line {number}") for number, line in text_lines(file))
        texts = [row.need("text", filled=False) for row in rows]
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise PrunelibError(f"{source} holds no text")
    return texts


def cut(lm, texts: Sequence[str], window: int) -> list[tuple[int, list[int]]]:
    """Pieces of at most ``window`` tokens, as (cluster, token ids), in the order of the texts.

    Each text is tokenized as a whole, without chat template, with the special tokens that the tokenizer puts
    before a text, and cut from its first token without overlap; a rest of a single token is left out. Of
    several texts each is a cluster, however many pieces it gives; of a single one each piece is. Raises
    PrunelibError for a window that the model cannot read, and where nothing is left to predict.
    """
    from prunelib.models.checkpoint import quiet

    if window < 2:
        raise PrunelibError(f"window must be at least 2 tokens, got {window}")
    lm.check_length(window, "a window")
    with quiet():  # a tokenizer warns of texts longer than the model: they are cut here
        whole = [lm.encode_one(text, chat=False) for text in texts]
    whole = [ids for ids in whole if len(ids) > 1]
    if not whole:
        raise PrunelibError("the text gives a single token: nothing to predict")
    found = [
        (text, ids[start : start + window])
        for text, ids in enumerate(whole)
        for start in range(0, len(ids) - 1, window)
    ]
    return found if len(whole) > 1 else [(piece, ids) for piece, (_, ids) in enumerate(found)]


def digest(pieces: Sequence[tuple[int, list[int]]]) -> str:
    """Hex SHA-256 of the token ids of all pieces: equal ones were measured on the same tokens."""
    return hashlib.sha256(";".join(",".join(map(str, ids)) for _, ids in pieces).encode()).hexdigest()
