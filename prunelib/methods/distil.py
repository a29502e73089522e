"""Learning from the dense model, offline: its last states on some text once, then KL(dense ‖ pruned) against them.

Rows are split into those that are learned from and a few that are held out. The dense model is kept as its states [d]
before the final norm, and its distributions are made again from them, a block of positions at a time, so that
no more than :data:`BLOCK` logits of each model exist at once.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor
from torch.func import functional_call

from prunelib.errors import PrunelibError
from prunelib.models import hooks
from prunelib.models.slots import refuse_offloaded

BLOCK = 2**22
"""Logits that are held at once (of each model)."""

STEP_TOKENS = 128
"""Tokens of a gradient step, in whole rows."""

WARM_UP = 0.1
"""Share of the steps in which the rate rises; it falls to 0 over the others, linearly."""

HELD = 8
"""One row of so many, at least one, is held out."""

MEASURED = 6
"""How often held-out rows are read while something is trained, beside the first time."""

Logits = Callable[[slice], Tensor]
"""The logits [k, V] of some positions."""


@dataclass(eq=False)
class Text:
    """Rows of tokens: ``ids`` and ``mask`` [n, S]; the last ``held`` rows are not learned from."""

    ids: Tensor
    mask: Tensor
    held: int

    @classmethod
    def of(cls, lm, ids: Tensor, mask: Tensor | None) -> "Text":
        """Raises PrunelibError for other shapes, fewer than two rows, or rows longer than the model reads."""
        if ids.dim() != 2 or len(ids) < 2:
            raise PrunelibError(f"a repair needs two rows of tokens [n, length] or more, not {list(ids.shape)}")
        mask = torch.ones_like(ids) if mask is None else mask
        if mask.shape != ids.shape:
            raise PrunelibError(f"attention_mask must be {list(ids.shape)}, not {list(mask.shape)}")
        lm.check_length(int(mask.sum(-1).max()), "a calibration sequence")
        return cls(ids.to(lm.device), mask.to(lm.device), max(1, len(ids) // HELD))

    @property
    def learned(self) -> range:
        """Rows to learn from."""
        return range(len(self.ids) - self.held)

    @property
    def held_out(self) -> range:
        """The others."""
        return range(len(self.ids) - self.held, len(self.ids))

    def inputs(self, rows: Sequence[int]) -> dict:
        """What the model is called with for some rows. A bare forward would number the pads too."""
        rows = list(rows)
        mask = self.mask[rows]
        given = {"input_ids": self.ids[rows], "use_cache": False}
        if not mask.all():
            given |= {"attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
        return given

    def kept(self, rows: Sequence[int]) -> Tensor:
        """Which of their positions [k, S] are no padding."""
        return self.mask[list(rows)].bool()

    def count(self, rows: Sequence[int]) -> int:
        """Tokens of some rows, padding left out."""
        return int(self.mask[list(rows)].sum())


def batches(rows: Sequence[int], size: int) -> Iterator[list[int]]:
    """Some rows at a time."""
    rows = list(rows)
    return (rows[i : i + size] for i in range(0, len(rows), size))


def last_states(lm, text: Text, batch_size: int) -> Tensor:
    """The stream after the last block [n, S, d] of the model as it is now."""
    found = []
    with torch.no_grad():
        for rows in batches(range(len(text.ids)), batch_size):
            found.append(stream(lm, lambda rows=rows: lm.model(**text.inputs(rows))))
    return torch.cat(found)


def stream(lm, run: Callable) -> Tensor:
    """The stream after the last block [b, S, d] of what ``run()`` reads."""
    last = lm.n_layers - 1
    with hooks.stop_after(lm, last), hooks.captured(lm, ("resid_post",), [last]) as seen:
        run()
        return seen["resid_post"][last]


@dataclass(eq=False)
class Target:
    """The dense model's distributions, as its states after the final norm ``x`` [n, S, d] and its unembedding."""

    lm: object
    x: Tensor
    head: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, lm, text: Text, batch_size: int) -> "Target":
        """``lm`` is dense now; what is kept of it stays so when its parameters are replaced."""
        bias = lm.unembed_bias
        with torch.no_grad():
            x = lm.ln_final(last_states(lm, text, batch_size))
        return cls(lm, x, lm.W.detach(), None if bias is None else bias.detach())

    def blocks(self, x: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """(positions, p [k, V], Σ p log p [k]) of states ``x`` [N, d], a block of positions at a time."""
        size = max(1, BLOCK // self.lm.vocab_size)
        for first in range(0, len(x), size):
            some = slice(first, first + size)
            with torch.no_grad():
                z = self.lm.scale_logits(torch.nn.functional.linear(x[some], self.head, self.bias).float())
                log_p = torch.log_softmax(z, -1)
                p = log_p.exp()
                negative_entropy = log_p.mul_(p).sum(-1)
            yield some, p, negative_entropy

    def kl(self, x: Tensor, logits: Logits) -> Tensor:
        """KL(dense ‖ pruned) [N] in nats at positions whose dense states are ``x`` [N, d]; no gradient."""
        found = []
        with torch.no_grad():
            for some, p, negative_entropy in self.blocks(x):
                found.append((_cross_entropy(logits(some), p) + negative_entropy).clamp(min=0))
        return torch.cat(found)

    def learn(self, x: Tensor, logits: Logits) -> float:
        """Mean KL over the positions; its gradient is added to that of whatever ``logits`` depends on."""
        total = 0.0
        for some, p, negative_entropy in self.blocks(x):
            loss = _cross_entropy(logits(some), p).sum() / len(x)
            loss.backward()
            total += loss.item() + negative_entropy.sum().item() / len(x)
        return total


@dataclass(eq=False)
class Cached:
    """States of the pruned model before its final norm [n, S, d], for what is fitted behind the last block alone."""

    lm: object
    text: Text
    target: Target
    states: Tensor

    @classmethod
    def of(cls, lm, text: Text, target: Target, batch_size: int) -> "Cached":
        """``lm`` is pruned now. Raises PrunelibError where its final norm is offloaded."""
        refuse_offloaded([lm.ln_final], "fitting the final norm")
        return cls(lm, text, target, last_states(lm, text, batch_size))

    def norm(self) -> dict[str, Tensor]:
        """Parameters of the final norm as leaves in float32, by their names in the model."""
        arch = self.lm.arch
        own = self.lm.ln_final.named_parameters(recurse=False)
        return {f"{arch.ln_final}.{name}": leaf(value) for name, value in own}

    def normed(self, values: Mapping[str, Tensor], h: Tensor) -> Tensor:
        """States [..., d] after a final norm with other parameters."""
        own = {name.rpartition(".")[2]: value.to(h.dtype) for name, value in values.items()}
        return functional_call(self.lm.ln_final, own, (h,))

    def learn(self, logits: Callable[[Tensor], Tensor], rows: Sequence[int]) -> float:
        """:meth:`Target.learn` on some rows; ``logits`` maps states before the norm [k, d] to [k, V]."""
        kept = self.text.kept(rows)
        h = self.states[list(rows)][kept]
        return self.target.learn(self.target.x[list(rows)][kept], lambda some: logits(h[some]))

    def kl(self, logits: Callable[[Tensor], Tensor], rows: Sequence[int]) -> float:
        """Mean KL on some rows, nats a token."""
        kept = self.text.kept(rows)
        h = self.states[list(rows)][kept]
        return self.target.kl(self.target.x[list(rows)][kept], lambda some: logits(h[some])).mean().item()


def leaf(value: Tensor) -> Tensor:
    """A copy in float32 (float64 for float64) to take gradients of."""
    return value.detach().to(torch.promote_types(value.dtype, torch.float32), copy=True).requires_grad_(True)


# ---------------------------------------------------------------- gradient steps


@dataclass(frozen=True)
class Trained:
    """``curve`` as in :class:`prunelib.methods.apply.Repaired`; ``tokens`` learned from, each time they were."""

    curve: pd.DataFrame
    tokens: int


def train(
    groups: Sequence[tuple[Sequence[Tensor], float]],
    learn: Callable[[list[int]], float],
    measure: Callable[[], float],
    text: Text,
    epochs: int,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Trained:
    """AdamW over rows in seeded order, for ``groups`` of leaves, each with its learning rate.

    They end at the values that were best on held-out rows. ``learn(rows)`` adds the gradient of the mean KL on some
    rows to the leaves and returns that mean; ``measure()`` is the mean KL on held-out rows, taken before the first
    step, :data:`MEASURED` times on the way and after the last. The values before the first step count too, so that
    held-out KL never ends above where it began.
    """
    leaves = [leaf for some, _ in groups for leaf in some]
    size = max(1, round(STEP_TOKENS * len(text.learned) / text.count(text.learned)))
    generator = torch.Generator().manual_seed(seed)
    order = [
        list(text.learned)[i] for _ in range(epochs) for i in torch.randperm(len(text.learned), generator=generator)
    ]
    steps = list(batches(order, size))
    optimizer = torch.optim.AdamW([{"params": list(some), "lr": rate} for some, rate in groups], weight_decay=0.0)
    warm = max(1, math.ceil(WARM_UP * len(steps)))
    shape = lambda i: (i + 1) / warm if i < warm else (len(steps) - i) / max(1, len(steps) - warm)  # noqa: E731
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, shape)
    every = max(1, math.ceil(len(steps) / MEASURED))
    least, best = measure(), [leaf.detach().clone() for leaf in leaves]
    curve, losses, seen = [(0, 0, math.nan, least)], [], 0
    for number, rows in enumerate(steps, 1):
        optimizer.zero_grad()
        losses.append(learn(rows))
        optimizer.step()
        schedule.step()
        seen += text.count(rows)
        if number % every == 0 or number == len(steps):
            now = measure()
            curve.append((number, seen, sum(losses) / len(losses), now))
            losses = []
            if now < least:
                least, best = now, [leaf.detach().clone() for leaf in leaves]
        if progress:
            progress(number, len(steps))
    with torch.no_grad():
        for leaf, value in zip(leaves, best, strict=True):
            leaf.copy_(value)
    return Trained(pd.DataFrame(curve, columns=["step", "tokens", "kl_train", "kl_held"]), seen)


def _cross_entropy(z: Tensor, p: Tensor) -> Tensor:
    return torch.logsumexp(z, -1) - (p * z).sum(-1)
