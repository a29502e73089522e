"""Drops chosen at the output and in the stream: what each criterion chooses, and what is left of the model."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from prunelib.measure import stats
from prunelib.measure.draws import over_draws
from prunelib.measure.predict import spearman
from prunelib.measure.removal import COLUMNS
from prunelib.methods import parse
from prunelib.models.sublayers import DropPlan
from prunelib.runs.run import Run
from prunelib.runs.zoo import models as zoo
from prunelib.runs.zoo import one_step, scores
from prunelib.tasks import shares

COSINE, KL, RANDOM, ANGULAR = "cosine", "kl", "random", "angular"
PAIR = ("mlp", 4)
"""The drop whose two choices decide the page's question: kinds, and sublayers of a model of 30 layers."""

HARM = "kl_dense_pruned"


def models(run: Run) -> pd.DataFrame:
    """The models that are compared, a row each: ``spec, label, criterion, kinds, count``.

    Every criterion of the profile and the cosine at every budget of the profile; blocks by angular distance too; and
    random drops of the kinds and number of :data:`PAIR`.
    """
    layers, rows = run.model["n_layers"], {}
    for kinds, budgets in run.settings.selected.items():
        named = "attn+mlp" if kinds == "joint" else kinds
        for count in dict.fromkeys(zoo.share_of(layers, n) for n in budgets):
            specs = {COSINE: f"drop:{kinds}:{count}"}
            specs |= {name: f"drop:{name}:{named}:{count}" for name in run.settings.criteria}
            specs |= {ANGULAR: f"drop:angular:{count}"} if kinds == "block" else {}
            rows |= {spec: (criterion, kinds, count) for criterion, spec in specs.items()}
    kinds, count = pair_of(run)
    for draw in range(1, run.settings.random_draws + 1):
        rows[parse(f"drop:random:{kinds}:{count}:seed{run.seed + draw}").spec] = (RANDOM, kinds, count)
    table = pd.DataFrame([(spec, parse(spec).label, *about) for spec, about in rows.items()])
    return table.set_axis(["spec", "label", "criterion", "kinds", "count"], axis=1)


def pair_of(run: Run) -> tuple[str, int]:
    """:data:`PAIR` in the run's model."""
    return PAIR[0], zoo.share_of(run.model["n_layers"], PAIR[1])


def pair_specs(models: pd.DataFrame, kinds: str, count: int) -> dict[str, list[str]]:
    """Specifications of that kind and number by criterion."""
    some = models[(models["kinds"] == kinds) & (models["count"] == count)]
    return {name: list(rows["spec"]) for name, rows in some.groupby("criterion", sort=False)}


def answers(run: Run, models: pd.DataFrame) -> pd.DataFrame:
    """Every item asked of the dense model and of each drop (zoo.scores).

    The pair that is compared is chosen anew with the profile's ``selection_seeds`` calibration seeds, all others with
    the run's own.
    """
    pair = pair_specs(models, *pair_of(run))
    specs = [*pair[COSINE], *pair.get(KL, [])]
    seeds = range(run.seed, run.seed + run.settings.selection_seeds)
    found = scores.answers(run, list(models["spec"]), [(spec, seed) for spec in specs for seed in seeds])
    kept = (found["seed"] == run.seed) | (found["spec"].isin(specs) & found["seed"].isin(seeds))
    return found[kept].reset_index(drop=True)


def steps(run: Run, models: pd.DataFrame) -> pd.DataFrame:
    """One-step statistics of the same drops on held-out text, a row a position (zoo.one_step)."""
    return one_step.one_step(run, list(models["spec"]))


# ---------------------------------------------------------------- what is left of the models


def by_model(models: pd.DataFrame, answers: pd.DataFrame, steps: pd.DataFrame) -> pd.DataFrame:
    """A row a model: what it keeps, what it does at the output, and how that differs from the cosine's choice.

    The columns of :func:`models`; ``generation, choice`` (shares kept) and ``kl`` (nats a token, mean over held-out
    texts), each with ``_lo, _hi``; ``generation_gap, choice_gap`` (share kept minus that of the cosine's drop of the
    same kinds and number, paired by item) and ``kl_ratio`` (geometric mean over texts of its KL over the cosine's),
    with their ends; NaN for the cosine itself.
    """
    found = shares.kept(answers, (shares.CHOICE, shares.WRITTEN)).set_index(["spec", "readout"])
    texts = steps.groupby(["spec", "cluster"], sort=False)[HARM].mean().unstack("cluster")
    rows = []
    for row in models.to_dict("records"):
        spec = row["spec"]
        base = pair_specs(models, row["kinds"], row["count"])[COSINE]
        apart = row["criterion"] != COSINE
        for readout in (shares.WRITTEN, shares.CHOICE):
            row |= _named(readout, found.loc[(spec, readout), ["kept", "lo", "hi"]])
            gap = shares.between(answers, [spec], base, readout) if apart else (np.nan,) * 3
            row |= _named(f"{readout}_gap", gap)
        row |= _named("kl", stats.cluster_mean(texts.loc[spec], texts.columns))
        row |= _named("kl_ratio", _ratio(texts, spec, base[0]) if apart else (np.nan,) * 3)
        rows.append(row)
    return pd.DataFrame(rows)


def _named(name: str, interval) -> dict:
    return dict(zip((name, f"{name}_lo", f"{name}_hi"), map(float, interval), strict=True))


