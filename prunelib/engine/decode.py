"""One decoder for free, sampled and forced text: batched, with shared prefixes, each text ending when it is done.

What differs is how the next token is chosen: :func:`most_likely`, :class:`Sampled` (draws through the cumulative
distribution), :class:`Gumbel` (noise that several models have in common) or :class:`Forced` (given tokens).
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from prunelib.engine.prefix import State, begin, can_share, check_lengths, extend, shared_lengths
from prunelib.errors import PrunelibError
from prunelib.models.lm import LM

# ---------------------------------------------------------------- how a token is chosen

Choice = Callable[[Tensor, Sequence[int], int], Tensor]
"""``(logits [b, V] float32, prompts' numbers [b], step) -> ids [b]``."""


def most_likely(z: Tensor, rows: Sequence[int], step: int) -> Tensor:
    """The largest logit, the first of equal ones: greedy decoding."""
    return z.argmax(-1)


@dataclass(frozen=True, eq=False)
class Sampled:
    """Draws from softmax(z/T), by the inverse of its cumulative distribution in float64.

    ``draws`` [prompts, steps] in [0, 1), one for each token, so that a text does not depend on how prompts are
    batched. ``top_p`` below 1 draws from the nucleus: the most likely tokens that together have that probability
    (Holtzman et al. 2020).
    """

    draws: Tensor
    temperature: float = 1.0
    top_p: float = 1.0

    @classmethod
    def seeded(cls, prompts: int, steps: int, seed: int, temperature: float = 1.0, top_p: float = 1.0) -> "Sampled":
        """Draws of a generator with ``seed``."""
        generator = torch.Generator().manual_seed(seed)
        return cls(torch.rand(prompts, steps, generator=generator, dtype=torch.float64), temperature, top_p)

    def __call__(self, z: Tensor, rows: Sequence[int], step: int) -> Tensor:
        p = torch.softmax(z.double() / self.temperature, -1)
        if self.top_p < 1:
            ordered, order = p.sort(-1, descending=True)
            outside = ordered.cumsum(-1) - ordered >= self.top_p  # the first token is always inside
            p = p.masked_fill(torch.zeros_like(outside).scatter(-1, order, outside), 0)
        cumulative = p.cumsum(-1)
        # The last cumulative value is 1 up to rounding: scaling keeps the draw inside.
        target = self.draws[list(rows), step].to(z.device)[:, None] * cumulative[:, -1:]
        return torch.searchsorted(cumulative, target, right=True)[:, 0].clamp(max=z.shape[-1] - 1)


@dataclass(frozen=True)
class Gumbel:
    """argmax(z/T + g) with standard Gumbel noise g, which is a draw from softmax(z/T).

    The noise depends on seed, prompt, step and token alone. Models that decode with the same seed share it: they
    differ in a token only where their distributions do (common random numbers).
    """

    seed: int = 0
    temperature: float = 1.0

    def __call__(self, z: Tensor, rows: Sequence[int], step: int) -> Tensor:
        noise = torch.stack([self.noise(row, step, z.shape[-1]) for row in rows])
        return (z.double() / self.temperature + noise.to(z.device)).argmax(-1)

    def noise(self, row: int, step: int, size: int) -> Tensor:
        """Standard Gumbel noise [size], float64, of one step of one text."""
        mixed = ((self.seed * 1_000_003 + row) * 1_000_003 + step) % 2**63
        generator = torch.Generator().manual_seed(mixed)
        return -torch.empty(size, dtype=torch.float64).exponential_(generator=generator).log()


@dataclass(frozen=True)
class Forced:
    """The given tokens, one list a prompt, whatever the logits say (teacher forcing)."""

    continuations: Sequence[Sequence[int]]

    def __call__(self, z: Tensor, rows: Sequence[int], step: int) -> Tensor:
        return torch.tensor([self.continuations[row][step] for row in rows], device=z.device)


# ---------------------------------------------------------------- decoding


class Step(NamedTuple):
    """What an observer sees: the distributions of one step, and what was chosen from them."""

    number: int
    rows: list[int]  # numbers of the prompts
    logits: Tensor  # [b, V] float32, before anything is suppressed
    chosen: Tensor  # [b]


class Decoded(NamedTuple):
    """New token ids; ``ended``: by itself (an end token, a stop string), not by ``max_new``."""

    ids: list[int]
    ended: bool


class Generated(NamedTuple):
    """``text`` is cut before the first stop string; ``ended``: by itself, not by ``max_new``."""

    ids: list[int]
    text: str
    ended: bool


@torch.inference_mode()
def decode(
    lm: LM,
    prompts: Sequence[Sequence[int]],
    max_new: int | Sequence[int],
    choose: Choice = most_likely,
    *,
    stop: Sequence[str] = (),
    end: Sequence[int] | None = None,
    suppress: Sequence[int] = (),
    groups: Sequence[Hashable] | None = None,
    batch_size: int = 32,
    observe: Callable[[Step], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    memo: dict | None = None,
) -> list[Decoded]:
    """Token by token after each prompt (token ids), in the given order.

    Parameters
    ----------
    max_new : new tokens at most, one number for all or one a prompt
    stop : strings that end a text once they appear
    end : ids that end a text and are no part of it; by default the model's own, ``()`` for none
    suppress : ids that are never chosen
    groups : prompts of one group begin alike, and what they share is read once
    batch_size : prompts decoded together; rows that have ended leave the batch
    observe : called with every :class:`Step`
    memo : beginnings left by an earlier read-out of the same groups are not read again (engine.prefix.begin)

    Raises PrunelibError for an empty prompt, or one that does not fit the model.
    """
    limits = [max_new] * len(prompts) if isinstance(max_new, int) else list(max_new)
    for i, (prompt, most) in enumerate(zip(prompts, limits, strict=True)):
        if most < 1:
            raise PrunelibError(f"max_new must be at least 1, got {most}")
        if not len(prompt):
            raise PrunelibError(f"prompt {i} has no tokens")
    most = max(limits, default=0)
    lengths = [len(prompt) + new for prompt, new in zip(prompts, limits, strict=True)]
    check_lengths(lm, lengths, f"a text of {most} new tokens after prompt")
    groups = list(range(len(prompts))) if groups is None else groups
    prefix = [0] * len(prompts)
    if can_share(lm, max(map(len, prompts), default=0) + most):
        prefix = shared_lengths(prompts, groups, [1] * len(prompts))
    order = sorted(
        range(len(prompts)), key=lambda i: (prefix[i] > 0, prefix[i], tuple(prompts[i][: prefix[i]]), len(prompts[i]))
    )
    batch = _Batch(lm, choose, limits, stop, lm.eos_ids if end is None else set(end), list(suppress), observe)
    found: dict[int, Decoded] = {}
    while order:
        rows = [i for i in order[:batch_size] if (prefix[i] > 0) == (prefix[order[0]] > 0)]
        order = order[len(rows) :]
        state = begin(lm, [prompts[i][: prefix[i]] for i in rows], memo) if prefix[rows[0]] else None
        for row, decoded in batch.run(rows, [prompts[i][prefix[i] :] for i in rows], state):
            found[row] = decoded
            if progress:
                progress(len(found), len(prompts))
    return [found[i] for i in range(len(prompts))]


@dataclass(frozen=True)
class _Batch:
    """How the rows of a batch go on, and when each of them ends."""

    lm: LM
    choose: Choice
    limits: list[int]
    stop: Sequence[str]
    end: set[int]
    suppress: list[int]
    observe: Callable[[Step], None] | None

    def run(self, rows: list[int], feed, state: State | None) -> Iterator[tuple[int, Decoded]]:
        """Rows with what was decoded, as they end."""
        new: list[list[int]] = [[] for _ in rows]
        for step in range(max(self.limits[row] for row in rows)):
            hidden, state = extend(self.lm, feed, state)
            chosen = self._next(self.lm.logits(hidden[:, -1]), rows, step)
            going = []
            for place, token in enumerate(chosen):
                if token in self.end:
                    yield rows[place], Decoded(new[place], True)
                    continue
                new[place].append(token)
                if _stopped(self.lm, new[place], self.stop):
                    yield rows[place], Decoded(new[place], True)
                elif step + 1 == self.limits[rows[place]]:
                    yield rows[place], Decoded(new[place], False)
                else:
                    going.append(place)
            if not going:
                return
            if len(going) < len(rows):
                state = state.select(torch.tensor(going))
                rows, new = [rows[i] for i in going], [new[i] for i in going]
            feed = [ids[-1:] for ids in new]

    def _next(self, z: Tensor, rows: list[int], step: int) -> list[int]:
        allowed = z
        if self.suppress:
            allowed = z.index_fill(-1, torch.tensor(self.suppress, device=z.device), -torch.inf)
        chosen = self.choose(allowed, rows, step)
        if self.observe:
            self.observe(Step(step, list(rows), z, chosen))
        return chosen.tolist()


def generate(lm: LM, prompts: Sequence[Sequence[int]], max_new: int, choose: Choice = most_likely, **options):
    """:func:`decode` with the texts, each cut before its first stop string: a list of :class:`Generated`."""
    stop = options.get("stop", ())
    found = []
    for prompt, made in zip(prompts, decode(lm, prompts, max_new, choose, **options), strict=True):
        text, cut = _cut(lm.decode(made.ids, prompt), stop)
        found.append(Generated(made.ids, text, made.ended or cut))
    return found


def forced(
    lm: LM, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]], observe, **options
) -> None:
    """Show ``observe`` the model's distributions along given continuations, step by step (:class:`Step`)."""
    limits = [len(ids) for ids in continuations]
    decode(lm, prompts, limits, Forced(continuations), end=(), observe=observe, **options)


def _stopped(lm: LM, ids: list[int], stop: Sequence[str]) -> bool:
    """Whether a stop string has just appeared: every token has at least one character of it."""
    if not stop:
        return False
    tail = lm.decode(ids[-max(map(len, stop)) - 4 :])
    return any(word in tail for word in stop)


def _cut(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    places = [text.find(word) for word in stop if word in text]
    return (text[: min(places)], True) if places else (text, False)
