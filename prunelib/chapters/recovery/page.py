"""What the page on recovery shows and records."""

import math

import pandas as pd

from prunelib.chapters.chapter import Chapter
from prunelib.chapters.recovery import measure
from prunelib.chapters.recovery.figures import PRUNED, TEXTS, counted
from prunelib.report import facts, scores
from prunelib.report.sentences import Found, by_side, by_verdict, listed

CLAIM = "C15"
CALIBRATION, CLOSED = ("temperature", "norm"), "linear"
"""Rungs that only calibrate the softmax, and the one in closed form."""


def ladder(ch: Chapter, table: pd.DataFrame, seconds: dict[str, float]) -> pd.DataFrame:
    """All rungs: what each took and what it brought. Seconds are of the machine that ran them, and in no table."""
    took = [seconds.get(spec, math.nan) for spec in table["spec"]]
    return pd.DataFrame(
        {
            "model": table["base_label"],
            "repair": table["rung"],
            "fitted": [counted(n) if n else "" for n in table["parameters"]],
            "tokens read": [f"{n:,d}" if n else "" for n in table["tokens"]],
            "seconds": [facts.number(one, ".0f") if math.isfinite(one) else "" for one in took],
            "KL": [_shown(row, ".2g") for row in _three(table, "kl")],
            "of the KL gone": _beyond(table, "kl_gone"),
            "choice kept": [_shown(row) for row in _three(table, "choice")],
            "generation kept": [_shown(row) for row in _three(table, "generation")],
            "of the loss regained": _beyond(table, "regained"),
        }
    )


def _beyond(table: pd.DataFrame, name: str) -> list[str]:
    """A column of repairs alone."""
    shown = map(_shown, _three(table, name))
    return ["" if rung == PRUNED else one for rung, one in zip(table["rung"], shown, strict=True)]


def _three(table: pd.DataFrame, name: str):
    return table[[name, f"{name}_lo", f"{name}_hi"]].to_numpy()


def _shown(interval, fmt: str = ".0%") -> str:
    numbers = (float(number) if math.isfinite(number) else None for number in interval)
    return facts.show(dict(zip(("value", "lo", "hi"), numbers, strict=True)) | {"exact": False, "fmt": fmt})


def record(ch: Chapter, answers: pd.DataFrame, table: pd.DataFrame, found: measure.Repairs) -> None:
    """Record the values ``recovery.*`` of the ladder, and claim C15."""
    settings = ch.settings
    for name, number in (
        ("models", len(found)),
        ("tokens", settings.training * settings.training_tokens),
        ("rows", settings.training),
        ("answered", measure.answered(ch)),
        ("sequences", settings.texts),
        ("passages", answers["passage_id"].nunique()),
    ):
        ch.value(f"recovery.{name}", int(number), exact=True, fmt=",d")
    labels = list(dict.fromkeys(table["base_label"]))
    ch.value("recovery.bases", listed(labels), exact=True, fmt="s")
    first = next(iter(found))
    ch.value("recovery.first", table.loc[table["base"] == first, "base_label"].iloc[0], exact=True, fmt="s")
    ch.value("recovery.lost", *measure.lost(answers, found), fmt=".0%")
    pruned = table[(table["base"] == first) & (table["rung"] == PRUNED)].iloc[0]
    ch.value("recovery.kl", *pruned[["kl", "kl_lo", "kl_hi"]], fmt=".2g")
    rungs = {}
    for row in table[(table["base"] == first) & (table["rung"] != PRUNED)].itertuples():
        name = row.spec[len(first) + 1 :].partition(":")[0]
        rungs[name] = row.rung
        ch.value(f"recovery.regained.{name}", row.regained, row.regained_lo, row.regained_hi, fmt=".0%")
        ch.value(f"recovery.kl_gone.{name}", row.kl_gone, row.kl_gone_lo, row.kl_gone_hi, fmt=".0%")
    ch.value("recovery.rungs", ",".join(rungs), exact=True, fmt="s")
    for name, title in rungs.items():
        ch.value(f"recovery.title.{name}", title, exact=True, fmt="s")
    parts = {}
    for name, trained in (("with training", True), ("without training", False)):
        best = measure.best(answers, found, trained)
        key = name.partition(" ")[0]
        ch.value(f"recovery.{key}", *best.regained, fmt=".0%")
        chosen = [measure.rung_of(spec) for half in best.chosen for spec in half]
        ch.value(f"recovery.{key}.chosen", listed(list(dict.fromkeys(chosen))) or "none", exact=True, fmt="s")
        parts[name] = best.regained
    ch.claim(CLAIM, parts=parts, over=scores.sample(answers))


