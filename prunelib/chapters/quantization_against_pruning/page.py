"""What the page on quantization against pruning shows and records."""

import math
from collections.abc import Sequence

import pandas as pd

from prunelib.chapters.chapter import Chapter
from prunelib.chapters.quantization_against_pruning import measure
from prunelib.measure import stats
from prunelib.methods import parse
from prunelib.report import comparison, facts, paper, scores
from prunelib.report.sentences import Found, by_side, by_verdict, listed
from prunelib.tasks import equal_memory, shares

_PAPER = {
    "one_minus_cos_h": "embedding_cosine",
    "one_minus_cos_z": "logit_cosine",
    "one_minus_cos_p": "probability_cosine",
    "rms_dz": "logit_perturbation_rms",
    "var_dz": "logit_perturbation_variance",
    "kl_dense_pruned": "kl",
}
_SERIES = {"quantization": "paper: quantized", "attn_drop": "paper: attention dropped", "4:8": "paper: 4:8"}


_READING = 0.01
"""Of an axis: the reading error of a digitised curve (paper.caveats)."""


def beside_paper(ch: Chapter, own: pd.DataFrame) -> pd.DataFrame:
    """Figure data with the paper's curves as far as the run's texts go, cosines as 1 − cos.

    What is smaller than the reading error is NaN; a logarithmic axis would show little else.
    """
    parts = [own]
    for quantity, name in _PAPER.items():
        curves = {}
        for series, label in _SERIES.items():
            rows = paper.series(f"fig:pruning_quant:{name}", series).rename(columns={"x": "step", "y": "mean"})
            curves[label] = rows.assign(mean=1 - rows["mean"] if quantity.startswith("one_minus") else rows["mean"])
        least = _READING * max(rows["mean"].max() for rows in curves.values())
        for label, rows in curves.items():
            rows = rows[rows["step"] <= own["step"].max()]
            mean = rows["mean"].where(rows["mean"] >= least)
            parts.append(rows.assign(source="paper", spec="", label=label, kind="", quantity=quantity, mean=mean))
    return pd.concat(parts, ignore_index=True)[list(own)]


def by_model(ch: Chapter, data: pd.DataFrame) -> pd.DataFrame:
    """A row a model of the figure on memory, smallest first."""
    rows = []
    for (label, share), some in data.sort_values("share", kind="stable").groupby(["label", "share"], sort=False):
        found = some.set_index("measure")
        row = {"model": label, "memory, dense = 1": f"{share:.3f}"}
        for name, column in (
            ("kept", "generation kept"),
            ("kl", "KL at the first token, nats"),
            ("common", "greedy tokens in common"),
        ):
            row[column] = _shown(found.loc[name, ["value", "lo", "hi"]]) if name in found.index else ""
        rows.append(row | {"compared by C13": _role(some.iloc[0])})
    return pd.DataFrame(rows)


def _role(row: pd.Series) -> str:
    return "4 bits" if row["four"] else "similar memory" if row["similar"] else ""


def _shown(numbers) -> str:
    value, lo, hi = map(float, numbers)
    if not math.isfinite(value):
        return "not defined"
    if lo == hi == value:  # the dense model beside itself
        return f"{value:g}"
    return facts.show({"value": value, "lo": lo, "hi": hi, "exact": False, "fmt": ".3g"})


def record(
    ch: Chapter, models: measure.Models, answers: pd.DataFrame, steps: pd.DataFrame, sizes: pd.DataFrame
) -> None:
    """Record the values ``quant.*`` and claim C13."""
    label = sizes.set_index("spec")["label"]
    four, similar = (sizes.loc[sizes[column], "spec"].tolist() for column in ("four", "similar"))
    found = measure.advantage(answers, sizes)
    ch.value("quant.difference", *found.difference, fmt=".2f")
    ch.value("quant.four", listed([label[one] for one in four]) if four else "none", exact=True, fmt="s")
    ch.value("quant.similar", listed([label[one] for one in similar]) if similar else "none", exact=True, fmt="s")
    chosen = dict.fromkeys(one for half in found.chosen for one in half)
    ch.value("quant.chosen", listed([label[one] for one in chosen]) if chosen else "none", exact=True, fmt="s")
    ch.value("quant.undefined", shares.undefined(answers, (shares.WRITTEN,)), exact=True, fmt="s")
    nothing = (math.nan,) * 3
    ch.value("quant.kept", *(shares.mean_kept(answers, four, shares.WRITTEN) if four else nothing), fmt=".0%")
    memory = sizes.set_index("spec")["share"]
    ch.value("quant.memory", memory[four].max() if four else math.nan, exact=True, fmt=".0%")
    ch.value("quant.most", float(sizes["most"].iloc[0]), exact=True, fmt=".0%")
    ch.value("quant.limit", equal_memory.LIMIT, exact=True, fmt="s")
    ch.value("quant.dense_mb", sizes.loc[sizes["spec"] == "dense", "bytes"].iloc[0] / 1e6, exact=True, fmt=",.0f")
    _record_matched(ch, answers, models, label, memory)
    _record_steps(ch, steps, four, similar)
    ch.claim("C13", *found.difference, over=scores.sample(answers))


