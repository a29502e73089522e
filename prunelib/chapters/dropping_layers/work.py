"""What this chapter takes: items, longer texts, spaces and skills of models with sublayers dropped."""

from prunelib.chapters.dropping_layers import measure
from prunelib.runs.estimate import shared
from prunelib.runs.estimate.work import Plan


def work(plan: Plan) -> None:
    specs = measure.chosen(plan, plan.parameters.get("specs", ""))
    shared.answers(plan, specs)
    shared.texts(plan, specs)
    shared.spaces(plan, specs)
    shared.skills(plan, specs)
    shared.one_step(plan, specs)
    plan.figures(4, intervals=4)
