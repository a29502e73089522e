"""Greedy decoding in batches, which ends for each text when it is done."""

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import torch

from prunelib.errors import PrunelibError
from prunelib.lm import LM
from prunelib.tasks.prefix import State, begin, can_share, check_lengths, extend, shared_lengths


class Generated(NamedTuple):
    """``text`` is cut before the first stop string; ``ended``: by itself, not by ``max_new``."""

    ids: list[int]
    text: str
    ended: bool


@torch.inference_mode()
def greedy(
    lm: LM,
    prompts: Sequence[Sequence[int]],
    max_new: int,
    stop: Sequence[str] = (),
    groups: Sequence[Hashable] | None = None,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
    memo: dict | None = None,
) -> list[Generated]:
    """The most likely next token again and again, for each prompt (token ids), in the given order.

    A text ends with an end-of-text token, which is not part of ``ids``, with one of
    the ``stop`` strings, or after ``max_new`` tokens. Prompts of one group begin
    alike, and what they share is computed once, or not at all where an earlier read-out
    left it in ``memo`` (tasks.prefix.begin). Rows that have ended leave the batch.
    Raises PrunelibError for an empty prompt or one that does not fit the model.
    """
    if max_new < 1:
        raise PrunelibError(f"max_new must be at least 1, got {max_new}")
    for i, prompt in enumerate(prompts):
        if not len(prompt):
            raise PrunelibError(f"prompt {i} has no tokens")
    check_lengths(lm, [len(p) + max_new for p in prompts], f"a text of {max_new} new tokens after prompt")
    groups = list(range(len(prompts))) if groups is None else groups
    prefix = [0] * len(prompts)
    if can_share(lm, max(map(len, prompts), default=0) + max_new):
        prefix = shared_lengths(prompts, groups, [1] * len(prompts))
    order = sorted(
        range(len(prompts)), key=lambda i: (prefix[i] > 0, prefix[i], tuple(prompts[i][: prefix[i]]), len(prompts[i]))
    )
    found: dict[int, Generated] = {}
    while order:
        rows = [i for i in order[:batch_size] if (prefix[i] > 0) == (prefix[order[0]] > 0)]
        order = order[len(rows) :]
        state = begin(lm, [prompts[i][: prefix[i]] for i in rows], memo) if prefix[rows[0]] else None
        for i, ids, ended in _decode(lm, rows, [prompts[i][prefix[i] :] for i in rows], state, max_new, stop):
            text, cut = _cut(lm.decode(ids, prompts[i]), stop)
            found[i] = Generated(ids, text, ended or cut)
            if progress:
                progress(len(found), len(prompts))
    return [found[i] for i in range(len(prompts))]


def _decode(lm: LM, rows: list[int], feed, state: State | None, max_new: int, stop: Sequence[str]):
    """(row, ids, ended) of each row, as they end."""
    end = lm.eos_ids
    new: list[list[int]] = [[] for _ in rows]
    for step in range(max_new):
        hidden, state = extend(lm, feed, state)
        chosen = lm.unembed(hidden[:, -1], "raw").argmax(-1).tolist()
        going = []
        for place, token in enumerate(chosen):
            if token in end:
                yield rows[place], new[place], True
                continue
            new[place].append(token)
            if _stopped(lm, new[place], stop):
                yield rows[place], new[place], True
            elif step + 1 == max_new:
                yield rows[place], new[place], False
            else:
                going.append(place)
        if not going:
            return
        if len(going) < len(rows):
            state = state.select(torch.tensor(going, device=lm.device))
            rows, new = [rows[i] for i in going], [new[i] for i in going]
        feed = [ids[-1:] for ids in new]


def _stopped(lm: LM, ids: list[int], stop: Sequence[str]) -> bool:
    """Whether a stop string has just appeared: every token has at least one character of it."""
    if not stop:
        return False
    tail = lm.decode(ids[-max(map(len, stop)) - 4 :])
    return any(word in tail for word in stop)


def _cut(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    places = [text.find(word) for word in stop if word in text]
    return (text[: min(places)], True) if places else (text, False)
