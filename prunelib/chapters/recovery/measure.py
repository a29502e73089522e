"""Repairs of pruned models: scores that come back, KL that goes, training curves, and calibration text."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from prunelib.measure import stats
from prunelib.methods import parse, parse_list
from prunelib.runs.run import Run
from prunelib.runs.zoo import repairs, scores
from prunelib.runs.zoo.models import repair_seconds, scaled
from prunelib.tasks import regained, shares

KINDS = ("drop", "sparsify")
"""Kinds of methods whose models this chapter repairs."""

PRUNED = "pruned"
"""The rung below all repairs."""

Repairs = Mapping[str, Sequence[str]]
"""Repaired specifications by the pruned one that they stand on."""


def chosen(run: Run, specs: str = "") -> Repairs:
    """The notebook's comma-separated ``specs``, or the profile's, each with the repairs that it can have."""
    given = [method.spec for method in parse_list(specs)]
    return repairs.repaired_specs(run, given or scaled(run, run.settings.repaired), run.settings.rungs)


def models(found: Repairs) -> list[str]:
    """All specifications: each pruned model, then its repairs."""
    return [spec for base, repaired in found.items() for spec in (base, *repaired)]


def answers(run: Run, found: Repairs) -> pd.DataFrame:
    """Every item asked of the dense model and of all these models (zoo.scores), with the run's own seed."""
    table = scores.answers(run, models(found))
    return table[table["seed"] == run.seed]


def kl(run: Run, found: Repairs) -> pd.DataFrame:
    """KL(dense ‖ pruned) of all these models on held-out samples, a row a sequence (zoo.repairs)."""
    return repairs.kl_to_dense(run, models(found))


