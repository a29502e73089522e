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


def agreement(rows: pd.DataFrame, seed: int = 0) -> dict[str, tuple[float, float, float]]:
    """Pearson correlation and median estimate/measured ratio with 95 % intervals over prompts."""
    rows = rows[rows["measured"] > 0]

    def pearson(f: pd.DataFrame) -> float:
        return float(np.corrcoef(f["measured"], f["estimated"])[0, 1])

    def ratio(f: pd.DataFrame) -> float:
        return float(np.median(f["estimated"] / f["measured"]))

    return {"pearson": correlation(rows, pearson), "ratio": bootstrap(rows, ratio, seed=seed)}
