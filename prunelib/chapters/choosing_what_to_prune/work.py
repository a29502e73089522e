"""What this chapter takes: sublayers removed one by one, plans chosen by that, and what is left of such models."""

from prunelib.chapters.choosing_what_to_prune import measure
from prunelib.runs.estimate import asked, dense, made
from prunelib.runs.estimate.work import Plan


def work(plan: Plan) -> None:
    models = measure.models(plan)
    pair = measure.pair_specs(models, *measure.pair_of(plan))
    pairs = [*pair[measure.COSINE], *pair.get(measure.KL, [])]
    seeds = range(plan.seed, plan.seed + plan.settings.selection_seeds)
    asked.answers(plan, list(models["spec"]), [(spec, seed) for spec in pairs for seed in seeds])
    asked.one_step(plan, list(models["spec"]))
    dense.drop_order(plan)
    for i in range(plan.settings.seeds):
        made.removals(plan, plan.seed + i)
    plan.figures(2, intervals=4)
