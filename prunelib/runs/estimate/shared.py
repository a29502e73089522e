"""The work of what chapters share: a function for each one of :mod:`prunelib.runs.zoo`, of the same name.

Each counts what it mirrors, where it was not counted before in the same run. Texts have about the length that
:func:`work.tokens` says, written answers are taken as long as they may become, and models of the same drop that two
calibration seeds choose count twice.
"""

import json
from collections.abc import Sequence
from functools import cache

from prunelib.methods import parse
from prunelib.methods.base import JOIN
from prunelib.paths import data_dir
from prunelib.runs.estimate.work import CHAT, Compared, Gram, Learn, Moved, Plan, Product, Solved, tokens
from prunelib.runs.zoo import scores
from prunelib.runs.zoo.traces import BATCH
from prunelib.tasks.answered import ASKED
from prunelib.tasks.readouts import NEW_TOKENS

ROW = 120
"""Bytes of a row of a trace table in its file, measured on the committed reference."""


@cache
def rows_of(name: str) -> list[dict]:
    """Of a file in ``data/``."""
    return [json.loads(line) for line in (data_dir() / name).read_text().splitlines() if line]


def mean_tokens(texts: Sequence[str]) -> int:
    return round(sum(map(tokens, texts)) / max(1, len(texts)))


def prompt_tokens(plan: Plan, file: str = "prompts.jsonl", limit: int | None = None) -> int:
    """Of a prompt in its chat template."""
    from pathlib import Path

    from prunelib.engine.text import load_prompts

    own = plan.options.prompts if file == "prompts.jsonl" else str(Path(data_dir()) / file)
    return CHAT + mean_tokens([prompt.text for prompt in load_prompts(own, limit)])


def groups(count: int, size: int) -> list[int]:
    """Sizes of the batches of ``count`` rows."""
    return [min(size, count - start) for start in range(0, count, size)]


# ---------------------------------------------------------------- the dense model's own text


def trajectories(plan: Plan) -> None:
    if not plan.once("trajectories"):
        return
    settings = plan.settings
    for rows in groups(settings.prompts, 16):
        plan.write(rows, prompt_tokens(plan, limit=settings.prompts), settings.new_tokens)


def traced_length(plan: Plan) -> int:
    return prompt_tokens(plan, limit=plan.settings.prompts) + plan.settings.new_tokens


def layerwise(plan: Plan) -> None:
    trajectories(plan)
    if plan.once("layerwise"):
        sites = 2 * plan.shape.layers
        _trace(plan, BATCH, plan.settings.layer_positions, sites, len(plan.temperatures))


def middle_layer(plan: Plan) -> None:
    trajectories(plan)
    if plan.once("middle", plan.parameters.get("layer"), plan.parameters.get("temperature")):
        _trace(plan, 2 * BATCH, plan.settings.new_tokens, 1, 1)


def by_temperature(plan: Plan, temperatures: int) -> None:
    from prunelib.runs.zoo.traces import three_layers

    trajectories(plan)
    if plan.once("temperatures", temperatures):
        sites = 2 * len(three_layers(plan.shape.layers))
        _trace(plan, 2 * BATCH, plan.settings.layer_positions, sites, temperatures)


def _trace(plan: Plan, batch: int, positions: int, sites: int, temperatures: int) -> None:
    for rows in groups(plan.settings.prompts, batch):
        plan.read(rows, traced_length(plan))
    plan.add(Product(plan.shape.width, plan.shape.vocab, plan.shape.width, double=True))  # the head's Gram matrix
    points = plan.settings.prompts * min(positions, plan.settings.new_tokens) * sites
    plan.add(Compared("trace", temperatures - 1), points)
    plan.keep(ROW * points * (3 + 1 + temperatures))


def sampled(plan: Plan, name: str, rows: int, length: int) -> None:
    """Text sampled from the dense model, from its first token."""
    if plan.once("sampled", name):
        for some in groups(rows, 32):
            plan.write(some, 1, length - 1)


def calibration(plan: Plan, seed: int | None = None) -> None:
    settings = plan.settings
    seed = plan.seed if seed is None else seed
    sampled(plan, f"calibration {seed}", settings.calibration, settings.calibration_tokens)


def held_samples(plan: Plan) -> None:
    sampled(plan, "held", plan.settings.texts, plan.settings.calibration_tokens)


