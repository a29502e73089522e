"""What a compressed model keeps of the dense score, read-out by read-out, with intervals: from scores alone."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from prunelib.errors import PrunelibError
from prunelib.measure import stats
from prunelib.methods import parse

CHOICE, WRITTEN = "choice", "generation"
"""The two read-outs that the paper's claim compares."""


READOUTS = ("choice", "choice_letter", "forced", "generation", "generation_f1")


LABELS = {
    "choice": "multiple choice",
    "choice_raw": "multiple choice, not length-normalised",
    "choice_letter": "multiple choice by letter",
    "forced": "next token of the true answer",
    "generation": "generation",
    "generation_contains": "generation, contains the answer",
    "generation_f1": "generation, word F1",
}


def kept(answers: pd.DataFrame, readouts: Sequence[str] = READOUTS, corrected: bool = True) -> pd.DataFrame:
    """Each model's score as a share of the dense one, both above chance, with 95 % intervals over passages.

    Columns ``spec, label, kind, readout, score, dense, kept, lo, hi`` and, over
    calibration seeds, ``seed_lo, seed_hi`` (smallest and largest ``kept``; equal where
    there is one seed). Every item is compared with itself under the dense model; a share
    of a dense score that is not above chance is NaN. The dense model keeps all of its own,
    by definition. ``corrected=False``: shares of the plain scores.
    """
    rows = []
    readouts = [name for name in readouts if answers[name].notna().all()]
    about = answers.drop_duplicates("spec").set_index("spec")["label"]
    wide, dense = _wide(answers, readouts), answers[answers["spec"] == "dense"].set_index("item_id")
    for spec, label in about.items():
        some = answers[answers["spec"] == spec]
        for readout in readouts:
            guess = _guess(wide, readout, corrected)
            found = stats.kept(wide[spec, readout], wide["dense", readout], wide["passage_id"], guess)
            if spec == "dense":
                found = (found[0],) * 3
            means = (some[readout].mean(), dense[readout].mean())
            base = means[1] - np.mean(guess)
            seeds = some.groupby("seed")[readout].mean()
            seeds = (seeds - np.mean(guess)) / base if np.isfinite(found[0]) else seeds * np.nan
            rows.append((spec, label, parse(spec).kind, readout, *means, *found, seeds.min(), seeds.max()))
    names = ["spec", "label", "kind", "readout", "score", "dense", "kept", "lo", "hi", "seed_lo", "seed_hi"]
    return pd.DataFrame(rows, columns=names)


def mean_kept(answers: pd.DataFrame, specs: Sequence[str], readout: str, corrected: bool = True) -> stats.Interval:
    """Share kept in a read-out, mean over ``specs``: (value, lo, hi) as in :func:`kept`."""
    wide = _wide(answers, (readout,))
    return stats.kept(*_mean_of(wide, specs, readout), wide["passage_id"], _guess(wide, readout, corrected))


def difference(answers: pd.DataFrame, specs: Sequence[str], corrected: bool = True) -> stats.Interval:
    """Share kept in choice minus share kept in generation, mean over ``specs``: (value, lo, hi)."""
    wide = _wide(answers, (CHOICE, WRITTEN))
    first, second = ((*_mean_of(wide, specs, name), _guess(wide, name, corrected)) for name in (CHOICE, WRITTEN))
    return stats.difference(first, second, wide["passage_id"])


def between(answers: pd.DataFrame, first: Sequence[str], second: Sequence[str], readout: str) -> stats.Interval:
    """Share kept in a read-out by ``first`` minus that by ``second``, means over models on the same items.

    (value, lo, hi) of the paired difference over passages (measure.stats.difference).
    """
    wide = _wide(answers, (readout,))
    sides = ((*_mean_of(wide, specs, readout), _guess(wide, readout)) for specs in (first, second))
    return stats.difference(*sides, wide["passage_id"])


