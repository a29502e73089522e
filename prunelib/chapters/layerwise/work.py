"""What this chapter takes: the trace of all layers, and the order in which sublayers are dropped."""

from prunelib.runs.estimate import shared
from prunelib.runs.estimate.work import Plan


def work(plan: Plan) -> None:
    shared.layerwise(plan)
    shared.drop_order(plan)
    plan.figures(6, intervals=14)
