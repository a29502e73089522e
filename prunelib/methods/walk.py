"""Calibration: what each weight of a block reads, when all blocks before it are already compressed.

The walk goes block by block. Activations of all calibration tokens wait in
front of a block; the block runs once with its dense weights to collect
statistics of its inputs, is compressed, and runs again to produce what the next
block will read (Frantar & Alistarh 2023; Sun et al. 2024).

Memory beyond the model: one float32 activation [tokens, d] for each
specification, one block's statistics (a Gram matrix of d_in² for each distinct
input), one block's intermediate values for a batch, and the new weights.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from prunelib.errors import PrunelibError
from prunelib.methods.base import Method
from prunelib.methods.inputs import Batch, Input, InputStats
from prunelib.methods.weights import Weight, replaced, weights
from prunelib.models import hooks
from prunelib.models.experts import STACKED, Experts
from prunelib.models.memory import give_back


def batches(lm, input_ids: Tensor, attention_mask: Tensor | None = None, batch_size: int = 8) -> list[Batch]:
    """Token ids [n, S] as batches in front of block 0.

    Raises PrunelibError for a shape that is not [n, S], no tokens, rows of only padding or longer than the model reads.
    """
    if input_ids.dim() != 2 or input_ids.numel() == 0:
        raise PrunelibError(f"calibration needs token ids [n, length], not {list(input_ids.shape)}")
    if batch_size < 1:
        raise PrunelibError(f"batch_size must be at least 1, not {batch_size}")
    if attention_mask is not None and attention_mask.shape != input_ids.shape:
        raise PrunelibError(f"attention_mask must be {list(input_ids.shape)}, not {list(attention_mask.shape)}")
    lm.check_length(
        input_ids.shape[1] if attention_mask is None else int(attention_mask.sum(-1).max()), "a calibration sequence"
    )
    found = []
    for first in range(0, len(input_ids), batch_size):
        rows = slice(first, first + batch_size)
        inputs, keep = {"input_ids": input_ids[rows].to(lm.device)}, None
        if attention_mask is not None:
            mask = attention_mask[rows].to(lm.device)
            # A bare forward would number the pads too.
            inputs |= {"attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
            keep = mask.bool()
        states, calls = hooks.block_calls(lm, **inputs)
        found.append(Batch(states, keep, calls))
    return found


def input_stats(lm, layer: int, rows: Iterable[Batch], gram: bool = True) -> list[Input]:
    """Run block ``layer`` on all batches; the statistics of every distinct input of its weights.

    Weights that read the very same tensor share one entry. Does not change the states.
    """
    collector = _Collector(weights(lm, layer), gram)
    for batch in rows:
        collector.start(batch)
        modules = [w.module for w in collector.plain]
        with hooks.watched(lm, layer, modules, collector.read, collector.normed, collector.routed):
            run_block(lm, layer, batch)
    found = [*collector.found.values(), *collector.experts(lm.experts(layer))]
    unread = {w.name for w in collector.plain} - {w.name for entry in found for w in entry.members}
    if unread:
        raise PrunelibError(f"{lm.name} cannot be calibrated: {', '.join(sorted(unread))} read nothing")
    for entry in found:
        entry.stats.check(entry.members[0].name)
        entry.absorbed_by = entry.absorbed_by or _linear_producer(lm, layer, entry)
    return found


class _Collector:
    """Adds up what the weights of one block read, once for each distinct tensor."""

    def __init__(self, members: list[Weight], gram: bool):
        self.plain = [weight for weight in members if weight.expert is None]
        self.sliced = {(w.parameter, w.expert): w for w in members if w.expert is not None}
        self.gram = gram
        self.found: dict[int, Input] = {}  # by the place of the first reader
        self.seen: dict[tuple[str, int], InputStats] = {}  # of experts, by parameter and expert

    def start(self, batch: Batch) -> None:
        self.keep = None if batch.keep is None else batch.keep.reshape(-1)
        self.first: dict[tuple, int] = {}
        self.norms: dict[tuple, str] = {}
        self.alive: list[Tensor] = []  # as long as a tensor lives, no other has its address

    def normed(self, path: str, output: Tensor) -> None:
        self.norms[output.data_ptr(), output.numel()] = path
        self.alive.append(output)

    def read(self, place: int, x: Tensor) -> None:
        key = x.data_ptr(), x.numel()
        self.alive.append(x)
        first = self.first.setdefault(key, place)
        if first != place:
            if self.plain[place] not in self.found[first].members:
                self.found[first].members.append(self.plain[place])
            return
        flat = x.reshape(-1, x.shape[-1])
        if place not in self.found:
            self.found[place] = Input([self.plain[place]], self.empty(flat), self.norms.get(key))
        self.found[place].stats.update(flat if self.keep is None else flat[self.keep.to(flat.device)])

    def routed(self, expert: int, tokens: Tensor, x: Tensor, inner: Tensor) -> None:
        for name, values in zip(STACKED, (x, inner), strict=True):
            key = name, expert
            if key in self.sliced:
                if key not in self.seen:
                    self.seen[key] = self.empty(values)
                self.seen[key].update(values if self.keep is None else values[self.keep.to(tokens.device)[tokens]])

    def empty(self, like: Tensor) -> InputStats:
        return InputStats.empty(like.shape[1], like.device, torch.promote_types(like.dtype, torch.float32), self.gram)

    def experts(self, layout: Experts | None) -> Iterator[Input]:
        """An input each of the matrices of experts; one that no token reached counts as reading white noise."""
        for (name, expert), weight in self.sliced.items():
            stats = self.seen.get((name, expert))
            if stats is None or stats.tokens == 0:
                stats = self.empty(weight.get()).white()
            # The norm before the experts is read by all of them and by the router: it has no scale for one alone.
            absorbed = name == "down_proj" and layout.layout.linear_up
            yield Input([weight], stats, f"{layout.path}.gate_up_proj.{expert}" if absorbed else None)


def _linear_producer(lm, layer: int, entry: Input) -> str | None:
    """The projection whose output channels are this input's channels, up to factors that do not matter."""
    for reader, producer in ((lm.arch.mlp_proj, lm.arch.mlp_up), (lm.arch.attn_proj, lm.arch.attn_v)):
        if producer and [w.path for w in entry.members] == [reader]:
            module = lm.layers[layer].get_submodule(producer)
            # With grouped queries a value channel is read by several heads: no scale of its own.
            return producer if module.weight.shape[0] == len(entry.stats.sq_norms) else None
    return None


