"""GPTQ: round column by column, and let later columns make up for it (Frantar et al. 2023)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from prunelib.methods.base import Look
from prunelib.methods.grid import Quantizer, wide

if TYPE_CHECKING:
    from torch import Tensor

    from prunelib.methods.inputs import InputStats


@dataclass(frozen=True)
class GPTQ(Quantizer):
    """Round column by column and let later columns make up for the error.

    Frantar et al. 2023, Algorithm 1. With H⁻¹ = UᵀU, the rounding error of column j
    over U_jj, times U_j,j:, is taken off the columns after it; updates beyond a
    block of ``block_size`` columns wait for its end. A group's grid is fitted to
    the updated weights when its first column is reached. ``act_order`` takes columns
    by decreasing H_jj; grids are then fitted beforehand to the original weights, so
    that a group is still ``group`` neighbours and storage needs no index.
    ``damping`` is the share of the mean diagonal added to H.
    """

    act_order: bool = False
    damping: float = 0.01
    block_size: int = 128
    name: ClassVar[str] = "gptq"
    title: ClassVar[str] = "GPTQ"
    usage: ClassVar[str] = "gptq:B[:gG][:sym][:act]"
    example: ClassVar[str] = "gptq:4:g64"
    source: ClassVar[str] = "frantar2023gptq"
    look: ClassVar[Look] = Look("orange", "v", 4)
    defaults: ClassVar = {"smoke": ("4:g64",), "quick": ("4:g64",), "full": ("4:g64", "3:g64")}
    needs: ClassVar[frozenset[str]] = frozenset({"gram"})
    options: ClassVar[tuple[str, ...]] = ("g64", "sym", "act")

    @classmethod
    def parse(cls, setting: str) -> Self:
        grid, more = cls._grid(setting)
        return cls(grid, "act" in more)

    @property
    def setting(self) -> str:
        return super().setting + (":act" if self.act_order else "")

    def compress(self, weight: "Tensor", stats: "InputStats") -> "Tensor":
        """The quantized and updated matrix [d_out, d_in], in float32 (float64) arithmetic."""
        import torch

        rows, width = weight.shape
        w = wide(weight)
        factor, order = self._factor(stats, w)
        scales, zeros = w.new_empty(width, rows), w.new_empty(width, rows)
        starts = {} if self.act_order else {group.start: group for group in self.grid.groups(width)}
        if self.act_order:
            for group in self.grid.groups(width):
                scale, zero = self.grid.fit(w[:, group])
                scales[group], zeros[group] = scale.T, zero.T
            w, scales, zeros = w[:, order], scales[order], zeros[order]
        # Columns as rows: each step reads and writes one contiguous run of memory.
        w = w.T.clone(memory_format=torch.contiguous_format)  # never the model's own storage
        done = torch.empty_like(w)
        for start in range(0, width, self.block_size):
            end = min(start + self.block_size, width)
            block, u = w[start:end], factor[start:end, start:end].contiguous()
            inverse = u.diagonal().reciprocal()
            errors = torch.empty_like(block)
            for j in range(start, end):
                i = j - start
                if j in starts:
                    group = starts[j]
                    # Beyond this block the updates of its earlier columns are still waiting.
                    ahead = w[group].clone()
                    if group.stop > end and i:
                        ahead[end - j :].addmm_(factor[start:j, end : group.stop].T, errors[:i], alpha=-1)
                    scale, zero = self.grid.fit(ahead.T)
                    scales[group], zeros[group] = scale.T, zero.T
                done[j] = self.grid.snap(block[i], scales[j], zeros[j])
                torch.sub(block[i], done[j], out=errors[i]).mul_(inverse[i])
                block[i:].addr_(u[i, i:], errors[i], alpha=-1)
            w[end:].addmm_(factor[start:end, end:].T, errors, alpha=-1)
        if self.act_order:
            done = done[order.argsort()]
        return done.T.to(weight.dtype).contiguous()

    def _factor(self, stats: "InputStats", w: "Tensor"):
        """U for the columns in their order, and that order."""
        import torch

        if not self.act_order:
            return stats.factor(self.damping)[0].to(w), None
        from prunelib.methods.hessian import inverse_factor

        gram = stats.gram
        order = torch.argsort(gram.diagonal(), descending=True, stable=True)
        return inverse_factor(gram[order][:, order], self.damping)[0].to(w), order.to(w.device)