def _record_matched(ch: Chapter, answers, models: measure.Models, label: pd.Series, memory: pd.Series) -> None:
    """The model pruned to the memory of the first quantized one, where the run has both."""
    matched, quantized = measure.same_memory(ch), ch.settings.quantized[0]
    both = {matched, quantized} <= set(models.scored)
    ch.value("quant.matched", label[matched] if both else "none", exact=True, fmt="s")
    if not both:
        return
    ch.value("quant.matched.beside", label[quantized], exact=True, fmt="s")
    ch.value("quant.matched.memory", memory[matched], exact=True, fmt=".1%")
    ch.value("quant.matched.beside_memory", memory[quantized], exact=True, fmt=".1%")
    ch.value("quant.matched.kept", *shares.mean_kept(answers, [matched], shares.WRITTEN), fmt=".0%")
    ch.value("quant.matched.beside_kept", *shares.mean_kept(answers, [quantized], shares.WRITTEN), fmt=".0%")
    alone = equal_memory.advantage(answers, [quantized], [matched]).difference
    ch.value("quant.matched.difference", *alone, fmt=".2f")


def _record_steps(ch: Chapter, steps: pd.DataFrame, four: list[str], similar: list[str]) -> None:
    """First token and tokens in common, of the 4-bit and of the pruned models of similar memory that write."""
    first = steps[(steps["pair"] == "direct") & (steps["step"] == 0)]
    ch.value("quant.prompts", first["prompt_id"].nunique(), exact=True, fmt="d")
    ch.value("quant.tokens", int(steps["step"].max()) + 1, exact=True, fmt="d")
    groups = {"four": first[first["spec"].isin(four)], "similar": first[first["spec"].isin(similar)]}
    for name, rows in groups.items():
        for column, key in (("kl_dense_pruned", "kl"), ("parted", "common")):
            ch.value(f"quant.{name}.{key}", *measure.mean_of(rows, column), fmt=".2g" if key == "kl" else ".1f")
    both = first[first["spec"].isin([*four, *similar])].assign(own=first["spec"].isin(four))
    enough = all(map(len, groups.values()))

    def means(rows: pd.DataFrame, column: str) -> tuple[float, float]:
        return rows.loc[rows["own"], column].mean(), rows.loc[~rows["own"], column].mean()

    def ratio(rows: pd.DataFrame) -> float:
        own, others = means(rows, "kl_dense_pruned")
        return math.log(others / own) if own > 0 and others > 0 else math.nan

    def gap(rows: pd.DataFrame) -> float:
        own, others = means(rows, "parted")
        return own - others

    found = stats.smooth(both, ratio) if enough else (math.nan,) * 3
    ch.value("quant.kl_ratio", *map(math.exp, found), fmt=".2g")
    ch.value("quant.common_gap", *(stats.smooth(both, gap) if enough else (math.nan,) * 3), fmt=".1f")


def record_origin(ch: Chapter, rounding: pd.DataFrame, on_origin: pd.DataFrame, steps: pd.DataFrame) -> pd.DataFrame:
    """Record whether the weights lie on a grid already; returns the errors as a table for the page."""
    wide = rounding.pivot(index="grid", columns="order", values="error").loc[list(dict.fromkeys(rounding["grid"]))]
    beside = ch.settings.quantized[0]
    for name, grid in (("blocks", measure.BLOCKS), ("beside", beside)):
        for order in ("own", "mixed"):
            ch.value(f"quant.grid.{name}.{order}", wide.loc[grid, order], exact=True, fmt=".2g")
    for name, rows in (("origin", on_origin), ("beside", steps[steps["spec"] == beside])):
        rows = rows[(rows["pair"] == "direct") & (rows["step"] == 0)]
        ch.value(f"quant.grid.{name}.kl", *measure.mean_of(rows, "kl_dense_pruned"), fmt=".2g")
    ch.value("quant.grid.origin.label", parse(measure.ORIGIN).label, exact=True, fmt="s")
    ch.value("quant.grid.beside.label", parse(beside).label, exact=True, fmt="s")
    ch.value("quant.grid.dense", measure.dense_in_blocks(ch), exact=True, fmt=".0%")
    names = {grid: grid if grid == measure.BLOCKS else parse(grid).label for grid in wide.index}
    return pd.DataFrame(
        {
            "grid of 4 bits": [names[grid] for grid in wide.index],
            "columns as they are": [facts.number(x, ".2g") for x in wide["own"]],
            "columns in another order": [facts.number(x, ".2g") for x in wide["mixed"]],
        }
    )


ON_A_GRID = 0.5
"""Weights lie on a grid if rounding to it moves them at most this much of what it does with columns mixed."""

HELPED = 0.9
"""The same for a grid that is not their own: below it the origin still helps."""


