"""What the chapters on dropping and sparsity record and list, from task scores alone."""

import math

import pandas as pd

from prunelib.measure import stats
from prunelib.measure.paired import mcnemar, paired_bootstrap
from prunelib.methods import parse
from prunelib.models.sublayers import LETTERS
from prunelib.report import claims, facts, tables
from prunelib.report.sentences import Found, by_side, by_verdict
from prunelib.runs.zoo.models import plan_of
from prunelib.tasks import shares

SHOWN = ("choice", "forced", "generation")


def beside_rows(ch, figure_id: str, own: pd.DataFrame) -> pd.DataFrame:
    """What the runs beside this one drew as their own in a figure; ``source`` is the name of the run."""
    found = [own[:0]]
    for other in ch.beside:
        rows = other.figure_data(figure_id)
        if rows is not None and "chance" not in rows:  # an older edition's shares hold what guessing gives
            found.append(rows[(rows["source"] == "this run") & (rows["x"] > 0)].assign(source=other.name)[list(own)])
    return pd.concat(found, ignore_index=True)


def record(ch, answers: pd.DataFrame, chapter: str, claim: str) -> pd.DataFrame:
    """Record a chapter's numbers and its claim; returns all scores as a table for the page.

    ``chapter`` is the first word of the value keys. The claim has two parts, the shares kept in
    multiple choice and in generation, each a mean over the chapter's compressed models; beside
    them stand their difference, how many models show both by themselves, and the difference of
    shares of the plain scores, in which guessing counts as kept.
    """
    table = shares.kept(answers)
    specs = [spec for spec in dict.fromkeys(table["spec"]) if spec != "dense"]
    ch.value(f"{chapter}.items", answers["item_id"].nunique(), exact=True, fmt="d")
    ch.value(f"{chapter}.passages", answers["passage_id"].nunique(), exact=True, fmt="d")
    ch.value(f"{chapter}.models", len(specs), exact=True, fmt="d")
    ch.value(f"{chapter}.undefined", shares.undefined(answers), exact=True, fmt="s")
    dense = answers[answers["spec"] == "dense"]
    for readout in table["readout"].unique():
        ch.value(f"{chapter}.dense.{readout}", *stats.share(dense[readout], dense["passage_id"]), fmt=".2f")
    verdicts = []
    for spec in specs:
        parts = _parts(answers, [spec])
        for readout, part in zip((shares.CHOICE, shares.WRITTEN), parts.values(), strict=True):
            ch.value(f"{chapter}.{_name(spec)}.{readout}", *part, fmt=".0%")
        ch.value(f"{chapter}.{_name(spec)}.difference", *shares.difference(answers, [spec]), fmt=".2f")
        verdicts.append(_verdict(claim, parts))
    for verdict in (claims.SUPPORTED, claims.NOT_SUPPORTED, claims.UNDECIDED):
        ch.value(f"{chapter}.{verdict.replace(' ', '_')}", verdicts.count(verdict), exact=True, fmt="d")
    parts = _parts(answers, specs)
    for readout, part in zip((shares.CHOICE, shares.WRITTEN), parts.values(), strict=True):
        ch.value(f"{chapter}.{readout}", *part, fmt=".0%")
    ch.value(f"{chapter}.difference", *shares.difference(answers, specs), fmt=".2f")
    ch.value(f"{chapter}.difference_uncorrected", *shares.difference(answers, specs, corrected=False), fmt=".2f")
    ch.claim(claim, parts=parts, over=sample(answers))
    ch.say(say(ch.found, chapter, claim))
    shown = table.pivot(index=["spec", "label"], columns="readout", values="score").loc[
        list(dict.fromkeys(zip(table["spec"], table["label"], strict=True)))
    ]
    shown = shown[list(table["readout"].unique())].rename(columns=shares.LABELS).round(2)
    return shown.reset_index(level="label").reset_index(drop=True).rename_axis(columns=None)


def sample(answers: pd.DataFrame) -> dict[str, int]:
    """How many passages, which intervals are taken over, and how many items on them."""
    return {"passages": answers["passage_id"].nunique(), "items": answers["item_id"].nunique()}


