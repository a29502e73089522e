"""Theory against measurement at one middle attention layer, at every decoding position (the paper's Fig. 6)."""

import numpy as np
import pandas as pd

from prunelib.measure.agreement import on_model
from prunelib.measure.stats import bootstrap, correlation
from prunelib.runs.run import Run
from prunelib.runs.zoo.traces import LENSES, middle_layer

THEOREMS = {"cosine": "T2", "kl": "T3"}
"""What is measured, and the theorem that estimates it: 1 − cos p, and KL(dense ‖ pruned)."""

COLUMNS = ["source", "prompt_id", "lens", "step", "measured", "estimated", "lower", "upper", "slack"]


def points(run: Run, quantity: str, layer: int = -1, temperature: float = 1.0) -> pd.DataFrame:
    """Measured and estimated deviation at every decoding position, both lenses: :data:`COLUMNS`."""
    traces = middle_layer(run, layer, temperature)
    pieces = [on_model(traces, THEOREMS[quantity], lens, temperature).assign(lens=lens) for lens in LENSES]
    found = pd.concat(pieces, ignore_index=True).rename(columns={"position": "step", "estimate": "estimated"})
    return found.assign(source="this model")[COLUMNS]


def closeness(rows: pd.DataFrame) -> dict[str, float]:
    """The statistics of :func:`agreement` without intervals, over points of which both values are above 0."""
    rows = rows[(rows["measured"] > 0) & (rows["estimated"] > 0)]
    measured, estimated = rows["measured"].to_numpy(), rows["estimated"].to_numpy()
    return {
        "pearson_log": float(np.corrcoef(np.log(measured), np.log(estimated))[0, 1]),
        "factor": float(np.exp(np.median(np.abs(np.log(estimated / measured))))),
        "pearson": float(np.corrcoef(measured, estimated)[0, 1]),
        "ratio": float(np.median(estimated / measured)),
    }


def agreement(rows: pd.DataFrame, seed: int = 0) -> dict[str, tuple[float, float, float]]:
    """How close estimates are: ``pearson_log`` (correlation of logarithms), ``factor`` (by which the estimate is
    typically off: median of |log(estimate/measured)|), ``pearson``, ``ratio`` (median estimate/measured); each with a
    95 % interval over prompts.
    """
    rows = rows[(rows["measured"] > 0) & (rows["estimated"] > 0)]
    logs = rows.assign(measured=np.log(rows["measured"]), estimated=np.log(rows["estimated"]))

    def pearson(f: pd.DataFrame) -> float:
        return float(np.corrcoef(f["measured"], f["estimated"])[0, 1])

    def of(name: str):
        return bootstrap(rows, lambda f: closeness(f)[name], seed=seed)

    return {
        "pearson_log": correlation(logs, pearson),
        "factor": of("factor"),
        "pearson": correlation(rows, pearson),
        "ratio": of("ratio"),
    }
