"""Specification strings: how a compressed model is named in parameters, file names and tables.

::

    dense
    magnitude:P  wanda:P  sparsegpt:P      P = 0.5 (fraction removed) or 2:4 (kept of every)
    rtn:B[:gG][:sym]  gptq:B[:gG][:sym][:act]  awq:B[:gG][:sym]      B = 2 … 8 bits
    drop:KIND:N[:iter]      KIND = attn, mlp, block, joint; N sublayers by cosine importance
    drop:angular:N          N consecutive blocks by angular distance
    sites:attn:3,attn:7     an explicit list

Without ``gG`` a row has one scale; ``sym`` is a symmetric grid, ``act`` GPTQ's
activation order; ``iter`` measures importance again after every drop.
"""

from dataclasses import dataclass
from typing import ClassVar

from prunelib.compress.drop import EXPLICIT, DropPlan
from prunelib.compress.importance import DropSpec
from prunelib.compress.quantize import AWQ, GPTQ, RTN, Grid
from prunelib.compress.sparsify import Magnitude, Pattern, SparseGPT, Wanda
from prunelib.errors import PrunelibError, nearest

_SPARSE = {method.name: method for method in (Magnitude, Wanda, SparseGPT)}
_QUANTIZED = {method.name: method for method in (RTN, GPTQ, AWQ)}
METHODS = ("dense", *_SPARSE, *_QUANTIZED, "drop", "sites")


@dataclass(frozen=True)
class Dense:
    """The model as it is: 16 bits a weight."""

    spec: ClassVar[str] = "dense"
    label: ClassVar[str] = "dense"
    needs: ClassVar[frozenset[str]] = frozenset()

    def bits_per_weight(self, shape: tuple[int, int]) -> float:
        return 16.0


def parse(spec: str):
    """The method of a specification; ``parse(s).spec`` is its canonical form.

    Raises PrunelibError, with the nearest name where there is one.
    """
    spec = spec.strip()
    if spec.startswith(EXPLICIT):
        return DropPlan.of(spec)
    name, _, rest = spec.partition(":")
    if name not in METHODS:
        raise PrunelibError(f"unknown method '{name}'{nearest(name, METHODS)}; use one of {', '.join(METHODS)}")
    if name == "dense":
        if rest:
            raise PrunelibError(f"dense takes no setting, got '{spec}'")
        return Dense()
    if name == "drop":
        return DropSpec.parse(rest)
    if not rest:
        example = "0.5 or 2:4" if name in _SPARSE else "4:g64"
        raise PrunelibError(f"{name} needs a setting, such as {name}:{example.split(' ')[0]}")
    if name in _SPARSE:
        return _SPARSE[name](Pattern.parse(rest))
    return _quantizer(name, rest)


def _quantizer(name: str, rest: str):
    bits, *options = rest.split(":")
    if not (bits.isascii() and bits.isdigit()):
        raise PrunelibError(f"{name} is written as {name}:4:g64, not '{name}:{rest}'")
    group, symmetric, act = None, False, False
    for option in options:
        if option[:1] == "g" and option[1:].isascii() and option[1:].isdigit():
            group = int(option[1:])
        elif option == "sym":
            symmetric = True
        elif option == "act" and name == "gptq":
            act = True
        else:
            known = ("g64", "sym", "act") if name == "gptq" else ("g64", "sym")
            raise PrunelibError(f"unknown option '{option}' of {name}{nearest(option, known)}; use {', '.join(known)}")
    if len(options) != len({option[:1] for option in options}):
        raise PrunelibError(f"an option is given twice in '{name}:{rest}'")
    grid = Grid(int(bits), group, symmetric)
    return GPTQ(grid, act) if name == "gptq" else _QUANTIZED[name](grid)
