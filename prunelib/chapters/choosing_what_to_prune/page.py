"""What the page on choosing shows and records."""

import math

import pandas as pd

from prunelib.chapters.chapter import Chapter
from prunelib.chapters.choosing_what_to_prune import measure
from prunelib.chapters.choosing_what_to_prune.figures import KINDS, apart
from prunelib.chapters.choosing_what_to_prune.measure import COSINE, HARM, KL
from prunelib.report import facts, looks
from prunelib.report.sentences import Found, by_side
from prunelib.tasks import shares

NAMES = {HARM: "KL", "var_p": "Varₚ", "tv": "total variation", "one_minus_cos_p": "1 − cos p"}


def record_setting(ch: Chapter, models: pd.DataFrame, answers: pd.DataFrame, steps: pd.DataFrame) -> None:
    """Record how much was read, asked and compared."""
    sequences, tokens, positions = measure.text_sizes(ch)
    kinds, count = measure.pair_of(ch)
    pair = measure.pair_specs(models, kinds, count)
    whole = ch.settings.calibration * ch.settings.calibration_tokens
    counts = {
        "sequences": sequences, "tokens": tokens, "positions": positions, "calibration": whole,
        "items": answers["item_id"].nunique(), "passages": answers["passage_id"].nunique(),
        "texts": steps["cluster"].nunique(), "count": count, "draws": len(pair.get(measure.RANDOM, [])),
        "seeds": answers.loc[answers["spec"].isin(pair[COSINE]), "seed"].nunique(), "models": len(models),
    }  # fmt: skip
    for name, number in counts.items():
        ch.value(f"select.{name}", int(number), exact=True, fmt=",d")
    dense = answers[answers["spec"] == "dense"]
    from prunelib.measure import stats

    ch.value("select.dense", *stats.share(dense[shares.WRITTEN], dense["passage_id"]), fmt=".2f")
    ch.value("select.undefined", shares.undefined(answers, (shares.WRITTEN,)), exact=True, fmt="s")


def record(ch: Chapter, by_model: pd.DataFrame, random, rankings, agreement, overlap, plans) -> None:
    """Record the values ``select.*`` and what they say; ``random`` is :func:`measure.against_random`."""
    kinds, count = measure.pair_of(ch)
    table = by_model.set_index(["kinds", "count", "criterion"])
    pair = {name: table.loc[(kinds, count, name)] for name in (COSINE, KL)}
    for name, row in pair.items():
        ch.value(f"select.pair.{name}.label", row["label"], exact=True, fmt="s")
        ch.value(f"select.pair.{name}", *_of(row, shares.WRITTEN), fmt=".0%")
        ch.value(f"select.pair.{name}.kl", *_of(row, "kl"), fmt=".2g")
        ch.value(f"select.pair.{name}.sites", _sites(plans[row["spec"]]), exact=True, fmt="s")
    ch.value("select.pair.gap", *_of(pair[KL], f"{shares.WRITTEN}_gap"), fmt=".2f")
    ch.value("select.pair.choice_gap", *_of(pair[KL], f"{shares.CHOICE}_gap"), fmt=".2f")
    ch.value("select.pair.kl_ratio", *_of(pair[KL], "kl_ratio"), fmt=".2g")
    shared = overlap.set_index(["kinds", "count", "criterion"]).loc[(kinds, count, KL)]
    ch.value("select.pair.shared", int(shared["shared"]), exact=True, fmt="d")
    ch.value("select.random.kept", *random["kept"], fmt=".0%")
    ch.value("select.random.gap", *random["gap"], fmt=".2f")
    _record_all(ch, by_model)
    own = agreement[agreement["with"] == COSINE].set_index(["kind", "criterion"])
    for (kind, criterion), row in own.iterrows():
        ch.value(f"select.rho.{kind}.{criterion}", *row[["rho", "lo", "hi"]], fmt=".2f")
    again = agreement[agreement["with"] != COSINE]
    for kind in ("attn", "mlp"):
        some = again.loc[again["kind"] == kind, "rho"]
        ch.value(f"select.rho.{kind}.again", float(some.min()) if len(some) else None, exact=True, fmt=".2f")
        furthest = apart(rankings[rankings["kind"] == kind])
        row = furthest.iloc[0] if len(furthest) else None
        ch.value(f"select.furthest.{kind}", int(row["layer"]) if row is not None else None, exact=True, fmt="d")
        ch.value(f"select.furthest.{kind}.early", int(row["early"]) if row is not None else 0, exact=True, fmt="d")
    ch.say(say(ch.found))


