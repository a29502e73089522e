"""Memory that the C library holds after it was freed."""

import ctypes
import sys
from functools import cache


def give_back() -> None:
    """Hand freed memory back to the system, where the C library can (glibc's ``malloc_trim``).

    Matrices of some 10 MB, as those of a block, are cut from one heap. Where a small object stays between two that were
    freed, the heap keeps both: a walk through a model of 0.5 billion weights so came to hold one more copy of them.
    """
    if trim := _trim():
        trim(0)


@cache
def _trim():
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
