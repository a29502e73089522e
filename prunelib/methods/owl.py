"""OWL: each layer keeps more weights the more outliers it has (Yin et al. 2024)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

from prunelib.errors import PrunelibError
from prunelib.methods.base import Look, Method, parse
from prunelib.methods.pattern import Pattern, Sparsifier

if TYPE_CHECKING:
    from torch import Tensor

    from prunelib.methods.inputs import Batch


@dataclass(frozen=True)
class OWL(Method):
    """Give each layer its own sparsity, by its share of outliers, to another method.

    Yin et al. 2024, "Outlier Weighed Layerwise Sparsity". The outliers of a layer are its scores
    |W_ij|·‖X_j‖₂, over all its matrices and in the dense model, above ``threshold`` times their mean. Their
    shares are stretched to a range of 2·``spread``, centred, and added to the density that was asked for, so that
    the mean over layers is the sparsity of ``inner``. n:m patterns have no such freedom and are refused.
    """

    inner: Sparsifier
    threshold: float = 5.0
    spread: float = 0.08
    name: ClassVar[str] = "owl"
    title: ClassVar[str] = "OWL"
    kind: ClassVar[str] = "sparsify"
    usage: ClassVar[str] = "owl:METHOD:P"
    example: ClassVar[str] = "owl:wanda:0.5"
    source: ClassVar[str] = "yin2024owl"
    look: ClassVar[Look] = Look("orange", "*", 4)
    defaults: ClassVar = {"smoke": ("wanda:0.5",), "quick": ("wanda:0.5",), "full": ("wanda:0.5", "sparsegpt:0.5")}

    @classmethod
    def parse(cls, setting: str) -> Self:
        inner = parse(setting)
        if not isinstance(inner, Sparsifier) or inner.pattern.m:
            raise PrunelibError(f"owl spreads a share of weights, as in owl:wanda:0.5, not '{setting}'")
        return cls(inner)

    @property
    def setting(self) -> str:
        return self.inner.spec

    @property
    def label(self) -> str:
        return f"{self.title} {self.inner.label}"

    @property
    def full_title(self) -> str:
        return f"{self.title} {self.inner.title}"

    @property
    def shown_setting(self) -> str:
        return self.inner.shown_setting

    @property
    def pattern(self) -> Pattern:
        """What the layers remove on average."""
        return self.inner.pattern

    @property
    def needs(self) -> frozenset[str]:
        return self.inner.needs | {"norms"}

    def bits_per_weight(self, shape: tuple[int, int]) -> float:
        return self.inner.bits_per_weight(shape)

    def by_layer(self, lm, rows: "Sequence[Batch]") -> list[Method]:
        """``inner`` at the sparsity of each layer; a forward pass of the dense model finds it."""
        found = self.sparsities(outlier_shares(lm, rows, self.threshold))
        return [replace(self.inner, pattern=Pattern(float(sparsity))) for sparsity in found]

    def sparsities(self, shares: "Tensor") -> "Tensor":
        """The sparsity of each layer [n_layers] from its share of outliers; the mean is that of ``inner``.

        Raises PrunelibError where a layer would have to remove all of its weights, or fewer than none.
        """
        span = shares.max() - shares.min()
        stretched = 2 * self.spread * (shares - shares.min()) / span if span > 0 else 0 * shares
        found = self.pattern.sparsity - (stretched - stretched.mean())
        if not (found.min() >= 0 and found.max() < 1):
            raise PrunelibError(
                f"{self.spec} would remove {found.min():.2f} to {found.max():.2f} of a layer: "
                "choose a sparsity further from 0 and 1"
            )
        return found


def outlier_shares(lm, rows: "Sequence[Batch]", threshold: float) -> "Tensor":
    """Share of each block's scores |W_ij|·‖X_j‖₂ above ``threshold`` times their mean: [n_layers], float64.

    ``rows`` are calibration rows in front of block 0, which stay as they are.
    """
    import torch

    from prunelib.methods.inputs import Batch
    from prunelib.methods.walk import advance, input_stats

    stream, shares = [Batch(row.states, row.keep, row.calls) for row in rows], []
    for layer in range(lm.n_layers):
        scores = torch.cat(
            [
                (weight.get().abs().double() * entry.stats.sq_norms.sqrt().to(weight.get().device)).flatten()
                for entry in input_stats(lm, layer, stream, gram=False)
                for weight in entry.members
            ]
        )
        shares.append((scores > threshold * scores.mean()).double().mean().cpu())
        advance(lm, layer, stream)
    return torch.stack(shares)
