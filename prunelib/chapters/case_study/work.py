"""What this chapter takes: longer texts, and some of them read again by the models that wrote them."""

from prunelib.chapters.case_study import measure
from prunelib.runs.estimate import asked, dense, made
from prunelib.runs.estimate.work import Compared, Plan


def work(plan: Plan) -> None:
    specs, settings = measure.chosen(plan, plan.parameters.get("specs", "")), plan.settings
    asked.texts(plan, specs)
    prompt = dense.prompt_tokens(plan, "tasks/prompts_long.jsonl", settings.case_texts)
    for spec in ("dense", *specs):
        made.compressed(plan, spec)
        plan.read(1, prompt + settings.long_tokens, times=2 * settings.case_texts, head=settings.long_tokens)
        plan.add(Compared("kl"), settings.case_texts * settings.long_tokens)
    plan.figures(1)
