"""What this chapter takes: items and greedy texts of quantized and pruned models, and roundings of the weights."""

from prunelib.chapters.quantization_against_pruning import measure
from prunelib.methods import parse
from prunelib.runs.estimate import asked
from prunelib.runs.estimate.work import Plan, Solved
from prunelib.runs.zoo import scores
from prunelib.runs.zoo.models import scaled


def work(plan: Plan) -> None:
    settings, given = plan.settings, plan.parameters.get("specs", "")
    panels = given.split(",") if given else scaled(plan, settings.panels)
    # Which sparsity takes the memory of the first quantized model is found from the tensors; its work is the same.
    read = [*panels, *([] if given else [MATCHED])]
    scored = read if given else [*read, *settings.quantized, *scores.drop_specs(plan), *settings.sparse]
    scored = list(dict.fromkeys(parse(spec).spec for spec in scored))
    asked.answers(plan, scored)
    asked.decoding(plan, scored if plan.profile == "full" else list(dict.fromkeys(read)), draws=False)
    plan.load()
    plan.add(Solved(measure.ORIGIN), 6)  # three grids, the columns in two orders
    asked.decoding(plan, [measure.ORIGIN], draws=False)
    asked.against_dense(plan, panels)
    plan.figures(3, intervals=4)


MATCHED = "sparsegpt:0.7"
"""Stands for the sparse model of as much memory as the first quantized one."""
