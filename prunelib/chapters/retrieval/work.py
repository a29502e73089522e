"""What this chapter takes: searches with an encoder and with the language model."""

from prunelib.runs.estimate import shared
from prunelib.runs.estimate.work import Plan, Product
from prunelib.runs.zoo import scores

LAYERS, WIDTH, WIDE = 6, 384, 1536
"""The default encoder's; another one's is not known before it is there."""


def work(plan: Plan) -> None:
    passages = shared.rows_of("tasks/passages.jsonl")
    read = sum(shared.tokens(row["text"]) + sum(shared.tokens(q["question"]) for q in row["questions"]) for row in passages)
    plans = 2 + sum(map(len, plan.settings.encoder_drops.values()))
    if plan.once("encoder"):
        for _ in range(LAYERS):
            plan.add(Product(read, WIDTH, 4 * WIDTH + 2 * WIDE), plans)
    specs = scores.drop_specs(plan)
    shared.searches(plan, specs)
    shared.answers(plan, specs)
    plan.figures(1)