def record_texts(ch: Chapter, data: pd.DataFrame) -> None:
    """Record the values ``recovery.text.*``, and what the page says."""
    ch.value("recovery.text.tokens", measure.text_tokens(ch), exact=True, fmt=",d")
    written = data[(data["readout"] == "generation") & (data["text"] != measure.OWN)]
    ch.value("recovery.text.models", listed(list(dict.fromkeys(written["label"]))), exact=True, fmt="s")
    ch.value("recovery.text.count", len(written), exact=True, fmt="d")
    for place, row in enumerate(written.itertuples()):
        ch.value(f"recovery.text.label.{place}", f"{row.label} and {TEXTS[row.text]}", exact=True, fmt="s")
        ch.value(f"recovery.text.gap.{place}", row.gap, row.gap_lo, row.gap_hi, fmt=".0%")
    ch.say(say(ch.found))


def texts(ch: Chapter, data: pd.DataFrame) -> pd.DataFrame:
    """The texts, model by model."""
    rows = [
        (r.label, "generation" if r.readout == "generation" else "multiple choice", TEXTS[r.text],
         _shown((r.kept, r.lo, r.hi)), "" if r.text == measure.OWN else _shown((r.gap, r.gap_lo, r.gap_hi)))
        for r in data.itertuples()
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["model", "read-out", "calibrated on", "kept", "own samples minus that"])


# ---------------------------------------------------------------- what the page says


def say(found: Found) -> dict[str, str]:
    """What the page says of this run: does training restore, what do calibration and a linear map, what is left?"""
    said = {"calibration": _calibration(found), "closed": _closed(found), "left": _left(found), "text": _text(found)}
    said["why"] = _why(found)
    if not (found.is_defined("recovery.with") and found.is_defined("recovery.without")):
        said["answer"] = f"This run cannot tell. {said['why']}"
        return said
    trained, plain = found.show("recovery.with"), found.show("recovery.without")
    numbers = f"The best repair with gradient steps brings back {trained} of the lost generation score, the best "
    numbers += f"without {plain}"
    said["answer"] = by_verdict(
        found.verdict(CLAIM),
        f"Generation needs training, and training restores at least half of it. {numbers}.",
        f"That generation needs training and is restored by it does not hold here. {numbers}.",
        f"Whether generation needs training and is restored by it is not decided. {numbers}.",
    )
    return said


def _why(found: Found) -> str:
    if not found.is_defined("recovery.lost") or found.side("recovery.lost", 0.0) <= 0:
        return f"What {found.show('recovery.bases')} lost of the generation score cannot be told from nothing."
    needs = by_side(
        found.side("recovery.without", 0.5),
        "more than half comes back without a gradient step",
        "less than half comes back without a gradient step",
        "whether half comes back without a gradient step is not decided",
    )
    restores = by_side(
        found.side("recovery.with", 0.5),
        "more than half comes back by training",
        "less than half comes back by training",
        "whether half comes back by training is not decided",
    )
    return (
        f"Of what was lost, {found.show('recovery.lost')} of the dense score, {needs} "
        f"(chosen: {found.show('recovery.without.chosen')}), and {restores} "
        f"(chosen: {found.show('recovery.with.chosen')})."
    )


def _rungs(found: Found) -> list[str]:
    return [name for name in found.show("recovery.rungs").split(",") if name]


