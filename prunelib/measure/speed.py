"""Tokens a second of a changed model beside the unchanged one: the same prompts, alternating, with intervals.

Times are the one kind of number here that another run on the same machine gives anew. What is compared is therefore
measured in turns, so that whatever else the machine does falls on both alike.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import numpy as np
import pandas as pd
import torch
from scipy.stats import binom

from prunelib.engine.decode import decode
from prunelib.measure.stats import LEVEL, Interval


def alternating(
    lm,
    within: Callable[[], AbstractContextManager],
    prompts: Sequence[Sequence[int]],
    tokens: int,
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> pd.DataFrame:
    """Seconds to read ``prompts`` (token ids) in one batch and to write ``tokens`` tokens after each, greedily.

    ``within()`` is the context in which ``lm`` is the changed model. A row a repeat: ``repeat, dense, changed``
    (seconds), ``tokens`` (written in all). Who is first changes with every repeat; each writes once before it counts.
    """
    own = {"dense": lambda: None, "changed": within}

    def seconds(name: str) -> float:
        context = own[name]()
        if context is None:
            return _written(lm, prompts, tokens, clock)
        with context:
            return _written(lm, prompts, tokens, clock)

    for name in own:
        seconds(name)
    rows = []
    for repeat in range(repeats):
        found = {name: seconds(name) for name in (list(own) if repeat % 2 == 0 else reversed(own))}
        rows.append({"repeat": repeat} | {name: found[name] for name in own} | {"tokens": len(prompts) * tokens})
    return pd.DataFrame(rows)


def _written(lm, prompts, tokens: int, clock) -> float:
    """Seconds of one batch that no end token ends early."""
    _wait(lm.device)
    started = clock()
    decode(lm, prompts, tokens, end=(), batch_size=len(prompts))
    _wait(lm.device)
    return clock() - started


def _wait(device: torch.device) -> None:
    """Accelerators work behind the caller's back."""
    if device.type in ("cuda", "mps", "xpu"):
        getattr(torch, device.type).synchronize()


def median(values) -> Interval:
    """Median with its exact distribution-free interval of at least 95 %, between two of the sorted values.

    The k-th smallest and largest enclose the median unless fewer than k of n values fall on one side of it, which has
    the probability 2·P(Binomial(n, ½) < k). Below six values no two are far enough apart: the ends are NaN.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    n = len(ordered)
    if not n:
        return (math.nan,) * 3
    outside = [k for k in range(1, n // 2 + 1) if 2 * binom.cdf(k - 1, n, 0.5) <= 1 - LEVEL]
    ends = (ordered[outside[-1] - 1], ordered[n - outside[-1]]) if outside else (math.nan, math.nan)
    return float(np.median(ordered)), float(ends[0]), float(ends[1])


def rate(times: pd.DataFrame, who: str = "changed") -> Interval:
    """Tokens a second of ``dense`` or ``changed``: median over the repeats of :func:`alternating`, and its interval."""
    return median(times["tokens"] / times[who])


def faster(times: pd.DataFrame) -> Interval:
    """How many times as fast as the dense model: median over the repeats of the ratio within a repeat."""
    return median(times["dense"] / times["changed"])
