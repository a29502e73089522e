"""Text to learn from: the dense model's own answers to questions about passages of which no item is asked.

A repair learns what the dense model would say in the places where it is later judged, and never sees a judged passage.
"""

import hashlib

import torch
from torch import Tensor

from prunelib.engine import text
from prunelib.engine.decode import generate
from prunelib.errors import PrunelibError
from prunelib.models.lm import LM
from prunelib.tasks.items import Item, load_items
from prunelib.tasks.readouts import NEW_TOKENS, STOP, conversation, demonstration, prompt

SOURCE = "answers"
"""The name of this text where calibration text is chosen."""

ASKED = 60
"""Passages of ``data/tasks/passages.jsonl``, from the top, of which profiles ask items; the others are only read."""


def calibration(lm: LM, source: str, n: int, length: int, seed: int) -> text.Tokens:
    """Calibration tokens from :data:`SOURCE`, or as :func:`prunelib.engine.text.calibration` has them."""
    if source != SOURCE:
        return text.calibration(lm, source, n, length, seed)
    if n < 1 or length < 2:
        raise PrunelibError(f"calibration needs n ≥ 1 and length ≥ 2, got n={n}, length={length}")
    ids = answered(lm, n, length, seed)
    if len(ids) < n:
        raise PrunelibError(
            f"{SOURCE} gives {len(ids)} sequences of {length} tokens, not {n}: use fewer or shorter ones"
        )
    return text.Tokens(ids, SOURCE, hashlib.sha256(ids.numpy().tobytes()).hexdigest())


@torch.inference_mode()
def answered(lm: LM, n: int, length: int, seed: int = 0, batch_size: int = 48) -> Tensor:
    """At most ``n`` rows [rows, length], each the end of a passage with its questions and ``lm``'s greedy answers.

    The format is that of the items (tasks.readouts): a demonstration, the passage, questions with answers. Rows end
    with the last answer, and what is longer than ``length`` is cut off at the front; texts that are shorter are
    left out. Which passages, and their order, is drawn by ``seed``. No rows where ``lm`` has no tokenizer.
    """
    if lm.tokenizer is None:
        return torch.empty(0, length, dtype=torch.long)
    shown = demonstration(seed)
    passages: dict[str, list[Item]] = {}
    for item in load_items(seed=seed):
        passages.setdefault(item.passage_id, []).append(item)
    free = list(passages.values())[ASKED:]
    order = torch.randperm(len(free), generator=torch.Generator().manual_seed(seed)).tolist()[:n]
    items = [item for i in order for item in free[i]]
    prompts = [lm.encode_one(prompt(item, shown), chat=False) for item in items]
    groups = [item.passage_id for item in items]
    made = generate(lm, prompts, NEW_TOKENS, stop=STOP, groups=groups, batch_size=batch_size)
    said = {item.id: one.text.strip() for item, one in zip(items, made, strict=True)}
    texts = [conversation([(item, said[item.id]) for item in free[i]], shown) for i in order]
    rows = [ids[-length:] for ids in (lm.encode_one(one, chat=False) for one in texts) if len(ids) >= length]
    return torch.tensor(rows, dtype=torch.long).view(-1, length)
