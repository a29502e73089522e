"""Which weights of a matrix are removed: a share of all, or n of every m kept; what methods that remove share.

Counts of zeros are exact. Ties go to the lower index, so the same weights give the same mask anywhere.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from prunelib.errors import PrunelibError
from prunelib.methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor


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
    limit = _kth(scores, count)
    mask = scores < limit
    tied = scores == limit
    missing = count - mask.sum(1, keepdim=True)
    if torch.equal(tied.sum(1, keepdim=True), missing):  # nearly always: the order of ties need not be found
        return mask.logical_or_(tied)
    return mask | (tied & (tied.cumsum(1) <= missing))


_LONG = 128
"""From this length of a row on NumPy's selection is faster than torch's on a CPU, up to seven times."""


def _kth(scores: "Tensor", count: int) -> "Tensor":
    """The ``count``-th smallest of each row [R, 1], counted from 1."""
    import numpy as np
    import torch

    # NumPy has no bfloat16.
    if scores.device.type == "cpu" and scores.dtype in (torch.float32, torch.float64) and scores.shape[1] >= _LONG:
        found = np.partition(scores.detach().numpy(), count - 1, axis=1)[:, count - 1 : count]
        return torch.from_numpy(np.ascontiguousarray(found))
    return scores.kthvalue(count, dim=1, keepdim=True).values


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


@dataclass(frozen=True)
class Sparsifier(Method):
    """A method that sets the weights of a :class:`Pattern` to zero."""

    pattern: Pattern
    kind: ClassVar[str] = "sparsify"

    @classmethod
    def parse(cls, setting: str) -> Self:
        return cls(Pattern.parse(setting))

    @property
    def setting(self) -> str:
        return self.pattern.spec

    @property
    def shown_setting(self) -> str:
        return self.pattern.label

    @property
    def label(self) -> str:
        return f"{self.title} {self.pattern.label}"

    def bits_per_weight(self, shape: tuple[int, int]) -> float:
        return self.pattern.bits_per_weight(shape)
