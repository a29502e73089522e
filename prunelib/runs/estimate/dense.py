"""The dense model's own text, its traces and the items: work that compressed models share or repeat.

A function mirrors the one of the same name in :mod:`prunelib.runs.zoo` and counts what that computes, where it was not
counted before in the same run. Texts have about the length that :func:`work.tokens` says, and written answers are
taken as long as they may become.
"""

import json
from collections.abc import Sequence
from functools import cache

from prunelib.paths import data_dir
from prunelib.runs.estimate.work import CHAT, Compared, Plan, Product, tokens
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
