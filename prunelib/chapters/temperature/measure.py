"""Deviations along the temperature, token by token: what amplifies, what damps, where each peaks, what bounds it."""

import numpy as np
import pandas as pd

from prunelib.measure import agreement
from prunelib.measure import temperature as along
from prunelib.measure.comparison import resolved
from prunelib.measure.stats import bands, share
from prunelib.runs.run import Run
from prunelib.runs.zoo.traces import by_temperature

ALL = "all tokens"
"""What a table calls the rows over kept and overtaken tokens at once."""

THEOREMS = {
    "one_minus_cos_p": ("T2", "normed"),
    "kl_dense_pruned": ("T3", "normed"),
    "kl_pruned_dense": ("T3", "normed.reverse"),
}
"""The theorem that estimates a deviation, and the panel of :mod:`prunelib.measure.agreement`."""


def points(run: Run, lens: str = "normed") -> pd.DataFrame:
    """A row a point and temperature (:func:`prunelib.measure.temperature.points`); the raw lens has T = 1 alone."""
    traces = by_temperature(run, along.GRID)
    p, z = (frame[frame["lens"] == lens] for frame in (traces.p, traces.z))
    return along.points(p, z, run.model["vocab_size"])


def regimes(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean 1 − cos p by temperature: ``sublayer, top, band, temperature``, the columns of ``bands``, and ``points``.

    ``top`` is kept, overtaken or :data:`ALL`, ``band`` a band of confidence or "all"; groups without points are
    missing.
    """
    pieces = []
    for top, some in (*rows.groupby("top"), (ALL, rows)):
        for band, part in (*some.groupby("band"), ("all", some)):
            made = bands(part, "one_minus_cos_p", ["sublayer", "temperature"])
            count = part.groupby(["sublayer", "temperature"]).size().rename("points").reset_index()
            made = made.merge(count, on=["sublayer", "temperature"])
            pieces.append(made.assign(top=top, band=band))
    return pd.concat(pieces, ignore_index=True)


def amplification(rows: pd.DataFrame) -> pd.DataFrame:
    """Quartiles of (1 − cos p)/(1 − cos z) and the share above 1, by ``sublayer, band, temperature``.

    ``share`` has a 95 % interval over prompts. Points whose logits did not move have no ratio.
    """
    rows = rows[rows["amplification"].notna()]
    records = []
    for group, part in rows.groupby(["sublayer", "band", "temperature"], sort=True):
        q25, median, q75 = np.percentile(part["amplification"], [25, 50, 75])
        above = share(part["amplification"] > 1, part["prompt_id"])
        record = dict(zip(("sublayer", "band", "temperature"), group, strict=True))
        record |= {"q25": q25, "median": median, "q75": q75, "points": len(part)}
        records.append(record | dict(zip(("share", "share_lo", "share_hi"), above, strict=True)))
    return pd.DataFrame.from_records(records)


def absolute(rows: pd.DataFrame) -> pd.DataFrame:
    """How long Δp is beside Δz, and how much of its bounds that is: ``sublayer, temperature, quantity`` and quantiles.

    Quantities: ``gain`` = ‖Δp‖₂/‖Δz‖₂ (Δz without its mean), ``lipschitz`` and ``range`` = ‖Δp‖₂ over its bound;
    columns ``median, q05, q95, max`` over points. Points that did not move at all are left out.
    """
    rows = rows[(rows["norm_dz"] > 0) & (rows["range_limit"] > 0)]
    of = {
        "gain": rows["norm_dp"] / rows["norm_dz"],
        "lipschitz": rows["norm_dp"] / rows["lipschitz"],
        "range": rows["norm_dp"] / rows["range_limit"],
    }
    records = []
    for quantity, values in of.items():
        for group, part in values.groupby([rows["sublayer"], rows["temperature"]]):
            q05, median, q95 = np.percentile(part, [5, 50, 95])
            record = dict(zip(("sublayer", "temperature"), group, strict=True)) | {"quantity": quantity}
            records.append(record | {"median": median, "q05": q05, "q95": q95, "max": part.max()})
    return pd.DataFrame.from_records(records)


def estimates(run: Run, quantity: str) -> pd.DataFrame:
    """Estimate, measurement and proven interval at every point and temperature (normed lens): columns of ``on_model``
    and ``temperature``.
    """
    traces = by_temperature(run, along.GRID)
    theorem, panel = THEOREMS[quantity]
    pieces = [agreement.on_model(traces, theorem, panel, t).assign(temperature=t) for t in along.GRID]
    return pd.concat(pieces, ignore_index=True)


def theorems(run: Run) -> pd.DataFrame:
    """The theorems along T: a row for each ``quantity, sublayer, temperature``.

    ``mean, mean_lo, mean_hi`` of the measured deviation (interval over prompts), means of ``estimate, lower, upper``
    over the same points, ``inside`` (share of points in their proven interval, up to rounding) and ``factor`` (by which
    the estimate is typically off: median of exp |log(estimate/measured)| over points that are told from rounding).
    """
    pieces = []
    for quantity in THEOREMS:
        rows = estimates(run, quantity)
        rows = rows.assign(inside=agreement.inside(rows))
        by = ["sublayer", "temperature"]
        made = bands(rows, "measured", by)[[*by, "mean", "mean_lo", "mean_hi"]]
        means = rows.groupby(by)[["estimate", "lower", "upper", "inside"]].mean().reset_index()
        told = off(rows)
        factor = np.exp(told.groupby([told[name] for name in by])["off"].median()).rename("factor").reset_index()
        pieces.append(made.merge(means, on=by).merge(factor, on=by, how="left").assign(quantity=quantity))
    return pd.concat(pieces, ignore_index=True)


def off(rows: pd.DataFrame) -> pd.DataFrame:
    """The points of :func:`estimates` that are told from rounding, with ``off`` = |log(estimate/measured)|."""
    told = resolved(rows)
    return told.assign(off=np.abs(np.log(told["estimate"] / told["measured"])))


def peaks(rows: pd.DataFrame) -> pd.DataFrame:
    """Where deviations peak: ``quantity, top, peak`` and ``share``, the part of all tokens with a peak.

    ``top`` tells kept from overtaken; both together make 1 for each quantity. A row for every temperature of the sweep.
    """
    records = []
    for quantity in along.DEVIATIONS:
        found = along.peaks(rows, quantity)
        counts = found.groupby(["top", "peak"]).size()
        for top in along.TOPS:
            for t in along.GRID:
                part = counts.get((top, t), 0) / max(1, len(found))
                records.append({"quantity": quantity, "top": top, "peak": t, "share": part})
    return pd.DataFrame.from_records(records)
