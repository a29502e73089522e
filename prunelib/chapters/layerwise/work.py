"""What this chapter takes: the trace of all layers, and the order in which sublayers are dropped."""

from prunelib.runs.estimate import dense
from prunelib.runs.estimate.work import Plan


def work(plan: Plan) -> None:
    dense.layerwise(plan)
    dense.drop_order(plan)
    plan.figures(6, intervals=14)
