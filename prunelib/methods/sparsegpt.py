"""SparseGPT: remove, and let the weights that stay make up for it (Frantar & Alistarh 2023)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from prunelib.methods.base import Look
from prunelib.methods.pattern import Sparsifier, smallest

if TYPE_CHECKING:
    from torch import Tensor

    from prunelib.methods.inputs import InputStats


_LAZY = 32
"""Columns whose updates of later columns are made together: the same sums, in faster pieces."""


@dataclass(frozen=True)
class SparseGPT(Sparsifier):
    """Remove weights column by column and let later columns make up for the error.

    Frantar & Alistarh 2023, Algorithm 1. With H⁻¹ = UᵀU, column j is pruned where
    (W_ij/U_jj)² is smallest, and −(W_ij/U_jj)·U_j,j: is added to the columns after
    it. Unstructured masks are chosen once for each block of ``block_size`` columns
    over all rows, n:m masks when their group is reached. ``damping`` is the share
    of the mean diagonal added to H.
    """

    damping: float = 0.01
    block_size: int = 128
    name: ClassVar[str] = "sparsegpt"
    title: ClassVar[str] = "SparseGPT"
    usage: ClassVar[str] = "sparsegpt:P"
    example: ClassVar[str] = "sparsegpt:0.5"
    source: ClassVar[str] = "frantar2023sparsegpt"
    look: ClassVar[Look] = Look("green", "^", 2)
    defaults: ClassVar = {"smoke": ("0.5",), "quick": ("0.5",), "full": ("0.3", "0.5", "0.7", "2:4", "4:8")}
    invariances: ClassVar[frozenset[str]] = frozenset({"weights", "inputs"})
    needs: ClassVar[frozenset[str]] = frozenset({"gram"})

    def compress(self, weight: "Tensor", stats: "InputStats") -> "Tensor":
        """The pruned and updated matrix [d_out, d_in], in float32 arithmetic (float64 for a float64 weight)."""
        import torch

        pattern, (rows, width) = self.pattern, weight.shape
        pattern.check(width)
        factor, dead = stats.factor(self.damping)
        exact = torch.float64 if weight.dtype == torch.float64 else torch.float32
        factor = factor.to(weight.device, exact)
        # Columns as rows: each step reads and writes one contiguous run of memory.
        w = weight.to(exact).T.clone(memory_format=torch.contiguous_format)  # never the model's own storage
        w[dead.to(w.device)] = 0  # inputs that are always zero: whatever multiplies them is free
        step = max(1, _LAZY // pattern.m) * pattern.m if pattern.m else min(_LAZY, self.block_size)
        mask = torch.zeros_like(w, dtype=torch.bool)
        scale = factor.diagonal().reciprocal()
        removed = start = 0
        while start < width:
            if not pattern.m and start % self.block_size == 0:
                # Rounded over the matrix, not by block: the total is exact.
                some = slice(start, min(start + self.block_size, width))
                count = pattern.removed(rows * some.stop) - removed
                removed += count
                scores = (w[some] * scale[some, None]).square()
                mask[some] = smallest(scores.T.reshape(1, -1), count).view(rows, -1).T
            end = min(start + step, width)
            if not pattern.m:
                end = min(end, start - start % self.block_size + self.block_size)
            block, u = w[start:end], factor[start:end, start:end].contiguous()
            errors = torch.empty_like(block)
            for i in range(end - start):
                j = start + i
                if pattern.m and j % pattern.m == 0:
                    some = slice(i, i + pattern.m)
                    scores = (block[some] * scale[j : j + pattern.m, None]).square()
                    mask[j : j + pattern.m] = smallest(scores.T, pattern.m - pattern.n).T
                torch.mul(block[i], mask[j], out=errors[i]).mul_(scale[j])
                block[i:].addr_(u[i, i:], errors[i], alpha=-1)
            block.masked_fill_(mask[start:end], 0)
            w[end:].addmm_(factor[start:end, end:].T, errors, alpha=-1)
            start = end
        return w.T.to(weight.dtype).contiguous()