def _mean_of(wide: pd.DataFrame, specs: Sequence[str], readout: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores of each item: mean over the models, and the dense model's."""
    missing = [spec for spec in ("dense", *specs) if (spec, readout) not in wide]
    if missing or not len(specs):
        raise PrunelibError(f"no scores of {missing[0] if missing else 'any compressed model'}")
    return wide[[(spec, readout) for spec in specs]].to_numpy().mean(1), wide["dense", readout].to_numpy()


def _guess(wide: pd.DataFrame, readout: str, corrected: bool = True) -> np.ndarray:
    """What guessing scores on each item: one over the options where one is chosen, else 0."""
    chosen_from_options = corrected and readout.startswith(CHOICE)
    return wide["chance"].to_numpy() if chosen_from_options else np.zeros(len(wide))


def _wide(answers: pd.DataFrame, readouts: Sequence[str]) -> pd.DataFrame:
    """A row an item, a column for each (spec, read-out): the mean over calibration seeds."""
    means = answers.groupby(["item_id", "passage_id", "chance", "spec"], sort=False)[list(readouts)].mean()
    means = means.unstack("spec", sort=False)
    means.columns = [(spec, readout) for readout, spec in means.columns]
    return means.reset_index()


def undefined(answers: pd.DataFrame, readouts: Sequence[str] = (CHOICE, WRITTEN)) -> str:
    """Why a share cannot be given, in words for the page; says that all can where none is missing."""
    wide, why = _wide(answers, readouts), []
    for readout in readouts:
        dense, guess = wide["dense", readout], _guess(wide, readout)
        sums = stats.cluster_sums(stats.compared(dense, dense, guess), wide["passage_id"])
        if not stats.above_chance(sums):
            level = f"guessing ({np.mean(guess):.2f})" if guess.any() else "0"
            why.append(
                f"the dense score in {LABELS[readout]} ({dense.mean():.2f}) cannot be told from {level}, "
                "so that no share of it is defined"
            )
    if wide["passage_id"].nunique() < 2:
        why.append("one passage gives no interval")
    return "; ".join(why).capitalize() + "." if why else "The dense model is above guessing in both read-outs."


PASSES = 0.95
"""Share of the dense choice score, above chance, that lets a model pass in claim C16."""


def halves(passages: int) -> tuple[np.ndarray, np.ndarray]:
    """Two halves of the passages as masks: every other one, in the order of the file."""
    even = np.arange(passages) % 2 == 0
    return even, ~even


def passing(sums: np.ndarray) -> np.ndarray:
    """Whether a model keeps :data:`PASSES` of the choice score above chance; sums ``[..., k, 6]`` (stats.compared)."""
    total = sums.sum(-2)
    gap = total[..., 1] - total[..., 4]
    return (gap > 0) & (total[..., 0] - total[..., 4] >= PASSES * gap - 1e-9)


def lost_where_choice_is_kept(answers: pd.DataFrame) -> tuple[stats.Interval, list[list[str]]]:
    """Claim C16: mean share of the generation score lost by models that keep :data:`PASSES` of the choice score.

    Which models they are is decided on one half of the passages and their loss is measured on the other, both
    ways, so that luck on an item cannot both choose a model and speak for it. Returns the loss over the passages
    of both halves, (value, lo, hi), and the labels of the models that each half lets pass. A half judged by no
    model is left out; NaN where neither is judged.
    """
    wide = _wide(answers, (CHOICE, WRITTEN))
    labels = answers.drop_duplicates("spec").set_index("spec")["label"].drop("dense")
    codes, passages = pd.factorize(wide["passage_id"])
    guess, dense = _guess(wide, CHOICE), wide["dense", CHOICE]
    sums = {spec: stats.cluster_sums(stats.compared(wide[spec, CHOICE], dense, guess), codes) for spec in labels.index}
    own, let_pass = np.full(len(wide), np.nan), []
    for half in halves(len(passages)):
        chosen = [spec for spec in labels.index if passing(sums[spec][half])]
        let_pass.append(labels[chosen].tolist())
        if chosen:
            judged = ~half[codes]
            own[judged] = wide.loc[judged, [(spec, WRITTEN) for spec in chosen]].to_numpy().mean(1)
    judged = np.isfinite(own)
    if not judged.any():
        return (float("nan"),) * 3, let_pass
    value, lo, hi = stats.kept(own[judged], wide.loc[judged, [("dense", WRITTEN)]].to_numpy()[:, 0], codes[judged])
    return (1 - value, 1 - hi, 1 - lo), let_pass


def texts_by_model(texts: pd.DataFrame) -> pd.DataFrame:
    """Collapse measures of the longer texts: mean and 95 % interval over prompts.

    Columns ``spec, label, measure, mean, lo, hi``; measures ``repeated`` (share of
    4-grams seen before in the text), ``distinct`` (share of different tokens),
    ``surprise`` (nats a token under the dense model), ``length`` (tokens), ``ended``.
    """
    rows = []
    for (spec, label), some in texts.groupby(["spec", "label"], sort=False):
        for name in ("repeated", "distinct", "surprise", "length", "ended"):
            known = some[np.isfinite(some[name].astype(float))]
            measure = stats.cluster_mean if name in ("surprise", "length") else stats.share
            rows.append((spec, label, name, *measure(known[name].astype(float), known["prompt_id"])))
    return pd.DataFrame(rows, columns=["spec", "label", "measure", "mean", "lo", "hi"])
