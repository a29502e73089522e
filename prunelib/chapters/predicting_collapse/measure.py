"""A graded set of compressed models: what is left of their scores, and what held-out text says of them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from prunelib.measure import predict, stats
from prunelib.methods import parse, parse_list
from prunelib.methods.base import JOIN
from prunelib.runs.run import Run
from prunelib.runs.zoo import graded, one_step, scores
from prunelib.tasks import shares

KINDS = ("drop", "sparsify", "quantize", "joined")
"""Kinds of methods that this chapter compares."""

LOST, CHOICE_LOST = "generation_lost", "choice_lost"
HALVES = ("even", "odd")
STATISTICS = (
    "kl_dense_pruned", "kl_pruned_dense", "var_p", "var_r", "one_minus_cos_h", "one_minus_cos_z", "one_minus_cos_p",
    "rms_dz", "top_changed", "flips", "nll_lost",
)  # fmt: skip
"""Means over held-out text; the larger, the worse."""

KL = "kl_dense_pruned"
"""What claim C14 is about."""

LIVES = 0.5
"""Share of the dense generation score below which a model has collapsed, as in claims C8 and C9."""


def chosen(run: Run, specs: str = "") -> list[str]:
    """The notebook's comma-separated ``specs``, or the run's graded set (zoo.graded)."""
    return [method.spec for method in parse_list(specs)] or graded.graded_specs(run)


def answers(run: Run, specs: Sequence[str]) -> pd.DataFrame:
    """Every item asked of the dense model and of each of ``specs``, calibration seeds as well (zoo.scores)."""
    return scores.answers(run, specs)


def steps(run: Run, specs: Sequence[str]) -> pd.DataFrame:
    """One-step statistics of the same models on held-out text, a row a position (zoo.one_step)."""
    return one_step.one_step(run, graded.models_of(run, specs))


def method_of(spec: str) -> str:
    """What counts as one method: models of the same are alike. A drop by what it drops, others whatever their
    setting."""
    made = parse(spec)
    if made.kind == "joined":
        return JOIN.join(method_of(part.spec) for part in made.parts)
    if made.kind == "drop":
        return {"attn": "Drop attention", "mlp": "Drop MLP", "block": "Drop blocks"}.get(made.sublayers, "Drop both")
    return made.full_title


def long_scores(answers: pd.DataFrame, models: Sequence[tuple[str, int]]) -> pd.DataFrame:
    """All scores, a row a model and read-out.

    ``spec, label, method, kind, setting, seed, readout, score, dense, kept, lo, hi`` (tasks.shares.kept).
    """
    parts, dense = [], answers[answers["spec"] == "dense"]
    first = {}
    for spec, seed in models:
        first.setdefault(spec, seed)
    for seed in dict.fromkeys(seed for _, seed in models):
        own = [spec for spec, other in models if other == seed]
        some = answers[(answers["seed"] == seed) & answers["spec"].isin(own)]
        found = shares.kept(pd.concat([dense, some]))
        parts.append(found[found["spec"] != "dense"].assign(seed=seed))
    table = pd.concat(parts, ignore_index=True).drop(columns=["seed_lo", "seed_hi"])
    again = table["seed"] != table["spec"].map(first)
    table["label"] = table["label"].where(~again, table["label"] + ", seed " + table["seed"].astype(str))
    table.insert(2, "method", table["spec"].map(method_of))
    table.insert(4, "setting", table["spec"].map(lambda spec: parse(spec).shown_setting))
    return table


def by_model(answers: pd.DataFrame, steps: pd.DataFrame) -> pd.DataFrame:
    """A row a model: its statistics, its scores, and what it lost of them.

    ``spec, seed, label, method``, :data:`STATISTICS` (means over texts, each of equal weight), ``choice, generation``
    (shares kept) with ``_lo, _hi``, ``generation_lost`` (1 − kept), and, in points of the plain score on either half of
    the passages, ``choice_lost_even`` and so on.
    """
    models = list(dict.fromkeys(zip(steps["spec"], steps["seed"], strict=True)))
    table = steps.assign(
        top_changed=steps["agree"] < 1,
        flips=steps["right_dense"] != steps["right_pruned"],
        nll_lost=steps["nll_pruned"] - steps["nll_dense"],
    )
    texts = table.groupby(["spec", "seed", "cluster"], sort=False)[list(STATISTICS)].mean()
    means = texts.groupby(["spec", "seed"], sort=False).mean()
    long = long_scores(answers, models).set_index(["spec", "seed"])
    about = long[["label", "method"]][~long.index.duplicated()]
    found = about.join(means)
    for readout in (shares.CHOICE, shares.WRITTEN):
        own = long[long["readout"] == readout]
        found = found.join(own[["kept", "lo", "hi"]].set_axis([readout, f"{readout}_lo", f"{readout}_hi"], axis=1))
    found[LOST] = 1 - found[shares.WRITTEN]
    found[CHOICE_LOST] = 1 - found[shares.CHOICE]
    return found.join(_lost_by_half(answers)).loc[models].reset_index()


def _lost_by_half(answers: pd.DataFrame) -> pd.DataFrame:
    """Points of the plain score lost on every other passage, by model."""
    codes, passages = pd.factorize(answers["passage_id"])
    parts = {}
    for half, mask in zip(HALVES, shares.halves(len(passages)), strict=True):
        some = answers[mask[codes]]
        for name, readout in ((CHOICE_LOST, shares.CHOICE), (LOST, shares.WRITTEN)):
            means = some.groupby(["spec", "seed"], sort=False)[readout].mean()
            parts[f"{name}_{half}"] = float(means["dense"].iloc[0]) - means
    return pd.DataFrame(parts)


# ---------------------------------------------------------------- what predicts


def pairs_of(statistic: str, halves: bool = False) -> list[tuple[str, str]]:
    """The columns whose ranks are compared.

    Losses in multiple choice on one half of the passages are held against losses in generation on the other, both ways,
    so that luck on one item does not do both. ``halves=True`` holds another statistic against the same.
    """
    even, odd = (f"{LOST}_{half}" for half in HALVES)
    if statistic == CHOICE_LOST:
        return [(f"{CHOICE_LOST}_{HALVES[0]}", odd), (f"{CHOICE_LOST}_{HALVES[1]}", even)]
    return [(statistic, odd), (statistic, even)] if halves else [(statistic, LOST)]


def correlations(models: pd.DataFrame) -> pd.DataFrame:
    """Figure data: ``statistic, rho, lo, hi`` of each with the share of generation lost, best first.

    ``gap, gap_lo, gap_hi``: artanh of it minus that of KL(dense ‖ pruned), over the same methods and items.
    """
    rows = []
    defined = models[LOST].notna().all()
    for name in (*STATISTICS, CHOICE_LOST):
        pairs = pairs_of(name)
        found = predict.correlated(models, pairs) if defined else predict.UNDEFINED
        gap = predict.UNDEFINED
        if np.isfinite(found[0]) and name != KL:
            gap = predict.difference(models, pairs, pairs_of(KL, halves=name == CHOICE_LOST))
        rows.append((name, *found, *gap))
    table = pd.DataFrame(rows, columns=["statistic", "rho", "lo", "hi", "gap", "gap_lo", "gap_hi"])
    return table.sort_values("rho", ascending=False, kind="stable", ignore_index=True)


def thresholds(models: pd.DataFrame) -> pd.DataFrame:
    """The threshold of each statistic between models that keep half of the generation score and those that do not.

    ``statistic, cut, lowest, highest`` (with one method left out), ``wrong, wrong_lo, wrong_hi`` (share of models
    judged wrongly by the threshold of the other methods), ``constant`` and its ends (the same for always saying what
    most of the others did). Empty where all models lie on one side.
    """
    some = models.assign(collapsed=models[LOST] > 1 - LIVES)[models[LOST].notna()]
    rows = []
    for name in (*STATISTICS, CHOICE_LOST) if len(some) else ():
        found = predict.left_out(some, name, "collapsed") if some[name].notna().all() else None
        if found:
            rows.append((name, found.cut, found.lowest, found.highest, *found.wrong, *found.constant))
    names = [
        "statistic",
        "cut",
        "lowest",
        "highest",
        *(f"{a}{b}" for a in ("wrong", "constant") for b in ("", "_lo", "_hi")),
    ]
    return pd.DataFrame(rows, columns=names)


def kl_and_kept(models: pd.DataFrame, cuts: pd.DataFrame) -> pd.DataFrame:
    """Figure data: ``label, spec, method, kl`` (nats), ``kept, lo, hi`` of generation; ``cut`` is one number."""
    cut = cuts.loc[cuts["statistic"] == KL, "cut"]
    table = models[["label", "spec", "method", KL, shares.WRITTEN, f"{shares.WRITTEN}_lo", f"{shares.WRITTEN}_hi"]]
    table = table.set_axis(["label", "spec", "method", "kl", "kept", "lo", "hi"], axis=1)
    return table.assign(cut=float(cut.iloc[0]) if len(cut) else np.nan)


def choice_lost(answers: pd.DataFrame) -> tuple[stats.Interval, list[list[str]]]:
    """The number of claim C16 over all models of this chapter (tasks.shares)."""
    return shares.lost_where_choice_is_kept(answers)


# ---------------------------------------------------------------- do single sublayers add up?


def additivity(run: Run, specs: Sequence[str]) -> pd.DataFrame:
    """Figure data: each joint drop, what its sublayers do one by one, and their ratio (measure.predict.added).

    ``spec, label, dropped`` (attn, mlp, both), ``count, sum, joint`` (nats), ``ratio, lo, hi``.
    """
    sets = graded.joint_sets(run, specs)
    table = graded.dropped_kl(run, [*([site] for site in graded.single_sites(run)), *sets.values()])
    alone = table[~table["sites"].str.contains(JOIN, regex=False)].rename(columns={"sites": "site"})
    parts = [table[table["sites"] == JOIN.join(sites)].assign(name=spec) for spec, sites in sets.items()]
    found = predict.added(alone, pd.concat(parts)).rename(columns={"name": "spec"})
    kinds = {spec: {site.partition(":")[0] for site in sites} for spec, sites in sets.items()}
    found.insert(1, "label", [parse(spec).label for spec in found["spec"]])
    found.insert(2, "dropped", [kinds[s].copy().pop() if len(kinds[s]) == 1 else "both" for s in found["spec"]])
    return found
