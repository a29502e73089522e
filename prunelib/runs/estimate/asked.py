"""What notebooks ask of dense and compressed models; functions are named as those of :mod:`prunelib.runs.zoo`.

What was asked of a model before is read from the run folder. Drops that two calibration seeds choose alike count once,
whether they do or not is seen only in the run.
"""

from collections.abc import Sequence

from prunelib.methods import parse
from prunelib.runs.estimate.dense import (
    ask,
    drop_order,
    groups,
    held_samples,
    mean_tokens,
    prompt_tokens,
    rows_of,
    traced_length,
    trajectories,
)
from prunelib.runs.estimate.made import compressed, left
from prunelib.runs.estimate.work import Compared, Plan, Timed, tokens
from prunelib.runs.zoo import scores
from prunelib.runs.zoo.traces import BATCH
from prunelib.tasks.answered import ASKED


def each(plan: Plan, name: str, specs: Sequence[str | tuple[str, int]], text: str = "") -> Sequence[str]:
    """Those of ``specs`` whose table of this name is not there yet; each is compressed for it."""
    found = []
    for one in specs:
        spec, seed = (one, plan.seed) if isinstance(one, str) else one
        if plan.once(name, spec, seed if parse(spec).kind not in ("drop", "dense") else 0, text):
            compressed(plan, spec, seed, text)
            found.append(spec)
    return found


def answers(plan: Plan, specs: Sequence[str], seeded: Sequence[tuple[str, int]] = (), text: str = "") -> None:
    wanted = [("dense", plan.seed), *((spec, plan.seed) for spec in specs)]
    wanted += [(s, plan.seed + i) for i in range(1, plan.settings.seeds) for s in specs if s in scores.SEEDED]
    for _, seed in wanted:
        if seed != plan.seed:
            drop_order(plan, seed)
    for spec in each(plan, "answers", [*wanted, *seeded] if not text else [(s, plan.seed) for s in specs], text):
        letters = parse(spec).kind in plan.settings.lettered
        ask(plan, plan.settings.passages, letters, times=left(plan, spec))


def texts(plan: Plan, specs: Sequence[str]) -> None:
    settings = plan.settings
    prompt = prompt_tokens(plan, "tasks/prompts_long.jsonl", settings.long_prompts)
    for spec in each(plan, "texts", ["dense", *specs]):
        for rows in groups(settings.long_prompts, 32):
            plan.write(rows, prompt, settings.long_tokens, times=left(plan, spec))
            plan.read(rows, prompt + settings.long_tokens, head=rows * settings.long_tokens)


def held_out(plan: Plan) -> list[int]:
    """Tokens of the held-out texts."""
    return [tokens(row["text"]) for row in rows_of("tasks/passages.jsonl")[ASKED:]][: plan.settings.texts]


def one_step(plan: Plan, specs: Sequence[str | tuple[str, int]]) -> None:
    found = each(plan, "one step", [one for one in specs if one != "dense"])
    if not found:
        return
    for spec in ["dense", *found]:
        for length in held_out(plan):
            plan.read(1, length, times=left(plan, spec))
    positions = sum(min(plan.settings.step_positions, length) for length in held_out(plan))
    plan.add(Compared("one step"), positions * len(found))


def against_dense(plan: Plan, specs: Sequence[str]) -> None:
    """:func:`one_step` of some models, and what tools that compare models print of it (report.comparison)."""
    specs = [spec for spec in dict.fromkeys(specs) if spec != "dense"]
    one_step(plan, specs)
    plan.add(Timed("interval"), SUMMARY * len(specs))


SUMMARY = 3
"""Intervals of all the statistics of a model, in such intervals as are timed."""


def spaces(plan: Plan, specs: Sequence[str]) -> None:
    trajectories(plan)
    found, settings = each(plan, "spaces", specs), plan.settings
    for spec in ["dense", *found] if found else []:
        for rows in groups(settings.prompts, BATCH):
            plan.read(rows, traced_length(plan), times=left(plan, spec))
    positions = settings.prompts * min(settings.layer_positions, settings.new_tokens)
    plan.add(Compared("pair"), positions * len(found))


