"""What the weights of a block read from calibration tokens, and its statistics."""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from prunelib.errors import PrunelibError
from prunelib.methods.hessian import inverse_factor
from prunelib.methods.weights import Weight


@dataclass(eq=False)
class InputStats:
    """Sums over calibration tokens of what one weight reads.

    ``sq_norms`` Σ x_j² and ``abs_sum`` Σ |x_j| are [d_in], in float64;
    ``gram`` Σ x xᵀ is [d_in, d_in] in float32 (float64 for a float64 model), or
    None where no method asked for it.
    """

    tokens: int
    sq_norms: Tensor
    abs_sum: Tensor
    gram: Tensor | None = None
    _factors: dict = field(default_factory=dict, repr=False)

    @classmethod
    def empty(cls, width: int, device, dtype=torch.float32, gram: bool = True) -> "InputStats":
        """Statistics of no token yet."""
        zeros = torch.zeros(width, dtype=torch.float64, device="cpu" if device.type == "mps" else device)
        matrix = torch.zeros(width, width, device=device, dtype=dtype) if gram else None
        return cls(0, zeros, zeros.clone(), matrix)

    @classmethod
    def of(cls, x: Tensor, gram: bool = True) -> "InputStats":
        """Statistics of inputs [n_tokens, d_in]."""
        stats = cls.empty(x.shape[1], x.device, torch.promote_types(x.dtype, torch.float32), gram)
        stats.update(x)
        return stats

    def update(self, x: Tensor) -> None:
        """Add inputs [n_tokens, d_in]."""
        self.tokens += len(x)
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        self.sq_norms += x.square().sum(0).to(self.sq_norms)
        self.abs_sum += x.abs().sum(0).to(self.abs_sum)
        if self.gram is not None:
            self.gram.addmm_(x.T, x)

    def white(self) -> "InputStats":
        """Those of one token of independent inputs of mean square 1, for a matrix that no token reached.

        Wanda and SparseGPT then remove the smallest weights, GPTQ and AWQ round to nearest.
        """
        ones, gram = torch.ones_like(self.sq_norms), self.gram
        return InputStats(1, ones, ones.clone(), None if gram is None else torch.eye(len(gram)).to(gram))

    def check(self, name: str) -> None:
        """Raises PrunelibError if nothing was seen, or NaN or Inf."""
        if self.tokens == 0:
            raise PrunelibError("calibration is empty: no token that is not padding")
        if not torch.isfinite(self.sq_norms).all():
            raise PrunelibError(f"calibration gave NaN or Inf at the input of {name}: the activations overflow")

    def factor(self, damping: float = 0.01) -> tuple[Tensor, Tensor]:
        """:func:`prunelib.methods.hessian.inverse_factor` of the Gram matrix, computed once."""
        if self.gram is None:
            raise PrunelibError("this method needs the Gram matrix of the inputs")
        if damping not in self._factors:
            self._factors[damping] = inverse_factor(self.gram, damping)
        return self._factors[damping]


def output_energy(weight: Tensor, gram: Tensor) -> float:
    """‖XWᵀ‖²_F = tr(W G Wᵀ) of a matrix [d_out, d_in] and its inputs' Gram matrix."""
    weight = weight.to(gram.dtype)
    return (weight @ gram).mul_(weight).sum().clamp(min=0).item()


@dataclass(eq=False)
class Input:
    """One tensor that a block's weights read: who reads it, and its statistics."""

    members: list[Weight]
    stats: InputStats
    absorbed_by: str | None
    """Module that can take over a scale of each channel (a norm, an up-projection), or None."""

    @cached_property
    def energies(self) -> dict[str, float]:
        """‖XWᵀ‖²_F of each reader's dense output, by name."""
        return {w.name: output_energy(w.get(), self.stats.gram) for w in self.members}


@dataclass(eq=False)
class Batch:
    """Calibration rows in front of a block, and how each block is called on them."""

    states: Tensor  # [b, S, d]
    keep: Tensor | None  # [b, S] bool, True for real tokens; None without padding
    calls: list
