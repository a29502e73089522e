"""Claim C15: which share of the score that compression lost a repair brings back, from scores alone."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from prunelib.measure import stats
from prunelib.tasks.shares import WRITTEN, halves

NOTHING = (float("nan"),) * 3


class Best(NamedTuple):
    """Share of the lost score that the best repairs regain; ``chosen``: what each half of the passages chose."""

    regained: stats.Interval
    chosen: list[list[str]]


def regained(answers: pd.DataFrame, pairs: Sequence[tuple[str, str]], readout: str = WRITTEN) -> stats.Interval:
    """(repaired − pruned) / (dense − pruned), mean scores over ``pairs`` of specifications (pruned, repaired).

    ``answers`` (runs/zoo/scores.py) has a row an item and model, the dense model among them. The interval is over
    passages. NaN where the loss cannot be told from 0: of nothing no share comes back.
    """
    wide = _wide(answers, readout)
    if not pairs:
        return NOTHING
    pruned, own = (wide[[pair[i] for pair in pairs]].to_numpy().mean(1) for i in (0, 1))
    return of_scores(own, pruned, wide["dense"].to_numpy(), wide.index.get_level_values("passage_id"))


def of_scores(own, pruned, dense, passages) -> stats.Interval:
    """The same from scores [items] in [0, 1] of the same items.

    Where fewer than :data:`~prunelib.measure.stats.FEW` passages hold an item that only one of pruned and repaired
    answers, the jackknife sees no spread, and what is gained and lost may be as large as their own intervals say.
    """
    lost = stats.cluster_mean(dense - pruned, passages)
    if not lost[1] > 0:
        return NOTHING
    value, lo, hi = stats.of_sums(
        np.stack([own, pruned, dense], -1), passages, lambda s: (s[..., 0] - s[..., 1]) / (s[..., 2] - s[..., 1])
    )
    sums = stats.cluster_sums(stats.compared(own, pruned), passages)
    if int(((sums[:, 2] + sums[:, 3]) > 0).sum()) < stats.FEW:
        gained, least, most = stats.share_of(sums[:, [2, 5]])
        fallen, fewest, largest = stats.share_of(sums[:, [3, 5]])
        lo = min(lo, value - float(np.hypot(largest - fallen, gained - least)) / lost[0])
        hi = max(hi, value + float(np.hypot(most - gained, fallen - fewest)) / lost[0])
    return value, lo, hi


def best(answers: pd.DataFrame, repairs: Mapping[str, Sequence[str]], readout: str = WRITTEN) -> Best:
    """:func:`regained` by the best repair of each pruned model, mean over these.

    ``repairs`` maps pruned specifications to their repaired ones. The best is chosen on one half of the passages and
    judged on the other, both ways, since the best of several is partly the luckiest; repairs that are level on a half
    are judged as their mean. NaN with a single passage, or where a pruned model has no repair.
    """
    wide = _wide(answers, readout)
    codes, passages = pd.factorize(wide.index.get_level_values("passage_id"))
    if not repairs or not all(map(len, repairs.values())) or len(passages) < 2:
        return Best(NOTHING, [[], []])
    own, chosen = np.zeros(len(wide)), []
    for half in halves(len(passages)):
        inside, names = half[codes], []
        for specs in repairs.values():
            scores = wide.loc[inside, list(specs)].mean()
            top = scores.index[scores >= scores.max() - 1e-12].tolist()
            own[~inside] += wide.loc[~inside, top].to_numpy().mean(1) / len(repairs)
            names += top
        chosen.append(names)
    pruned = wide[list(repairs)].to_numpy().mean(1)
    return Best(of_scores(own, pruned, wide["dense"].to_numpy(), codes), chosen)


def minus(answers: pd.DataFrame, first: str, second: str, readout: str = WRITTEN) -> stats.Interval:
    """Share of the dense score kept by one model minus that by another, paired by passage; NaN where undefined."""
    wide = _wide(answers, readout)
    dense, guess = wide["dense"].to_numpy(), np.zeros(len(wide))
    if readout != WRITTEN:
        guess = answers.drop_duplicates("item_id").set_index("item_id")["chance"]
        guess = guess.loc[wide.index.get_level_values("item_id")].to_numpy()
    sides = ((wide[spec].to_numpy(), dense, guess) for spec in (first, second))
    return stats.difference(*sides, wide.index.get_level_values("passage_id"))


def _wide(answers: pd.DataFrame, readout: str) -> pd.DataFrame:
    """A row an item and passage, a column a specification: the mean over calibration seeds."""
    means = answers.groupby(["item_id", "passage_id", "spec"], sort=False)[readout].mean()
    return means.unstack("spec", sort=False)
