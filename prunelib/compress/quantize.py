"""Quantization to a few bits: round to nearest, GPTQ, AWQ; as float weights on the grid.

The weights stay floats, since the question is what the perturbation does to the
model; what they would take in storage is :meth:`bits_per_weight`. Grids are
uniform, one scale (and zero point) for each row, or for each group of ``group``
neighbours in a row; a last group may be shorter.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from prunelib.errors import PrunelibError

if TYPE_CHECKING:
    from torch import Tensor

    from prunelib.compress.calibrate import InputStats

SCALE_BITS = 16


@dataclass(frozen=True)
class Grid:
    """A uniform grid: ``bits`` (2 to 8), ``group`` (None: a whole row), symmetric or not.

    Asymmetric codes are 0 … 2^b − 1 with a zero point, over a range that always
    includes 0; symmetric codes are ±(2^(b−1) − 1), 2^b − 1 of them, with the largest weight on the last.
    IST-DASLab/gptq (``quant.py``, ``sym``) takes −2^(b−1) … 2^(b−1) − 1, all 2^b, with the step
    2·max|w|/(2^b − 1): its positive end falls half a step short of the largest weight. The two differ
    most at few bits (3 levels against 4 at 2 bits). Raises PrunelibError for other bits, or a group below 1.
    """

    bits: int
    group: int | None = None
    symmetric: bool = False

    def __post_init__(self):
        if not 2 <= self.bits <= 8:
            raise PrunelibError(f"bits must be 2 to 8, got {self.bits}")
        if self.group is not None and self.group < 1:
            raise PrunelibError(f"a group must hold at least 1 weight, got {self.group}")

    @property
    def suffix(self) -> str:
        """``"4:g64:sym"``, the end of a specification."""
        parts = [str(self.bits), f"g{self.group}" if self.group else "", "sym" if self.symmetric else ""]
        return ":".join(filter(None, parts))

    @property
    def label(self) -> str:
        return self.suffix.replace(":", " ")

    def groups(self, width: int) -> list[slice]:
        """The groups of a row of ``width`` weights."""
        size = self.group or width
        return [slice(start, min(start + size, width)) for start in range(0, width, size)]

    def bits_per_weight(self, shape: tuple[int, int]) -> float:
        """Codes, and for each group a 16-bit scale and, if asymmetric, a zero point of ``bits``."""
        overhead = SCALE_BITS + (0 if self.symmetric else self.bits)
        return self.bits + overhead * len(self.groups(shape[1])) / shape[1]

    def fit(self, weight: "Tensor") -> "tuple[Tensor, Tensor]":
        """(scale, zero point), each [rows, 1], that cover one group [rows, size]."""
        if self.symmetric:
            scale = weight.abs().amax(1, keepdim=True) / (2 ** (self.bits - 1) - 1)
            scale = scale.masked_fill(scale == 0, 1)  # a group of zeros stays zeros
            return scale, scale.new_zeros(scale.shape)
        low = weight.amin(1, keepdim=True).clamp(max=0)
        high = weight.amax(1, keepdim=True).clamp(min=0)
        scale = (high - low) / (2**self.bits - 1)
        scale = scale.masked_fill(scale == 0, 1)
        # Halves go down here and up in `snap`: then the lowest weight takes the first code and the
        # highest the last even if both fall between two codes, and rounding twice changes nothing.
        return scale, (-low / scale - 0.5).ceil()

    def snap(self, weight: "Tensor", scale: "Tensor", zero: "Tensor") -> "Tensor":
        """The nearest points of the grid, as floats; shapes broadcast."""
        codes = weight / scale
        if self.symmetric:
            top = 2 ** (self.bits - 1) - 1
            return codes.round_().clamp_(-top, top).mul_(scale)
        return codes.add_(zero + 0.5).floor_().clamp_(0, 2**self.bits - 1).sub_(zero).mul_(scale)

    def round(self, weight: "Tensor") -> "Tensor":
        """Round [rows, width] to nearest, group by group."""
        import torch

        width = weight.shape[1]
        size = self.group or width
        even = width - width % size
        # Whole groups at once, as rows of their own; then the shorter last one.
        parts = [weight[:, :even].reshape(-1, size)] if even else []
        parts += [weight[:, even:]] if even < width else []
        done = [self.snap(part, *self.fit(part)).view(len(weight), -1) for part in parts]
        return torch.cat(done, 1)


@dataclass(frozen=True)
class _Quantizer:
    grid: Grid
    name: ClassVar[str]
    title: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()

    @property
    def spec(self) -> str:
        return f"{self.name}:{self.grid.suffix}"

    @property
    def label(self) -> str:
        return f"{self.title}-{self.grid.label}"

    def bits_per_weight(self, shape: tuple[int, int]) -> float:
        """Storage a weight; see :meth:`Grid.bits_per_weight`."""
        return self.grid.bits_per_weight(shape)


def _wide(weight: "Tensor") -> "Tensor":
    """float32, or float64 for a float64 weight."""
    import torch

    return weight.to(torch.promote_types(weight.dtype, torch.float32))


@dataclass(frozen=True)
class RTN(_Quantizer):
    """Round every weight to the nearest point of its group's grid. Needs no data."""

    name: ClassVar[str] = "rtn"
    title: ClassVar[str] = "RTN"

    def compress(self, weight: "Tensor", stats: "InputStats | None" = None) -> "Tensor":
        """``weight`` [d_out, d_in] on its grid; no entry moves by more than half a step."""
        return self.grid.round(_wide(weight)).to(weight.dtype)


@dataclass(frozen=True)
class GPTQ(_Quantizer):
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
    needs: ClassVar[frozenset[str]] = frozenset({"gram"})

    @property
    def spec(self) -> str:
        return super().spec + (":act" if self.act_order else "")

    @property
    def label(self) -> str:
        return super().label + (" act" if self.act_order else "")

    def compress(self, weight: "Tensor", stats: "InputStats") -> "Tensor":
        """The quantized and updated matrix [d_out, d_in], in float32 (float64) arithmetic."""
        import torch

        rows, width = weight.shape
        w = _wide(weight)
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
        from prunelib.compress.hessian import inverse_factor

        gram = stats.gram
        order = torch.argsort(gram.diagonal(), descending=True, stable=True)
        return inverse_factor(gram[order][:, order], self.damping)[0].to(w), order.to(w.device)


@dataclass(frozen=True)
class AWQ(_Quantizer):
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
    needs: ClassVar[frozenset[str]] = frozenset({"norms", "gram"})

    def compress(self, weight: "Tensor", stats: "InputStats") -> "Tensor":
        """``weight`` [d_out, d_in] as the only reader of its input."""
        return self.compress_group([weight], stats)[0]

    def compress_plain(self, weight: "Tensor") -> "Tensor":
        """``weight`` where no producer absorbs a scale: round to nearest."""
        return RTN(self.grid).compress(weight)

    def compress_group(self, weights: "list[Tensor]", stats: "InputStats") -> "list[Tensor]":
        """All readers [d_out, d_in] of one input, with one scale for each channel."""
        import torch

        dense = torch.cat([_wide(weight) for weight in weights])
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
