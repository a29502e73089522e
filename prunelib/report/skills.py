"""What compressed models keep of skills that are asked for in one token, and what that says of compounding."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from prunelib.measure import independent, stats
from prunelib.report import facts
from prunelib.report.sentences import Found, by_side, listed
from prunelib.tasks import shares
from prunelib.tasks.skills import SKILLS

BOTH = "both"
READOUTS = ("choice", "free")
"""The answer is the likeliest of its options; of the whole vocabulary."""

MEAN = "mean of all"


def kept(table: pd.DataFrame, specs: Sequence[str], skill: str, readout: str) -> stats.Interval:
    """Share kept of the dense score, mean over ``specs``: (value, lo, hi), 95 % over items, each paired with dense.

    ``table`` as from runs.zoo.skills; ``skill`` one of :data:`SKILLS`, or :data:`BOTH`. ``choice`` is taken above
    chance, ``free`` above 0. NaN where the dense score is not above that, or where there are no such models.
    """
    some = table if skill == BOTH else table[table["type"] == skill]
    wide = some.pivot_table(readout, "item_id", "spec", aggfunc="mean", sort=False)
    if not len(specs) or not len(wide):
        return (math.nan,) * 3
    chance = some.groupby("item_id", sort=False)["chance"].first() if readout == "choice" else 0.0
    own = wide[list(specs)].to_numpy().mean(1)
    value, lo, hi = stats.kept(own, wide["dense"].to_numpy(), wide.index, chance)
    return (value,) * 3 if list(specs) == ["dense"] else (value, lo, hi)


def by_spec(table: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """Figure data: ``spec, label, readout, kept, lo, hi`` of each model and of their mean (``spec`` mean of all).

    ``readout`` is the name of a skill (free answers of one token), of a skill and ``_choice`` (among its options), or
    ``generation``, that of the task items (``answers`` as from runs.zoo.scores, of the same models).
    """
    labels = dict(zip(table["spec"], table["label"], strict=True))
    pruned = [spec for spec in labels if spec != "dense"]
    groups = [([spec], spec, label) for spec, label in labels.items()] + [(pruned, MEAN, MEAN)]
    rows = []
    for specs, spec, label in groups:
        found = {skill: kept(table, specs, skill, "free") for skill in SKILLS}
        found |= {f"{skill}_choice": kept(table, specs, skill, "choice") for skill in SKILLS}
        generation = shares.mean_kept(answers, specs, shares.WRITTEN)
        found[shares.WRITTEN] = (generation[0],) * 3 if spec == "dense" else generation
        rows += [(spec, label, name, *numbers) for name, numbers in found.items()]
    return pd.DataFrame(rows, columns=["spec", "label", "readout", "kept", "lo", "hi"])


def by_model(table: pd.DataFrame, mean_of: Sequence[str], answers: pd.DataFrame | None = None) -> pd.DataFrame:
    """For the page, a row a model: dense scores, then shares kept by skill and read-out with their intervals.

    The last row is the mean over the models ``mean_of``, if they are several. With ``answers``, also the shares kept
    of the task items in ``forced`` and ``generation``.
    """
    labels = dict(zip(table["spec"], table["label"], strict=True))
    pruned, last = [spec for spec in labels if spec != "dense"], MEAN
    if set(mean_of) != set(pruned):
        last = f"mean of {listed([labels[spec] for spec in mean_of])}"
    names = {(skill, readout): f"{skill}, {readout}" for skill in SKILLS for readout in READOUTS}
    dense, row = table[table["spec"] == "dense"], {"model": "dense, its scores"}
    for (skill, readout), name in names.items():
        row[name] = facts.number(dense.loc[dense["type"] == skill, readout].mean(), ".2f")
    beside = {} if answers is None else {"forced": "items, next token", "generation": "items, generation"}
    if answers is not None:
        own = answers[answers["spec"] == "dense"]
        row |= {name: facts.number(own[readout].mean(), ".2f") for readout, name in beside.items()}
    rows = [row]
    for specs, label in [([spec], labels[spec]) for spec in pruned] + [(list(mean_of), last)] * (len(mean_of) > 1):
        row = {"model": label}
        row |= {name: _shown(kept(table, specs, *key)) for key, name in names.items()}
        row |= {name: _shown(shares.mean_kept(answers, specs, readout)) for readout, name in beside.items()}
        rows.append(row)
    return pd.DataFrame(rows)


def _shown(interval: stats.Interval) -> str:
    if not math.isfinite(interval[0]):
        return "not defined"
    return facts.show(dict(zip(("value", "lo", "hi"), interval, strict=True)) | {"exact": False, "fmt": ".0%"})


def record(ch, table: pd.DataFrame, specs: Sequence[str], prefix: str = "skills") -> None:
    """Record the values ``<prefix>.*``: dense scores, and shares kept, mean over ``specs``."""
    dense = table[table["spec"] == "dense"]
    ch.value(f"{prefix}.items", len(dense), exact=True, fmt="d")
    ch.value(f"{prefix}.left_out", len(SKILLS) * ch.settings.skill_items - len(dense), exact=True, fmt="d")
    ch.value(f"{prefix}.models", len(specs), exact=True, fmt="d")
    for readout in READOUTS:
        ch.value(f"{prefix}.{readout}", *kept(table, specs, BOTH, readout), fmt=".0%")
        for skill in SKILLS:
            some = dense[dense["type"] == skill]
            score = stats.share(some[readout], some["item_id"]) if len(some) else (math.nan,) * 3
            ch.value(f"{prefix}.{skill}.dense.{readout}", *score, fmt=".2f")
            ch.value(f"{prefix}.{skill}.{readout}", *kept(table, specs, skill, readout), fmt=".0%")


def compare(ch, answers: pd.DataFrame, specs: Sequence[str], prefix: str = "skills") -> None:
    """Record ``generation`` and ``forced`` of the task items over the same models, and what free one-token
    answers (recorded by :func:`record`) keep more than each. Items and one-token items have nothing in common."""
    other = {readout: shares.mean_kept(answers, specs, readout) for readout in (shares.WRITTEN, "forced")}
    for readout, numbers in other.items():
        ch.value(f"{prefix}.{readout}", *numbers, fmt=".0%")
        for part in ("", *(f".{skill}" for skill in SKILLS)):
            free = ch.found.values[f"{prefix}{part}.free"]
            free = tuple(math.nan if free[name] is None else free[name] for name in ("value", "lo", "hi"))
            ch.value(f"{prefix}{part}.minus_{readout}", *independent.difference(free, numbers), fmt=".2f")


def say(found: Found, prefix: str = "skills") -> str:
    """Is a skill lost, or does only the writing of several tokens suffer?"""
    if not found.is_defined(f"{prefix}.free"):
        return _nothing_to_lose(found, prefix)
    lost = _lost(found, prefix)
    if not found.is_defined(f"{prefix}.minus_generation"):
        return f"{lost} {_forced(found, prefix)} The dense model writes no answers that could be compared."
    apart = (
        f"{found.show(f'{prefix}.generation')} (one token minus generation {found.show(f'{prefix}.minus_generation')})"
    )
    writing = by_side(
        found.side(f"{prefix}.minus_generation", 0.0),
        f"Free generation of the items keeps less, {apart}: not all of its loss is seen in one token. The rest may be "
        "compounding, or that a longer answer needs all of its tokens right.",
        f"Free generation of the items keeps more, {apart}: more is lost where nothing can compound than in longer "
        "answers, so that compounding is not needed to explain what these lose.",
        f"Free generation of the items keeps {apart}, which is not told apart: these numbers do not ask for "
        "compounding.",
    )
    return " ".join(part for part in (lost, writing, _by_skill(found, prefix), _forced(found, prefix)) if part)


def _lost(found: Found, prefix: str) -> str:
    lost = [skill for skill in SKILLS if found.side(f"{prefix}.{skill}.free", 1.0) < 0]
    first = {0: "No loss of a skill is told apart from none", len(SKILLS): "Part of both skills is lost"}
    parts = ", ".join(f"{skill} {_share(found, f'{prefix}.{skill}.free')}" for skill in SKILLS)
    return (
        f"{first.get(len(lost), f'Part of one skill is lost, {listed(lost)}')}: free answers of one token, where no "
        f"error can feed on another, keep {found.show(f'{prefix}.free')} of the dense score ({parts}). Among four "
        f"options {_share(found, f'{prefix}.choice')} of what is above guessing is kept."
    )


def _by_skill(found: Found, prefix: str) -> str:
    """How each skill compares with generation, where the two do not compare alike."""
    sides = {skill: found.side(f"{prefix}.{skill}.minus_generation", 0.0) for skill in SKILLS}
    if len(set(sides.values())) == 1:
        return ""
    words = {1: "more than generation", -1: "less than generation", 0: "a share not told apart from generation's"}
    shown = [f"{words[side]} in {skill}" for skill, side in sides.items()]
    return f"Skill by skill, one token keeps {listed(shown)}."


def _forced(found: Found, prefix: str) -> str:
    if not found.is_defined(f"{prefix}.minus_forced"):
        return ""
    side = by_side(
        found.side(f"{prefix}.minus_forced", 0.0),
        "less than one-token answers do",
        "more than one-token answers do",
        "not told apart from one-token answers",
    )
    return (
        "On the same items as generation the next token after the true answer so far, where nothing compounds either, "
        f"keeps {found.show(f'{prefix}.forced')}, {side}."
    )


def say_alone(found: Found, prefix: str) -> str:
    """The same where no items were written: what falls in one token cannot be compounding."""
    if not found.is_defined(f"{prefix}.free"):
        return _nothing_to_lose(found, prefix)
    falls = any(found.side(f"{prefix}.{skill}.free", 1.0) < 0 for skill in SKILLS)
    end = (
        "What falls in one token cannot be compounding: it is lost before a model has read a word of its own."
        if falls
        else "These items show nothing that could not be compounding."
    )
    return f"{_lost(found, prefix)} {end}"


def _nothing_to_lose(found: Found, prefix: str) -> str:
    if not int(found.number(f"{prefix}.models")):
        return "This run has no pruned model to ask for one token."
    scores = " and ".join(f"{skill} {found.show(f'{prefix}.{skill}.dense.free')}" for skill in SKILLS)
    return (
        f"What is lost in one token this run cannot say: the dense model's own free answers ({scores}) cannot be told "
        "from 0, or they are too few for an interval."
    )


def _share(found: Found, key: str) -> str:
    return found.show(key) if np.isfinite(found.number(key)) else "an undefined share"
