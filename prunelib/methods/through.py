"""Gradients through the blocks of a compressed model, with its drops gone and its zeros kept."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call

from prunelib.methods import distil
from prunelib.methods.apply import Compressed, Repaired
from prunelib.methods.weights import Weight, assembled, weights
from prunelib.models.slots import refuse_offloaded


@dataclass(frozen=True, eq=False)
class Open:
    """A matrix that is trained: what it is at first [d_out, d_in], and where it must stay 0 (None: nowhere)."""

    weight: Weight
    start: Tensor
    zeros: Tensor | None

    def masked(self, value: Tensor) -> Tensor:
        """``value`` with the zeros put back; no gradient reaches them."""
        return value if self.zeros is None else value.masked_fill(self.zeros, 0)


def zeros_of(made: Compressed) -> dict[str, Tensor]:
    """Places of the zeros of the matrices that a method set to zero, by name; empty where none did."""
    parts = getattr(made.method, "parts", (made.method,))
    if not any(part.kind == "sparsify" for part in parts):
        return {}
    return {name: value == 0 for name, value in made.weights.items()}


def open_weights(lm, layers: Sequence[int], zeros: dict[str, Tensor]) -> list[Open]:
    """All matrices of some layers that are not dropped now, as they are now.

    Raises PrunelibError where blocks are offloaded: gradients go through them as they are while they run.
    """
    refuse_offloaded(lm.layers, "training weights of the blocks")
    found = (weight for layer in layers for weight in weights(lm, layer))
    return [Open(one, one.get().clone(), zeros.get(one.name)) for one in found]


def trained(
    lm,
    text: distil.Text,
    dense: distil.Target,
    chosen: Sequence[Open],
    value: Callable[[Open], Tensor],
    leaves: list[Tensor],
    epochs: int,
    rate: float,
    batch_size: int,
    progress=None,
) -> Repaired:
    """Train ``leaves``, from which ``value(one)`` makes each matrix of ``chosen``; ``lm`` is pruned now."""

    def normed(rows: Sequence[int]) -> Tensor:
        """States after the final norm [N, d] at positions that are no padding."""
        parts = assembled((one.weight, value(one)) for one in chosen)
        new = {f"{lm.arch.layers}.{weight.parameter_name}": whole for weight, whole in parts}
        states = distil.stream(lm, lambda: functional_call(lm.model, new, kwargs=text.inputs(rows)))
        return lm.ln_final(states[text.kept(rows)])

    def at(rows: Sequence[int]) -> Tensor:
        return dense.x[list(rows)][text.kept(rows)]

    def learn(rows: Sequence[int]) -> float:
        own = normed(rows)
        # Blocks of logits end here, so that the gradient goes through the model once.
        cut = own.detach().requires_grad_(True)
        loss = dense.learn(at(rows), lambda some: lm.logits(cut[some]))
        own.backward(cut.grad)
        return loss

    def measure() -> float:
        total = 0.0
        with torch.no_grad():
            for rows in distil.batches(text.held_out, batch_size):
                own = normed(rows)
                total += dense.kl(at(rows), lambda some, own=own: lm.logits(own[some])).sum().item()
        return total / text.count(text.held_out)

    found = distil.train([(leaves, rate)], learn, measure, text, epochs, progress=progress)
    with torch.no_grad():
        values = {one.weight.name: value(one).detach().clone() for one in chosen}
    fitted = sum(leaf.numel() for leaf in leaves)
    return Repaired(values, fitted - _fixed(chosen, leaves), found.tokens, found.curve)


def _fixed(chosen: Sequence[Open], leaves: Sequence[Tensor]) -> int:
    """Numbers among the leaves that cannot move: where the leaves are the matrices themselves, their zeros."""
    whole = len(leaves) == len(chosen)
    return sum(int(one.zeros.sum()) for one in chosen if one.zeros is not None) if whole else 0