def run_block(lm, layer: int, batch: Batch) -> Tensor:
    """The output [b, S, d] of a block on a batch in front of it."""
    with torch.no_grad():
        return hooks.replay(lm, layer, batch.states, batch.calls[layer])


def advance(lm, layer: int, rows: Iterable[Batch]) -> None:
    """Replace the states of all batches by the output of block ``layer``, one batch at a time."""
    for batch in rows:
        batch.states = run_block(lm, layer, batch)


@dataclass(eq=False)
class Step:
    """What a walk knows after one block."""

    layer: int
    new: dict[str, dict[str, Tensor]]
    """New weights of this block by method and :attr:`Weight.name`."""
    inputs: list[Input]
    """Statistics of the block's inputs in the dense model (empty unless asked for)."""
    states: dict[str, list[Batch]]
    """The stream after this block, by method; ``"dense"`` is the uncompressed model's."""


def walk(
    lm,
    methods: Mapping[str, Method],
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    batch_size: int = 8,
    dense: bool = False,
) -> Iterator[Step]:
    """Compress every block with every method, each fed by its own compressed blocks.

    All ``methods`` (by name) go through the model in one walk: tokens are embedded
    once, and methods that stand before a block with the same activations (all of
    them before the first) share its statistics. ``dense`` sends the uncompressed
    model along, with Gram matrices, for comparison. The model is left as it was.
    """
    rows = batches(lm, input_ids, attention_mask, batch_size)
    by_layer = {name: method.by_layer(lm, rows) for name, method in methods.items()}
    # (batches, names that read them, whether the dense model reads them too)
    streams = [(rows, list(methods), dense)]
    for layer in range(lm.n_layers):
        step, following = Step(layer, {}, [], {}), []
        for rows, names, is_dense in streams:
            gram = is_dense or any("gram" in methods[name].needs for name in names)
            inputs = input_stats(lm, layer, rows, gram) if is_dense or _calibrated(methods, names) else None
            for name in names:
                method = by_layer[name][layer]
                made = compress_inputs(method, inputs) if inputs else compress_blind(method, lm, layer)
                step.new[name] = made
                mine = [Batch(b.states, b.keep, b.calls) for b in rows]
                with replaced(lm, made):
                    advance(lm, layer, mine)
                step.states[name] = mine
                following.append((mine, [name], False))
            if is_dense:
                step.inputs = inputs
                advance(lm, layer, rows)
                step.states["dense"] = rows
                following.append((rows, [], True))
        yield step
        streams = following
        give_back()


def _calibrated(methods, names) -> bool:
    return any(methods[name].needs for name in names)


def compress_blind(method: Method, lm, layer: int) -> dict[str, Tensor]:
    """The new weights of one block by a method that needs no data."""
    return {w.name: w.resting(method.compress(w.get(), None)) for w in weights(lm, layer)}


def compress_inputs(method: Method, inputs: Iterable[Input]) -> dict[str, Tensor]:
    """The new weights of one block from the statistics of its inputs."""
    made = {}
    for entry in inputs:
        dense = [weight.get() for weight in entry.members]
        results = method.compress_readers(dense, entry.stats, entry.absorbed_by is not None)
        for weight, result in zip(entry.members, results, strict=True):
            if not torch.isfinite(result).all():
                raise PrunelibError(f"{method.label} gave NaN or Inf at {weight.name}")
            made[weight.name] = weight.resting(result)
    return made
