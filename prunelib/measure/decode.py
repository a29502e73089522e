"""Two models that write: their texts, and their distributions step by step along given texts.

Three trajectories separate the causes of a difference. Let A be the dense model's text and B the pruned one's.
*Direct*: both read A, so that only the model differs. *History*: the dense model reads A and B, so that only the text
differs. *Free*: each reads its own, and both differ. On B (*own*), the pruned model's text, both are compared again.

Chain rule: the KL divergence of whole texts is the sum of the one-step divergences along texts of the *first* model,
``KL(P‖Q) = Σ_t E_{y<t ∼ P} KL(P_t‖Q_t)``, so KL(dense‖pruned) goes with A and KL(pruned‖dense) with B. Drawn at T = 1
the sum along sampled texts estimates it without bias; along greedy texts it does not (arXiv:2504.10637).
"""

import copy
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from prunelib.engine.decode import Choice, Step, decode
from prunelib.engine.prefix import State, Tree, begin, can_share, read_trees, shared_lengths
from prunelib.measure.distances import one_minus_cosine
from prunelib.measure.survival import agreement_of
from prunelib.models import hooks
from prunelib.models.lm import LM, pad

_BLOCK_BYTES = 2**23
"""Of the logits, in float64, that are looked at together: what a cache holds."""


Memo = dict[tuple[tuple[int, ...], ...], State]
"""What a model has read of the prompts, all of each but its last token; prompts of one pass together."""


def write(
    lm: LM,
    prompts: Sequence[Sequence[int]],
    steps: int,
    choose: Choice,
    groups=None,
    memo: Memo | None = None,
    batch_size: int = 32,
    **options,
) -> list[list[int]]:
    """What a model writes after each prompt: the tokens chosen, an end token among them, ``steps`` at most.

    A ``memo`` is filled with what the model has read of the prompts, for :func:`read` with the same model. Models that
    write after the same prompts read them in the same passes, however long their texts become.
    """
    found: list[list[int]] = [[] for _ in prompts]

    def keep(step: Step) -> None:
        for row, token in zip(step.rows, step.chosen.tolist(), strict=True):
            if row < len(found):
                found[row].append(token)

    limits = [steps] * len(prompts)
    if memo is not None and prompts:
        # The decoder keeps what several texts begin with: a second one of a single token makes that the prompt.
        once = list(dict.fromkeys(map(tuple, prompts)))
        prompts, limits = [*map(tuple, prompts), *once], limits + [1] * len(once)
        batch_size, groups = batch_size * len(prompts) // len(found), prompts
    decode(lm, prompts, limits, choose, groups=groups, memo=memo, batch_size=batch_size, observe=keep, **options)
    return found


class States(NamedTuple):
    """The stream after the last block where each token of some texts was chosen."""

    h: Tensor
    """[N, d], text by text, step by step."""
    row: np.ndarray
    """Number of the text, [N]."""
    step: np.ndarray
    """Step in it, from 0, [N]."""


_TOKENS = 4096
"""Read in one pass, padding among them."""


def states(lm: LM, prompts: Sequence[Sequence[int]], texts: Sequence[Sequence[int]]) -> States:
    """What a model holds where it chose, or would have chosen, the tokens of ``texts`` after their ``prompts``."""
    return read(lm, prompts, texts)[0]


@torch.inference_mode()
def read(
    lm: LM, prompts: Sequence[Sequence[int]], *several: Sequence[Sequence[int]], memo: Memo | None = None
) -> list[States]:
    """:func:`states` of several lists of texts; all texts on one prompt are read together.

    What they have in common is read once, and once for all what all prompts begin with, such as a system prompt; with
    the ``memo`` of :func:`write` the prompts are not read again. Models that read the same texts do so in the same
    passes, if both or neither have a memo: a twin differs in nothing. Raises PrunelibError for a text that does not
    fit the model.
    """
    owners = [prompt for _ in several for prompt in prompts]
    kept = [len(text) for texts in several for text in texts]
    texts = [text for texts in several for text in texts]
    sequences = [[*prompt, *text[:-1]] for prompt, text in zip(owners, texts, strict=True)]
    longest = max(map(len, sequences), default=0)
    lm.check_length(longest, "a text with its prompt")
    if can_share(lm, longest):
        parts = _together(lm, owners, sequences, kept, memo or {})
    else:
        parts = _alone(lm, owners, sequences, kept)
    found, start = [], 0
    for some in several:
        lengths = kept[start : start + len(some)]
        step = np.concatenate([np.arange(n) for n in lengths]) if lengths else np.zeros(0, int)
        h = torch.cat(parts[start : start + len(some)])
        found.append(States(h, np.repeat(np.arange(len(some)), lengths), step))
        start += len(some)
    return found


