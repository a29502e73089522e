"""What this chapter takes: items by letter and by text, and whole distributions where they are answered."""

from prunelib.chapters.option_subspace import measure
from prunelib.runs.estimate import asked, dense, made
from prunelib.runs.estimate.work import Compared, Plan


def work(plan: Plan) -> None:
    specs, passages = measure.chosen(plan, plan.parameters.get("specs", "")), plan.settings.option_passages
    items = sum(len(row["questions"]) for row in dense.rows_of("tasks/passages.jsonl")[:passages])
    for spec in ["dense", *asked.each(plan, "options", specs)]:
        dense.ask_options(plan, passages, times=made.left(plan, spec))
        if spec != "dense":
            plan.add(Compared("one step"), 2 * items)
    plan.figures(5, intervals=6)
