"""What this chapter takes: what others asked of the same models, searches with all of them, and their speed."""

from prunelib.chapters.guide import measure
from prunelib.runs.estimate import shared
from prunelib.runs.estimate.work import Plan


def work(plan: Plan) -> None:
    specs = measure.chosen(plan, plan.parameters.get("specs", ""))
    shared.answers(plan, specs)
    shared.searches(plan, specs)
    shared.skills(plan, specs)
    shared.one_step(plan, specs)
    shared.speed(plan, measure.timed(plan, specs))
    plan.figures(1)