def _together(lm: LM, owners, sequences, kept, memo: Memo) -> list[Tensor]:
    """States [n, d] of the last ``kept`` tokens of each sequence: a tree a prompt, every common token once."""
    last, trees = lm.n_layers - 1, {tuple(prompt): Tree() for prompt in owners}
    begun = _begun(lm, list(trees), memo)
    read = {prompt: one.length(prompt) for one in begun for prompt in one.rows}
    paths = []
    for prompt, sequence, n in zip(owners, sequences, kept, strict=True):
        path = trees[tuple(prompt)].add(sequence[read[tuple(prompt)] :])
        paths.append(path[len(path) - n :])
    held: dict[tuple[int, ...], Tensor] = {}
    for one in begun:
        for some in _passes({prompt: len(trees[prompt].ids) for prompt in one.rows}):
            with hooks.captured(lm, ("resid_post",), [last]) as seen:
                read_trees(lm, [trees[prompt] for prompt in some], one.of(some, lm))
            held |= dict(zip(some, seen["resid_post"][last], strict=True))
    return [held[tuple(prompt)][path] for prompt, path in zip(owners, paths, strict=True)]


class _Begun(NamedTuple):
    """Prompts whose beginnings have been read."""

    rows: dict[tuple[int, ...], int]
    """Where each prompt stands in the state."""
    common: int | None
    """Tokens that were read; None for all of a prompt but its last."""
    state: State | None

    def length(self, prompt: tuple[int, ...]) -> int:
        return len(prompt) - 1 if self.common is None else self.common

    def of(self, prompts: Sequence[tuple[int, ...]], lm: LM) -> State | None:
        """A state of its own for a pass over some prompts."""
        if self.state is None:
            return None
        return copy.deepcopy(self.state).select(torch.tensor([self.rows[one] for one in prompts]))


def _begun(lm: LM, prompts: list[tuple[int, ...]], memo: Memo) -> list[_Begun]:
    known = [
        _Begun({one: key.index(one[:-1]) for one in prompts if one[:-1] in key}, None, state)
        for key, state in memo.items()
    ]
    if set(prompts) == {prompt for one in known for prompt in one.rows}:
        return known
    common = shared_lengths(prompts, [0] * len(prompts), [1] * len(prompts))[0] if prompts else 0
    state = begin(lm, [prompts[0][:common]]) if common else None
    return [_Begun(dict.fromkeys(prompts, 0), common, state)]


def _alone(lm: LM, owners, sequences, kept) -> list[Tensor]:
    """The same with each sequence in a padded row of its own.

    Rows of one pass may round differently. A token that stands after the same tokens as another therefore has the
    state of the first of them: texts that have not parted yet differ in nothing, as in :func:`_together`.
    """
    last, parts = lm.n_layers - 1, {}
    for some in _passes({i: len(sequence) for i, sequence in enumerate(sequences)}):
        batch = pad([sequences[i] for i in some], lm.pad_id, device=lm.device)
        with hooks.stop_after(lm, last), hooks.captured(lm, ("resid_post",), [last]) as seen:
            lm.model(**batch, use_cache=False)
        parts |= {i: h[len(h) - kept[i] :] for i, h in zip(some, seen["resid_post"][last], strict=True)}
    trees, first = {tuple(prompt): Tree() for prompt in owners}, {}
    for i, (prompt, sequence) in enumerate(zip(map(tuple, owners), sequences, strict=True)):
        path = trees[prompt].add(sequence)[len(sequence) - kept[i] :]
        places = [first.setdefault((prompt, node), (i, at)) for at, node in enumerate(path)]
        parts[i] = torch.stack([parts[of][at] for of, at in places]) if places else parts[i]
    return [parts[i] for i in range(len(sequences))]


