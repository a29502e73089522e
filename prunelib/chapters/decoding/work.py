"""What this chapter takes: texts of dense and compressed models, read by both."""

from prunelib.chapters.decoding import measure
from prunelib.runs.estimate import shared
from prunelib.runs.estimate.work import Plan


def work(plan: Plan) -> None:
    specs = measure.chosen(plan, plan.parameters.get("specs", ""))
    shared.decoding(plan, specs)
    shared.changed(plan)
    shared.skills(plan, specs)
    shared.one_step(plan, specs)
    plan.figures(3, intervals=6)
