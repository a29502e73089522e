"""What this chapter takes: three layers at many temperatures."""

from prunelib.measure.temperature import GRID
from prunelib.runs.estimate import shared
from prunelib.runs.estimate.work import Plan


def work(plan: Plan) -> None:
    shared.by_temperature(plan, len(GRID))
    plan.figures(5, intervals=6)