def _record_all(ch: Chapter, by_model: pd.DataFrame) -> None:
    """At how many numbers of sublayers the KL keeps more or less than the cosine, surely or not."""
    rows = by_model[by_model["criterion"] == KL]
    gap, lo, hi = (rows[f"{shares.WRITTEN}_gap{end}"] for end in ("", "_lo", "_hi"))
    known = int(gap.notna().sum())
    counts = {"all": known, "more": (gap > 0).sum(), "less": (gap < 0).sum()}
    counts |= {"surely_more": (lo > 0).sum(), "surely_less": (hi < 0).sum()}
    counts |= {"kl_all": rows["kl_ratio"].notna().sum(), "kl_lower": (rows["kl_ratio_hi"] < 1).sum()}
    counts |= {"kl_higher": (rows["kl_ratio_lo"] > 1).sum()}
    for name, number in counts.items():
        ch.value(f"select.{name}", int(number), exact=True, fmt="d")


def _of(row, name: str) -> tuple[float, float, float]:
    return tuple(float(row[f"{name}{end}"]) for end in ("", "_lo", "_hi"))


def _sites(plan) -> str:
    return ", ".join(map(str, plan.sites)) or "nothing"


# ---------------------------------------------------------------- tables


def by_model(ch: Chapter, table: pd.DataFrame) -> pd.DataFrame:
    """All drops: what they keep, what they do at the output of held-out text, and how that differs from the cosine."""
    shown = pd.DataFrame({"model": table["label"], "chosen by": table["criterion"].map(looks.CRITERIA)})
    for name, title, fmt in (
        (shares.WRITTEN, "generation kept", ".0%"), (f"{shares.WRITTEN}_gap", "minus the cosine's", ".2f"),
        (shares.CHOICE, "choice kept", ".0%"), (f"{shares.CHOICE}_gap", "choice, minus the cosine's", ".2f"),
        ("kl", "KL, nats a token", ".2g"), ("kl_ratio", "KL over the cosine's", ".2g"),
    ):  # fmt: skip
        own = table["criterion"] == COSINE if name.endswith(("gap", "ratio")) else pd.Series(False, table.index)
        cells = [_shown(_of(row, name), fmt) for row in table.to_dict("records")]
        shown[title] = ["" if skip else cell for skip, cell in zip(own, cells, strict=True)]
    return shown


def chosen(ch: Chapter, models: pd.DataFrame, plans: dict, overlap: pd.DataFrame):
    """Which sublayers each drop takes, in their order, and how many of them the cosine takes too."""
    from IPython.display import HTML

    from prunelib.report import tables

    shared = {(r.kinds, r.count, r.criterion): f"{r.shared} of {r.count}" for r in overlap.itertuples()}
    rows = [
        (r.label, looks.CRITERIA[r.criterion], _sites(plans[r.spec]), shared.get((r.kinds, r.count, r.criterion), ""))
        for r in models.itertuples()
    ]
    columns = ["model", "chosen by", "sublayers, first dropped first", "as by cosine"]
    return HTML(tables.shown(pd.DataFrame(rows, columns=columns)))


def agreement(ch: Chapter, table: pd.DataFrame) -> pd.DataFrame:
    """Rank correlations, a row a kind and criterion."""
    shown = table.assign(
        sublayers=table["kind"].map(KINDS).str.split().str[0],
        ranked=table["criterion"].map(NAMES),
        correlation=[_shown(row, ".2f", row[1:] == (None, None)) for row in _triples(table)],
    )
    return shown[["sublayers", "ranked", "with", "correlation"]].rename(
        columns={"ranked": "ranked by", "correlation": "rank correlation"}
    )


def _triples(table: pd.DataFrame) -> list[tuple]:
    ends = table[["rho", "lo", "hi"]].to_numpy(dtype=float)
    return [tuple(None if math.isnan(one) else float(one) for one in row) for row in ends]


def _shown(interval, fmt: str, exact: bool = False) -> str:
    numbers = [None if one is None or not math.isfinite(one) else float(one) for one in interval]
    return facts.show(dict(zip(("value", "lo", "hi"), numbers, strict=True)) | {"exact": exact, "fmt": fmt})


# ---------------------------------------------------------------- sentences


def say(found: Found) -> dict[str, str]:
    """What the page says of this run: does a choice at the output keep more, and where do the rankings differ?"""
    said = {"all": _all(found), "output": _output(found), "choice": _choice(found), "random": _random(found)}
    said |= {"ranks": _ranks(found), "again": _again(found), "seeds": _seeds(found)}
    if not found.is_defined("select.pair.gap"):
        why = found.show("select.undefined")
        return said | {"answer": f"This run cannot tell what a choice keeps of generation. {why} {said['output']}"}
    return said | {"answer": f"{decided(found)} {said['all']}"}


def decided(found: Found) -> str:
    """The comparison that was fixed before measuring, in a sentence."""
    both = f"{found.bracketed('select.pair.kl')} against {found.bracketed('select.pair.cosine')}"
    gap = found.show("select.pair.gap")
    count = found.show("select.count")
    return by_side(
        found.side("select.pair.gap", 0.0),
        f"{_unless(found, 'surely_less', 'Yes')}: with {count} MLP sublayers dropped, the choice at the output leaves "
        f"more of generation than the one in the stream ({both}); the difference of the shares is {gap}.",
        f"{_unless(found, 'surely_more', 'No')}: with {count} MLP sublayers dropped, the choice at the output leaves "
        f"less of generation than the one in the stream ({both}); the difference of the shares is {gap}.",
        f"Not decided: with {count} MLP sublayers dropped, what the choice at the output leaves of generation is not "
        f"told apart from what the choice in the stream leaves ({both}); the difference of the shares is {gap}.",
    )


