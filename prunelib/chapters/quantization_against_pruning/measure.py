"""Quantized and pruned models by the memory of the whole model: scores, first step, greedy texts, grids."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from prunelib.measure import stats
from prunelib.methods import parse, parse_list
from prunelib.runs.run import Run
from prunelib.runs.zoo import greedy, memory, scores
from prunelib.runs.zoo.models import scaled
from prunelib.tasks import equal_memory, shares

KINDS = ("drop", "sparsify", "quantize")
"""Kinds of methods that this chapter compares."""

BITS = 4
"""Bits of the quantized models that claim C13 is about."""

BLOCK = 32
"""Weights in a block of the files that four-bit models come in."""

BLOCKS = "blocks of 32, scale and offset"

ORIGIN = f"rtn:{BITS}:g{BLOCK}"
"""The method of the package that is nearest to such a file."""


class Models(NamedTuple):
    """Specifications of the chapter, each a part of the next."""

    panels: list[str]
    """Compared step by step in figures."""
    read: list[str]
    """Write greedy texts, read by both."""
    scored: list[str]
    """Answer the items."""


def chosen(run: Run, specs: str = "") -> Models:
    """The models of the notebook's comma-separated ``specs``, or of the profile.

    Without ``specs`` a model is added that SparseGPT prunes to the memory of the first quantized one.
    """
    if given := [method.spec for method in parse_list(specs)]:
        return Models(given, given, given)
    settings = run.settings
    panels = scaled(run, settings.panels)
    matched = same_memory(run)
    pruned = [*scores.drop_specs(run), *settings.sparse]
    scored = list(dict.fromkeys([*panels, matched, *settings.quantized, *pruned]))
    read = scored if run.profile == "full" else list(dict.fromkeys([*panels, matched]))
    return Models(panels, read, scored)


def same_memory(run: Run) -> str:
    """SparseGPT at the largest sparsity, in whole percents, that needs no less memory than the quantized model."""
    return memory.largest_sparsity(memory.run_tensors(run), "sparsegpt", run.settings.quantized[0])


def sizes(run: Run, models: Models) -> pd.DataFrame:
    """Memory of the whole model (runs/zoo/memory.py), with ``similar``: whether claim C13 compares it, and ``four``:
    whether it is one of its 4-bit models; ``most`` is the largest share of the dense memory that is similar."""
    table = memory.memory(run, models.scored)
    most = memory.whole_bytes(memory.run_tensors(run), f"magnitude:{equal_memory.LIMIT}")
    four = four_bit(table["spec"])
    dense = table["bytes"] / table["share"]
    return table.assign(
        four=table["spec"].isin(four),
        similar=table["spec"].isin(equal_memory.similar(table, four, most)),
        most=most / dense,
    )


def four_bit(specs: Sequence[str]) -> list[str]:
    """Those of ``specs`` that are quantized to :data:`BITS` bits."""
    return [spec for spec in specs if getattr(getattr(parse(spec), "grid", None), "bits", None) == BITS]


def answers(run: Run, models: Models) -> pd.DataFrame:
    """Every item asked of the dense model and of each one (zoo.scores)."""
    return scores.answers(run, models.scored)


def steps(run: Run, models: Models) -> pd.DataFrame:
    """Greedy texts of dense and compressed models, read by both (runs/zoo/greedy.py)."""
    return greedy.greedy(run, models.read)


def advantage(answers: pd.DataFrame, sizes: pd.DataFrame) -> equal_memory.Advantage:
    """The number of claim C13."""
    specs = [sizes.loc[sizes[column], "spec"].tolist() for column in ("four", "similar")]
    return equal_memory.advantage(answers, *specs)


def by_memory(answers: pd.DataFrame, steps: pd.DataFrame, sizes: pd.DataFrame) -> pd.DataFrame:
    """Figure data: a row a model and measure: ``spec, label, kind, share`` (of the dense memory), ``measure, value, lo,
    hi`` and ``four, similar, most`` of :func:`sizes`.

    Measures: ``kept`` (share of the generation score), ``kl`` (KL(dense ‖ pruned) at the first step, nats),
    ``common`` (tokens in common with the dense greedy text), the last two of models that write.
    """
    kept = shares.kept(answers, (shares.WRITTEN,)).set_index("spec")
    first = steps[(steps["pair"] == "direct") & (steps["step"] == 0)]
    rows = []
    for spec in sizes["spec"]:
        own = first[first["spec"] == spec]
        found = {"kept": tuple(kept.loc[spec, ["kept", "lo", "hi"]])}
        if len(own):
            found["kl"] = mean_of(own, "kl_dense_pruned")
            found["common"] = mean_of(own, "parted")
        rows += [(spec, measure, *numbers) for measure, numbers in found.items()]
    table = pd.DataFrame(rows, columns=["spec", "measure", "value", "lo", "hi"])
    about = sizes[["spec", "label", "kind", "share", "four", "similar", "most"]]
    return about.merge(table, on="spec")


def mean_of(steps: pd.DataFrame, column: str) -> stats.Interval:
    """Mean over prompts of what is never below 0, and nor is its interval; NaN where there are no steps."""
    if not len(steps):
        return (math.nan,) * 3
    return stats.not_negative(stats.cluster_mean(steps[column], steps["prompt_id"]))


QUANTITIES = ("one_minus_cos_h", "one_minus_cos_z", "one_minus_cos_p", "rms_dz", "var_dz", "kl_dense_pruned")
"""The six panels of the paper's figure."""


