"""Theorem 2 on paper, then on every sublayer of the real model."""

import pandas as pd

from prunelib.measure import agreement, theorem_checks
from prunelib.runs.run import Run
from prunelib.runs.zoo.traces import layerwise

THEOREM = "T2"


def on_paper(run: Run) -> pd.DataFrame:
    """All synthetic checks: :func:`prunelib.measure.theorem_checks.on_paper` at the profile's effort."""
    effort = run.settings.synthetic
    key = {"theorem": THEOREM, "effort": effort}
    return run.table("theorem_t2_theory", key, lambda: theorem_checks.on_paper(THEOREM, run.seed, effort))


def on_model(run: Run) -> pd.DataFrame:
    """:func:`prunelib.measure.agreement.every_sublayer` of the run's all-layers trace."""
    traces = layerwise(run)
    key = {"theorem": THEOREM, "traces": traces.content}
    return run.table("theorem_t2_model", key, lambda: agreement.every_sublayer(traces, THEOREM, run.seed))
