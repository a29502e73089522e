"""The states before and after every sublayer, from one teacher-forced pass.

A dropped sublayer leaves the stream as it was before it, so along the dense
trajectory dense = stream after the sublayer and pruned = stream before it (in a
parallel block: the block's output without that sublayer's contribution). What
is after one sublayer is before the next: a run of sequential layers is one
chain of 2L + 1 points for 2L pairs.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from prunelib.errors import PrunelibError, nearest
from prunelib.models.hooks import stop_after, visited

SUBLAYERS = ("attn", "mlp")


@dataclass(frozen=True)
class Chains:
    """Stream points [N, G, P, d] of N positions, in G chains of P points.

    ``[..., dense, :]`` are compared with ``[..., pruned, :]``: K pairs a chain,
    whose (layer, sublayer) are ``sites``, G·K of them. ``row`` and ``position``
    are int64 [N], on the CPU.
    """

    states: Tensor
    row: Tensor
    position: Tensor
    layout: "Layout"


@dataclass(frozen=True)
class Layout:
    """Which stream points are kept, and which of them make pairs."""

    layers: tuple[int, ...]
    sublayers: tuple[str, ...]
    chains: int
    points: int
    dense: slice
    pruned: slice
    sites: tuple[tuple[int, str], ...]


def layout(lm, sublayers: Iterable[str] = SUBLAYERS, layers: Iterable[int] | None = None) -> Layout:
    """The cheapest layout for these sites; PrunelibError for sites the model does not have."""
    asked = tuple(sublayers)
    for name in asked:
        if name not in SUBLAYERS:
            hint = nearest(name, SUBLAYERS)
            raise PrunelibError(f"unknown sublayer '{name}'{hint}; use attn, mlp")
    wanted = tuple(range(lm.n_layers)) if layers is None else tuple(sorted(set(layers)))
    kinds = tuple(name for name in SUBLAYERS if name in asked)
    if not wanted or not kinds:
        raise PrunelibError("nothing to trace: no layer or no sublayer was chosen")
    for layer in wanted:
        if not 0 <= layer < lm.n_layers:
            raise PrunelibError(f"no layer {layer}: {lm.name} has layers 0 to {lm.n_layers - 1}")
    sites = tuple((layer, kind) for layer in wanted for kind in kinds)
    if lm.arch.is_parallel:  # without the attention, block output, without the MLP
        split = slice(1, 2), slice(0, None, 2)
        return Layout(wanted, kinds, len(wanted), 1 + len(kinds), *split, sites)
    after_before = slice(1, None), slice(None, -1)
    if len(kinds) == 2 and wanted[-1] - wanted[0] == len(wanted) - 1:
        return Layout(wanted, kinds, 1, 2 * len(wanted) + 1, *after_before, sites)
    return Layout(wanted, kinds, len(wanted), 1 + len(kinds), *after_before, sites)


def stream_chains(
    lm, input_ids: Tensor, attention_mask: Tensor, position_mask: Tensor, plan: Layout, limit: int
) -> Iterator[Chains]:
    """Run the dense model and yield the chains of the chosen positions, row by row in order.

    ``input_ids``, ``attention_mask``, ``position_mask`` are [B, S]. At most about
    ``limit`` bytes of stream are held at once: rows are run in as many groups as
    that needs, and a row too long for it is run once for each part of it.
    """
    lm.check_length(int(attention_mask.sum(-1).max()), "a sequence")
    position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
    d, size = lm.d_model, torch.finfo(lm.dtype).bits // 8
    most = max(1, limit // (plan.chains * plan.points * d * size))
    with torch.no_grad(), stop_after(lm, plan.layers[-1]):
        for row, position in _groups(position_mask.cpu(), most):
            rows, local = row.unique(return_inverse=True)
            some = rows.to(input_ids.device)
            where = (local * input_ids.shape[1] + position).to(lm.device)
            states = _Collector(plan, where)
            with visited(lm, states.needs, states.visit, plan.layers):
                lm.model(
                    input_ids=input_ids[some].to(lm.device),
                    attention_mask=attention_mask[some].to(lm.device),
                    position_ids=position_ids[some].to(lm.device),
                    use_cache=False,
                )
            yield Chains(states.states, row, position, plan)


def _groups(position_mask: Tensor, most: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(row, position) of at most ``most`` chosen tokens at a time; whole rows where they fit."""
    held: list[Tensor] = []
    for row in range(len(position_mask)):
        where = position_mask[row].nonzero()
        for part in where.split(most):
            part = torch.cat([torch.full_like(part, row), part], dim=1)
            if held and sum(map(len, held)) + len(part) > most:
                yield torch.cat(held).unbind(1)
                held = []
            held.append(part)
    held = [part for part in held if len(part)]
    if held:
        yield torch.cat(held).unbind(1)


class _Collector:
    """Writes the chosen positions of each layer into one tensor as the forward pass goes."""

    def __init__(self, plan: Layout, where: Tensor):
        self.plan, self.where = plan, where
        self.parallel = plan.dense == slice(1, 2)
        if self.parallel:
            outputs = [f"{kind}_out" for kind in plan.sublayers]
            self.needs = ("resid_post", *outputs)
        elif plan.sublayers == ("attn",):
            self.needs = ("resid_pre", "resid_mid")
        elif plan.sublayers == ("mlp",):
            self.needs = ("resid_mid", "resid_post")
        else:
            self.needs = ("resid_pre", "resid_mid", "resid_post")
        self.states: Tensor | None = None

    def visit(self, layer: int, values: dict[str, Tensor]) -> None:
        plan = self.plan
        found = [values[name].flatten(0, 1)[self.where] for name in self.needs]
        if self.parallel:
            after, *outputs = found
            without = [after - output for output in outputs]
            found = [without[0], after, *without[1:]]
        if self.states is None:
            shape = len(self.where), plan.chains, plan.points, found[0].shape[-1]
            self.states = found[0].new_empty(shape)
        index = plan.layers.index(layer)
        if plan.chains == 1:  # the last point is overwritten by the next layer's first: the same
            self.states[:, 0, 2 * index : 2 * index + len(found)] = torch.stack(found, 1)
        else:
            self.states[:, index] = torch.stack(found, 1)
