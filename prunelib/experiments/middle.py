"""Theory against measurement at one middle attention layer (the paper's Fig. 6)."""

import numpy as np
import pandas as pd

from prunelib.experiments.chapter import Chapter
from prunelib.experiments.layerwise import LENSES, middle_layer
from prunelib.experiments.theorems import inside, on_model
from prunelib.measure.stats import bootstrap, correlation

MEASURES = {
    "cosine": ("T2", "fig:theory_vs_measured:one_minus_cosine", "one_minus_cosine"),
    "kl": ("T3", "fig:theory_vs_measured:kl", "kl"),
}


def theory_meets_measurement(ch: Chapter, measure: str, layer: int = -1, temperature: float = 1.0):
    """Measured and estimated deviation at every decoding position, and the paper's series.

    ``measure`` is ``cosine`` (1 − cos p, Theorem 2) or ``kl`` (KL(dense‖pruned), Theorem 3).
    Columns: ``source, prompt_id, lens, step, measured, estimated, lower, upper, slack``.
    """
    from prunelib import paper

    theorem, figure, _ = MEASURES[measure]
    traces = middle_layer(ch, layer, temperature)
    pieces = [on_model(traces, theorem, lens, temperature).assign(lens=lens) for lens in LENSES]
    ours = pd.concat(pieces, ignore_index=True).rename(columns={"position": "step", "estimate": "estimated"})
    columns = ["source", "prompt_id", "lens", "step", "measured", "estimated", "lower", "upper", "slack"]
    ours = ours.assign(source="this model")[columns]
    measured, estimated = (paper.series(figure, name) for name in ("measured", "estimated"))
    both = measured.merge(estimated, on="x", suffixes=("_measured", "_estimated"))
    theirs = pd.DataFrame({"step": both["x"], "measured": both["y_measured"], "estimated": both["y_estimated"]})
    theirs = theirs.assign(source="paper", prompt_id="paper", lens="raw")
    return pd.concat([ours, theirs], ignore_index=True)


def agreement(rows: pd.DataFrame, seed: int = 0) -> dict[str, tuple[float, float, float]]:
    """Pearson correlation and median estimate/measured ratio with 95 % intervals over prompts."""
    rows = rows[rows["measured"] > 0]

    def pearson(f: pd.DataFrame) -> float:
        return float(np.corrcoef(f["measured"], f["estimated"])[0, 1])

    def ratio(f: pd.DataFrame) -> float:
        return float(np.median(f["estimated"] / f["measured"]))

    return {"pearson": correlation(rows, pearson), "ratio": bootstrap(rows, ratio, seed=seed)}


def record(ch: Chapter, tables: dict[str, pd.DataFrame], layer: int = -1) -> pd.DataFrame:
    """Record agreement for both measures and lenses; returns it beside the paper's numbers."""
    from prunelib import paper

    rows = []
    for measure, table in tables.items():
        reported = paper.stat("theory_vs_measured")[MEASURES[measure][2]]
        theirs = {"pearson": reported["pearson"], "ratio": reported["median_estimate_over_measured"]}
        for lens in LENSES:
            ours = table[(table["source"] == "this model") & (table["lens"] == lens)]
            found = agreement(ours, ch.seed)
            ch.values({f"middle.{measure}.{lens}.{k}": v for k, v in found.items()}, fmt=".3f")
            # The interval theorem is exact; the float32 rounding of the trace is allowed for.
            ch.value(f"middle.{measure}.{lens}.inside", inside(ours).mean(), exact=True, fmt=".1%")
            for name, (value, lo, hi) in found.items():
                row = {"measure": measure, "lens": lens, "statistic": name, "value": value}
                rows.append(row | {"lo": lo, "hi": hi, "paper": theirs[name]})
        for name, value in theirs.items():
            ch.value(f"middle.{measure}.paper.{name}", value, exact=True, fmt=".3f")
    some = tables["kl"][tables["kl"]["source"] == "this model"]
    ch.value("middle.positions", len(some[some["lens"] == "raw"]), exact=True, fmt=",d")
    ch.value("middle.prompts", some["prompt_id"].nunique(), exact=True, fmt="d")
    ch.value("middle.layer", ch.model["n_layers"] // 2 if layer == -1 else layer, exact=True, fmt="d")
    return pd.DataFrame(rows)