def training(plan: Plan) -> None:
    """Half samples, half answers, as far as there are passages."""
    settings = plan.settings
    if plan.once("training"):
        asked = min(settings.training // 2, len(rows_of("tasks/passages.jsonl")) - ASKED)
        ask(plan, asked, generation_only=True)
        sampled(plan, "training", settings.training - asked, settings.training_tokens)


def drop_order(plan: Plan, seed: int | None = None) -> None:
    seed = plan.seed if seed is None else seed
    if plan.once("drop order", seed):
        calibration(plan, seed)
        read_calibration(plan)


def read_calibration(plan: Plan, times: float = 1) -> None:
    """All calibration tokens through all blocks."""
    for rows in groups(plan.settings.calibration, 8):
        plan.read(rows, plan.settings.calibration_tokens, times=times)


# ---------------------------------------------------------------- compressed models


def left(plan: Plan, spec: str) -> float:
    """Share of the blocks' work that a specification leaves."""
    gone = 0.0
    for part in getattr(parse(spec), "parts", (parse(spec),)):
        if part.kind == "drop" and hasattr(part, "count"):
            kinds = part.sublayers
            share = {"attn": plan.shape.attention, "mlp": 1 - plan.shape.attention}.get(kinds, 1.0)
            gone += part.count * (share if kinds in ("attn", "mlp", "block", "angular") else 0.5) / plan.shape.layers
        elif part.kind == "drop":
            for site in part.given(plan.shape.layers).sites:
                for one in site.sublayers:
                    gone += abs((one.kind == "mlp") - plan.shape.attention) / plan.shape.layers
    return max(0.0, 1 - gone)


def compressed(plan: Plan, spec: str, seed: int | None = None, text: str = "") -> None:
    """A compressed model made, or read from the run folder, and put in place of the dense one."""
    seed, method = plan.seed if seed is None else seed, parse(spec)
    if method.kind in ("dense",):
        return
    plan.load()
    if method.kind == "drop":
        planned(plan, method, seed)
    elif method.kind == "joined":
        *before, last = method.parts
        compressed(plan, JOIN.join(part.spec for part in before), seed)
        if last.kind == "recover":
            repaired(plan, spec, last, text)
        else:
            compressed(plan, last.spec, seed)
    elif not method.needs:
        plan.add(Solved(spec))
    elif text or plan.once("compressed", spec, seed):
        walk(plan, [spec], seed)
        if not text:
            keep_weights(plan, spec)
    if method.kind in ("sparsify", "quantize"):
        plan.add(Moved(PLACED))


PLACED = 6.0
"""Times that the weights of the blocks are read or written to take them from a file and put them in place: the file,
the tensors made of it, the dense weights set aside, the new ones in their place, and back."""


def walk(plan: Plan, specs: Sequence[str], seed: int, dense: bool = False) -> None:
    """Specifications that need calibration go through the model together (methods.walk)."""
    calibration(plan, seed)
    settings = plan.settings
    count = settings.calibration * settings.calibration_tokens
    with_gram = dense or any("gram" in parse(spec).needs for spec in specs)
    # Behind the first block each method reads its own stream, once for its statistics and once to go on.
    read_calibration(plan, 2 * len(specs) + 2 * dense)
    if with_gram:
        plan.add(Gram(count), len([s for s in specs if dense or "gram" in parse(s).needs]) + dense)
    for spec in specs:
        plan.add(Solved(spec))


def keep_weights(plan: Plan, spec: str) -> None:
    """The file of a compressed model: a bit a weight where only a mask is needed, else packed numbers."""
    method = parse(spec)
    if method.kind == "sparsify" and "gram" not in method.needs:
        plan.keep(plan.shape.body / 8)
    else:
        plan.keep(PACKED * plan.shape.body_bytes)


PACKED = 0.7
"""What zstd leaves of changed weights. Measured on the default model: GPTQ-4 0.54, SparseGPT 50% 0.56, AWQ-4 0.82."""


def planned(plan: Plan, method, seed: int) -> None:
    """Which sublayers a drop takes."""
    if not method.needs:
        return
    if method.chosen_at_once:
        drop_order(plan, seed)
    elif getattr(method, "criterion", None) is not None and method.criterion.at_output:
        greedy_plan(plan, method, seed)
    elif plan.once("plan", method.spec, seed):
        calibration(plan, seed)
        read_calibration(plan, getattr(method, "count", 1))


def greedy_plan(plan: Plan, method, seed: int) -> None:
    """Drops chosen at the output, measured again after each; shorter plans are the beginnings of the longest."""
    from prunelib.runs.zoo.models import share_of

    asked = plan.settings.selected.get(method.ranking, ()) if seed == plan.seed else ()
    count = max([method.count, *(share_of(plan.shape.layers, n) for n in asked)])
    if not plan.once("greedy", method.name, method.ranking, count, seed):
        return
    calibration(plan, seed)
    sites = plan.shape.layers * (1 + ("+" in method.ranking or method.ranking == "joint"))
    rounds = 1 if getattr(method, "once", False) else count
    removed(plan, sum(sites - i for i in range(rounds)))


def removals(plan: Plan, seed: int | None = None) -> None:
    """Every attention and MLP sublayer removed alone."""
    seed = plan.seed if seed is None else seed
    for kind in ("attn", "mlp"):
        if plan.once("removals", kind, seed):
            calibration(plan, seed)
            removed(plan, plan.shape.layers)


def removed(plan: Plan, sites: float) -> None:
    """Sites removed one by one: the blocks behind each are run, half of them in the mean, and outputs compared."""
    from prunelib.measure.removal import POSITIONS

    settings = plan.settings
    rows = min(settings.removal_sequences, settings.calibration)
    for some in groups(rows, 8):
        plan.read(some, settings.removal_tokens, times=sites / 2)
    plan.add(Compared("removal"), sites * rows * min(POSITIONS, settings.removal_tokens))


def repaired(plan: Plan, spec: str, rung, text: str) -> None:
    """A repair, learned from the run's training text or another one (methods.distil)."""
    from prunelib.methods.distil import BLOCK, MEASURED, STEP_TOKENS

    settings = plan.settings
    if not plan.once("repaired", spec, text):
        return
    if text:
        rows, length = settings.calibration, settings.calibration_tokens
    else:
        training(plan)
        rows, length = settings.training, settings.training_tokens
    together = max(1, round(STEP_TOKENS / length))
    for some in groups(rows, 8):
        plan.read(some, length, times=2)  # the dense model's states and the pruned one's
    epochs = {"full": getattr(rung, "size", 1), "lora": 2}.get(rung.name, 0)
    steps = -(-rows // together) * epochs
    held = max(1, rows // 8)
    if epochs:
        share = 1.0 if rung.name == "full" else 0.0
        plan.add(Learn(min(rows, together), length, share), steps)
        plan.read(held, length, times=MEASURED + 2, head=min(held * length, max(1, BLOCK // plan.shape.vocab)))
        plan.add(Compared("kl"), held * length * (MEASURED + 2))
    else:  # behind the last block
        plan.add(Compared("kl"), rows * length * (2 if rung.name != "head" else 6))
    plan.keep(PACKED * plan.shape.body_bytes if rung.name in ("full", "lora") else 4 * plan.shape.width**2)


# ---------------------------------------------------------------- what is asked of models


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


def ask(plan: Plan, passages: int, letters: bool = False, times: float = 1, generation_only: bool = False) -> None:
    """All questions on some passages in all read-outs (tasks.readouts)."""
    some = rows_of("tasks/passages.jsonl")[:passages]
    items = [item for row in some for item in row["questions"]]
    if not items:
        return
    demo = rows_of("tasks/demonstration.jsonl")[0]
    shown = tokens(demo["text"]) + sum(tokens(q["question"]) + tokens(q["answer"]) + 8 for q in demo["questions"])
    passage = mean_tokens([row["text"] for row in some])
    question = mean_tokens([item["question"] for item in items]) + 8
    options = 1 + len(items[0]["distractors"])
    option = mean_tokens([item["answer"] for item in items]) + 1
    each_passage = len(items) // len(some)
    for count in groups(len(some), 48 // each_passage):
        rows = count * each_passage
        plan.read(1, shown, times=times)
        plan.read(count, passage, shown, times=times)
        if not generation_only:
            plan.read(count, each_passage * (question + options * option), shown + passage, times=times)
            plan.read(0, 0, times=times, head=rows * options * option)
        plan.read(rows, question, shown + passage, times=times, head=rows)
        plan.read(rows, 1, shown + passage + question, times=times * (NEW_TOKENS - 1), head=rows)
        if letters:
            listed = question + options * (option + 3)
            plan.read(1, shown + options * len(demo["questions"]) * option, times=times)
            plan.read(count, passage + each_passage * listed, shown, times=times, head=rows * options)


def ask_options(plan: Plan, passages: int, times: float) -> None:
    """Questions on some passages by letter and by text, each read once (tasks.options)."""
    some = rows_of("tasks/passages.jsonl")[:passages]
    items = [item for row in some for item in row["questions"]]
    question, passage = mean_tokens([i["question"] for i in items]) + 8, mean_tokens([row["text"] for row in some])
    option, options = mean_tokens([i["answer"] for i in items]) + 1, 1 + len(items[0]["distractors"])
    for listed in (0, options * (option + 3)):
        plan.read(len(some), passage + len(items) // len(some) * (question + listed + options * option), times=times,
                  head=len(items) * options * (option if not listed else 1))  # fmt: skip


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
