"""What this chapter takes: searches with an encoder and with the language model."""

from prunelib.runs.estimate import asked, dense
from prunelib.runs.estimate.work import Plan, Product, Timed, tokens
from prunelib.runs.zoo import scores

LAYERS, WIDTH, WIDE = 6, 384, 1536
"""The default encoder's; another one's is not known before it is there."""


def work(plan: Plan) -> None:
    passages = dense.rows_of("tasks/passages.jsonl")
    read = sum(tokens(row["text"]) + sum(tokens(q["question"]) for q in row["questions"]) for row in passages)
    plans = 2 + sum(map(len, plan.settings.encoder_drops.values()))
    if plan.once("encoder"):
        plan.add(Timed("model imports"))
        for _ in range(LAYERS):
            plan.add(Product(read, WIDTH, 4 * WIDTH + 2 * WIDE), plans)
    specs = scores.drop_specs(plan)
    asked.searches(plan, specs)
    asked.answers(plan, specs)
    plan.figures(1)
