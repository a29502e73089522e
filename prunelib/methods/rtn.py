"""Round to nearest, the baseline of quantization."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from prunelib.methods.base import Look
from prunelib.methods.grid import Quantizer, wide

if TYPE_CHECKING:
    from torch import Tensor

    from prunelib.methods.inputs import InputStats


@dataclass(frozen=True)
class RTN(Quantizer):
    """Round every weight to the nearest point of its group's grid. Needs no data."""

    name: ClassVar[str] = "rtn"
    title: ClassVar[str] = "RTN"
    usage: ClassVar[str] = "rtn:B[:gG][:sym]"
    example: ClassVar[str] = "rtn:4:g64"
    look: ClassVar[Look] = Look("purple", "D", 3)
    defaults: ClassVar = {"smoke": ("4:g64",), "quick": ("4:g64",), "full": ("4:g64", "3:g64")}

    def compress(self, weight: "Tensor", stats: "InputStats | None" = None) -> "Tensor":
        """``weight`` [d_out, d_in] on its grid; no entry moves by more than half a step."""
        return self.grid.round(wide(weight)).to(weight.dtype)
