"""Task scores of compressed models: the same items in all read-outs, and longer texts.

A unit of work is one compressed model. Each has tables of its own, named after its
specification, so that notebooks share what they have in common.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from prunelib import store
from prunelib.errors import PrunelibError
from prunelib.experiments.chapter import Chapter
from prunelib.experiments.layerwise import drop_order
from prunelib.experiments.methods import compressed, kind_of
from prunelib.measure.stats import of_sums
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
_VARIANT = ["spec", "label", "seed"]


@dataclass(frozen=True)
class Scores:
    """``answers``: a row an item and model (tasks.readouts); ``texts``: a row a longer text (tasks.collapse),
    with ``surprise``, its negative log-likelihood under the dense model (nats a token)."""

    answers: pd.DataFrame
    texts: pd.DataFrame


def measure(ch: Chapter, specs: Sequence[str], seeded: Sequence[str] = ()) -> Scores:
    """Score the dense model and each of ``specs``; ``seeded`` ones again with other calibration text."""
    wanted = [("dense", ch.seed), *((spec, ch.seed) for spec in specs if spec != "dense")]
    wanted += [(spec, ch.seed + i) for i in range(1, ch.settings.seeds) for spec in seeded]
    parts = [_variant(ch, spec, seed, number, len(wanted)) for number, (spec, seed) in enumerate(wanted)]
    return Scores(*(pd.concat(frames, ignore_index=True) for frames in zip(*parts, strict=True)))


def _variant(ch: Chapter, spec: str, seed: int, number: int, count: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables of one model, read back or computed."""
    source = _same_as(ch, spec, seed)
    slug = source.replace(":", "-") + ("" if kind_of(source) in ("drop", "dense") else f"_seed{seed}")
    settings = ch.settings
    key = {
        "spec": source, "calibration": ch.calibration_key if ":" in spec else None, "of_seed": seed,
        "items": store.sha256(_items_file()), "passages": settings.passages,
        "prompts": store.sha256(_prompts_file()), "long": [settings.long_prompts, settings.long_tokens],
    }  # fmt: skip
    if kind_of(source) in ("drop", "dense"):  # said whole by the list of sites
        key |= {"calibration": None, "of_seed": None}
    names = [f"answers_{slug}", f"texts_{slug}"]
    found = ch.tables(names, key, [spec], lambda _: dict(zip(names, _score(ch, spec, seed), strict=True)))
    store.report_progress("scoring models", number + 1, count)
    label = _label(spec)
    return tuple(found[name].assign(spec=spec, label=label, seed=seed) for name in names)


def _same_as(ch: Chapter, spec: str, seed: int) -> str:
    """A drop by its sites in the order of layers: another seed that drops the same is the same model."""
    if kind_of(spec) != "drop":
        return spec
    from prunelib.compress import drop

    plan = drop.from_spec(spec, None if spec.startswith(drop.EXPLICIT) else drop_order(ch, seed))
    sites = sorted((site.layer, site.kind) for site in plan.sites)
    return drop.EXPLICIT + ",".join(f"{kind}:{layer}" for layer, kind in sites)


def _label(spec: str) -> str:
    from prunelib.compress import parse

    return parse(spec).label


def _items_file():
    return data_dir() / "tasks" / "passages.jsonl"


def _prompts_file():
    return data_dir() / "tasks" / "prompts_long.jsonl"


def items(ch: Chapter):
    """(items scored, items shown as an example) of this run; see tasks.readouts."""
    from prunelib.tasks.items import load_items
    from prunelib.tasks.readouts import split_demonstration

    whole = load_items(_items_file(), seed=ch.seed)
    scored, shown = split_demonstration(whole)
    chosen = list(dict.fromkeys(item.passage_id for item in scored))[: max(1, ch.settings.passages - 1)]
    return [item for item in scored if item.passage_id in chosen], shown