def say(found: Found, chapter: str, claim: str) -> dict[str, str]:
    """The answer of a chapter whose claim has two parts: choice survives, and generation collapses."""
    keys = [f"{chapter}.{shares.CHOICE}", f"{chapter}.{shares.WRITTEN}"]
    said = {
        "kept": _kept(found, chapter, keys),
        "uncorrected": _uncorrected(found, f"{chapter}.difference_uncorrected"),
    }
    if not all(map(found.is_defined, keys)):
        why = found.show(f"{chapter}.undefined")
        return said | {"answer": f"This run cannot tell. {why}", "why": why, "difference": ""}
    choice, written = map(found.bracketed, keys)
    survives, collapses = (
        claims.judge(part, *_numbers(found.claims[claim]["parts"][part.name])) for part in claims.CLAIMS[claim].parts
    )
    first = by_verdict(
        survives,
        "Multiple choice survives",
        "Multiple choice does not survive",
        "Whether multiple choice survives is not decided",
    )
    second = by_verdict(
        collapses, "generation collapses", "generation does not collapse", "whether generation collapses is not decided"
    )
    both = {claims.SUPPORTED: 1, claims.NOT_SUPPORTED: -1}
    link = "and" if both.get(survives) == both.get(collapses) else "but"
    models, met = found.show(f"{chapter}.models"), found.show(f"{chapter}.supported")
    side = by_side(
        found.side(f"{chapter}.difference", 0.0),
        "multiple choice keeps more than generation",
        "multiple choice keeps less than generation",
        "the two shares are not told apart",
    )
    alone = f"Both at once are shown by {met} of the {models} models alone."
    return said | {
        "answer": f"{first} (it keeps {choice} of what it has above guessing, mean over {models} models), {link} "
        f"{second} (it keeps {written}). {alone}",
        "why": alone,
        "difference": f"On the same items {side}: the difference of the shares is "
        f"{found.show(f'{chapter}.difference')}.",
    }


def _kept(found: Found, chapter: str, keys: list[str]) -> str:
    """What is kept on average, of the read-outs that have a share to keep."""
    of = ("multiple choice keeps {} of what it has above guessing", "generation keeps {} of its score")
    parts = [text.format(found.show(key)) for text, key in zip(of, keys, strict=True) if found.is_defined(key)]
    if not parts:
        return ""
    return f"Averaged over the {found.show(f'{chapter}.models')} models, {' and '.join(parts)}."


def _uncorrected(found: Found, key: str) -> str:
    """What guessing would do to the difference of the shares."""
    if not found.is_defined(key):
        return ""
    return (
        f"Without the correction for guessing the difference of the two shares would be {found.show(key)}: a model "
        "that only guesses keeps a part of the plain multiple-choice score and nothing of generation, so that a dead "
        "model would speak for the claim."
    )


def _numbers(entry) -> tuple[float, float, float]:
    return tuple(math.nan if entry[name] is None else entry[name] for name in ("value", "lo", "hi"))


def _parts(answers: pd.DataFrame, specs: list[str]) -> dict[str, stats.Interval]:
    """The numbers of claims C8 and C9 by the names of their parts, mean over some models."""
    readouts = {"choice kept": shares.CHOICE, "generation kept": shares.WRITTEN}
    return {name: shares.mean_kept(answers, specs, readout) for name, readout in readouts.items()}


def _verdict(claim: str, parts: dict[str, stats.Interval]) -> str:
    return claims.whole(claims.judge(part, *parts[part.name]) for part in claims.CLAIMS[claim].parts)


def by_model(answers: pd.DataFrame, claim: str) -> pd.DataFrame:
    """For the page, a row a compressed model and one for their mean: shares kept in choice and generation.

    Each with its interval, beside them their difference, what the rule of ``claim`` says of that model
    alone, and the smallest and largest generation share over calibration seeds, where there are several.
    """
    table = shares.kept(answers, (shares.CHOICE, shares.WRITTEN))
    table = table[table["spec"] != "dense"]
    seeds, rows = answers.groupby("spec")["seed"].nunique(), []
    models = list(dict.fromkeys(zip(table["spec"], table["label"], strict=True)))
    groups = [([spec], label) for spec, label in models] + [([spec for spec, _ in models], "mean of all")]
    for specs, label in groups:
        parts = _parts(answers, specs)
        numbers = [*parts.values(), shares.difference(answers, specs)]
        shown = [text for value, lo, hi in numbers for text in (_shown(value), f"{_shown(lo)} to {_shown(hi)}")]
        spread = ""
        if len(specs) == 1 and seeds[specs[0]] > 1:
            over = table.set_index(["spec", "readout"]).loc[(specs[0], shares.WRITTEN)]
            spread = f"{_shown(over['seed_lo'])} to {_shown(over['seed_hi'])} ({seeds[specs[0]]})"
        rows.append((label, *shown, _verdict(claim, parts), spread))
    return pd.DataFrame(
        rows,
        columns=[
            "model",
            "choice kept",
            "choice 95 %",
            "generation kept",
            "generation 95 %",
            "difference",
            "difference 95 %",
            claim,
            "generation over seeds",
        ],
    )


def _shown(number: float) -> str:
    return f"{number:.2f}".replace("-", "−") if math.isfinite(number) else "not defined"


