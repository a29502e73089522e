"""What this chapter takes: three layers at many temperatures."""

from prunelib.measure.temperature import GRID
from prunelib.runs.estimate import dense
from prunelib.runs.estimate.work import Plan


def work(plan: Plan) -> None:
    dense.by_temperature(plan, len(GRID))
    plan.figures(5, intervals=20)
