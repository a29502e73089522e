"""What the page on Theorem 3 shows beside its figures, and what it records."""

import pandas as pd

from prunelib.chapters.chapter import Chapter
from prunelib.chapters.kl_theorem.measure import THEOREM
from prunelib.measure import agreement, theorem_checks
from prunelib.report import theorems
from prunelib.runs.zoo.traces import layerwise, trajectories


def outside(ch: Chapter) -> pd.DataFrame:
    """Cases outside what the estimate assumes (:func:`prunelib.measure.theorem_checks.outside`)."""
    return theorem_checks.outside(THEOREM, ch.seed)


def furthest_off(ch: Chapter) -> pd.DataFrame:
    """The sublayers where the estimate that decides the claim is furthest off, worst first."""
    return agreement.furthest_off(layerwise(ch), THEOREM, theorems.CLAIM[THEOREM][1])


def record(ch: Chapter, on_paper: pd.DataFrame, on_model: pd.DataFrame) -> pd.DataFrame:
    """Record the values ``t3.*`` and claim C3; returns the statistics of every panel, one a row."""
    return theorems.record(ch, THEOREM, on_paper, on_model, len(trajectories(ch)))
