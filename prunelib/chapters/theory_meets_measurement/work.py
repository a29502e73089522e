"""What this chapter takes: one sublayer at every position."""

from prunelib.runs.estimate import dense
from prunelib.runs.estimate.work import Plan


def work(plan: Plan) -> None:
    dense.middle_layer(plan)
    plan.figures(2, intervals=16)
