"""What this chapter takes: items, longer texts, spaces and skills of models with sublayers dropped."""

from prunelib.chapters.dropping_layers import measure
from prunelib.runs.estimate import asked
from prunelib.runs.estimate.work import Plan


def work(plan: Plan) -> None:
    specs = measure.chosen(plan, plan.parameters.get("specs", ""))
    asked.answers(plan, specs)
    asked.texts(plan, specs)
    asked.spaces(plan, specs)
    asked.skills(plan, specs)
    asked.against_dense(plan, specs)
    plan.figures(4, intervals=4)