def histories(run: Run, found: Repairs) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What the repairs took, and their training curves (zoo.repairs)."""
    return repairs.histories(run, [spec for repaired in found.values() for spec in repaired])


def seconds(run: Run, found: Repairs) -> dict[str, float]:
    """How long each repair took where it was made; of several, the last."""
    return {spec: repair_seconds(run, spec) for repaired in found.values() for spec in repaired}


def answered(run: Run) -> int:
    """How many of the rows that repairs learn from are answers of the dense model."""
    return len(repairs.answered_places(run))


def rung_of(spec: str) -> str:
    """Name of the repairs of a specification; :data:`PRUNED` for one without."""
    parts = [part.label for part in getattr(parse(spec), "parts", ()) if part.kind == "recover"]
    return " + ".join(parts) or PRUNED


def is_trained(spec: str) -> bool:
    """Whether one of its repairs takes gradient steps."""
    return any(getattr(part, "trained", False) for part in getattr(parse(spec), "parts", ()))


def by_kind(found: Repairs, trained: bool) -> dict[str, list[str]]:
    """The repairs of each pruned model that take gradient steps, or those that do not."""
    return {base: [s for s in repaired if is_trained(s) == trained] for base, repaired in found.items()}


# ---------------------------------------------------------------- the ladder


def ladder(answers: pd.DataFrame, kls: pd.DataFrame, about: pd.DataFrame, found: Repairs) -> pd.DataFrame:
    """Figure data: a row a model, pruned ones before their repairs.

    ``base, base_label, spec, rung, trained`` (whether by gradient steps), ``parameters`` (fitted), ``tokens`` (read),
    ``generation, choice`` (shares kept), ``regained`` (share of the lost generation score), ``kl`` (nats a token),
    ``kl_gone`` (share of the pruned model's KL that is gone), each with ``_lo, _hi``.
    """
    kept = shares.kept(answers, (shares.CHOICE, shares.WRITTEN)).set_index(["spec", "readout"])
    about, rows = about.set_index("spec"), []
    for base, repaired in found.items():
        for spec in (base, *repaired):
            row = {"base": base, "base_label": parse(base).label, "spec": spec, "rung": rung_of(spec)}
            row |= {"trained": is_trained(spec)}
            row |= {"parameters": int(about.loc[spec, "trained"]) if spec != base else 0,
                    "tokens": int(about.loc[spec, "tokens"]) if spec != base else 0}  # fmt: skip
            numbers = {readout: kept.loc[(spec, readout), ["kept", "lo", "hi"]] for readout in
                       (shares.WRITTEN, shares.CHOICE)}  # fmt: skip
            numbers["regained"] = regained.NOTHING if spec == base else regained.regained(answers, [(base, spec)])
            own = kls[kls["spec"] == spec]
            numbers["kl"] = stats.cluster_mean(own["kl"], own["sequence"])
            numbers["kl_gone"] = regained.NOTHING if spec == base else kl_gone(kls, base, spec)
            for name, number in numbers.items():
                row |= dict(zip((name, f"{name}_lo", f"{name}_hi"), map(float, number), strict=True))
            rows.append(row)
    return pd.DataFrame(rows)


def kl_gone(kls: pd.DataFrame, base: str, spec: str) -> stats.Interval:
    """1 − KL of the repaired model / KL of the pruned one on the same sequences; NaN where the latter is 0."""
    wide = kls[kls["spec"].isin([base, spec])].pivot_table(index="sequence", columns="spec", values="kl")
    if not wide[base].sum() > 0:
        return regained.NOTHING
    return stats.of_sums(wide[[spec, base]].to_numpy(), wide.index, lambda s: 1 - s[..., 0] / s[..., 1])


def best(answers: pd.DataFrame, found: Repairs, trained: bool) -> regained.Best:
    """Claim C15: share of the lost generation score that the best repairs of a kind regain (tasks.regained)."""
    return regained.best(answers, by_kind(found, trained))


def lost(answers: pd.DataFrame, found: Repairs) -> stats.Interval:
    """Share of the dense generation score that the pruned models lost, mean over them."""
    value, lo, hi = shares.mean_kept(answers, list(found), shares.WRITTEN)
    return 1 - value, 1 - hi, 1 - lo


# ---------------------------------------------------------------- calibration text


def texts(run: Run) -> pd.DataFrame:
    """Answers of the profile's ``compared`` models, calibrated on texts of as many tokens (repairs.equal_texts).

    The columns of zoo.scores with ``text`` (own, given, answers); the dense model stands in each.
    """
    specs = [spec for spec in scaled(run, run.settings.compared) if repairs.fits(run, spec)]
    dense = scores.answers(run, [])
    parts = []
    for text in repairs.equal_texts(run):
        # Where the own samples are the run's whole calibration text, such models are those of other chapters.
        whole = [s for s in specs if text.name == "own" and parse(s).kind != "joined" and repairs.is_whole(run)]
        other = [spec for spec in specs if spec not in whole]
        some = [dense, *([scores.answers(run, whole)] if whole else []),
                *([scores.answers(run, other, text=text)] if other else [])]  # fmt: skip
        table = pd.concat(some, ignore_index=True)
        table = table[table["seed"] == run.seed].drop_duplicates(["spec", "item_id"])
        parts.append(table.assign(text=text.name))
    return pd.concat(parts, ignore_index=True)


def by_text(table: pd.DataFrame) -> pd.DataFrame:
    """Figure data: ``spec, label, readout, text, kept, lo, hi``; of own minus that text, ``gap, gap_lo, gap_hi``."""
    rows = []
    specs = [spec for spec in dict.fromkeys(table["spec"]) if spec != "dense"]
    for spec in specs:
        both = table[table["spec"].isin(["dense", spec])]
        named = both.assign(spec=both["spec"].where(both["spec"] == "dense", both["text"]))
        named = named.drop_duplicates(["spec", "item_id"])
        for readout in (shares.WRITTEN, shares.CHOICE):
            for text in dict.fromkeys(both["text"]):
                gap = regained.NOTHING if text == OWN else regained.minus(named, OWN, text, readout)
                some = both[both["text"] == text]
                kept = shares.kept(some, (readout,)).set_index("spec").loc[spec, ["kept", "lo", "hi"]]
                rows.append((spec, parse(spec).label, readout, text, *map(float, kept), *gap))
    names = ["spec", "label", "readout", "text", "kept", "lo", "hi", "gap", "gap_lo", "gap_hi"]
    return pd.DataFrame(rows, columns=names)


OWN = "own"
"""The text that the others are compared with."""


def text_tokens(run: Run) -> int:
    """Tokens of each of the two texts."""
    return repairs.equal_rows(run) * run.settings.calibration_tokens


def final_curve(curves: pd.DataFrame) -> pd.DataFrame:
    """Figure data: ``base_label, spec, rung, tokens, kl_held``, trained repairs alone."""
    some = curves[[is_trained(spec) for spec in curves["spec"]]].copy()
    parts = {spec: [p for p in parse(spec).parts if p.kind != "recover"] for spec in dict.fromkeys(some["spec"])}
    some.insert(0, "base_label", [" + ".join(p.label for p in parts[spec]) for spec in some["spec"]])
    some["rung"] = [rung_of(spec) for spec in some["spec"]]
    return some[["base_label", "spec", "rung", "tokens", "kl_held"]].replace(np.inf, np.nan).reset_index(drop=True)