def _unless(found: Found, count: str, word: str) -> str:
    """``word``, or that it holds in part, where other numbers of sublayers surely go the other way."""
    return "In part" if found.number(f"select.{count}") else word


def _all(found: Found) -> str:
    known, more, less, sure, surely_less = (
        int(found.number(f"select.{name}")) for name in ("all", "more", "less", "surely_more", "surely_less")
    )
    if not known:
        return "For no number of sublayers is a share of generation defined."
    start = f"Over all kinds and numbers of sublayers tried, the choice at the output keeps more at {more} of {known}"
    return (
        f"{start} (with an interval above 0 at {sure}) and less at {less} (with an interval below 0 at {surely_less})."
    )


def _output(found: Found) -> str:
    if not found.is_defined("select.pair.kl_ratio"):
        return "How the two choices differ at the output of held-out text is not defined."
    ratio, lower, higher, known = found.show("select.pair.kl_ratio"), *(
        found.show(f"select.{name}") for name in ("kl_lower", "kl_higher", "kl_all")
    )  # fmt: skip
    rest = f"Of all {known} numbers of sublayers the KL is surely lower at {lower} and surely higher at {higher}."
    return by_side(
        found.side("select.pair.kl_ratio", 1.0),
        f"On held-out text the choice at the output has a higher KL than the cosine's, {ratio} times: what was chosen "
        f"on the calibration text does not carry over. {rest}",
        f"On held-out text the choice at the output has a lower KL than the cosine's, {ratio} times. {rest}",
        f"On held-out text the KL of the choice at the output, {ratio} times the cosine's, is not told apart from it. "
        f"{rest}",
    )


def _choice(found: Found) -> str:
    if not found.is_defined("select.pair.choice_gap"):
        return "What the two choices keep of multiple choice is not defined here."
    gap = found.show("select.pair.choice_gap")
    return by_side(
        found.side("select.pair.choice_gap", 0.0),
        f"In multiple choice it keeps more: the difference is {gap}.",
        f"In multiple choice it keeps less: the difference is {gap}.",
        f"In multiple choice the two are not told apart: the difference is {gap}.",
    )


def _random(found: Found) -> str:
    draws = int(found.number("select.draws"))
    if not draws or not found.is_defined("select.random.gap"):
        return "Random drops give no comparison in this run."
    kept, gap = found.show("select.random.kept"), found.show("select.random.gap")
    return by_side(
        found.side("select.random.gap", 0.0),
        f"As many MLP sublayers drawn at random keep {kept} ({draws} draws), less than those chosen by the KL: the "
        f"difference is {gap}.",
        f"As many MLP sublayers drawn at random keep {kept} ({draws} draws), more than those chosen by the KL: the "
        f"difference is {gap}.",
        f"As many MLP sublayers drawn at random keep {kept} ({draws} draws), which is not told apart from those chosen "
        f"by the KL: the difference is {gap}.",
    )


def _ranks(found: Found) -> str:
    parts = []
    for kind, name in (("attn", "attention"), ("mlp", "MLP")):
        key, layer = f"select.rho.{kind}.{HARM}", found.number(f"select.furthest.{kind}")
        if not found.is_defined(key):
            parts.append(f"For {name} sublayers the rank correlation is not defined.")
            continue
        start = f"For {name} sublayers the rank correlation of the cosine with the KL is {found.show(key)}"
        early = int(found.number(f"select.furthest.{kind}.early"))
        if not early or math.isnan(layer):
            parts.append(f"{start}: both rankings are the same.")
            continue
        where = "too early" if early > 0 else "too late"
        parts.append(f"{start}; the cosine is furthest off at layer {int(layer)}, {abs(early)} places {where}.")
    shared = found.show("select.pair.shared")
    return (
        f"{' '.join(parts)} Of the {found.show('select.count')} MLP sublayers of the comparison above, the two choices "
        f"have {shared} in common."
    )


def _again(found: Found) -> str:
    numbers = [found.number(f"select.rho.{kind}.again") for kind in ("attn", "mlp")]
    if not all(map(math.isfinite, numbers)):
        return "With one calibration text this run cannot say how much the ranking by KL hangs on it."
    attn, mlp = (found.show(f"select.rho.{kind}.again") for kind in ("attn", "mlp"))
    return (
        f"With another calibration text the KL ranks the same sublayers with a rank correlation of {attn} (attention) "
        f"and {mlp} (MLP), the lowest over the run's texts."
    )


def _seeds(found: Found) -> str:
    seeds = int(found.number("select.seeds"))
    if seeds > 1:
        return f"Both are chosen on {seeds} calibration texts; shares are means over them, item by item."
    return "Both are chosen on one calibration text, the run's own; how much hangs on it the interval does not say."
