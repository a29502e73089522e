"""RIA: relative importance and activations (Zhang et al. 2024)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from prunelib.methods.base import Look
from prunelib.methods.pattern import Sparsifier, removal_mask

if TYPE_CHECKING:
    from torch import Tensor

    from prunelib.methods.inputs import InputStats


@dataclass(frozen=True)
class RIA(Sparsifier):
    """Remove the weights that are small for their row and column and read little.

    Zhang et al. 2024, "Plug-and-Play: An Efficient Post-training Pruning Method for Large Language
    Models", eq. 3–4: score_ij = (|W_ij| / Σ_k |W_ik| + |W_ij| / Σ_k |W_kj|)·‖X_j‖₂^``power``. Unstructured
    scores are compared over the whole matrix, as the published code does by default; no channels are permuted.
    """

    power: float = 0.5
    name: ClassVar[str] = "ria"
    title: ClassVar[str] = "RIA"
    usage: ClassVar[str] = "ria:P"
    example: ClassVar[str] = "ria:0.5"
    source: ClassVar[str] = "zhang2024ria"
    look: ClassVar[Look] = Look("purple", "X", 3)
    defaults: ClassVar = {"smoke": ("0.5",), "quick": ("0.5",), "full": ("0.5", "2:4")}
    invariances: ClassVar[frozenset[str]] = frozenset({"weights", "inputs"})
    needs: ClassVar[frozenset[str]] = frozenset({"norms"})

    def scores(self, weight: "Tensor", stats: "InputStats") -> "Tensor":
        """The score of every weight [d_out, d_in], in float64."""
        size = weight.abs().double()
        rows, columns = size.sum(1, keepdim=True), size.sum(0, keepdim=True)
        # A row or column of zeros has nothing to share out: its weights score 0.
        relative = size / rows.clamp(min=1e-300) + size / columns.clamp(min=1e-300)
        return relative * stats.sq_norms.sqrt().pow(self.power).to(weight.device)

    def compress(self, weight: "Tensor", stats: "InputStats") -> "Tensor":
        """``weight`` [d_out, d_in] with exactly its share of entries set to zero."""
        return weight.masked_fill(removal_mask(self.scores(weight, stats), self.pattern, per_row=False), 0)
