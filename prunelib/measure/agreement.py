"""The estimates of Theorems 1 to 3 held against measurement, on every sublayer of a traced model, T = 1.

The base are the tables of a trace (:mod:`prunelib.measure.trace`): each (prompt, position, layer, sublayer) is a point.
"""

import numpy as np
import pandas as pd
import torch

from prunelib.errors import PrunelibError
from prunelib.measure import theory
from prunelib.measure.comparison import comparable, density, resolved, strips
from prunelib.measure.stats import bootstrap, correlation, share
from prunelib.measure.theorem_checks import quantities

PANELS = {
    "T1": ("h", "z.raw", "z.normed"),
    "T2": ("raw", "normed"),
    "T3": ("raw", "normed", "raw.reverse", "normed.reverse"),
}
"""Where each theorem is tried: the space, the lens, and for T3 the direction of the
KL (``reverse`` is KL(pruned‖dense)). Also the middle part of the value keys."""


# Theorem 1 reads alpha and beta, which the trace holds in float64; sums over capped logits are
# float32, and a table does not say whether z is capped. 1 − cos p and the KL bring their own.
_RESOLUTION = {"h": 1e-12, "z": 1e-6}


_RELATIVE = {"T1": 1e-9, "T2": 1e-3, "T3": 1e-3}


# Weights below 1e-38 vanish in the trace; 1e5 tokens of that weight and (Δz)² = 1e5 add up to
# this. A bound that multiplies the variance by e^R must not take it for 0.
_UNDERFLOW = 1e-28


_INDEX = ["prompt_id", "position", "layer", "sublayer"]


_SITE = ["layer", "sublayer"]


_WITHIN = 2.0  # the factor that counts as near


def on_model(traces, theorem: str, panel: str, temperature: float = 1.0) -> pd.DataFrame:
    """Estimate, measurement and interval at each traced point, for one panel of :data:`PANELS`.

    ``traces`` has the frames ``h, z, p`` of ``runs.zoo.traces``. Columns:
    ``prompt_id, position, layer, sublayer, estimate, measured, lower, upper,
    size, resolution, slack``; T1 adds ``refined`` (γ²/2), the others ``loose_width``. Outside the domain of
    Theorem 1 (α ≤ −1) ``lower``, ``upper`` and ``refined`` are NaN. No value below
    ``resolution`` is told from rounding, and ``slack`` is all that rounding may have
    moved ``measured`` (:func:`prunelib.measure.softmax_stats.resolution`).
    """
    if theorem == "T1":
        space, _, lens = panel.partition(".")
        frame = traces.h if space == "h" else _at(traces.z, lens)
        return _cosine_rows(frame, space)
    lens, _, reverse = panel.partition(".")
    frame = _at(traces.p, lens)
    frame = frame[frame["temperature"] == temperature]
    if theorem == "T2":
        bounds, measured, variance = theory.softmax_bounds, "one_minus_cos_p", "var_r"
    elif reverse:
        bounds, measured, variance = theory.kl_bounds, "kl_pruned_dense", "var_q"
    else:
        bounds, measured, variance = theory.kl_bounds, "kl_dense_pruned", "var_p"
    spread = frame["range_dz"].to_numpy()
    var = frame[variance].to_numpy().clip(min=_UNDERFLOW)
    found = bounds(var, spread, temperature)
    loose = _loose_width(theorem, var / temperature**2, spread / temperature)
    rows = _rows(frame, frame[measured], found, frame["resolution"].to_numpy(), _RELATIVE[theorem])
    return rows.assign(size=spread / temperature, loose_width=loose)


