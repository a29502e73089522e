"""What the page on temperature records and says: where softmax amplifies, what C7 hangs on, which bounds hold."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from prunelib.chapters.chapter import Chapter
from prunelib.chapters.temperature import measure
from prunelib.measure import agreement
from prunelib.measure import temperature as along
from prunelib.measure.stats import bootstrap, share, smooth
from prunelib.report.looks import DEVIATIONS
from prunelib.report.sentences import Found, by_side, listed
from prunelib.runs.zoo.traces import LENSES

KEYS = dict(zip(along.BANDS, ("open", "split", "leaning", "sure"), strict=True))
"""What keys of values call the bands of confidence."""

SHORT = {"one_minus_cos_p": "cosine", "kl_dense_pruned": "kl", "kl_pruned_dense": "reverse", "norm_dp": "length"}
"""What keys of values call the deviations."""

ENDS = {"low": along.GRID[0], "one": 1.0, "high": along.GRID[-1]}
"""Temperatures at which numbers are quoted: coldest, 1, hottest."""

FEW = 2
"""Prompts that a group needs for a number of its own."""


def record(ch: Chapter, rows: pd.DataFrame) -> None:
    """Record the values of the chapter under ``heat.``; ``rows`` are :func:`measure.points` of the normed lens."""
    at_one = rows[rows["temperature"] == 1.0]
    ch.value("heat.points", len(at_one), exact=True, fmt=",d")
    ch.value("heat.prompts", rows["prompt_id"].nunique(), exact=True, fmt="d")
    ch.value("heat.layers", listed([str(layer) for layer in sorted(rows["layer"].unique())]), exact=True, fmt="s")
    ch.value("heat.temperatures", len(along.GRID), exact=True, fmt="d")
    for name, t in ENDS.items():
        ch.value(f"heat.{name}", t, exact=True, fmt="g")
    _record_angle(ch, rows)
    _record_tops(ch, rows)
    _record_size(ch, rows)
    _record_peaks(ch, rows)
    _record_theorems(ch)
    ch.say(say(ch.found))


def _group(ch: Chapter, key: str, some: pd.DataFrame, number: Callable[[pd.DataFrame], tuple], fmt: str) -> None:
    """A value of a group of points, or "not defined" where it has too few prompts: the page names it all the same."""
    if some["prompt_id"].nunique() < FEW:
        ch.value(key, None, exact=True, fmt=fmt)
    else:
        ch.value(key, *number(some), fmt=fmt)


def _median(ch: Chapter, column: str) -> Callable[[pd.DataFrame], tuple]:
    return lambda f: bootstrap(f[["prompt_id", column]], lambda g: np.median(g[column]), seed=ch.seed)


def _above_one(rows: pd.DataFrame) -> tuple:
    return share(rows["amplification"] > 1, rows["prompt_id"])


def _record_angle(ch: Chapter, rows: pd.DataFrame) -> None:
    """Shares of points that softmax amplifies: by band and lens at T = 1, and of all at the ends of the sweep."""
    for lens in LENSES:
        part = rows if lens == "normed" else measure.points(ch, lens)
        part = part[(part["temperature"] == 1.0) & part["amplification"].notna()]
        for band, key in KEYS.items():
            some = part[part["band"] == band]
            ch.value(f"heat.{lens}.{key}.points", len(some) / len(part), exact=True, fmt=".1%")
            _group(ch, f"heat.{lens}.{key}.share", some, _above_one, ".1%")
            if lens == "normed":
                _group(ch, f"heat.{lens}.{key}.median", some, _median(ch, "amplification"), ".3g")
    moved = rows[rows["amplification"].notna()]
    for name, t in ENDS.items():
        _group(ch, f"heat.amplified.{name}", moved[moved["temperature"] == t], _above_one, ".1%")


def _record_tops(ch: Chapter, rows: pd.DataFrame) -> None:
    """What the lowest temperature does to kept and to overtaken tokens, and to all of them."""
    at = {name: rows[rows["temperature"] == t] for name, t in ENDS.items()}
    ch.value("heat.kept.points", *share(at["one"]["top"] == "kept", at["one"]["prompt_id"]), fmt=".1%")
    index = ["prompt_id", "position", "layer", "sublayer", "top"]
    wide = rows.pivot_table(index=index, columns="temperature", values="one_minus_cos_p").reset_index()
    wide = wide.rename(columns={t: name for name, t in ENDS.items()})
    for top, some in (("kept", wide[wide["top"] == "kept"]), ("overtaken", wide[wide["top"] == "overtaken"]),
                      ("all", wide)):  # fmt: skip
        for end in ("low", "high"):
            _group(ch, f"heat.{top}.{end}_ratio", some, lambda f, e=end: smooth(f, lambda g: _of_means(g, e)), ".2g")
        _group(ch, f"heat.{top}.low_share", some, lambda f: share(f["low"] > f["one"], f["prompt_id"]), ".1%")
    # What part of the mean over all tokens the overtaken ones carry.
    for name, some in at.items():
        part = some.assign(part=some["one_minus_cos_p"] * (some["top"] == "overtaken"))
        _group(ch, f"heat.overtaken.part_{name}", part,
               lambda f: smooth(f, lambda g: g["part"].sum() / g["one_minus_cos_p"].sum()), ".1%")  # fmt: skip


def _of_means(frame: pd.DataFrame, end: str) -> float:
    return frame[end].mean() / frame["one"].mean()


def _record_size(ch: Chapter, rows: pd.DataFrame) -> None:
    """Lengths of Δp against those of Δz, and how much of both bounds is used."""
    rows = rows[(rows["norm_dz"] > 0) & (rows["range_limit"] > 0)]
    rows = rows.assign(
        gain=rows["norm_dp"] / rows["norm_dz"],
        lipschitz_used=rows["norm_dp"] / rows["lipschitz"],
        range_used=rows["norm_dp"] / rows["range_limit"],
        relative=(rows["norm_dp"] / rows["norm_p"]) / (rows["norm_dz"] / rows["norm_z"]),
    )
    for name, t in ENDS.items():
        some = rows[rows["temperature"] == t]
        for column, key in (("gain", "gain"), ("lipschitz_used", "lipschitz"), ("range_used", "range")):
            _group(ch, f"heat.{key}.{name}", some, _median(ch, column), ".2g")
        _group(ch, f"heat.relative.{name}", some, lambda f: share(f["relative"] > 1, f["prompt_id"]), ".1%")
    for bound, key in (("lipschitz", "lipschitz"), ("range_limit", "range")):
        ch.value(f"heat.{key}.beyond", int(along.beyond(rows, bound).sum()), exact=True, fmt=",d")
        ch.value(f"heat.{key}.most", rows[f"{key}_used"].max(), exact=True, fmt=".2g")
    ch.value("heat.gain.most", rows["gain"].max(), exact=True, fmt=".2g")


def _record_peaks(ch: Chapter, rows: pd.DataFrame) -> None:
    """The temperature at which each deviation is largest: its median, and the share of points at which it is the lowest
    of the sweep, for kept and overtaken tokens.
    """
    for quantity, key in SHORT.items():
        found = along.peaks(rows, quantity)
        _group(ch, f"heat.peak.{key}", found, _median(ch, "peak"), ".3g")
        for top in ("all", *along.TOPS):
            some = found if top == "all" else found[found["top"] == top]
            cold = some.assign(cold=some["peak"] == along.GRID[0])
            _group(ch, f"heat.peak.{key}.{top}_cold", cold, lambda f: share(f["cold"], f["prompt_id"]), ".1%")
            if top != "all":
                _group(ch, f"heat.peak.{key}.{top}", some, _median(ch, "peak"), ".3g")


def _record_theorems(ch: Chapter) -> None:
    """How far the estimates are off at the ends of the sweep, and whether the proven intervals hold everywhere."""
    least = []
    for quantity in measure.THEOREMS:
        rows = measure.estimates(ch, quantity)
        within = agreement.inside(rows).groupby(rows["temperature"]).mean()
        least.append(float(within.min()))
        told = measure.off(rows)
        for name, t in ENDS.items():
            _group(ch, f"heat.factor.{SHORT[quantity]}.{name}", told[told["temperature"] == t], _factor(ch), ".3g")
    ch.value("heat.inside", min(least), exact=True, fmt=".2%")
    hot = measure.points(ch)
    hot = hot[(hot["temperature"] == ENDS["high"]) & (hot["var_u"] > 0)]
    hot = hot.assign(ratio=hot["one_minus_cos_p"] / along.hot_limit(hot["var_u"], ENDS["high"]))
    _group(ch, "heat.hot", hot, _median(ch, "ratio"), ".3g")


def _factor(ch: Chapter) -> Callable[[pd.DataFrame], tuple]:
    return lambda f: bootstrap(f[["prompt_id", "off"]], lambda g: np.exp(np.median(g["off"])), seed=ch.seed)


# ---------------------------------------------------------------- sentences


def say(found: Found) -> dict[str, str]:
    """What the page says of this run: where softmax amplifies, why C7 is what it is, sizes, peaks, theorems."""
    angle, sorts = _angle(found), _sorts(found)
    return {
        "answer": f"{angle} {sorts}",
        "mean": _mean(found),
        "size": _size(found),
        "peaks": _peaks(found),
        "theorems": _theorems(found),
    }


def _angle(found: Found) -> str:
    groups: dict[int, list[str]] = {1: [], -1: [], 0: []}
    for band, key in KEYS.items():
        name = f"heat.normed.{key}.share"
        if found.is_defined(name):
            groups[found.side(name, 0.5)].append(f"{band} ({found.bracketed(name)})")
    more, fewer, undecided = groups[1], groups[-1], groups[0]
    said = []
    if more:
        said.append(f"at most points where the dense model's largest probability is {listed(more)}")
    if fewer:
        said.append(f"at fewer than half where it is {listed(fewer)}")
    if undecided:
        said.append(f"at a share not told apart from half where it is {listed(undecided)}")
    if not said:
        return "No group of points is large enough to say where softmax amplifies."
    return f"At T = 1 softmax turns the probabilities further than the logits {', '.join(said)}."


def _sorts(found: Found) -> str:
    """Kept and overtaken tokens, from T = 1 to the lowest temperature."""
    low = found.show("heat.low")
    sides, said = {}, []
    for top in along.TOPS:
        name = f"heat.{top}.low_ratio"
        if not found.is_defined(name):
            said.append(f"is not defined where the top token is {top} (too few points)")
            continue
        sides[top] = found.side(name, 1.0)
        moves = by_side(sides[top], "rises", "falls", "is not told apart from what it was")
        said.append(f"{moves} where the top token is {top} (times {found.bracketed(name)})")
    first = f"Cooled from T = 1 to {low}, the mean of 1 − cos p {' and '.join(said)}"
    if (sides.get("kept"), sides.get("overtaken")) == (-1, 1):
        points = found.show("heat.kept.points")
        return f"{first}: cooling sorts the points. The top token is kept at {points} of them."
    return f"{first}: cooling does not sort the points by what becomes of their top token."


def _mean(found: Found) -> str:
    """What the mean over all tokens and the count of tokens, the two parts of C7, hang on."""
    mean = by_side(
        found.side("heat.all.low_ratio", 1.0), "rises", "falls", "is not told apart from what it was at T = 1"
    )
    most = by_side(
        found.side("heat.all.low_share", 0.5),
        "it is larger at most points",
        "it is smaller at most points",
        "it is larger at about as many points as it is smaller",
    )
    sides = found.side("heat.all.low_ratio", 1.0), found.side("heat.all.low_share", 0.5)
    link = "but" if sides[0] * sides[1] < 0 else "and"
    text = (
        f"At T = {found.show('heat.low')} the mean of 1 − cos p over all tokens {mean} "
        f"(times {found.bracketed('heat.all.low_ratio')}), {link} {most} (larger at "
        f"{found.bracketed('heat.all.low_share')})."
    )
    key = "heat.overtaken.part_low"
    if not found.is_defined(key):
        return text
    carried = by_side(
        found.side(key, 0.5),
        "Most of that mean belongs to overtaken tokens",
        "Less than half of that mean belongs to overtaken tokens",
        "About half of that mean belongs to overtaken tokens",
    )
    return f"{text} {carried} ({found.bracketed(key)}; at T = 1 {found.bracketed('heat.overtaken.part_one')})."


def _size(found: Found) -> str:
    beyond = {key: found.number(f"heat.{key}.beyond") for key in ("lipschitz", "range")}
    if not any(beyond.values()):
        holds = "Both bounds hold at every point and temperature"
    else:
        names = {"lipschitz": "the ½-Lipschitz bound", "range": "the bound by the range"}
        broken = [f"{names[k]} at {found.show(f'heat.{k}.beyond')}" for k, count in beyond.items() if count]
        holds = f"Points above a bound by more than rounding: {listed(broken)}"
    most = found.show("heat.gain.most")
    amplified = (
        f"in absolute size no perturbation is amplified (‖Δp‖₂ is at most {most} of ‖Δz‖₂)"
        if found.number("heat.gain.most") <= 1
        else f"in absolute size some perturbations are amplified (‖Δp‖₂ is up to {most} times ‖Δz‖₂)"
    )
    relative = by_side(
        found.side("heat.relative.one", 0.5), "most points", "fewer than half of the points", "about half of the points"
    )
    return (
        f"{holds}; {amplified}. Relative to the lengths of p and z, Δp is longer than Δz at {relative} at T = 1 "
        f"({found.bracketed('heat.relative.one')})."
    )


def _peaks(found: Found) -> str:
    said = []
    for quantity in ("one_minus_cos_p", "kl_dense_pruned"):
        key = f"heat.peak.{SHORT[quantity]}"
        name = DEVIATIONS[quantity]
        if not found.is_defined(key):
            said.append(f"{name} has no peak that is told from rounding.")
            continue
        where = by_side(found.side(key, 1.0), "above T = 1", "below T = 1", "at a temperature not told apart from 1")
        sentence = f"{name} of the median point is largest {where} ({found.bracketed(key)})"
        cold = {top: f"{key}.{top}_cold" for top in along.TOPS}
        if all(map(found.is_defined, cold.values())):
            shares = [found.show(cold[top]) for top in along.TOPS]
            sentence += (
                f"; of points with a kept top token {shares[0]} have their peak at the lowest temperature, of those "
                f"with an overtaken one {shares[1]}"
            )
        said.append(f"{sentence}.")
    return " ".join(said)


def _theorems(found: Found) -> str:
    inside = found.number("heat.inside")
    holds = (
        "The proven intervals hold at every point and every temperature."
        if inside == 1
        else f"The proven intervals hold at {found.show('heat.inside')} of the points or more at every temperature."
    )
    said = []
    for key, name in (("cosine", "Theorem 2"), ("kl", "Theorem 3")):
        ends = {end: f"heat.factor.{key}.{end}" for end in ENDS}
        if not all(map(found.is_defined, ends.values())):
            continue
        cold, hot = found.ends(ends["low"]), found.ends(ends["high"])
        worse = int(cold[0] > hot[1]) - int(cold[1] < hot[0])
        where = by_side(worse, "is further off cold than hot", "is further off hot than cold",
                        "is off cold about as far as hot")  # fmt: skip
        numbers = [found.show(key) for key in ends.values()]
        said.append(
            f"The estimate of {name} {where}: typically by a factor of {numbers[0]} at T = {found.show('heat.low')}, "
            f"{numbers[1]} at T = 1, and {numbers[2]} at T = {found.show('heat.high')}."
        )
    return " ".join([holds, *said])
