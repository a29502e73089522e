"""Two models that write: their texts, and their distributions step by step along given texts.

Three trajectories separate the causes of a difference. Let A be the dense model's text and B the pruned one's.
*Direct*: both read A, so that only the model differs. *History*: the dense model reads A and B, so that only the text
differs. *Free*: each reads its own, and both differ. On B (*own*), the pruned model's text, both are compared again.

Chain rule: the KL divergence of whole texts is the sum of the one-step divergences along texts of the *first* model,
``KL(P‖Q) = Σ_t E_{y<t ∼ P} KL(P_t‖Q_t)``, so KL(dense‖pruned) goes with A and KL(pruned‖dense) with B. Drawn at T = 1
the sum along sampled texts estimates it without bias; along greedy texts it does not (arXiv:2504.10637).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from prunelib.engine.decode import Choice, Step, decode
from prunelib.measure.distances import kl, one_minus_cosine
from prunelib.measure.survival import agreement
from prunelib.models import hooks
from prunelib.models.lm import LM, pad

_BLOCK_BYTES = 2**24
"""Of the logits, in float64, that are looked at together: what a cache holds."""


def write(
    lm: LM, prompts: Sequence[Sequence[int]], steps: int, choose: Choice, groups=None, **options
) -> list[list[int]]:
    """What a model writes after each prompt: the tokens chosen, an end token among them, ``steps`` at most."""
    found: list[list[int]] = [[] for _ in prompts]

    def keep(step: Step) -> None:
        for row, token in zip(step.rows, step.chosen.tolist(), strict=True):
            found[row].append(token)

    decode(lm, prompts, steps, choose, groups=groups, observe=keep, **options)
    return found


class States(NamedTuple):
    """The stream after the last block where each token of some texts was chosen."""

    h: Tensor
    """[N, d], text by text, step by step."""
    row: np.ndarray
    """Number of the text, [N]."""
    step: np.ndarray
    """Step in it, from 0, [N]."""


@torch.inference_mode()
def states(lm: LM, prompts: Sequence[Sequence[int]], texts: Sequence[Sequence[int]], batch_size: int = 16) -> States:
    """What a model holds where it chose, or would have chosen, the tokens of ``texts`` after their ``prompts``.

    Texts are read whole, by length. Raises PrunelibError for one that does not fit the model.
    """
    sequences = [[*prompt, *text[:-1]] for prompt, text in zip(prompts, texts, strict=True)]
    lm.check_length(max(map(len, sequences), default=0), "a text with its prompt")
    order = sorted(range(len(texts)), key=lambda i: len(sequences[i]))
    last, parts = lm.n_layers - 1, {}
    for start in range(0, len(order), batch_size):
        some = order[start : start + batch_size]
        batch = pad([sequences[i] for i in some], lm.pad_id, device=lm.device)
        mask = batch["attention_mask"]
        places = (mask.cumsum(-1) - 1).clamp(min=0)
        with hooks.stop_after(lm, last), hooks.captured(lm, ("resid_post",), [last]) as seen:
            lm.model(input_ids=batch["input_ids"], attention_mask=mask, position_ids=places, use_cache=False)
        for i, h in zip(some, seen["resid_post"][last], strict=True):
            parts[i] = h[len(h) - len(texts[i]) :]
    lengths = [len(text) for text in texts]
    step = np.concatenate([np.arange(n) for n in lengths]) if lengths else np.zeros(0, int)
    return States(torch.cat([parts[i] for i in range(len(texts))]), np.repeat(np.arange(len(texts)), lengths), step)


COLUMNS = (
    "one_minus_cos_h", "one_minus_cos_z", "one_minus_cos_p", "kl_dense_pruned", "kl_pruned_dense", "rms_dz", "var_dz",
    "top1_same", "tv", "agree_best", "agree_common",
)  # fmt: skip


class Point(NamedTuple):
    """A model at some steps: states [N, d], logits and log-probabilities [N, V] in float64 (T = 1, nats)."""

    h: Tensor
    z: Tensor
    log_p: Tensor

    def at(self, rows: Tensor) -> "Point":
        return Point(self.h[rows], self.z[rows], self.log_p[rows])


def point(lm: LM, h: Tensor) -> Point:
    """States [N, d] after the last block, through the final norm and the head."""
    z = lm.unembed(h).double()
    return Point(h, z, torch.log_softmax(z, -1))


def compare(dense: Point, pruned: Point, chosen: Tensor) -> Tensor:
    """Two models step by step: :data:`COLUMNS` [11, N], float64; ``chosen`` [N] are the ids of the text that is read.

    ``one_minus_cos_h`` (before the final norm), ``_z``, ``_p``; both KL divergences in nats; ``rms_dz`` and ``var_dz``
    over the vocabulary, in logit units; ``top1_same``; ``tv``, ``agree_best`` and ``agree_common`` of
    :func:`prunelib.measure.survival.agreement`, the text being the first model's.
    """
    same = (dense.h == pruned.h).all(-1, keepdim=True)
    # Equal states may land in different places of a product and differ in the last bit.
    z, log_q = (torch.where(same, a, b) for a, b in zip(dense[1:], pruned[1:], strict=True))
    dz = z - dense.z
    rows = (
        one_minus_cosine(dense.h, pruned.h),
        one_minus_cosine(dense.z, z),
        one_minus_cosine(dense.log_p.exp(), log_q.exp()),
        kl(dense.log_p, log_q),
        kl(log_q, dense.log_p),
        dz.square().mean(-1).sqrt(),
        dz.var(-1, unbiased=False),
        (dense.z.argmax(-1) == z.argmax(-1)).double(),
        *agreement(dense.log_p, log_q, chosen.to(log_q.device)),
    )
    return torch.stack(rows)


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
    frames = []
    for start in range(0, len(steps), size):
        some = steps[start : start + size]
        on_a, on_b = ([at for at in some if at in where] for where in places)
        rows = [
            torch.tensor([where[at] for at in on], dtype=torch.long)
            for where, on in zip(places, (on_a, on_b), strict=True)
        ]
        (dense_a, pruned_a), (dense_b, pruned_b) = (
            [point(lm, states.h[at.to(states.h.device)]) for states in (t.dense, t.pruned)]
            for t, at in zip((a, b), rows, strict=True)
        )
        both = [at for at in on_a if at in places[1]]
        i, j = (torch.tensor([on.index(at) for at in both], dtype=torch.long) for on in (on_a, on_b))
        here, there = tokens[0][rows[0]], tokens[1][rows[1]]
        for pair, steps_of, columns in (
            ("direct", on_a, compare(dense_a, pruned_a, here)),
            ("own", on_b, compare(dense_b, pruned_b, there)),
            ("free", both, compare(dense_a.at(i), pruned_b.at(j), here[i])),
            ("history", both, compare(dense_a.at(i), dense_b.at(j), here[i])),
        ):
            frame = pd.DataFrame(columns.T.cpu().numpy(), columns=COLUMNS)
            row, step = zip(*steps_of, strict=True) if steps_of else ((), ())
            frames.append(frame.assign(row=np.array(row, int), step=np.array(step, int), pair=pair))
    found = pd.concat(frames, ignore_index=True)
    found["top1_same"] = found["top1_same"].astype(bool)
    return found[["row", "step", "pair", *COLUMNS]].sort_values(["pair", "row", "step"], ignore_index=True)


def first_difference(a: Sequence[int], b: Sequence[int]) -> int:
    """The first step at which two texts differ; their length where they do not."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