def _loose_width(theorem: str, variance: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Upper end divided by lower end of the interval that bounds the variance step by step.

    It allows the variance to grow and to shrink by ``e^{tR}`` all the way from p to q, and
    is what this book used before the sharp one: ``V(e^{±R} − 1 ∓ R)/R²`` and R²/8
    (Theorem 3), ``1 − exp(−V/2·((e^{±R} − 1)/R)²)`` and ``1 − 1/cosh(R/2)`` (Theorem 2).
    """
    safe = np.where(spread > 0, spread, 1.0)
    logs = np.log(variance)
    if theorem == "T3":
        grow, shrink = (theory.log_kernel(torch.as_tensor(s * safe)).numpy() for s in (1, -1))
        log_ratio = np.minimum(grow, np.log(safe**2 / 8) - logs) - shrink
    else:
        growth = safe + np.log(-np.expm1(-safe)) - np.log(safe)
        most = -np.expm1(-np.exp(np.minimum(logs - np.log(2) + 2 * growth, 700)))
        half = np.exp(-safe / 2)
        most = np.minimum(most, np.expm1(-safe / 2) ** 2 / (1 + half**2))
        log_ratio = np.log(most) - np.log(-np.expm1(-variance / 2 * np.exp(2 * (growth - safe))))
    return np.where(spread > 0, np.exp(log_ratio.clip(max=690)), 1.0)


def _at(frame: pd.DataFrame, lens: str) -> pd.DataFrame:
    return frame[frame["lens"] == lens]


def _rows(frame, measured: pd.Series, bounds, resolution, relative: float) -> pd.DataFrame:
    estimate, lower, upper = bounds
    columns = {"estimate": estimate, "measured": measured.to_numpy(), "lower": lower, "upper": upper}
    rows = frame[_INDEX].reset_index(drop=True).assign(**columns, resolution=resolution)
    return rows.assign(slack=rows["resolution"] + relative * rows["measured"])


def _cosine_rows(frame: pd.DataFrame, space: str) -> pd.DataFrame:
    alpha = frame[f"alpha_{space}"].to_numpy(dtype=np.float64)
    beta = frame[f"beta_{space}"].to_numpy(dtype=np.float64)
    valid = alpha > -1
    estimate, *ends = theory.cosine_bounds(np.where(valid, alpha, 0.0), beta)
    bounds = estimate, *(np.where(valid, end, np.nan) for end in ends)
    measured = frame[f"one_minus_cos_{space}"]
    rows = _rows(frame, measured, bounds, _RESOLUTION[space], _RELATIVE["T1"])
    refined = beta**2 / (2 * np.where(valid, 1 + alpha, np.nan) ** 2)
    return rows.assign(size=np.hypot(alpha, beta), refined=refined)


def inside(rows: pd.DataFrame) -> pd.Series:
    """Points whose measurement is in the proven interval, up to the rounding of the trace."""
    slack = rows["slack"]
    return rows["measured"].between(rows["lower"] - slack, rows["upper"] + slack)


def summarise(rows: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Agreement of estimate and measurement: ``statistic, value, lo, hi`` (95 %, over prompts).

    ``pearson``, ``pearson_log`` (of the base-10 logarithms), ``spearman``,
    ``factor`` (:func:`site_factor`, decides the claim), ``within2`` (share of points with
    the estimate within a factor of 2, the mean over sites), ``ratio`` (median
    estimate/measured), ``within10`` (share of points within 10 %), ``inside`` (share
    inside the proven interval, up to its slack), ``width`` (median upper/lower of that interval, at most 1e300),
    ``loose_width`` (the same of the looser one, T2 and T3), ``size`` and ``resolution``
    (median), ``compared`` (share of points large
    enough to compare, all statistics but ``inside`` and ``domain`` being over these),
    ``domain`` (share with α > −1); T1 adds ``refined_ratio``, ``refined_within10``.
    ``smaller_*`` and ``largest_*`` are the same over the half of the points with the
    smaller perturbations and over the tenth with the largest. ``worst_layer`` is the
    layer with the estimate furthest off (median |log ratio|); ``later_*`` leaves out the
    first layer.
    """
    who = rows["prompt_id"]
    domain = rows["upper"].notna()
    usable = comparable(rows)
    told = resolved(rows)
    if told.empty:
        raise PrunelibError("no deviation is above the rounding of the trace: nothing to compare")
    # Before dividing, so that neither end makes an infinity; outside the domain there is no end.
    width = (told["upper"].fillna(1) / told["lower"].fillna(0).clip(lower=1e-300)).clip(upper=1e300)
    found = {
        "inside": share(inside(rows)[domain], who[domain]),
        "domain": share(domain, who),
        "compared": share(usable, who),
    }
    found["pearson"] = _pearson(told["prompt_id"], told["estimate"], told["measured"], seed)
    ranks = told[["estimate", "measured"]].rank()
    found["spearman"] = _pearson(told["prompt_id"], ranks["estimate"], ranks["measured"], seed)
    found["size"] = _median(told["prompt_id"], told["size"], seed)
    found["width"] = _median(told["prompt_id"], width, seed)
    if "loose_width" in told:
        found["loose_width"] = _median(told["prompt_id"], told["loose_width"], seed)
    found["resolution"] = _median(who, rows["resolution"], seed)
    found |= _closeness(told, seed)
    if "refined" in told:  # α ≤ −1: no prediction, infinitely far off
        refined = told.assign(estimate=told["refined"].fillna(np.inf))
        found |= {f"refined_{k}": v for k, v in _nearness(refined, seed).items()}
    halves = {"smaller": told["size"] <= told["size"].median()}
    halves["largest"] = told["size"] >= told["size"].quantile(0.9)
    for name, chosen in halves.items():
        found |= {f"{name}_{k}": v for k, v in _closeness(told[chosen], seed).items()}
    found["worst_layer"] = (float(by_layer(told)["off"].idxmax()),) * 3
    later = told[told["layer"] > 0]
    found["later_pearson_log"] = _closeness(later, seed)["pearson_log"]
    for name, chosen in (("", told), ("later_", later)):
        found[f"{name}factor"] = site_factor(chosen, seed)
        found[f"{name}within2"] = _site_share(chosen, seed)
    records = [(name, *numbers) for name, numbers in found.items()]
    return pd.DataFrame(records, columns=["statistic", "value", "lo", "hi"])


def site_factor(rows: pd.DataFrame, seed: int = 0) -> tuple[float, float, float]:
    """How many times too large or too small the estimate typically is: 1 is exact.

    Median of |log(estimate/measured)| over the points of a site (layer and sublayer), then
    over the sites, as a factor, with a 95 % interval over prompts. Every site has the same
    weight, and a few of them, however far off, do not decide.
    """
    if rows.empty:
        return (np.nan,) * 3
    off = _by_prompt_and_site(rows, np.log(rows["estimate"] / rows["measured"]).abs())

    def typical(chosen: np.ndarray) -> float:
        sites = np.sort(off[chosen].swapaxes(0, 1).reshape(off.shape[1], -1))  # NaN comes last
        count = np.isfinite(sites).sum(1)
        sites, count = sites[count > 0], count[count > 0]
        each = np.arange(len(sites))
        return float(np.exp(np.median((sites[each, (count - 1) // 2] + sites[each, count // 2]) / 2)))

    return _over_prompts(len(off), typical, seed)


def _site_share(rows: pd.DataFrame, seed: int) -> tuple[float, float, float]:
    if rows.empty:
        return (np.nan,) * 3
    near = np.log(rows["estimate"] / rows["measured"]).abs() <= np.log(_WITHIN)
    table = _by_prompt_and_site(rows, near.astype(float))
    hits, count = np.nansum(table, 2), np.isfinite(table).sum(2)

    def share(chosen: np.ndarray) -> float:
        points = count[chosen].sum(0)
        return float(np.mean(hits[chosen].sum(0)[points > 0] / points[points > 0]))

    return _over_prompts(len(table), share, seed)


def _by_prompt_and_site(rows: pd.DataFrame, x: pd.Series) -> np.ndarray:
    """``x`` as [prompts, sites, points of both], NaN where there are fewer points."""
    frame = pd.DataFrame(
        {
            "prompt": pd.factorize(rows["prompt_id"])[0],
            "site": rows.groupby(_SITE, sort=False).ngroup().to_numpy(),
        }
    )
    frame["point"] = frame.groupby(["prompt", "site"]).cumcount()
    table = np.full(tuple(frame.max() + 1), np.nan)
    table[tuple(frame.to_numpy().T)] = x
    return table


def _over_prompts(count: int, statistic, seed: int) -> tuple[float, float, float]:
    prompts = pd.DataFrame({"prompt_id": range(count)})
    return bootstrap(prompts, lambda f: statistic(f["prompt_id"].to_numpy()), seed=seed)


def _closeness(rows: pd.DataFrame, seed: int) -> dict[str, tuple[float, float, float]]:
    if rows.empty:  # a model with a single layer has no rest
        return dict.fromkeys(("pearson_log", "ratio", "within10"), (np.nan,) * 3)
    logs = np.log10(rows[["estimate", "measured"]])
    correlation = _pearson(rows["prompt_id"], logs["estimate"], logs["measured"], seed)
    return {"pearson_log": correlation} | _nearness(rows, seed)


def _nearness(rows: pd.DataFrame, seed: int) -> dict[str, tuple[float, float, float]]:
    ratio, who = rows["estimate"] / rows["measured"], rows["prompt_id"]
    within = share(ratio.between(0.9, 1.1), who)
    return {"ratio": _median(who, ratio, seed), "within10": within}


def by_layer(rows: pd.DataFrame, by: str | list[str] = "layer") -> pd.DataFrame:
    """Medians of ``size, estimate, measured, ratio`` and of ``off`` = |log10 ratio| by layer."""
    ratio = rows["estimate"] / rows["measured"]
    rows = rows.assign(ratio=ratio, off=np.log10(ratio).abs())
    return rows.groupby(by)[["size", "estimate", "measured", "ratio", "off"]].median()


def _median(who: pd.Series, x: pd.Series, seed: int) -> tuple[float, float, float]:
    # Plain floats in one block resample many times faster than a mixed table.
    values = np.column_stack([pd.factorize(who)[0], x])
    frame = pd.DataFrame(values, columns=["prompt_id", "x"])
    return bootstrap(frame, lambda f: np.median(f.to_numpy()[:, 1]), seed=seed)


def _pearson(who: pd.Series, x: pd.Series, y: pd.Series, seed: int) -> tuple[float, float, float]:
    """Pearson correlation; it is a function of sums, so a prompt is left out at once."""
    x, y = (np.asarray(v, dtype=np.float64) - np.mean(v) for v in (x, y))
    moments = {"n": np.ones_like(x), "x": x, "y": y, "xx": x * x, "yy": y * y, "xy": x * y}
    sums = pd.DataFrame(moments).groupby(pd.factorize(who)[0]).sum()
    sums.insert(0, "prompt_id", sums.index.astype(float))

    def pearson(frame: pd.DataFrame) -> float:
        n, sx, sy, sxx, syy, sxy = frame.to_numpy()[:, 1:].sum(0)
        spread = (n * sxx - sx * sx) * (n * syy - sy * sy)
        return (n * sxy - sx * sy) / np.sqrt(spread) if spread > 0 else np.nan

    return correlation(pd.DataFrame(sums.to_numpy(), columns=sums.columns), pearson)


def every_sublayer(traces, theorem: str, seed: int = 0) -> pd.DataFrame:
    """A theorem on every traced sublayer, T = 1 (data of ``fig-t*-model``).

    Columns ``part, panel, statistic, value, lo, hi, estimate, measured, count``.
    ``part`` is ``density`` (histogram of all points), ``strip`` (median measured
    value at an estimate, 5 and 95 % in ``lo, hi``) or ``summary``
    (:func:`summarise`, and ``points``).
    """
    quantities(theorem)
    pieces = []
    for panel in PANELS[theorem]:
        rows = on_model(traces, theorem, panel)
        points = pd.DataFrame({"statistic": ["points"], "value": [len(rows)]})
        summary = pd.concat([summarise(rows, seed), points])
        parts = {"density": density(rows), "strip": strips(rows), "summary": summary}
        pieces += [part.assign(part=name, panel=panel) for name, part in parts.items()]
    columns = ["part", "panel", "statistic", "value", "lo", "hi"]
    return pd.concat(pieces, ignore_index=True)[[*columns, "estimate", "measured", "count"]]


def furthest_off(traces, theorem: str, panel: str, count: int = 5) -> pd.DataFrame:
    """The sublayers where an estimate is furthest off, worst first.

    Columns ``layer, sublayer`` and the medians of :func:`by_layer` over prompts and positions.
    """
    rows = resolved(on_model(traces, theorem, panel))
    table = by_layer(rows, _SITE).reset_index()
    table = table.nlargest(count, "off").drop(columns="off").reset_index(drop=True)
    return table.rename(columns={"ratio": "estimate / measured"})