PAIRED = (shares.CHOICE, shares.WRITTEN)
"""Read-outs whose answers are right or wrong, so that items lost and gained can be counted."""


def paired(answers: pd.DataFrame) -> pd.DataFrame:
    """Paired tests of every compressed model against the dense one, on the same items (measure.paired).

    A row a model and read-out of :data:`PAIRED`: ``spec, label, readout``; items ``lost`` and ``gained``, their exact
    ``p_items`` (McNemar); the difference of the scores ``value, lo, hi`` and ``p_passages`` (bootstrap of passages);
    ``flipped``, how many passages hold an item that only one of the two has right. Of several calibration seeds
    the run's own counts.
    """
    own = answers[answers["seed"] == answers.loc[answers["spec"] == "dense", "seed"].iloc[0]]
    dense, rows = own[own["spec"] == "dense"].set_index("item_id"), []
    for (spec, label), some in own[own["spec"] != "dense"].groupby(["spec", "label"], sort=False):
        some = some.set_index("item_id").loc[dense.index]
        for readout in PAIRED:
            first, second = dense[readout].to_numpy(), some[readout].to_numpy()
            flips, apart = mcnemar(first, second), paired_bootstrap(first, second, dense["passage_id"])
            flipped = dense["passage_id"][first != second].nunique()
            rows.append((spec, label, readout, *flips, *apart, flipped))
    names = ["spec", "label", "readout", "lost", "gained", "p_items", "value", "lo", "hi", "p_passages", "flipped"]
    return pd.DataFrame(rows, columns=names)


def record_paired(ch, answers: pd.DataFrame, chapter: str) -> pd.DataFrame:
    """Record ``<chapter>.paired.*`` and what they say (``paired``); returns :func:`paired` as the page shows it."""
    table = paired(answers)
    about = {"items": answers["item_id"].nunique(), "passages": answers["passage_id"].nunique(), "tests": len(table)}
    below = table[["p_items", "p_passages"]] < ALPHA
    both = table["p_passages"].notna()
    about["apart"] = int((below["p_items"] != below["p_passages"])[both].sum())
    about["few"] = int((table["flipped"] < stats.FEW).sum())
    for name, number in about.items():
        ch.value(f"{chapter}.paired.{name}", number, exact=True, fmt="d")
    ch.say({"paired": say_paired(ch.found, chapter)})
    shown = []
    for row in table.itertuples():
        value = facts.show({"value": row.value, "lo": row.lo, "hi": row.hi, "exact": False, "fmt": ".2f"})
        p = (facts.number(one, ".2g") for one in (row.p_items, row.p_passages))
        shown.append((row.label, shares.LABELS[row.readout], row.lost, row.gained, next(p), value, next(p)))
    columns = ["model", "read-out", "items lost", "gained", "McNemar p", "pruned − dense", "p over passages"]
    return pd.DataFrame(shown, columns=columns)


ALPHA = 0.05


def say_paired(found: Found, chapter: str) -> str:
    """Which of the two paired tests to trust where, and why."""
    items, passages, tests, apart, few = (
        int(found.number(f"{chapter}.paired.{name}")) for name in ("items", "passages", "tests", "apart", "few")
    )
    exact = f"McNemar's exact test takes each of the {items} questions as evidence of its own"
    if passages < 2:
        return f"{exact}; with one passage there is no other test, and it is too sure if questions on it are alike."
    if items > passages:
        trust = (
            f"{exact}, but questions on one passage share its text: trust the bootstrap, which draws whole passages."
        )
    else:
        trust = f"{exact}, and here each has a passage of its own: trust it, as it is exact for few flips too."
    sides = f"The two fall on different sides of p = {ALPHA} in {apart} of {tests} tests"
    seen = (
        f"; in {few} of them fewer than {stats.FEW} passages hold a flip, too few to show a spread, and there only "
        "McNemar's p says how little evidence that is"
    )
    luck = (
        f"If no model differed from dense, about {tests * ALPHA:.1g} of {tests} tests would still fall below {ALPHA}."
    )
    return f"{trust} {sides}{seen if few and items > passages else ''}. {luck}"


def drop_lists(ch, specs):
    """Which layers each plan drops, by the run's own calibration text; for the page, no list cut short."""
    from IPython.display import HTML

    rows = []
    for method in (method for method in map(parse, specs) if method.kind == "drop"):
        sites = plan_of(ch, method.spec).sites
        named = (str(site.layer if method.sublayers in LETTERS else site) for site in sites)
        rows.append((method.label, ", ".join(named)))
    return HTML(tables.shown(pd.DataFrame(rows, columns=["plan", "layers, first dropped first"])))


def _name(spec: str) -> str:
    return spec.replace(":", "-").replace(".", "")