def _passes(lengths: dict) -> Iterator[list]:
    """Keys by length, as many together as :data:`_TOKENS` allows."""
    some: list = []
    for key in sorted(lengths, key=lengths.get):
        if some and (len(some) + 1) * lengths[key] > _TOKENS:
            yield some
            some = []
        some.append(key)
    if some:
        yield some


COLUMNS = (
    "one_minus_cos_h", "one_minus_cos_z", "one_minus_cos_p", "kl_dense_pruned", "kl_pruned_dense", "rms_dz", "var_dz",
    "top1_same", "tv", "agree_best", "agree_common",
)  # fmt: skip


class Point(NamedTuple):
    """A model at some steps, float64, T = 1: see :func:`point`."""

    h: Tensor
    """States [N, d]."""
    z: Tensor
    """Logits [N, V]."""
    p: Tensor
    """Probabilities [N, V]."""
    log_sum: Tensor
    """log Σ exp z [N], in nats."""
    top: Tensor
    """The most likely token [N]."""
    dots: Tensor
    """⟨z, z⟩, ⟨p, p⟩, ⟨p, z⟩ and Σ z, [4, N]."""

    def at(self, rows: Tensor) -> "Point":
        """Some of the steps; itself for all of them in their order."""
        if torch.equal(rows, torch.arange(len(self.h))):
            return self
        return Point(*(one[rows] for one in self[:-1]), self.dots[:, rows])


def point(lm: LM, h: Tensor) -> Point:
    """States [N, d] after the last block, through the final norm and the head."""
    return of_logits(h, lm.unembed(h).double())


def of_logits(h: Tensor, z: Tensor) -> Point:
    """States [N, d] with logits [N, V] in float64."""
    top, best = z.max(-1)
    p = (z - top[:, None]).exp_()
    total = p.sum(-1)  # at least 1
    p.div_(total[:, None])
    return Point(h, z, p, top + total.log(), best, torch.stack([dot(z, z), dot(p, p), dot(p, z), z.sum(-1)]))


