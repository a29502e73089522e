"""Layer by layer: how far h, z and p turn, what softmax amplifies, and what the temperature does."""

import numpy as np
import pandas as pd

from prunelib.measure.stats import bands, share
from prunelib.runs.run import Run
from prunelib.runs.zoo.traces import Traces, layerwise, middle_layers


def similarity(traces: Traces) -> pd.DataFrame:
    """Cosine of dense and pruned ``h``, ``z``, ``p`` (T = 1) a row: long table with ``space, lens``."""
    index = ["prompt_id", "sublayer", "layer"]
    pieces = []
    for space, frame in (("h", traces.h), ("z", traces.z), ("p", traces.p)):
        if space == "p":
            frame = frame[frame["temperature"] == 1.0]
        piece = frame[index].assign(space=space, lens=frame["lens"] if space != "h" else "raw")
        piece["cosine"] = 1 - frame[f"one_minus_cos_{space}"]
        pieces.append(piece)
    return pd.concat(pieces, ignore_index=True)


def amplification(run: Run) -> pd.DataFrame:
    """``(1 − cos p) / (1 − cos z)`` by layer at T = 1: quartiles, and the share of tokens above 1.

    One row for each ``sublayer, lens, layer``; ``share`` has a 95 % interval
    over prompts.
    """
    rows = amplification_rows(layerwise(run))
    records = []
    for group, part in rows.groupby(["sublayer", "lens", "layer"], sort=True):
        q25, median, q75 = np.percentile(part["ratio"], [25, 50, 75])
        above = share(part["ratio"] > 1, part["prompt_id"])
        record = dict(zip(("sublayer", "lens", "layer"), group, strict=True))
        record |= {"q25": q25, "median": median, "q75": q75}
        records.append(record | dict(zip(("share", "share_lo", "share_hi"), above, strict=True)))
    return pd.DataFrame.from_records(records)


def amplification_rows(traces: Traces, temperature: float = 1.0) -> pd.DataFrame:
    index = ["prompt_id", "position", "sublayer", "layer", "lens"]
    p = traces.p[traces.p["temperature"] == temperature]
    rows = p.merge(traces.z[[*index, "one_minus_cos_z"]], on=index, validate="one_to_one")
    # A point whose logits did not move has no ratio.
    rows = rows[rows["one_minus_cos_z"] > 0]
    return rows.assign(ratio=rows["one_minus_cos_p"] / rows["one_minus_cos_z"])


def temperature_curves(run: Run) -> pd.DataFrame:
    """Mean ``1 − cos p`` and KL(dense ‖ pruned) against T in the middle half of the layers (normed lens)."""
    p = layerwise(run).p
    p = p[(p["lens"] == "normed") & p["layer"].isin(middle_layers(run.model["n_layers"]))]
    pieces = []
    for measure in ("one_minus_cos_p", "kl_dense_pruned"):
        pieces.append(bands(p, measure, ["sublayer", "temperature"]).assign(measure=measure))
    return pd.concat(pieces, ignore_index=True)
