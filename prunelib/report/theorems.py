"""What the three theorem chapters record: values, and the claim that each decides."""

import math

import pandas as pd

from prunelib.measure import theory
from prunelib.measure.agreement import PANELS
from prunelib.report import claims
from prunelib.report.sentences import Found, by_verdict

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


def say(found: Found, theorem: str) -> dict[str, str]:
    """The answer of a theorem's page, by the verdict with and without the first layer."""
    claim, panel = CLAIM[theorem]
    key = f"{theorem.lower()}.{panel}"
    factor, later = found.show(f"{key}.factor"), found.show(f"{key}.later_factor")
    verdict, entry = found.verdict(claim), found.values[f"{key}.later_factor"]
    numbers = (math.nan if entry[name] is None else entry[name] for name in ("value", "lo", "hi"))
    without = claims.judge(claims.CLAIMS[claim], *numbers)
    within = claims.CLAIMS[claim].threshold
    answer = by_verdict(
        verdict,
        f"The estimate of Theorem {theorem[1]} predicts within a factor of {within:g}: typically it is off by "
        f"{factor}.",
        f"The estimate of Theorem {theorem[1]} does not predict within a factor of {within:g}: typically it is off "
        f"by {factor}.",
        f"Whether the estimate of Theorem {theorem[1]} predicts within a factor of {within:g} is not decided: "
        f"typically "
        f"it is off by {factor}.",
    )
    if without == verdict:
        layers = f"The first layer does not decide that: without it the factor is {later}."
    else:
        words = by_verdict(without, "it would predict", "it would not predict", "it would be undecided")
        layers = f"That hangs on the first layer: without it the factor is {later}, and {words}."
    proven = (
        f"What is proven holds for a perturbation of any size: {found.show(f'{key}.inside')} of the measured points "
        f"lie "
        "inside the interval of this chapter, up to rounding."
    )
    holds = found.show(f"{key}.inside", "plain")
    why = (
        f"{layers} The claim is about the estimate; the interval that the chapter proves holds at {holds} of the "
        f"points."
    )
    return {"answer": f"{answer} {layers} {proven}", "why": why}


def record(ch, theorem: str, on_paper: pd.DataFrame, model: pd.DataFrame, prompts: int) -> pd.DataFrame:
    """Record the values ``t1.*``, ``t2.*`` or ``t3.*`` and claim C1, C2 or C3.

    ``ch`` is the chapter; ``on_paper`` and ``model`` are the tables of
    :func:`prunelib.measure.theorem_checks.on_paper` and :func:`prunelib.measure.agreement.every_sublayer`,
    ``prompts`` how many were traced.
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
    points = summary.set_index(["panel", "statistic"])["value"][panel, "points"]
    ch.claim(claim, *found[["value", "lo", "hi"]].astype(float), over={"prompts": prompts, "points": points})
    ch.say(say(ch.found, theorem))
    shown = summary.pivot(index="statistic", columns="panel", values="value")
    return shown[list(PANELS[theorem])]