def compare(dense: Point, pruned: Point, chosen: Tensor | None = None) -> Tensor:
    """Two models step by step: :data:`COLUMNS` [11, N], float64; ``chosen`` [N] are the ids of the text that is read.

    ``one_minus_cos_h`` (before the final norm), ``_z``, ``_p``; both KL divergences in nats; ``rms_dz`` and ``var_dz``
    over the vocabulary, in logit units; ``top1_same``; ``tv``, ``agree_best`` and ``agree_common`` of
    :func:`prunelib.measure.survival.agreement`, the text being the first model's, NaN where the two
    read no text in common (``chosen`` None).

    What needs the whole vocabulary are a dozen dot products: KL(p‖q) = ⟨p, z₁ − z₂⟩ + log Σ exp z₂ − log Σ exp z₁. They
    round to some 1e-13, far below a float32 logit's own rounding. Where the states are the same nothing differs: equal
    states may land in different places of a product and differ in the last bit.
    """
    (zz, pp, pz, total), (ww, qq, qw, other) = dense.dots, pruned.dots
    zw, pq = dot(dense.z, pruned.z), dot(dense.p, pruned.p)
    apart, size = pruned.log_sum - dense.log_sum, dense.z.shape[-1]
    square = (zz - 2 * zw + ww).clamp(min=0) / size
    same = (dense.h == pruned.h).all(-1)
    rows = [
        one_minus_cosine(dense.h, pruned.h),
        1 - zw / (zz * ww).sqrt(),
        1 - pq / (pp * qq).sqrt(),
        pz - dot(dense.p, pruned.z) + apart,
        qw - dot(pruned.p, dense.z) - apart,
        square.sqrt(),
        square - ((other - total) / size) ** 2,
    ]
    rows = [row.clamp(min=0).masked_fill(same, 0) for row in rows]
    rows.append((dense.top == pruned.top).double().masked_fill(same, 1))
    if chosen is None:
        rows += [torch.full_like(apart, torch.nan)] * 3
    else:
        here = chosen.to(apart.device)[:, None]
        ratio = (pruned.z.gather(-1, here) - dense.z.gather(-1, here))[:, 0] - apart
        tv, best, common = agreement_of(dense.p, pruned.p, ratio)
        rows += [tv.masked_fill(same, 0), best.masked_fill(same, 1), common.masked_fill(same, 1)]
    return torch.stack(rows)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Row by row: [N, V], [N, V] -> [N]."""
    return torch.linalg.vecdot(a, b)


class Texts(NamedTuple):
    """A text a prompt, and what both models hold along it."""

    ids: list[list[int]]
    dense: States
    pruned: States


@torch.inference_mode()
def trajectories(lm: LM, a: Texts, b: Texts) -> pd.DataFrame:
    """All pairs of the three trajectories at every step.

    ``lm`` is the dense model, ``a`` its texts, ``b`` those of the pruned one. Columns ``row, step, pair`` and
    :data:`COLUMNS`;
    ``pair`` is ``direct`` (both models on a), ``own`` (both on b), ``free`` (each on its own) or ``history`` (the dense
    model on a and on b), the last two while both texts go on. What is first (dense) in a pair is the dense model, on a
    unless both read b. Logits of a few steps are held at a time, whatever the number of steps.
    """
    places = [{at: i for i, at in enumerate(zip(t.dense.row, t.dense.step, strict=True))} for t in (a, b)]
    tokens = [torch.tensor([token for text in t.ids for token in text]) for t in (a, b)]
    steps = sorted(places[0] | places[1])
    size = max(1, _BLOCK_BYTES // (8 * lm.vocab_size))
    both_go_on = [at for at in steps if at in places[0] and at in places[1]]
    of_pair = {"direct": sorted(places[0]), "own": sorted(places[1]), "free": both_go_on, "history": both_go_on}
    # Filled in place: small results that are kept would lie where a large array was freed, which then needs new memory.
    values = {pair: np.empty((len(some), len(COLUMNS))) for pair, some in of_pair.items()}
    done = dict.fromkeys(values, 0)
    for start in range(0, len(steps), size):
        some = steps[start : start + size]
        on_a, on_b = ([at for at in some if at in where] for where in places)
        rows = [
            torch.tensor([where[at] for at in on], dtype=torch.long)
            for where, on in zip(places, (on_a, on_b), strict=True)
        ]
        held = [
            states.h[at.to(states.h.device)]
            for t, at in zip((a, b), rows, strict=True)
            for states in (t.dense, t.pruned)
        ]
        z = lm.unembed(torch.cat(held)).split([len(h) for h in held])  # one pass over the head's weights
        dense_a, pruned_a, dense_b, pruned_b = (of_logits(h, one.double()) for h, one in zip(held, z, strict=True))
        both = [at for at in on_a if at in places[1]]
        i, j = (torch.tensor([on.index(at) for at in both], dtype=torch.long) for on in (on_a, on_b))
        here, there = tokens[0][rows[0]], tokens[1][rows[1]]
        for pair, columns in (
            ("direct", compare(dense_a, pruned_a, here)),
            ("own", compare(dense_b, pruned_b, there)),
            ("free", compare(dense_a.at(i), pruned_b.at(j))),
            ("history", compare(dense_a.at(i), dense_b.at(j))),
        ):
            values[pair][done[pair] : done[pair] + columns.shape[1]] = columns.T.cpu().numpy()
            done[pair] += columns.shape[1]
    frames = []
    for pair, some in of_pair.items():
        row, step = zip(*some, strict=True) if some else ((), ())
        frame = pd.DataFrame(values[pair], columns=COLUMNS)
        frames.append(frame.assign(row=np.array(row, int), step=np.array(step, int), pair=pair))
    found = pd.concat(frames, ignore_index=True)
    found["top1_same"] = found["top1_same"].astype(bool)
    return found[["row", "step", "pair", *COLUMNS]].sort_values(["pair", "row", "step"], ignore_index=True)


def first_difference(a: Sequence[int], b: Sequence[int]) -> int:
    """The first step at which two texts differ; their length where they do not."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
