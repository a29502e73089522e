"""Task scores of compressed models: the same items in all read-outs, and longer texts.

A unit of work is one compressed model. Each has tables of its own, named after its
specification, so that notebooks share what they have in common.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from prunelib import store
from prunelib.errors import PrunelibError
from prunelib.experiments.chapter import Chapter
from prunelib.experiments.checks import parse_specs
from prunelib.experiments.zoo import compressed_model, plan_of
from prunelib.measure import stats
from prunelib.methods import parse
from prunelib.methods.base import JOIN
from prunelib.paths import data_dir

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


DROPS = {
    "smoke": {"attn": (8,), "mlp": (4,), "block": (4,)},
    "quick": {"attn": (4, 8), "mlp": (2, 4), "block": (4,)},
    "full": {"attn": (4, 8, 12, 16), "mlp": (2, 4, 6), "block": (2, 4, 6)},
}
"""Sublayers dropped in the chapters, for a model of 30 layers; others get the same share."""

SPARSE = {
    "smoke": ("wanda:0.5", "wanda:2:4"),
    "quick": ("magnitude:0.5", "wanda:0.3", "wanda:0.5", "wanda:2:4", "sparsegpt:0.5"),
    "full": tuple(f"{name}:{pattern}" for name in ("magnitude", "wanda", "sparsegpt")
                  for pattern in ("0.3", "0.5", "0.7", "2:4", "4:8")),
}  # fmt: skip
"""Specifications of the sparsity chapter."""

SEEDED = ("drop:mlp:4", "wanda:0.5")
"""What is scored again with other calibration text, in chapters that hold it."""

CALIBRATED = ("sparsify", "quantize", "joined")
"""Kinds of models that calibration text makes; of a drop only the sites count."""

LETTERED = {"smoke": ("dense", "drop", "sparsify"), "quick": (), "full": ("dense", "drop")}
"""Kinds of models whose options are asked by letter too, which takes a third of the time of an item."""


def drop_specs(ch: Chapter) -> list[str]:
    """The drops of this run's profile, scaled to the depth of its model."""
    layers = ch.model["n_layers"]
    counts = {
        kind: dict.fromkeys(max(1, layers * n // 30) for n in numbers)
        for kind, numbers in DROPS[ch.run.part["profile"]].items()
    }
    return [f"drop:{kind}:{n}" for kind, numbers in counts.items() for n in numbers]


def chosen(ch: Chapter, specs: str, default: Sequence[str]) -> list[str]:
    """A notebook's comma-separated ``specs`` (checks.parse_specs), or the default ones."""
    return [method.spec for method in parse_specs(ch.run.notebook, specs)] or list(default)


def answers(ch: Chapter, specs: Sequence[str]) -> pd.DataFrame:
    """Items asked of the dense model and each of ``specs``: a row an item and model (tasks.readouts).

    Those of :data:`SEEDED` are asked again after compression with other calibration text.
    Columns ``spec, label, seed`` say which model it is, ``chance`` what guessing among the item's options scores.
    """
    from prunelib.tasks.readouts import answers, demonstration

    key = {"items": [store.sha256(file) for file in (_items_file(), _shown_file())],
           "passages": ch.settings.passages}  # fmt: skip
    wanted = [("dense", ch.seed), *((spec, ch.seed) for spec in specs)]
    wanted += [(spec, ch.seed + i) for i in range(1, ch.settings.seeds) for spec in specs if spec in SEEDED]

    def lettered(spec: str) -> bool:
        return parse(spec).kind in LETTERED[ch.run.part["profile"]]

    def ask(spec: str) -> pd.DataFrame:
        return answers(ch.lm, items(ch), demonstration(ch.seed), letters=lettered(spec))

    found = _each(ch, "answers", wanted, lambda spec: key | {"letters": lettered(spec)}, ask)
    return found.assign(chance=found["item_id"].map(chance(ch)))


def texts(ch: Chapter, specs: Sequence[str]) -> pd.DataFrame:
    """Longer texts by the dense model and each of ``specs`` (tasks.collapse), a row a text.

    With ``surprise``, their mean negative log-likelihood under the dense model (nats a token).
    """
    from prunelib.tasks import collapse
    from prunelib.text import load_prompts

    settings = ch.settings
    key = {"prompts": store.sha256(prompts_file()), "long": [settings.long_prompts, settings.long_tokens]}
    prompts = load_prompts(str(prompts_file()), settings.long_prompts)
    wanted = [("dense", ch.seed), *((spec, ch.seed) for spec in specs)]

    def surprise(written: pd.DataFrame) -> pd.DataFrame:
        return written.assign(surprise=collapse.surprise(ch.lm, written))

    def ask(_spec: str) -> pd.DataFrame:
        return collapse.write(ch.lm, prompts, settings.long_tokens)

    return _each(ch, "texts", wanted, lambda _spec: key, ask, surprise)


def _each(ch: Chapter, name: str, wanted, key_of, ask, after=lambda found: found) -> pd.DataFrame:
    """``ask(spec)`` with each model applied, then ``after(result)`` on the dense one; a table of its own for each,
    known by ``key_of(spec)``."""
    parts = []
    for number, (spec, seed) in enumerate(wanted):
        source = _same_as(ch, spec, seed)
        calibrated = parse(source).kind in CALIBRATED
        slug = source.replace(":", "-").replace(JOIN, "_") + (f"_seed{seed}" if calibrated else "")
        about = {"spec": source, "calibration": [ch.calibration_key, seed] if calibrated else None}

        def compute(spec=spec, seed=seed):
            with compressed_model(ch, spec, seed).applied(ch.lm):
                found = ask(spec)
            return after(found)

        found = ch.table(f"{name}_{slug}", key_of(spec) | about, compute)
        store.report_progress(f"{name} of {len(wanted)} models", number + 1, len(wanted))
        parts.append(found.assign(spec=spec, label=parse(spec).label, seed=seed))
    return pd.concat(parts, ignore_index=True)


def _same_as(ch: Chapter, spec: str, seed: int) -> str:
    """A drop by its sites in the order of layers: another seed that drops the same is the same model."""
    if parse(spec).kind != "drop":
        return spec
    from prunelib.methods.sites import Sites

    sites = plan_of(ch, spec, seed).sites
    return Sites(tuple(sorted(sites, key=lambda site: (site.layer, site.kind)))).spec if sites else "dense"


def _items_file():
    return data_dir() / "tasks" / "passages.jsonl"


def _shown_file():
    return data_dir() / "tasks" / "demonstration.jsonl"


def prompts_file():
    return data_dir() / "tasks" / "prompts_long.jsonl"


def items(ch: Chapter):
    """The items of this run: all questions of the first passages."""
    from prunelib.tasks.items import load_items

    return load_items(_items_file(), ch.settings.passages, ch.seed)


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


def chance(ch: Chapter) -> pd.Series:
    """Multiple-choice score of a model that knows nothing, by item: one over the number of its options."""
    return pd.Series({item.id: 1 / len(item.options) for item in items(ch)})


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
