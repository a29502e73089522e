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

LETTERED = {"smoke": ("dense", "drop", "sparsify"), "quick": (), "full": ("dense", "drop")}
"""Kinds of models whose options are asked by letter too, which takes a third of the time of an item."""


def drop_specs(ch: Chapter) -> list[str]:
    """The drops of this run's profile, scaled to the depth of its model."""
    layers = ch.model["n_layers"]
    counts = {kind: dict.fromkeys(max(1, layers * n // 30) for n in numbers)
              for kind, numbers in DROPS[ch.run.part["profile"]].items()}  # fmt: skip
    return [f"drop:{kind}:{n}" for kind, numbers in counts.items() for n in numbers]


def chosen(ch: Chapter, specs: str, default: Sequence[str], allowed: Sequence[str]) -> list[str]:
    """A notebook's comma-separated ``specs``, or the default ones.

    Raises PrunelibError for one whose method (``drop:attn``, ``wanda``) is not of ``allowed``.
    """
    from prunelib.compress import parse

    named = [parse(one).spec for one in specs.split(",") if one.strip()]
    for one in named:
        if not any(one.startswith(f"{start}:") for start in allowed):
            raise PrunelibError(f"this chapter compares {', '.join(allowed)}; '{one}' is none of them")
    return list(dict.fromkeys(named)) or list(default)


def answers(ch: Chapter, specs: Sequence[str]) -> pd.DataFrame:
    """Items asked of the dense model and each of ``specs``: a row an item and model (tasks.readouts).

    Those of :data:`SEEDED` are asked again after compression with other calibration text.
    Columns ``spec, label, seed`` say which model it is.
    """
    from prunelib.tasks.readouts import answers, demonstration

    key = {"items": [store.sha256(file) for file in (_items_file(), _shown_file())],
           "passages": ch.settings.passages}  # fmt: skip
    wanted = [("dense", ch.seed), *((spec, ch.seed) for spec in specs)]
    wanted += [(spec, ch.seed + i) for i in range(1, ch.settings.seeds) for spec in specs if spec in SEEDED]

    def lettered(spec: str) -> bool:
        return kind_of(spec) in LETTERED[ch.run.part["profile"]]

    def ask(spec: str) -> pd.DataFrame:
        return answers(ch.lm, items(ch), demonstration(ch.seed), letters=lettered(spec))

    return _each(ch, "answers", wanted, lambda spec: key | {"letters": lettered(spec)}, ask)


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
        calibrated = kind_of(source) in ("sparsify", "quantize")
        slug = source.replace(":", "-").replace(",", "_") + (f"_seed{seed}" if calibrated else "")
        about = {"spec": source, "calibration": [ch.calibration_key, seed] if calibrated else None}

        def compute(spec=spec, seed=seed):
            with compressed(ch, spec, seed).applied(ch.lm):
                found = ask(spec)
            return after(found)

        found = ch.table(f"{name}_{slug}", key_of(spec) | about, compute)
        store.report_progress(f"{name} of {len(wanted)} models", number + 1, len(wanted))
        parts.append(found.assign(spec=spec, label=_label(spec), seed=seed))
    return pd.concat(parts, ignore_index=True)


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


def _shown_file():
    return data_dir() / "tasks" / "demonstration.jsonl"


def prompts_file():
    return data_dir() / "tasks" / "prompts_long.jsonl"


def items(ch: Chapter):
    """The items of this run: all questions of the first passages."""
    from prunelib.tasks.items import load_items

    return load_items(_items_file(), ch.settings.passages, ch.seed)


# ---------------------------------------------------------------- what is kept of the dense score


def kept(answers: pd.DataFrame, readouts: Sequence[str] = READOUTS, seed: int = 0) -> pd.DataFrame:
    """Each model's score as a share of the dense one, with 95 % intervals over passages.

    Columns ``spec, label, kind, readout, score, dense, kept, lo, hi`` and, over
    calibration seeds, ``seed_lo, seed_hi`` (smallest and largest ``kept``; equal where
    there is one seed). Every item is compared with itself under the dense model.
    """
    table, rows = answers, []
    readouts = [name for name in readouts if answers[name].notna().all()]
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


def difference(answers: pd.DataFrame, specs: Sequence[str], first: str = CHOICE, second: str = WRITTEN, seed: int = 0):
    """Share kept in ``first`` minus share kept in ``second``, mean over ``specs``: (value, lo, hi).

    Passages are resampled, for all models and the dense one together.
    """
    wide = _wide(answers, (first, second))
    columns = [(spec, readout) for spec in ("dense", *specs) for readout in (first, second)]
    missing = [spec for spec, _ in columns if (spec, first) not in wide]
    if missing or not len(specs):
        raise PrunelibError(f"no scores of {missing[0] if missing else 'any compressed model'}")

    def statistic(sums):
        shares = sums[..., 2:].reshape(*sums.shape[:-1], -1, 2) / sums[..., None, :2]
        return (shares[..., 0] - shares[..., 1]).mean(-1)

    return of_sums(wide[columns].to_numpy(), wide["passage_id"], statistic, seed=seed)


def _wide(answers: pd.DataFrame, readouts: Sequence[str]) -> pd.DataFrame:
    """A row an item, a column for each (spec, read-out): the mean over calibration seeds."""
    means = answers.groupby(["item_id", "passage_id", "spec"])[list(readouts)].mean().unstack("spec")
    means.columns = [(spec, readout) for readout, spec in means.columns]
    return means.reset_index()


def lost_where_choice_is_kept(answers: pd.DataFrame, enough: float = 0.95, seed: int = 0):
    """Claim C16: mean share of the generation score lost by models that keep ``enough`` of the choice score.

    Returns ((value, lo, hi), labels of these models). Which models they are is decided once, on all items.
    """
    table = kept(answers, (CHOICE,), seed)
    some = table[(table["spec"] != "dense") & (table["kept"] >= enough)]
    if not len(some):
        return (float("nan"),) * 3, []
    wide = _wide(answers, (WRITTEN,))
    columns = [(spec, WRITTEN) for spec in ("dense", *some["spec"])]
    found = of_sums(wide[columns].to_numpy(), wide["passage_id"],
                    lambda s: 1 - (s[..., 1:] / s[..., :1]).mean(-1), seed=seed)  # fmt: skip
    return found, some["label"].tolist()


def chance(ch: Chapter) -> float:
    """Expected multiple-choice score of a model that knows nothing."""
    return float(np.mean([1 / len(item.options) for item in items(ch)]))


def texts_by_model(texts: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Collapse measures of the longer texts: mean and 95 % interval over prompts.

    Columns ``spec, label, measure, mean, lo, hi``; measures ``repeated`` (share of
    4-grams seen before in the text), ``distinct`` (share of different tokens),
    ``surprise`` (nats a token under the dense model), ``length`` (tokens), ``ended``.
    """
    from prunelib.measure.stats import cluster_mean

    rows = []
    for (spec, label), some in texts.groupby(["spec", "label"], sort=False):
        for name in ("repeated", "distinct", "surprise", "length", "ended"):
            known = some[np.isfinite(some[name].astype(float))]
            rows.append((spec, label, name, *cluster_mean(known[name].astype(float), known["prompt_id"], seed=seed)))
    return pd.DataFrame(rows, columns=["spec", "label", "measure", "mean", "lo", "hi"])
