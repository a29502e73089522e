"""Claim C13: what quantized models keep of the dense generation score beyond the best pruned one of similar memory."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from prunelib.measure import stats
from prunelib.tasks.shares import WRITTEN, halves

LIMIT = "4:8"
"""The pattern whose memory is the most that counts as similar: what the paper sets beside quantization."""


def similar(memory: pd.DataFrame, quantized: Sequence[str], most: float) -> list[str]:
    """Pruned models that need at least as much as the largest of ``quantized`` and at most ``most`` bytes.

    ``memory`` has ``spec, kind, bytes`` (runs/zoo/memory.py). Empty where nothing is quantized.
    """
    least = memory.loc[memory["spec"].isin(quantized), "bytes"].max()
    inside = memory["kind"].isin(("drop", "sparsify")) & memory["bytes"].between(least, most)
    return memory.loc[inside, "spec"].tolist()


class Advantage(NamedTuple):
    """Share kept by quantized models minus the share kept by the best pruned one, both of the dense score."""

    difference: stats.Interval
    chosen: list[list[str]]
    """Pruned models that each half of the passages chose; they are judged on the other."""


def advantage(answers: pd.DataFrame, quantized: Sequence[str], pruned: Sequence[str]) -> Advantage:
    """Mean share of the generation score kept by ``quantized`` minus the largest kept by one of ``pruned``.

    ``answers`` (runs/zoo/scores.py) has a row an item, model and calibration seed, the dense model among them. The best
    pruned model is chosen on one half of the passages and judged on the other, both ways; models that are level on a
    half are judged as their mean. The interval is over passages. NaN without a model on either side, with a single
    passage, or where the dense score leaves nothing to keep.
    """
    nothing = (float("nan"),) * 3
    wide = answers.groupby(["item_id", "passage_id", "spec"], sort=False)[WRITTEN].mean().unstack("spec", sort=False)
    codes, passages = pd.factorize(wide.index.get_level_values("passage_id"))
    if not len(quantized) or not len(pruned) or len(passages) < 2:
        return Advantage(nothing, [[], []])
    best, chosen = np.full(len(wide), np.nan), []
    for half in halves(len(passages)):
        inside = half[codes]
        scores = wide.loc[inside, list(pruned)].mean()
        chosen.append(scores.index[scores >= scores.max() - 1e-12].tolist())
        best[~inside] = wide.loc[~inside, chosen[-1]].to_numpy().mean(1)
    dense, own = wide["dense"].to_numpy(), wide[list(quantized)].to_numpy().mean(1)
    return Advantage(stats.difference((own, dense, 0.0), (best, dense, 0.0), codes), chosen)
