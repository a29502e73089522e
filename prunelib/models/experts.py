"""A mixture of experts in one layer: stacked matrices, and which tokens each expert reads.

transformers keeps the experts of a layer in two parameters, ``gate_up_proj`` and ``down_proj`` [experts, ., .], and
computes them all in one call. An expert's matrix is a slice; what it reads is worked out from the call's arguments.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from prunelib.models.arch import Mixture
from prunelib.models.slots import Slot, slots

STACKED = ("gate_up_proj", "down_proj")
"""The matrices of an expert, in the order in which they are read."""


@dataclass(frozen=True, eq=False)
class Experts:
    """The experts of one block.

    Attributes
    ----------
    path : place of :attr:`module` inside the block
    module : holds the stacked matrices
    shared : expert that every token passes, or None
    layout : :class:`prunelib.models.arch.Mixture`
    """

    path: str
    module: nn.Module
    shared: nn.Module | None
    layout: Mixture

    @classmethod
    def of(cls, block: nn.Module, layout: Mixture | None) -> "Experts | None":
        """Those of a block; None where its MLP is a plain one."""
        if layout is None:
            return None
        found = dict(block.named_modules())
        if layout.experts not in found:
            return None
        return cls(layout.experts, found[layout.experts], found.get(layout.shared), layout)

    def __len__(self) -> int:
        return len(self.module.down_proj)

    @property
    def outputs(self) -> list[Slot]:
        """Weights and biases through which the mixture writes to the stream."""
        own = [name for name, _ in self.module.named_parameters(recurse=False) if name.startswith("down_proj")]
        found = [Slot(self.module, name) for name in own]
        return found + ([slot for _, slot in slots(self.shared.down_proj)] if self.shared is not None else [])

    def reads(self, hidden: Tensor, index: Tensor | None = None, *_) -> Iterator[tuple[int, Tensor, Tensor]]:
        """``(expert, tokens [n], x [n, d])`` of the experts that are chosen for a token, from their module's arguments.

        ``index`` [tokens, k] are the chosen experts. Without it (Llama 4) ``hidden`` [experts·tokens, d] holds every
        token once an expert, multiplied by its score, that is by 0 where the expert was not chosen.
        """
        if index is None:
            rows = hidden.view(len(self), -1, hidden.shape[-1])
            chosen = ((e, x, x.any(-1)) for e, x in enumerate(rows))
        else:
            hidden = hidden.reshape(-1, hidden.shape[-1])
            chosen = ((e, hidden, (index == e).any(-1)) for e in range(len(self)))
        for expert, x, mask in chosen:
            tokens = mask.nonzero().squeeze(1)
            if len(tokens):
                yield expert, tokens, x[tokens]

    def gated(self, expert: int, x: Tensor) -> Tensor:
        """What the expert's ``down_proj`` reads [n, d_ff] where its ``gate_up_proj`` reads ``x`` [n, d]."""
        weight = self._one("gate_up_proj", expert, x.device)
        both = x @ (weight if self.layout.transposed else weight.T)
        if getattr(self.module, "gate_up_proj_bias", None) is not None:
            both = both + self._one("gate_up_proj_bias", expert, x.device)
        if hasattr(self.module, "_apply_gate"):
            return self.module._apply_gate(both)
        gate, up = both.chunk(2, dim=-1)
        return up * self.module.act_fn(gate)

    def _one(self, name: str, expert: int, device) -> Tensor:
        """An expert's part of a stacked parameter."""
        return Slot(self.module, name).value()[expert].to(device)