def along_steps(steps: pd.DataFrame, specs: Sequence[str], pair: str) -> pd.DataFrame:
    """Figure data: means over prompts at every step: ``source, spec, label, kind, quantity, step, mean, lo, hi``."""
    rows = []
    some = steps[(steps["pair"] == pair) & steps["spec"].isin(specs)]
    for (spec, label, step), at in some.groupby(["spec", "label", "step"], sort=False):
        for quantity in QUANTITIES:
            found = mean_of(at, quantity)
            rows.append(("this run", spec, label, parse(spec).kind, quantity, step, *found))
    names = ["source", "spec", "label", "kind", "quantity", "step", "mean", "lo", "hi"]
    return pd.DataFrame(rows, columns=names)


def rounding(run: Run) -> pd.DataFrame:
    """How far rounding to four bits moves the block matrices: ``grid, order, error``.

    ``error`` is ‖W′ − W‖/‖W‖ over all of them. ``grid`` is :data:`BLOCKS` (a scale and any offset for every block of 32
    neighbours, as files that hold four-bit models have it) or a specification of RTN, whose zero point is one of its
    levels. ``order`` is ``own``, or ``mixed`` with the columns of every matrix in another order, where a grid that the
    weights lie on already is no help, and groups are as large as before.
    """

    def compute() -> pd.DataFrame:
        import torch

        from prunelib.methods.weights import all_weights

        grids = {BLOCKS: in_blocks} | {spec: parse(spec).compress for spec in (ORIGIN, *run.settings.quantized[:1])}
        draw = torch.Generator().manual_seed(run.seed)
        moved = {(grid, order): 0.0 for grid in grids for order in ("own", "mixed")}
        length = 0.0
        for weight in all_weights(run.lm):
            own = weight.get().float().cpu()
            mixed = own[:, torch.randperm(own.shape[1], generator=draw)]
            length += float(own.double().square().sum())
            for grid, rounded in grids.items():
                for order, values in (("own", own), ("mixed", mixed)):
                    moved[grid, order] += float((rounded(values) - values).double().square().sum())
        rows = [(*which, (square / length) ** 0.5) for which, square in moved.items()]
        return pd.DataFrame(rows, columns=["grid", "order", "error"])

    return run.table("rounding_error", {"grids": [BLOCKS, ORIGIN, *run.settings.quantized[:1]]}, compute)


def in_blocks(values):
    """``values`` [rows, width] at 16 levels from the smallest to the largest of every block of 32 neighbours."""
    import torch

    width = values.shape[1]
    # The last block of a row may be shorter: repeating its last value changes neither of its ends.
    short = values[:, -1:].expand(-1, -width % BLOCK)
    blocks = torch.cat([values, short], 1).unflatten(1, (-1, BLOCK))
    low, high = blocks.aminmax(dim=-1, keepdim=True)
    step = (high - low) / (2**BITS - 1)
    step = step.masked_fill(step == 0, 1)
    return ((blocks - low) / step).round_().mul_(step).add_(low).flatten(1)[:, :width]


def dense_in_blocks(run: Run) -> float:
    """Share of the dense bytes that the model takes with its block matrices as :func:`in_blocks` leaves them.

    Every block of 32 stores its codes, a scale and an offset of 16 bits each.
    """
    stored = memory.run_tensors(run)
    rows = stored.loc[stored["d_out"] > 0]
    blocks = rows["d_out"] * -(-rows["d_in"] // BLOCK)
    saved = ((memory.PLAIN_BITS - BITS) * rows["numel"] - 2 * memory.PLAIN_BITS * blocks).sum()
    return float(1 - saved / (memory.PLAIN_BITS * stored["numel"].sum()))


def on_origin(run: Run) -> pd.DataFrame:
    """Greedy texts of the model rounded by :data:`ORIGIN`."""
    return greedy.greedy(run, [ORIGIN])
