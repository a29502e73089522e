"""What a model says at the answer position of a multiple-choice item, in two ways of asking.

By letter: the prompt lists the options and asks for a letter; the answer position is the first at which the letters
differ. By text: the prompt of the chapter on dropping layers, whose options are whole texts, as benchmarks score them;
the answer position is the one right after the prompt. Both prompts are those of :mod:`prunelib.tasks.readouts`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prunelib.engine.prefix import Tree, begin, can_share, check_lengths, extend, read_trees, shared_lengths
from prunelib.errors import PrunelibError
from prunelib.models.lm import LM
from prunelib.tasks.items import LETTERS, Item
from prunelib.tasks.readouts import continuation_ids, prompt

READOUTS = {"letter": "letters", "text": "whole option texts"}
"""How the options are given, with the words for it."""

_PASSAGES = 16  # read together
_MAX_LOGITS = 2**23  # computed at a time, in elements


@dataclass(frozen=True)
class Asked:
    """Token ids of one item's prompt up to the answer position, and of its options from there on."""

    context: list[int]
    options: list[list[int]]

    @property
    def first(self) -> list[int]:
        """The tokens that options begin with, each once, in the order of the options."""
        return list(dict.fromkeys(option[0] for option in self.options))


@dataclass(frozen=True)
class Said:
    """One model's state at the answer position of each item, and what it gives to each option."""

    states: Tensor  # [N, d], normed, what the head reads
    loglikelihoods: list[list[float]]  # nats, of each whole option; of a letter only its token that tells it apart


def asked(lm: LM, item: Item, shown: Sequence[Item], readout: str) -> Asked:
    """One item in one of :data:`READOUTS`.

    What all letters begin with (a space that is a token of its own) is read as part of the prompt. Raises
    PrunelibError for an option without a token, and for letters that begin with the same token even so.
    """
    text = prompt(item, shown, letters=readout == "letter")
    context = lm.encode_one(text, chat=False)
    named = LETTERS[: len(item.options)] if readout == "letter" else item.options
    options = [continuation_ids(lm, text, " " + option, context) for option in named]
    if readout == "letter":
        common = shared_lengths(options, [0] * len(options), [1] * len(options))[0] if all(options) else 0
        context, options = [*context, *options[0][:common]], [option[common : common + 1] for option in options]
        if len({tuple(option) for option in options}) < len(options):
            raise PrunelibError(f"item {item.id}: this tokenizer does not tell the letters {', '.join(named)} apart")
    if not all(options):
        raise PrunelibError(f"item {item.id}: the option '{named[options.index([])]}' has no token")
    return Asked(context, options)


@torch.inference_mode()
def said(lm: LM, items: Sequence[Item], questions: Sequence[Asked]) -> Said:
    """Read every question once; ``questions`` are :func:`asked` of ``items``, [N] both.

    What questions begin with in common (a demonstration, a passage, the prompt of an item's options) is computed once,
    which changes results by rounding only. Memory: states of some passages and 32 MiB of logits.
    """
    longest = [[*q.context, *max(q.options, key=len)][:-1] for q in questions]
    check_lengths(lm, [len(ids) + 1 for ids in longest], "item")
    share = can_share(lm, max(map(len, longest)))
    rows: dict[object, list[int]] = {}
    for i, item in enumerate(items):
        rows.setdefault(item.passage_id if share else i, []).append(i)
    groups = list(rows.values())
    found: dict[int, tuple[Tensor, list[float]]] = {}
    for start in range(0, len(groups), _PASSAGES):
        for i, state, option_states in _read(lm, questions, groups[start : start + _PASSAGES], share):
            found[i] = (state, _loglikelihoods(lm, option_states, questions[i].options))
    ordered = [found[i] for i in range(len(items))]
    return Said(torch.stack([state for state, _ in ordered]), [scores for _, scores in ordered])


def _read(lm: LM, questions, groups: list[list[int]], share: bool):
    """``(item, state [d] at its answer position, states [n, d] that predict each option's tokens)`` of passages."""
    paths = {i: [[*questions[i].context, *option][:-1] for option in questions[i].options] for g in groups for i in g}
    if not share:
        for i, sequences in paths.items():
            after = len(questions[i].context) - 1
            states = [extend(lm, [sequence], keep=False)[0][0, after:] for sequence in sequences]
            yield i, states[0][0], states
        return
    sequences = [sequence for some in paths.values() for sequence in some]
    least = [len(option) for i in paths for option in questions[i].options]
    common = shared_lengths(sequences, [0] * len(sequences), least)[0]
    before = begin(lm, [sequences[0][:common]] * len(groups)) if common and len(groups) > 1 else None
    skipped = common if before else 0
    trees, places = [Tree() for _ in groups], {}
    for row, members in enumerate(groups):
        for i in members:
            after = len(questions[i].context) - 1 - skipped
            places[i] = row, [trees[row].add(sequence[skipped:])[after:] for sequence in paths[i]]
    hidden = read_trees(lm, trees, before)
    for i, (row, nodes) in places.items():
        states = [hidden[row, path] for path in nodes]
        yield i, states[0][0], states


def _loglikelihoods(lm: LM, states: list[Tensor], options: list[list[int]]) -> list[float]:
    """Summed log-probability (nats) of each option's tokens."""
    flat, wanted = torch.cat(states), torch.tensor([t for option in options for t in option], device=lm.device)
    step, parts = max(1, _MAX_LOGITS // lm.vocab_size), []
    for some, ids in zip(flat.split(step), wanted.split(step), strict=True):
        z = lm.logits(some)
        parts.append((z.gather(1, ids[:, None])[:, 0] - z.logsumexp(-1)).double().cpu())
    return [float(one.sum()) for one in torch.cat(parts).split([len(option) for option in options])]