def say(found: Found) -> dict[str, str]:
    """What the page says of this run: what the same memory buys, what that hangs on, and where the grid comes from."""
    memory, most = found.show("quant.memory"), found.show("quant.most")
    said = {"matched": _matched(found), "steps": _steps(found), "origin": _origin(found)}
    if not found.is_defined("quant.difference"):
        why = _open(found, memory, most)
        return said | {"answer": f"This run cannot tell. {why}", "why": why}
    kept, difference = found.bracketed("quant.kept"), found.show("quant.difference")
    answer = by_verdict(
        found.verdict("C13"),
        f"The same memory buys more as 4-bit weights. At {memory} of the dense bytes they keep {kept} of the "
        f"generation score, and the best pruned model of similar memory keeps less: the difference of the shares is "
        f"{difference}.",
        f"The same memory buys no more as 4-bit weights. At {memory} of the dense bytes they keep {kept} of the "
        f"generation score, and the best pruned model of similar memory as much or more: the difference of the "
        f"shares is {difference}.",
        f"What the same memory buys is not decided. At {memory} of the dense bytes 4-bit weights keep {kept} of the "
        f"generation score; the difference to the best pruned model of similar memory is {difference}.",
    )
    why = (
        f"Similar memory is {memory} to {most} of the dense bytes: pruned models of that size are "
        f"{found.show('quant.similar')}. Judged on the passages that did not choose: {found.show('quant.chosen')}."
    )
    return said | {"answer": f"{answer} {said['matched']}".strip(), "why": why}


def _open(found: Found, memory: str, most: str) -> str:
    """Why claim C13 has no number in this run."""
    if found.show("quant.four") == "none":
        return "It has no 4-bit model."
    if found.show("quant.similar") == "none":
        return f"It has no pruned model of similar memory, {memory} to {most} of the dense bytes."
    return found.show("quant.undefined")


def _matched(found: Found) -> str:
    name = found.show("quant.matched")
    if name == "none" or not found.is_defined("quant.matched.difference"):
        return ""
    beside, difference = found.show("quant.matched.beside"), found.show("quant.matched.difference")
    shown = f"({found.bracketed('quant.matched.kept')}, against {found.bracketed('quant.matched.beside_kept')})"
    side = by_side(
        found.side("quant.matched.difference", 0.0),
        f"keeps less than {beside} {shown}",
        f"keeps more than {beside} {shown}",
        f"cannot be told from {beside} {shown}",
    )
    return (
        f"Pruned to the same memory ({found.show('quant.matched.memory')} of the dense bytes, against "
        f"{found.show('quant.matched.beside_memory')}), {name} {side}; the difference is {difference}."
    )


def _steps(found: Found) -> str:
    """The first token, where no history differs, and how long greedy texts agree."""
    if not found.is_defined("quant.kl_ratio"):
        return "Distances at the first token are not compared: one of the two groups writes no texts in this run."
    kl = by_side(
        found.side("quant.kl_ratio", 1.0),
        "closer to the dense model",
        "further from the dense model",
        "not clearly closer to the dense model or further from it",
    )
    common = by_side(
        found.side("quant.common_gap", 0.0),
        "stay longer with the dense text",
        "leave the dense text earlier",
        "leave the dense text about as early",
    )
    return (
        f"At the first token 4-bit models are {kl} than pruned ones of similar memory: KL "
        f"{found.show('quant.four.kl')} against {found.show('quant.similar.kl')} nats. Their greedy texts {common}: "
        f"{found.show('quant.four.common')} tokens in common against "
        f"{found.show('quant.similar.common')}, of {found.show('quant.tokens')} at most."
    )


def _origin(found: Found) -> str:
    """Whether the dense weights have been on a 4-bit grid before, and what that does to the numbers."""
    own, mixed = (found.number(f"quant.grid.blocks.{order}") for order in ("own", "mixed"))
    errors = "by {} of their length, with the columns mixed by {}"
    errors = errors.format(*(found.show(f"quant.grid.blocks.{order}") for order in ("own", "mixed")))
    if not own <= ON_A_GRID * mixed:
        return (
            f"The weights of this model lie on no 4-bit grid with a scale and an offset for each block of 32: rounding "
            f"to one moves them {errors}."
        )
    said = (
        "The weights of this model already lie on a 4-bit grid with a scale and an offset for each block of 32: "
        f"rounding to it moves them {errors}. So 16 bits a weight are more than the dense model holds: written on that "
        f"grid it would need {found.show('quant.grid.dense')} of its bytes. That says nothing about the quantization "
        "of models that were never on a grid."
    )
    own, mixed = (found.number(f"quant.grid.beside.{order}") for order in ("own", "mixed"))
    errors = "{}, with the columns mixed {}"
    errors = errors.format(*(found.show(f"quant.grid.beside.{order}") for order in ("own", "mixed")))
    beside = found.show("quant.grid.beside.label")
    if own < HELPED * mixed:
        return (
            f"{said} The origin also helps {beside}, which moves the weights by {errors}: the 4-bit numbers of this "
            "page are flattering."
        )
    return (
        f"{said} {beside} rounds to another grid and moves the weights by {errors}: there the origin is no help, and "
        "the 4-bit numbers of this page are not flattered by it."
    )


def against_dense(ch: Chapter, specs: Sequence[str]) -> pd.DataFrame:
    """Token by token on held-out text, a column a model (measure.token_summary)."""
    return comparison.against_dense(ch, specs)
