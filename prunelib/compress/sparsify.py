"""Intra-layer pruning: magnitude, Wanda, SparseGPT; unstructured or n of every m.

Each method is one dataclass whose ``compress(weight, stats)`` returns a new
matrix with an exact number of zeros. Ties go to the lower index, so the same
weights give the same mask anywhere.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from prunelib.errors import PrunelibError

if TYPE_CHECKING:
    from torch import Tensor

    from prunelib.compress.calibrate import InputStats


@dataclass(frozen=True)
class Pattern:
    """Which share of a matrix is removed, and where.

    ``Pattern(0.5)`` removes half of the weights; ``Pattern.keep(2, 4)`` keeps
    2 of every 4 neighbours in a row. Raises PrunelibError for a sparsity outside
    [0, 1) or an impossible n:m.
    """

    fraction: float = 0.0
    n: int = 0
    m: int = 0

    def __post_init__(self):
        if self.m == 0 and self.n == 0:
            if not 0 <= self.fraction < 1:
                raise PrunelibError(f"sparsity must be at least 0 and below 1, got {self.fraction:g}")
        elif not 0 < self.n <= self.m:
            raise PrunelibError(f"{self.n}:{self.m} keeps {self.n} of every {self.m}: impossible, use 2:4 or 4:8")

    @classmethod
    def keep(cls, n: int, m: int) -> "Pattern":
        """Keep ``n`` of every ``m`` neighbours."""
        if m < 1:
            raise PrunelibError(f"{n}:{m} has empty groups; use 2:4 or 4:8")
        return cls(0.0, n, m)

    @classmethod
    def parse(cls, text: str) -> "Pattern":
        """``"0.5"`` or ``"2:4"``."""
        kept, colon, of = text.partition(":")
        try:
            return cls.keep(int(kept), int(of)) if colon else cls(float(text))
        except ValueError:
            raise PrunelibError(f"a sparsity is written as 0.5 or 2:4, not '{text}'") from None

    @property
    def sparsity(self) -> float:
        """The fraction removed."""
        return 1 - self.n / self.m if self.m else self.fraction

    @property
    def spec(self) -> str:
        return f"{self.n}:{self.m}" if self.m else f"{self.fraction:.12g}"

    @property
    def label(self) -> str:
        return self.spec if self.m else f"{100 * self.fraction:g}%"

    def check(self, width: int) -> None:
        """Raises PrunelibError where rows of ``width`` weights cannot be cut into groups of m."""
        if self.m and width % self.m:
            raise PrunelibError(f"{self.spec} needs rows that are a multiple of {self.m}, got {width} weights a row")

    def removed(self, count: int) -> int:
        """How many of ``count`` weights are removed, rounded down."""
        return math.floor(self.sparsity * count + 1e-9)

    def bits_per_weight(self, shape: tuple[int, int]) -> float:
        """16-bit values that are kept, and what says where they are.

        Unstructured: one mask bit a weight. n:m: log2(m) index bits for each kept
        weight, as sparse tensor cores store it.
        """
        if self.m:
            return (16 + math.log2(self.m)) * self.n / self.m
        numel = shape[0] * shape[1]
        return 16 * (1 - self.removed(numel) / numel) + 1


def smallest(scores: "Tensor", count: int) -> "Tensor":
    """Mask of exactly ``count`` smallest scores in each row of [R, C]; ties go to the lower index."""
    import torch

    if count == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    limit = scores.kthvalue(count, dim=1, keepdim=True).values
    mask = scores < limit
    tied = scores == limit
    missing = count - mask.sum(1, keepdim=True)
    return mask | (tied & (tied.cumsum(1) <= missing))


def removal_mask(scores: "Tensor", pattern: Pattern, per_row: bool) -> "Tensor":
    """True where the pattern removes a weight [R, C], lowest scores first.

    Unstructured patterns compare within a row or within the whole matrix; n:m
    within its groups.
    """
    rows, width = scores.shape
    pattern.check(width)
    if pattern.m:
        groups = scores.reshape(-1, pattern.m)
        return smallest(groups, pattern.m - pattern.n).view(rows, width)
    if per_row:
        return smallest(scores, pattern.removed(width))
    return smallest(scores.reshape(1, -1), pattern.removed(scores.numel())).view(rows, width)


_LAZY = 32
"""Columns whose updates of later columns are made together: the same sums, in faster pieces."""


@dataclass(frozen=True)
class _Sparsifier:
    pattern: Pattern
    name: ClassVar[str]
    title: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()

    @property
    def spec(self) -> str:
        return f"{self.name}:{self.pattern.spec}"

    @property
    def label(self) -> str:
        return f"{self.title} {self.pattern.label}"

    def bits_per_weight(self, shape: tuple[int, int]) -> float:
        """Storage a weight; see :meth:`Pattern.bits_per_weight`."""
        return self.pattern.bits_per_weight(shape)


@dataclass(frozen=True)
class Magnitude(_Sparsifier):
    """Remove the weights of smallest |W_ij|.

    Compared over the whole matrix, as in the baselines of SparseGPT and Wanda;
    ``per_row`` compares within each row, which is Wanda with equal input norms.
    """

    per_row: bool = False
    name: ClassVar[str] = "magnitude"
    title: ClassVar[str] = "Magnitude"

    def compress(self, weight: "Tensor", stats: "InputStats | None" = None) -> "Tensor":
        """``weight`` [d_out, d_in] with its smallest entries set to zero."""
        return weight.masked_fill(removal_mask(weight.abs(), self.pattern, self.per_row), 0)


@dataclass(frozen=True)
class Wanda(_Sparsifier):
    """Remove the weights of smallest |W_ij|·‖X_j‖₂ in each row.

    X_j is the j-th input over all calibration tokens (Sun et al. 2024, eq. 1).
    """

    name: ClassVar[str] = "wanda"
    title: ClassVar[str] = "Wanda"
    needs: ClassVar[frozenset[str]] = frozenset({"norms"})

    def compress(self, weight: "Tensor", stats: "InputStats") -> "Tensor":
        """``weight`` [d_out, d_in] with k = ⌊s·d_in⌋ entries of each row set to zero."""
        # In float64: float32 products of close weights tie, and ties are broken by place.
        scores = weight.double() * stats.sq_norms.sqrt().to(weight.device)
        return weight.masked_fill(removal_mask(scores.abs_(), self.pattern, per_row=True), 0)


@dataclass(frozen=True)
class SparseGPT(_Sparsifier):
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