def _calibration(found: Found) -> str:
    """How much of the damage is one of the scale of logits."""
    known = [name for name in CALIBRATION if name in _rungs(found)]
    if not known:
        return "No repair in this run calibrates the softmax alone."
    parts = [f"{found.show(f'recovery.title.{n}')} {found.show(f'recovery.kl_gone.{n}')}" for n in known]
    sides = [found.side(f"recovery.kl_gone.{name}", 0.5) for name in known]
    start = f"Of the KL of {found.show('recovery.first')} this takes away: {listed(parts)}"
    if max(sides) > 0:
        return f"{start}. Most of the damage is one of calibration."
    if max(sides) < 0:
        return f"{start}. Most of the damage is none of calibration."
    return f"{start}. Whether most of the damage is one of calibration is not decided."


def _closed(found: Found) -> str:
    """What one linear map at each cut repairs."""
    if CLOSED not in _rungs(found):
        return "No linear map was fitted in this run."
    gone, back = (found.show(f"recovery.{name}.{CLOSED}") for name in ("kl_gone", "regained"))
    side = by_side(
        found.side(f"recovery.kl_gone.{CLOSED}", 0.0),
        f"takes away {gone} of the KL",
        f"makes the KL larger (share gone: {gone})",
        f"changes the KL by nothing that can be told from 0 (share gone: {gone})",
    )
    score = by_side(
        found.side(f"recovery.regained.{CLOSED}", 0.0),
        f"and brings back {back} of the lost generation score",
        f"and costs more of the generation score (share regained: {back})",
        f"but what it brings back of the generation score, {back}, is not told apart from nothing",
    )
    if not found.is_defined(f"recovery.regained.{CLOSED}"):
        score = "; of the generation score nothing was lost that could come back"
    return f"One linear map at each cut, without a gradient step, {side} {score}.".replace(" ;", ";")


def _left(found: Found) -> str:
    """What stays lost after the best of all repairs."""
    gone = {name: found.number(f"recovery.kl_gone.{name}") for name in _rungs(found)}
    gone = {name: number for name, number in gone.items() if math.isfinite(number)}
    if not gone:
        return "No KL is there to be taken away."
    best = max(gone, key=gone.get)
    title, share = found.show(f"recovery.title.{best}"), found.show(f"recovery.kl_gone.{best}")
    back = found.show(f"recovery.regained.{best}")
    follows = by_side(
        found.side(f"recovery.regained.{best}", 0.0),
        f"The generation score follows: of what was lost it brings back {back}.",
        f"The generation score does not follow but falls further: share regained {back}.",
        f"Whether the generation score follows is not decided: share regained {back}.",
    )
    if not found.is_defined(f"recovery.regained.{best}"):
        follows = "What that does to the generation score is not defined in this run."
    left = by_side(
        found.side(f"recovery.kl_gone.{best}", 0.5),
        f"Most of the KL can be taken away: {share} by {title}, which comes closest.",
        f"Most of the KL stays: {title}, which comes closest, takes away {share}.",
        f"Whether most of the KL stays is not decided: {title}, which comes closest, takes away {share}.",
    )
    return f"{left} {follows}"


def _text(found: Found) -> str:
    """Own samples against the other texts."""
    count = int(found.number("recovery.text.count"))
    keys = [f"recovery.text.gap.{i}" for i in range(count)]
    known = [key for key in keys if found.is_defined(key)]
    if not known:
        return "What calibration text does to generation is not defined in this run."
    named = [f"{found.show(key.replace('.gap.', '.label.'))} {found.show(key)}" for key in known]
    sides = [found.side(key, 0.0) for key in known]
    numbers = f"own samples minus the other text, as shares of the dense score: {listed(named)}"
    if all(side == 0 for side in sides):
        return f"No difference between the texts can be told from 0 ({numbers})."
    if min(sides) >= 0:
        return f"Where a difference can be told from 0, own samples keep more of the generation score ({numbers})."
    if max(sides) <= 0:
        return f"Where a difference can be told from 0, the other text keeps more of the generation score ({numbers})."
    return f"Whether own samples keep more depends on the method and the other text ({numbers})."
