"""Grids of a few bits, and what methods that round to them share; weights stay floats on the grid.

The weights stay floats, since the question is what the perturbation does to the
model; what they would take in storage is :meth:`bits_per_weight`. Grids are
uniform, one scale (and zero point) for each row, or for each group of ``group``
neighbours in a row; a last group may be shorter.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from prunelib.errors import PrunelibError, nearest
from prunelib.methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor

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
class Quantizer(Method):
    """A method that puts weights on a :class:`Grid`."""

    grid: Grid
    kind: ClassVar[str] = "quantize"
    options: ClassVar[tuple[str, ...]] = ("g64", "sym")
    """What may follow the bits, as examples for messages."""

    @classmethod
    def parse(cls, setting: str) -> Self:
        return cls(cls._grid(setting)[0])

    @classmethod
    def _grid(cls, setting: str) -> tuple[Grid, set[str]]:
        """The grid of ``4:g64:sym``, and those of its options that do not belong to the grid."""
        bits, *options = setting.split(":")
        if not (bits.isascii() and bits.isdigit()):
            raise PrunelibError(f"{cls.name} is written as {cls.name}:4:g64, not '{cls.name}:{setting}'")
        group, more = None, set()
        for option in options:
            if option[:1] == "g" and option[1:].isascii() and option[1:].isdigit():
                group = int(option[1:])
            elif option in cls.options[1:]:
                more.add(option)
            else:
                near = nearest(option, cls.options)
                raise PrunelibError(f"unknown option '{option}' of {cls.name}{near}; use {', '.join(cls.options)}")
        if len(options) != len({option[:1] for option in options}):
            raise PrunelibError(f"an option is given twice in '{cls.name}:{setting}'")
        return Grid(int(bits), group, "sym" in more), more - {"sym"}

    @property
    def setting(self) -> str:
        return self.grid.suffix

    @property
    def shown_setting(self) -> str:
        bits, _, rest = self.setting.replace(":", " ").partition(" ")
        return f"{bits} bits" + (f", {rest}" if rest else "")

    @property
    def label(self) -> str:
        return f"{self.title}-{self.setting.replace(':', ' ')}"

    def bits_per_weight(self, shape: tuple[int, int]) -> float:
        return self.grid.bits_per_weight(shape)


def wide(weight: "Tensor") -> "Tensor":
    """float32, or float64 for a float64 weight."""
    import torch

    return weight.to(torch.promote_types(weight.dtype, torch.float32))