def skills(plan: Plan, specs: Sequence[str]) -> None:
    from prunelib.tasks import skills as asked

    items = asked.items(plan.settings.skill_items, plan.seed)
    for spec in each(plan, "skills", ["dense", *specs]):
        kinds: dict[str, list] = {}
        for item in items:
            kinds.setdefault(item.skill, []).append(item)
        for some in kinds.values():
            # Digits and brackets are a token each, and spaces belong to the next.
            length = len(some[0].prompt) // 2
            lines = some[0].prompt.count("\n")
            own = max(1, length // (lines + 1))
            plan.read(1, length + len(some) * own, times=left(plan, spec), head=len(some) * len(some[0].options))


def searches(plan: Plan, specs: Sequence[str]) -> None:
    documents = rows_of("tasks/passages.jsonl")[: plan.settings.documents]
    queries = [q["question"] for row in documents for q in row["questions"]]
    for spec in each(plan, "searches", ["dense", *specs]):
        for some, length in (
            (len(documents), mean_tokens([row["text"] for row in documents])),
            (len(queries), mean_tokens(queries)),
        ):
            for rows in groups(some, 32):
                plan.read(rows, length, times=left(plan, spec))


# ---------------------------------------------------------------- texts of two models


def dense_texts(plan: Plan) -> None:
    if plan.once("dense texts"):
        written(plan, 1, draws=True)


def written(plan: Plan, times: float, draws: bool) -> None:
    """The greedy text of every prompt and, where asked, its draws."""
    settings = plan.settings
    prompt = prompt_tokens(plan, limit=settings.decode_prompts)
    counts = [settings.decode_prompts, *([settings.decode_prompts * settings.decode_draws] if draws else [])]
    for count in counts:
        plan.read(settings.decode_prompts, prompt, times=times)
        for rows in groups(count, 32):
            plan.read(rows, 1, prompt + settings.decode_tokens, times=times * settings.decode_tokens, head=rows)


def read_again(plan: Plan, texts: int, times: float) -> None:
    """Texts of two models by one of them, all those on one prompt in one row."""
    settings = plan.settings
    each_prompt = 2 * settings.decode_tokens * texts // settings.decode_prompts
    plan.read(settings.decode_prompts, each_prompt, prompt_tokens(plan, limit=settings.decode_prompts), times=times)


def decoding(plan: Plan, specs: Sequence[str], draws: bool = True) -> None:
    settings = plan.settings
    dense_texts(plan)
    texts = settings.decode_prompts * (1 + draws * settings.decode_draws)
    for spec in each(plan, f"decoding {draws}", specs):
        written(plan, left(plan, spec), draws)
        read_again(plan, texts, left(plan, spec) + 1)
        plan.add(Compared("step"), texts * settings.decode_tokens)


def changed(plan: Plan) -> None:
    """The dense model after one other token."""
    settings = plan.settings
    if plan.once("changed"):
        dense_texts(plan)
        written(plan, 1, draws=False)
        read_again(plan, settings.decode_prompts, 1)
        plan.add(Compared("step"), settings.decode_prompts * settings.decode_tokens)


def dropped_kl(plan: Plan, sets: int) -> None:
    """Single sublayers dropped, and ``sets`` of them together, on short pieces of text."""
    settings = plan.settings
    rows, positions = max(2, settings.texts // 2), max(2, settings.step_positions // 4)
    models = 2 * plan.shape.layers + sets
    drop_order(plan)
    plan.read(rows, settings.site_tokens, times=models)
    plan.add(Compared("kl"), models * rows * positions)


def kl_to_dense(plan: Plan, specs: Sequence[str]) -> None:
    settings = plan.settings
    held_samples(plan)
    for spec in each(plan, "kl to dense", specs):
        for rows in groups(settings.texts, 8):
            plan.read(rows, settings.calibration_tokens, times=left(plan, spec))
        plan.add(Compared("kl"), settings.texts * settings.calibration_tokens)


def speed(plan: Plan, specs: Sequence[str]) -> None:
    """Batches of every model in turns with the dense one."""
    from prunelib.runs.zoo.speed import PROMPTS

    settings = plan.settings
    prompt = prompt_tokens(plan, limit=PROMPTS)
    for spec in ["dense", *each(plan, "speed", specs)]:
        batches = (1 + settings.speed_repeats) * (1 + left(plan, spec))
        plan.write(PROMPTS, prompt, settings.speed_tokens, times=batches)
