"""What the three theorem chapters record: values, and the claim that each decides."""

import pandas as pd

from prunelib.measure import theory
from prunelib.measure.agreement import PANELS

CLAIM = {"T1": ("C1", "h"), "T2": ("C2", "normed"), "T3": ("C3", "normed")}
"""The claim that a theorem's chapter decides, and the panel that decides it."""


_FORMATS = {
    "ratio": ".3g",
    "factor": ".2f",
    "width": ".3g",
    "size": ".3g",
    "worst_layer": "d",
    "points": ",d",
    "resolution": ".1e",
    **dict.fromkeys(("within10", "within2", "inside", "domain", "compared"), ".1%"),
}


def record(ch, theorem: str, on_paper: pd.DataFrame, model: pd.DataFrame) -> pd.DataFrame:
    """Record the values ``t1.*``, ``t2.*`` or ``t3.*`` and claim C1, C2 or C3.

    ``ch`` is the chapter; ``on_paper`` and ``model`` are the tables of
    :func:`prunelib.measure.theorem_checks.on_paper` and :func:`prunelib.measure.agreement.every_sublayer`.
    Returns the statistics, one a row, of every panel.
    """
    name = theorem.lower()
    slopes = on_paper[on_paper["part"] == "slope"]
    for quantity, found in slopes.groupby("quantity"):
        for end in ("min", "max"):
            key = f"{name}.slope.{quantity}.{end}"
            ch.value(key, getattr(found["value"], end)(), exact=True, fmt=".2f")
    draws = on_paper[on_paper["part"] == "random draws"]
    ch.value(f"{name}.draws", int(draws["size"].sum()), exact=True, fmt=",d")
    ch.value(f"{name}.violations", int(draws["value"].sum()), exact=True, fmt="d")
    worst = on_paper[on_paper["part"] == "worst case"]
    ch.value(f"{name}.search_violations", int(worst["violations"].sum()), exact=True, fmt="d")

    summary = model[model["part"] == "summary"]
    for row in summary.itertuples():
        key = f"{name}.{row.panel}.{row.statistic}"
        fmt = _FORMATS.get(row.statistic.rsplit("_", 1)[-1], _FORMATS.get(row.statistic, ".3f"))
        if fmt.endswith("d"):  # a count or the number of a layer
            ch.value(key, int(row.value), exact=True, fmt=fmt)
        else:
            ch.value(key, row.value, row.lo, row.hi, fmt=fmt)
    claim, panel = CLAIM[theorem]
    if theorem == "T3":  # what R alone allows, at the median point
        spread = float(summary.set_index(["panel", "statistic"])["value"][panel, "size"])
        ch.value("t3.most", float(theory.kl_most(spread)), exact=True, fmt=".3g")
        ch.value("t3.hoeffding", spread**2 / 8, exact=True, fmt=".3g")
    found = summary.set_index(["panel", "statistic"]).loc[(panel, "factor")]
    ch.claim(claim, *found[["value", "lo", "hi"]].astype(float))
    shown = summary.pivot(index="statistic", columns="panel", values="value")
    return shown[list(PANELS[theorem])]
