"""Compressed models by task type, size and speed: what a run's tables say to somebody with a budget."""

import math
from collections.abc import Sequence

import pandas as pd

from prunelib.measure import stats
from prunelib.measure.speed import faster, rate
from prunelib.methods import parse, parse_list
from prunelib.runs.run import Run
from prunelib.runs.zoo import memory, one_step, scores, searches
from prunelib.runs.zoo import skills as zoo_skills
from prunelib.runs.zoo import speed as zoo_speed
from prunelib.tasks import shares

KINDS = ("drop", "sparsify", "quantize", "joined")
"""Kinds of methods that this chapter compares."""

TASKS = ("retrieval", "choice", "one_token", "short", "long")
"""Task types: ranking, choosing among options, an answer of one token, a short answer, long text."""

FLOOR = 0.9
"""Share of the dense score that the whole interval of a model must keep for the guide to name it."""

BUDGETS = (0.75, 0.5, 0.4)
"""Budgets: shares of the dense model's stored bytes."""


def chosen(run: Run, specs: str = "") -> list[str]:
    """The notebook's comma-separated ``specs``, or what the chapters on dropping, sparsity and memory ask items of."""
    given = [method.spec for method in parse_list(specs)]
    return given or list(dict.fromkeys([*scores.drop_specs(run), *run.settings.sparse, *run.settings.quantized]))


def timed(run: Run, specs: Sequence[str]) -> list[str]:
    """Models whose speed is measured: every one that drops something, and the first of every other kind.

    Removed and rounded weights are multiplied like dense ones, whichever they are: one stands for all of its kind.
    """
    kinds = {}
    for spec in specs:
        kinds.setdefault(parse(spec).kind, spec)
    return [spec for spec in specs if parse(spec).kind in ("drop", "joined") or kinds[parse(spec).kind] == spec]


# ---------------------------------------------------------------- what is kept, by task type


def kept(run: Run, specs: Sequence[str]) -> pd.DataFrame:
    """Share of the dense score kept: ``task, spec, label, kept, lo, hi`` of every model in every task type.

    ``retrieval``: nDCG@10 of the language model as an embedder, over passages. ``choice`` and ``short``: the items by
    multiple choice, above guessing, and in free generation (tasks.shares). ``one_token``: sums of digits and closing
    brackets, first choice of the whole vocabulary. ``long``: probability of a token of held-out text, geometric mean
    (one over the ratio of perplexities); read, not written. NaN where the dense score leaves nothing to keep.
    """
    answers = scores.answers(run, specs)
    parts = [of_items(answers), of_searches(searches.searches(run, specs))]
    parts += [of_skills(zoo_skills.skills(run, specs)), of_texts(one_step.one_step(run, specs))]
    found = pd.concat(parts, ignore_index=True)
    order = {task: number for number, task in enumerate(TASKS)}
    return found.sort_values("task", key=lambda task: task.map(order), kind="stable", ignore_index=True)


_COLUMNS = ["task", "spec", "label", "kept", "lo", "hi"]


def of_items(answers: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``choice`` and ``short``."""
    table = shares.kept(answers, (shares.CHOICE, shares.WRITTEN))
    table = table[table["spec"] != "dense"]
    return table.assign(task=table["readout"].map({shares.CHOICE: "choice", shares.WRITTEN: "short"}))[_COLUMNS]


def of_searches(found: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``retrieval``."""
    table = searches.kept(found)
    return table[table["spec"] != "dense"].assign(task="retrieval")[_COLUMNS]


def of_skills(found: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``one_token``: both skills together, each item with itself under the dense model."""
    wide = found.pivot_table("free", "item_id", "spec", aggfunc="mean", sort=False)
    labels = found.drop_duplicates("spec").set_index("spec")["label"].drop("dense")
    rows = [
        ("one_token", spec, label, *stats.kept(wide[spec].to_numpy(), wide["dense"].to_numpy(), wide.index))
        for spec, label in labels.items()
    ]
    return pd.DataFrame(rows, columns=_COLUMNS)


def of_texts(steps: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``long``: exp of the mean difference of log probabilities, interval over texts."""
    rows = []
    for (spec, label), some in steps.groupby(["spec", "label"], sort=False):
        found = stats.cluster_mean(some["nll_dense"] - some["nll_pruned"], some["cluster"])
        rows.append(("long", spec, label, *map(math.exp, found)))
    return pd.DataFrame(rows, columns=_COLUMNS)


# ---------------------------------------------------------------- size and speed


def sizes(run: Run, specs: Sequence[str]) -> pd.DataFrame:
    """``spec, label, kind, bytes, share`` as in runs.zoo.memory, and ``plain, plain_share``: the same model in floats.

    ``bytes`` is what its own format stores (masks, codes, scales); ``plain`` are 16 bits for every number that is not
    dropped, zeros included: what loads without a format of its own.
    """
    return memory.memory(run, specs).merge(memory.plain(run, specs), on="spec")


def times(run: Run, specs: Sequence[str]) -> pd.DataFrame:
    """Seconds of every batch (runs.zoo.speed) of the models that are :func:`timed`, and of the dense one."""
    return zoo_speed.speed(run, timed(run, specs))


def speeds(times: pd.DataFrame) -> pd.DataFrame:
    """``spec, label, rate, rate_lo, rate_hi`` (tokens a second) and ``faster, faster_lo, faster_hi`` (dense = 1)."""
    rows = []
    for (spec, label), some in times.groupby(["spec", "label"], sort=False):
        rows.append((spec, label, *rate(some), *faster(some)))
    numbers = [f"{name}{end}" for name in ("rate", "faster") for end in ("", "_lo", "_hi")]
    return pd.DataFrame(rows, columns=["spec", "label", *numbers])


# ---------------------------------------------------------------- what the guide says


def options(kept: pd.DataFrame, sizes: pd.DataFrame) -> pd.DataFrame:
    """Figure data: ``task, spec, label, kind, share`` (of the dense bytes), ``plain_share, kept, lo, hi, floor``."""
    about = sizes[["spec", "kind", "share", "plain_share"]]
    found = kept.merge(about, on="spec").assign(floor=FLOOR)
    return found[["task", "spec", "label", "kind", "share", "plain_share", "kept", "lo", "hi", "floor"]]


def smallest(options: pd.DataFrame, task: str, floor: float = FLOOR) -> pd.Series | None:
    """The smallest model of a task type whose whole interval lies at ``floor`` or above; None if there is none.

    Of models of one size the one that keeps most.
    """
    fits = options[(options["task"] == task) & (options["lo"] >= floor)]
    ordered = fits.sort_values(["share", "kept"], ascending=[True, False], kind="stable")
    return ordered.iloc[0] if len(ordered) else None


def within(options: pd.DataFrame, task: str, budget: float) -> pd.Series | None:
    """The model that keeps most in a task type with at most ``budget`` of the dense bytes; None if there is none."""
    fits = options[(options["task"] == task) & (options["share"] <= budget) & options["kept"].notna()]
    ordered = fits.sort_values(["kept", "share"], ascending=[False, True], kind="stable")
    return ordered.iloc[0] if len(ordered) else None
