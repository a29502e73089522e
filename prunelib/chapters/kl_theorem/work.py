"""What this chapter takes: its theorem checked on paper, and on every sublayer of the model."""

from prunelib.runs.estimate import dense
from prunelib.runs.estimate.work import Plan, Timed


def work(plan: Plan) -> None:
    plan.add(Timed("T3"))
    dense.layerwise(plan)
    plan.figures(2, intervals=14)
