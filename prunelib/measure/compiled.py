"""``torch.compile`` where it pays: what follows a product as one loop over the product's tile, instead of thirty.

A function is compiled for tensors of one fixed shape, so that a process needs a graph or two. The first time on a
machine that takes tens of seconds; the code is then kept in prunelib's cache folder (or ``TORCHINDUCTOR_CACHE_DIR``),
and every later process loads it in a few. Work that would take less than that runs as it stands (:data:`PAYS`).

Both ways give the same numbers but for rounding. Which one is taken depends on the sizes of a call, on whether the
machine has a compiler, and on ``PRUNELIB_COMPILE`` (0: never), and on nothing that happened before: the same call gives
the same bits.
"""

import os
import warnings
from collections.abc import Callable
from functools import cache

import torch

from prunelib import paths

PAYS = 2**26
"""Logits, times temperatures, from which a call is compiled: below, it takes a second or so as it stands."""

_FAILED: set[Callable] = set()


def compiles(work: int, device: torch.device) -> bool:
    """Whether a call over ``work`` logits (times temperatures) is to be compiled on this device."""
    return work >= PAYS and os.environ.get("PRUNELIB_COMPILE", "1") != "0" and _compiler(device.type) is not None


@cache
def _compiler(kind: str) -> str | None:
    """What builds compiled functions for a kind of device; None: nothing here does."""
    try:
        if kind == "cpu":
            from torch._inductor.cpp_builder import get_cpp_compiler

            return get_cpp_compiler()
        from torch.utils._triton import has_triton

        return "triton" if kind == "cuda" and has_triton() else None
    except Exception:  # torch has an exception of its own for each way of not finding one
        return None


def compiled(function: Callable) -> Callable:
    """``function`` of tensors, compiled at its first call; as it stands, with one warning, where that fails.

    Call it with few different shapes: each is compiled by itself.
    """

    def run(*tensors):
        if function not in _FAILED:
            try:
                return _compile(function)(*tensors)
            except Exception as error:  # of torch, of the compiler, of the disk
                _FAILED.add(function)
                first = (str(error).strip() or type(error).__name__).splitlines()[0]
                warnings.warn(f"torch.compile failed, going on without it (slower): {first}", stacklevel=2)
        return function(*tensors)

    return run


@cache
def _compile(function: Callable) -> Callable:
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(paths.cache_dir() / "compiled"))
    options: dict = {
        "cpp.dynamic_threads": True,  # code for any number of threads, in whatever process it was built
        "cpp.enable_floating_point_contract_flag": "fast",  # fused multiply-add, as in the products themselves
    }
    return torch.compile(function, dynamic=False, fullgraph=True, options=options)
