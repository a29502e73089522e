"""What this chapter takes: items and one-step statistics of a graded set, and sublayers dropped one by one."""

from prunelib.chapters.predicting_collapse import measure
from prunelib.methods import parse
from prunelib.runs.estimate import asked
from prunelib.runs.estimate.work import Plan
from prunelib.runs.zoo.scores import SEEDED


def work(plan: Plan) -> None:
    specs = measure.chosen(plan, plan.parameters.get("specs", ""))
    asked.answers(plan, specs)
    seeds = [plan.seed + i for i in range(1, plan.settings.seeds)]
    asked.one_step(plan, [*specs, *((spec, seed) for seed in seeds for spec in specs if spec in SEEDED)])
    layers = plan.shape.layers
    nested = sum(1 for most in (layers, layers, 2 * layers) for i in range(1, layers.bit_length() + 1) if 2**i <= most)
    asked.dropped_kl(plan, nested + sum(parse(spec).kind == "drop" for spec in specs))
    plan.figures(3, intervals=12)
