"""What this chapter takes: what others asked of the same models, searches with all of them, and their speed."""

from prunelib.chapters.guide import measure
from prunelib.runs.estimate import asked
from prunelib.runs.estimate.work import Plan


def work(plan: Plan) -> None:
    specs = measure.chosen(plan, plan.parameters.get("specs", ""))
    asked.answers(plan, specs)
    asked.searches(plan, specs)
    asked.skills(plan, specs)
    asked.one_step(plan, specs)
    asked.speed(plan, measure.timed(plan, specs))
    plan.figures(1)
