"""Magnitude pruning, the baseline of all others."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from prunelib.methods.base import Look
from prunelib.methods.pattern import Sparsifier, removal_mask

if TYPE_CHECKING:
    from torch import Tensor

    from prunelib.methods.inputs import InputStats


@dataclass(frozen=True)
class Magnitude(Sparsifier):
    """Remove the weights of smallest |W_ij|.

    Compared over the whole matrix, as in the baselines of SparseGPT and Wanda;
    ``per_row`` compares within each row, which is Wanda with equal input norms.
    """

    per_row: bool = False
    name: ClassVar[str] = "magnitude"
    title: ClassVar[str] = "Magnitude"
    usage: ClassVar[str] = "magnitude:P"
    example: ClassVar[str] = "magnitude:0.5"
    look: ClassVar[Look] = Look("blue", "o", 0)
    defaults: ClassVar = {"smoke": ("0.5",), "quick": ("0.5",), "full": ("0.3", "0.5", "0.7", "2:4", "4:8")}
    invariances: ClassVar[frozenset[str]] = frozenset({"weights", "inputs"})

    def compress(self, weight: "Tensor", stats: "InputStats | None" = None) -> "Tensor":
        """``weight`` [d_out, d_in] with its smallest entries set to zero."""
        return weight.masked_fill(removal_mask(weight.abs(), self.pattern, self.per_row), 0)
