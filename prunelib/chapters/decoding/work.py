"""What this chapter takes: texts of dense and compressed models, read by both."""

from prunelib.chapters.decoding import measure
from prunelib.runs.estimate import asked
from prunelib.runs.estimate.work import Plan


def work(plan: Plan) -> None:
    specs = measure.chosen(plan, plan.parameters.get("specs", ""))
    asked.decoding(plan, specs)
    asked.changed(plan)
    asked.skills(plan, specs)
    asked.against_dense(plan, specs)
    plan.figures(3, intervals=6)
