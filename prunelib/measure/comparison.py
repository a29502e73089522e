"""Points at which an estimate is held against a measurement: which can be compared, and how they are drawn."""

import numpy as np
import pandas as pd

_BIN = 0.1  # width of a histogram bin, in decades
_STRIP = 0.5  # width of a strip whose median is drawn, in decades
_FEW = 20  # a strip with fewer points has no median


def comparable(rows: pd.DataFrame) -> pd.Series:
    """Points the trace resolves: estimate or measurement above its resolution.

    One of the two is enough: an estimate near 0 of a large deviation is a failure to show.
    """
    return rows[["estimate", "measured"]].max(axis=1) > rows["resolution"]


def resolved(rows: pd.DataFrame) -> pd.DataFrame:
    """The comparable points, with values below the resolution raised to it."""
    rows = rows[comparable(rows)].copy()
    for name in {"estimate", "measured", "refined"} & set(rows):
        rows[name] = rows[name].clip(lower=rows["resolution"])
    return rows


def density(rows: pd.DataFrame) -> pd.DataFrame:
    """Two-dimensional histogram in decades: bin centres ``estimate, measured``, and ``count``."""
    rows = resolved(rows)
    bins = {name: np.floor(np.log10(rows[name]) / _BIN) for name in ("estimate", "measured")}
    counts = pd.DataFrame(bins).value_counts(sort=False).rename("count").reset_index()
    for name in bins:
        counts[name] = 10 ** ((counts[name] + 0.5) * _BIN)
    return counts


def strips(rows: pd.DataFrame) -> pd.DataFrame:
    """Median and 5 to 95 % of ``measured`` in strips of ``estimate`` half a decade wide."""
    rows = resolved(rows)
    rows = rows[rows["estimate"] > rows["resolution"]]  # not those raised to it
    strip = np.floor(np.log10(rows["estimate"]) / _STRIP)
    found = rows.groupby(strip)["measured"].quantile([0.05, 0.5, 0.95]).unstack()
    found = found[rows.groupby(strip).size() >= _FEW]
    centre = 10 ** ((found.index.to_numpy() + 0.5) * _STRIP)
    columns = {"estimate": centre, "measured": found[0.5], "lo": found[0.05], "hi": found[0.95]}
    return pd.DataFrame(columns).reset_index(drop=True)