def _score(ch: Chapter, spec: str, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    from prunelib.tasks import collapse
    from prunelib.tasks.readouts import answers
    from prunelib.text import load_prompts

    lm = ch.lm
    scored, shown = items(ch)
    prompts = load_prompts(str(_prompts_file()), ch.settings.long_prompts)
    made = compressed(ch, spec, seed)
    with made.applied(lm):
        answered = answers(lm, scored, shown)
        written = collapse.write(lm, prompts, ch.settings.long_tokens)
    return answered, written.assign(surprise=collapse.surprise(lm, written))


# ---------------------------------------------------------------- what is kept of the dense score


def kept(scores: Scores, readouts: Sequence[str] = READOUTS, seed: int = 0) -> pd.DataFrame:
    """Each model's score as a share of the dense one, with 95 % intervals over passages.

    Columns ``spec, label, kind, readout, score, dense, kept, lo, hi`` and, over
    calibration seeds, ``seed_lo, seed_hi`` (smallest and largest ``kept``; equal where
    there is one seed). Every item is compared with itself under the dense model.
    """
    table, rows = scores.answers, []
    dense = table[table["spec"] == "dense"].set_index("item_id")
    for (spec, label), some in table.groupby(["spec", "label"], sort=False):
        for readout in readouts:
            base = dense.loc[some["item_id"], readout].to_numpy()
            pairs = np.stack([some[readout].to_numpy(), base], 1)
            found = of_sums(pairs, some["passage_id"], lambda s: s[..., 0] / s[..., 1], seed=seed)
            sums = pd.DataFrame(pairs).groupby(some["seed"].to_numpy()).sum()
            seeds = sums[0] / sums[1]
            means = (some[readout].mean(), dense[readout].mean())
            rows.append((spec, label, kind_of(spec), readout, *means, *found, seeds.min(), seeds.max()))
    names = ["spec", "label", "kind", "readout", "score", "dense", "kept", "lo", "hi", "seed_lo", "seed_hi"]
    return pd.DataFrame(rows, columns=names)


def difference(scores: Scores, specs: Sequence[str], first: str = CHOICE, second: str = WRITTEN, seed: int = 0):
    """Share kept in ``first`` minus share kept in ``second``, mean over ``specs``: (value, lo, hi).

    Passages are resampled, for all models and the dense one together.
    """
    wide = _wide(scores, (first, second))
    columns = [(spec, readout) for spec in ("dense", *specs) for readout in (first, second)]
    missing = [spec for spec, _ in columns if (spec, first) not in wide]
    if missing or not len(specs):
        raise PrunelibError(f"no scores of {missing[0] if missing else 'any compressed model'}")

    def statistic(sums):
        shares = sums[..., 2:].reshape(*sums.shape[:-1], -1, 2) / sums[..., None, :2]
        return (shares[..., 0] - shares[..., 1]).mean(-1)

    return of_sums(wide[columns].to_numpy(), wide["passage_id"], statistic, seed=seed)


def _wide(scores: Scores, readouts: Sequence[str]) -> pd.DataFrame:
    """A row an item, a column for each (spec, read-out): the mean over calibration seeds."""
    means = scores.answers.groupby(["item_id", "passage_id", "spec"])[list(readouts)].mean().unstack("spec")
    means.columns = [(spec, readout) for readout, spec in means.columns]
    return means.reset_index()


def lost_where_choice_is_kept(scores: Scores, enough: float = 0.95, seed: int = 0):
    """Claim C16: mean share of the generation score lost by models that keep ``enough`` of the choice score.

    Returns ((value, lo, hi), labels of these models). Which models they are is decided once, on all items.
    """
    table = kept(scores, (CHOICE,), seed)
    some = table[(table["spec"] != "dense") & (table["kept"] >= enough)]
    if not len(some):
        return (float("nan"),) * 3, []
    wide = _wide(scores, (WRITTEN,))
    columns = [(spec, WRITTEN) for spec in ("dense", *some["spec"])]
    found = of_sums(wide[columns].to_numpy(), wide["passage_id"],
                    lambda s: 1 - (s[..., 1:] / s[..., :1]).mean(-1), seed=seed)  # fmt: skip
    return found, some["label"].tolist()


def chance(ch: Chapter) -> float:
    """Expected multiple-choice score of a model that knows nothing."""
    return float(np.mean([1 / len(item.options) for item in items(ch)[0]]))


def texts_by_model(scores: Scores, seed: int = 0) -> pd.DataFrame:
    """Collapse measures of the longer texts: mean and 95 % interval over prompts.

    Columns ``spec, label, measure, mean, lo, hi``; measures ``repeated`` (share of
    4-grams seen before in the text), ``distinct`` (share of different tokens),
    ``surprise`` (nats a token under the dense model), ``length`` (tokens), ``ended``.
    """
    from prunelib.measure.stats import cluster_mean

    own = scores.texts[scores.texts["seed"] == scores.texts["seed"].iloc[0]]
    rows = []
    for (spec, label), some in own.groupby(["spec", "label"], sort=False):
        for name in ("repeated", "distinct", "surprise", "length", "ended"):
            known = some[np.isfinite(some[name].astype(float))]
            rows.append((spec, label, name, *cluster_mean(known[name].astype(float), known["prompt_id"], seed=seed)))
    return pd.DataFrame(rows, columns=["spec", "label", "measure", "mean", "lo", "hi"])