def _ratio(texts: pd.DataFrame, spec: str, base: str) -> stats.Interval:
    """Geometric mean over texts of one KL over another; NaN where one of them is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(texts.loc[spec] / texts.loc[base])
    if not np.isfinite(logs).all():
        return (np.nan,) * 3
    return tuple(map(float, np.exp(stats.cluster_mean(logs, texts.columns))))


def against_random(models: pd.DataFrame, answers: pd.DataFrame, kinds: str, count: int) -> dict[str, stats.Interval]:
    """Share of generation kept by random drops, and what the choice by KL keeps more: over draws and passages."""
    pair = pair_specs(models, kinds, count)
    drawn, kl = pair.get(RANDOM, []), pair.get(KL, [])
    nothing = (np.nan,) * 3
    if not drawn:
        return {"kept": nothing, "gap": nothing}
    by_draw = [shares.mean_kept(answers, [spec], shares.WRITTEN)[0] for spec in drawn]
    kept = over_draws(shares.mean_kept(answers, drawn, shares.WRITTEN), by_draw)
    gaps = [shares.between(answers, kl, [spec], shares.WRITTEN)[0] for spec in drawn] if kl else []
    gap = over_draws(shares.between(answers, kl, drawn, shares.WRITTEN), gaps) if kl else nothing
    return {"kept": (kept[0], float(np.maximum(kept[1], 0)), kept[2]), "gap": gap}


def kept(by_model: pd.DataFrame, random: stats.Interval) -> pd.DataFrame:
    """Figure data: ``kinds, criterion, count, kept, lo, hi`` of generation; random drops are one row, their mean."""
    table = by_model[by_model["criterion"] != RANDOM]
    columns = ["kinds", "criterion", "count", *(f"{shares.WRITTEN}{end}" for end in ("", "_lo", "_hi"))]
    table = table[columns].set_axis(["kinds", "criterion", "count", "kept", "lo", "hi"], axis=1)
    drawn = by_model[by_model["criterion"] == RANDOM]
    if len(drawn):
        first = drawn.iloc[0]
        table.loc[len(by_model)] = [first["kinds"], RANDOM, first["count"], *random]
    return table.reset_index(drop=True)


# ---------------------------------------------------------------- what is chosen


def rankings(run: Run) -> pd.DataFrame:
    """Figure data: every attention and MLP sublayer of the dense model by each criterion, removed alone.

    ``kind, layer, cosine``, the columns of :data:`COLUMNS` with ``_lo, _hi`` over calibration sequences, and ranks
    within the kind, 1 being dropped first: ``rank_cosine, rank_kl_dense_pruned`` and so on.
    """
    order, rows = zoo.drop_order(run).set_index(["kind", "layer"])["cosine"], []
    for kind in ("attn", "mlp"):
        for layer, some in zoo.removals(run, kind).groupby("layer"):
            row = {"kind": kind, "layer": int(layer), COSINE: float(order[kind, layer])}
            for column in COLUMNS:
                row |= _named(column, stats.cluster_mean(some[column], some["sequence"]))
            rows.append(row)
    table = pd.DataFrame(rows)
    for column in (COSINE, *COLUMNS):
        ranks = table.groupby("kind")[column].rank(method="first", ascending=column != COSINE)
        table[f"rank_{column}"] = ranks.astype(int)
    return table


def agreement(run: Run) -> pd.DataFrame:
    """Rank correlations of the sublayers of a kind: the cosine with each harm at the output, and the KL with itself.

    ``kind, criterion, with, rho, lo, hi``. The interval leaves out one calibration sequence of the output's text at a
    time, the cosines taken as they are. The KL with that of another calibration text has none: it is exactly that of
    the two texts.
    """
    order, rows = zoo.drop_order(run).set_index(["kind", "layer"])["cosine"], []
    for kind in ("attn", "mlp"):
        own = zoo.removals(run, kind)
        for column in COLUMNS:

            def rho(frame, column=column, kind=kind):
                means = frame.groupby("layer")[column].mean()
                return spearman(means, -order[kind].loc[means.index])

            rows.append((kind, column, COSINE, *stats.correlation(own, rho, by="sequence")))
        for i in range(1, run.settings.seeds):
            pair = [frame.groupby("layer")[HARM].mean() for frame in (own, zoo.removals(run, kind, run.seed + i))]
            rows.append((kind, HARM, f"text of seed {run.seed + i}", spearman(*pair), np.nan, np.nan))
    return pd.DataFrame(rows, columns=["kind", "criterion", "with", "rho", "lo", "hi"])


def plans(run: Run, models: pd.DataFrame) -> dict[str, DropPlan]:
    """What each drop takes away, by its specification."""
    return {spec: zoo.plan_of(run, spec) for spec in models["spec"]}


def overlap(models: pd.DataFrame, plans: dict[str, DropPlan]) -> pd.DataFrame:
    """How many sublayers each criterion's drop shares with the cosine's of the same kinds and number.

    ``kinds, count, criterion, shared, jaccard`` (shared over all that either drops); exact.
    """
    rows = []
    for row in models[~models["criterion"].isin((COSINE, RANDOM))].itertuples():
        base = pair_specs(models, row.kinds, row.count)[COSINE][0]
        own, other = (set(plans[spec].sites) for spec in (row.spec, base))
        rows.append((row.kinds, row.count, row.criterion, len(own & other), len(own & other) / len(own | other)))
    return pd.DataFrame(rows, columns=["kinds", "count", "criterion", "shared", "jaccard"])


def text_sizes(run: Run) -> Sequence[int]:
    """Sequences, tokens of each and positions of each that removals are measured on."""
    from prunelib.measure.removal import POSITIONS

    sequences, tokens = run.settings.removal_sequences, run.settings.removal_tokens
    return min(sequences, run.settings.calibration), tokens, min(POSITIONS, tokens)
