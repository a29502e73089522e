"""Standard benchmarks (lm-evaluation-harness) of the dense and the dropped models."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from prunelib import store
from prunelib.errors import PrunelibError
from prunelib.experiments.chapter import Chapter
from prunelib.experiments.methods import compressed
from prunelib.measure.stats import of_sums

ITEMS = {"smoke": 2, "quick": 16, "full": 64}
"""First items of each benchmark that are asked."""


def samples(ch: Chapter, tasks: str, specs: Sequence[str], items: int = 0) -> pd.DataFrame:
    """Every item of every benchmark in ``tasks`` (names separated by commas), dense and compressed.

    Columns of ``tasks.harness.Evaluated.samples`` with ``spec, label, benchmark, shots``, a row an item,
    filter and model; each (benchmark, model) is a table of the run with its raw answers. ``items``
    0: the profile's. Raises PrunelibError before anything is computed for a name that cannot be read.
    """
    from prunelib.compress import parse
    from prunelib.tasks import harness

    if items < 0:
        raise PrunelibError(f"benchmark_items must be 0 or a number of items, got {items}")
    names = list(dict.fromkeys(name.strip() for name in tasks.split(",") if name.strip()))
    items = items or ITEMS[ch.run.part["profile"]]
    parts, done = [], 0
    for name in names:
        with harness.definition(name):
            pass
    for name in names:
        key = {"benchmark": name, "items": items, "rows": _rows(name), "shots": harness.SHOTS.get(name),
               "lm_eval": store.metadata.version("lm_eval"), "calibration": ch.calibration_key}  # fmt: skip
        for spec in ("dense", *specs):

            def compute(name=name, spec=spec):
                with compressed(ch, spec, ch.seed).applied(ch.lm):
                    found = harness.evaluate(ch.lm, name, limit=items)
                shots = found.scores.set_index("task")["shots"].to_dict()
                return found.samples.assign(shots=[shots.get(task) for task in found.samples["task"]])

            table = ch.table(f"benchmark_{name}_{spec.replace(':', '-')}", key | {"spec": spec}, compute)
            done += 1
            store.report_progress("benchmarks of models", done, len(names) * (1 + len(specs)))
            parts.append(table.assign(benchmark=name, spec=spec, label=parse(spec).label))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _rows(name: str) -> str:
    """What the rows of a benchmark are known by: the file's hash, or that they are the hub's."""
    from prunelib.tasks import harness

    folder = os.environ.get(harness.FOLDER)
    if not folder or name not in harness.LOCAL:
        return "hub"
    return store.sha256(Path(folder).expanduser() / harness.LOCAL[name].file)


def scores(found: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Share of the dense score: ``benchmark, metric, items, shots, model, score, kept, lo, hi`` (95 % over items).

    Every item is compared with itself under the dense model. A dense score of 0 leaves nothing to keep (NaN).
    """
    rows = []
    columns = ["benchmark", "metric", "items", "shots", "model", "score", "kept", "lo", "hi"]
    if not len(found):
        return pd.DataFrame(columns=columns)
    for (benchmark, kind), some in found.groupby(["benchmark", "filter"], sort=False):
        wide = some.assign(values=some["metrics"].map(json.loads), item=some["task"] + some["doc_id"].astype(str))
        dense = wide[wide["spec"] == "dense"].set_index("item")["values"]
        for label, own in wide.groupby("label", sort=False):
            for metric in dense.iloc[0]:
                pairs = np.array([(value[metric], dense[item][metric])
                                  for item, value in zip(own["item"], own["values"], strict=True)])  # fmt: skip
                share = of_sums(pairs, own["item"], lambda sums: sums[..., 0] / sums[..., 1], seed=seed)
                name = metric if kind == "none" else f"{metric}, {kind}"
                rows.append((benchmark, name, len(own), own["shots"].iloc[0], label, pairs[:, 0].mean(), *share))
    return pd.DataFrame(rows, columns=columns)


def show(ch: Chapter, tasks: str, specs: Sequence[str], items: int = 0):
    """The scores as a table for the page, or a line that says how to ask for them."""
    if not tasks.strip():
        from IPython.display import Markdown

        return Markdown("None were asked for in this run: `-p benchmarks=commonsense_qa,gsm8k` does, "
                        "with a network or with `PRUNELIB_DATASETS` set to a folder of JSON lines.")  # fmt: skip
    return scores(samples(ch, tasks, specs, items), ch.seed).round(2)
