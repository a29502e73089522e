"""Where the signal is lost: what the same dropped models keep in each space, and in each way to read them out."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from prunelib.chapters.chapter import Chapter
from prunelib.measure import stats
from prunelib.methods import parse
from prunelib.report.scores import SHOWN
from prunelib.report.sentences import Found, by_side
from prunelib.tasks import shares

SPACES = ("h", "z", "p")
MEAN = "mean"
_NAMES = {"h": "the hidden state", "z": "the logits", "p": "the probabilities"}


def table(spaces: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """Figure data: ``readout, kept, lo, hi`` by ``spec, label, kind``, and of the mean over models (``spec`` mean).

    ``kept`` is the cosine with the dense vector for h, z and p (95 % interval over prompts), and the share of
    the dense score above guessing for the scores (over passages).
    """
    labels = dict(zip(spaces["spec"], spaces["label"], strict=True))
    rows = []
    for spec, label in labels.items():
        some, kind = spaces[spaces["spec"] == spec], parse(spec).sublayers
        rows += [(spec, label, kind, space, *_cosine(some, space)) for space in SPACES]
    rows += [(MEAN, MEAN, MEAN, space, *_cosine(spaces, space)) for space in SPACES]
    scored = shares.kept(answers, SHOWN)
    for row in scored[scored["spec"].isin(labels)].itertuples():
        rows.append((row.spec, row.label, parse(row.spec).sublayers, row.readout, row.kept, row.lo, row.hi))
    rows += [(MEAN, MEAN, MEAN, name, *shares.mean_kept(answers, list(labels), name)) for name in SHOWN]
    return pd.DataFrame(rows, columns=["spec", "label", "kind", "readout", "kept", "lo", "hi"])


def _cosine(some: pd.DataFrame, space: str) -> stats.Interval:
    return stats.cluster_mean(1 - some[f"one_minus_cos_{space}"], some["prompt_id"])


def record(ch: Chapter, spaces: pd.DataFrame, answers: pd.DataFrame) -> None:
    """Record the values ``readouts.*``, means over models, and what they say beside ``dropping.*``, recorded before."""
    ch.value("readouts.models", spaces["spec"].nunique(), exact=True, fmt="d")
    ch.value("readouts.positions", len(spaces) // spaces["spec"].nunique(), exact=True, fmt="d")
    for space in SPACES:
        ch.value(f"readouts.{space}", *_cosine(spaces, space), fmt=".2f")
    ch.value("readouts.top1", *stats.share(spaces["top1_same"].astype(float), spaces["prompt_id"]), fmt=".0%")
    for before, after in _steps():
        lost = spaces[f"one_minus_cos_{after}"] - spaces[f"one_minus_cos_{before}"]
        ch.value(f"readouts.lost.{before}_{after}", *stats.cluster_mean(lost, spaces["prompt_id"]), fmt=".2f")
    specs = list(dict.fromkeys(spaces["spec"]))
    ch.value("readouts.forced", *shares.mean_kept(answers, specs, "forced"), fmt=".0%")
    ch.say({"where": say(ch.found)})


def _steps() -> Sequence[tuple[str, str]]:
    return tuple(zip(SPACES, SPACES[1:], strict=False))


def say(found: Found) -> str:
    """Where the signal is lost: in which step between spaces, and between which ways to ask."""
    lost = {step: f"readouts.lost.{'_'.join(step)}" for step in _steps()}
    falls = sorted((found.ends(key), step) for step, key in lost.items() if found.side(key, 0.0) > 0)
    if not falls:
        vectors = "no step from one to the next loses more than its interval"
    elif len(falls) > 1 and falls[-1][0][0] <= max(high for (_, high), _ in falls[:-1]):
        vectors = "each step from one to the next loses some, and which loses more is not told apart"
    else:
        before, after = falls[-1][1]
        vectors = f"the largest loss lies between {_NAMES[before]} and {_NAMES[after]}"
    h, z, p = (found.show(f"readouts.{space}") for space in SPACES)
    asked = by_side(
        found.side("dropping.difference", 0.0),
        "a choice keeps more than a text",
        "a choice keeps less than a text",
        "whether a choice keeps more than a text is not decided",
    )
    keys = (f"dropping.{shares.CHOICE}", "readouts.forced", f"dropping.{shares.WRITTEN}")
    choice, forced, written = (_share(found, key) for key in keys)
    return (
        f"In the mean over {found.show('readouts.models')} models with dropped sublayers, the last hidden state $h$ "
        f"keeps a cosine of {h} with the dense one, the logits $z$ {z} and the probabilities $p$ {p}: {vectors}. "
        f"Of the score above guessing, multiple choice keeps {choice}, the next token after the true answer so far "
        f"{forced}, and free generation {written}: {asked}."
    )


def _share(found: Found, key: str) -> str:
    return found.show(key) if np.isfinite(found.number(key)) else "an undefined share"
