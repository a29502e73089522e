"""Wanda: weights and activations (Sun et al. 2024)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from prunelib.methods.base import Look
from prunelib.methods.pattern import Sparsifier, removal_mask

if TYPE_CHECKING:
    from torch import Tensor

    from prunelib.methods.inputs import InputStats


@dataclass(frozen=True)
class Wanda(Sparsifier):
    """Remove the weights of smallest |W_ij|·‖X_j‖₂ in each row.

    X_j is the j-th input over all calibration tokens (Sun et al. 2024, eq. 1).
    """

    name: ClassVar[str] = "wanda"
    title: ClassVar[str] = "Wanda"
    usage: ClassVar[str] = "wanda:P"
    example: ClassVar[str] = "wanda:0.5"
    source: ClassVar[str] = "sun2024wanda"
    look: ClassVar[Look] = Look("vermillion", "s", 1)
    defaults: ClassVar = {"smoke": ("0.5",), "quick": ("0.5", "2:4"), "full": ("0.3", "0.5", "0.7", "2:4", "4:8")}
    invariances: ClassVar[frozenset[str]] = frozenset({"weights", "inputs", "row", "channel"})
    needs: ClassVar[frozenset[str]] = frozenset({"norms"})

    def compress(self, weight: "Tensor", stats: "InputStats") -> "Tensor":
        """``weight`` [d_out, d_in] with k = ⌊s·d_in⌋ entries of each row set to zero."""
        # In float64: float32 products of close weights tie, and ties are broken by place.
        scores = weight.double() * stats.sq_norms.sqrt().to(weight.device)
        return weight.masked_fill(removal_mask(scores.abs_(), self.pattern, per_row=True), 0)
