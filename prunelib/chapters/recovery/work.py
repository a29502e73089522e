"""What this chapter takes: repairs that are learned, items asked of repaired models, and other texts to learn from."""

from prunelib.methods import parse, parse_list
from prunelib.methods.base import JOIN
from prunelib.runs.estimate import asked
from prunelib.runs.estimate.work import Plan
from prunelib.runs.zoo.models import scaled


def work(plan: Plan) -> None:
    settings = plan.settings
    bases = [method.spec for method in parse_list(plan.parameters.get("specs", ""))]
    bases = bases or scaled(plan, settings.repaired)
    repaired = [parse(f"{base}{JOIN}{rung}").spec for base in bases for rung in settings.rungs]
    asked.answers(plan, [*bases, *repaired])
    asked.kl_to_dense(plan, [*bases, *repaired])
    compared = scaled(plan, settings.compared)
    for text in TEXTS:
        asked.answers(plan, compared, text=text)
    plan.figures(3, intervals=4)


TEXTS = ("own", "given", "answers")
"""The texts of as many tokens that the compared models learn from (runs.zoo.repairs.equal_texts)."""
