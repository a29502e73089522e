"""AWQ: scale what large inputs read before rounding (Lin et al. 2024)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from prunelib.methods.base import Look
from prunelib.methods.grid import Quantizer, wide
from prunelib.methods.rtn import RTN

if TYPE_CHECKING:
    from torch import Tensor

    from prunelib.methods.inputs import InputStats


@dataclass(frozen=True)
class AWQ(Quantizer):
    """Scale channels up before rounding where inputs are large, down again after.

    Lin et al. 2024, eq. 4–5: W′ = Q(W·diag(s))·diag(s)⁻¹ with s_j = (mean |x_j|)^α,
    α from {0, 1/n, … (n−1)/n} with n = ``grid_points``, the one with the smallest
    output error ‖X(W′ − W)ᵀ‖² summed over all weights that read the same input. That
    error comes exactly from the Gram matrix. α = 0 is round to nearest, so AWQ is
    never worse on its calibration inputs. 1/s is absorbed by what produces the input
    (a norm, an up-projection) and takes no storage; where nothing can absorb it,
    weights are rounded to nearest. No clipping of the range is searched.

    mit-han-lab/llm-awq (``auto_scale.py``, ``pre_quant.py``) differs in three ways: query, key and value are scaled
    for the output of the whole attention module, gate and up for that of the whole MLP, so errors that the module
    damps count less there; every block reads what the dense blocks before it give, here what the compressed ones
    give; and it then searches a clipped range for each group. It clamps s at 1e-4, here the mean |x_j| at 1e-4 of
    the largest.
    """

    grid_points: int = 20
    name: ClassVar[str] = "awq"
    title: ClassVar[str] = "AWQ"
    usage: ClassVar[str] = "awq:B[:gG][:sym]"
    example: ClassVar[str] = "awq:4:g64"
    source: ClassVar[str] = "lin2024awq"
    look: ClassVar[Look] = Look("sky", "P", 5)
    defaults: ClassVar = {"smoke": ("4:g64",), "quick": ("4:g64",), "full": ("4:g64", "3:g64")}
    needs: ClassVar[frozenset[str]] = frozenset({"norms", "gram"})

    def compress(self, weight: "Tensor", stats: "InputStats") -> "Tensor":
        """``weight`` [d_out, d_in] as the only reader of its input."""
        return self.compress_readers([weight], stats, absorbed=True)[0]

    def compress_readers(self, weights: "list[Tensor]", stats: "InputStats", absorbed: bool) -> "list[Tensor]":
        """All readers [d_out, d_in] of one input, with one scale for each channel.

        Where no producer absorbs a scale, they are rounded to nearest.
        """
        if not absorbed:
            return [RTN(self.grid).compress(weight) for weight in weights]
        import torch

        dense = torch.cat([wide(weight) for weight in weights])
        gram = stats.gram.to(dense)
        best, best_loss = None, None
        for alpha in range(self.grid_points):
            scale = self.scales(stats, alpha / self.grid_points).to(dense)
            made = self.grid.round(dense * scale).div_(scale)
            change = made - dense
            loss = (change @ gram).mul_(change).sum()
            if best is None or loss < best_loss:
                best, best_loss = made, loss
        sizes = [len(weight) for weight in weights]
        return [part.to(weight.dtype) for part, weight in zip(best.split(sizes), weights, strict=True)]

    def scales(self, stats: "InputStats", alpha: float) -> "Tensor":
        """s [d_in] in float64, divided by √(max·min) so that it is centred about 1."""
        mean = stats.abs_sum / stats.tokens
        # A channel that is always zero would get s = 0.
        scale = mean.clamp(min=1e-4 * mean.max().clamp(min=1e-12)).pow(alpha)
        return scale / (scale.max() * scale.min()).sqrt()
