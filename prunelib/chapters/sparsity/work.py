"""What this chapter takes: items asked of sparse models, and of those of the chapter on dropping."""

from prunelib.chapters.sparsity import measure
from prunelib.runs.estimate import asked
from prunelib.runs.estimate.work import Plan
from prunelib.runs.zoo import scores


def work(plan: Plan) -> None:
    specs = measure.chosen(plan, plan.parameters.get("specs", ""))
    asked.answers(plan, [*scores.drop_specs(plan), *specs])
    asked.against_dense(plan, specs)
    plan.figures(2, intervals=4)
