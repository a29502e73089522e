"""What the page of layer curves shows: the paper's curves beside ours, drop lists, values and claims."""

import numpy as np
import pandas as pd

from prunelib.chapters.chapter import Chapter
from prunelib.chapters.layerwise import measure
from prunelib.measure.stats import bands, bootstrap, cluster_mean, share, smooth
from prunelib.report import paper
from prunelib.report.sentences import Found, by_side, by_verdict
from prunelib.runs.zoo.models import drop_order
from prunelib.runs.zoo.traces import LENSES, Traces, layerwise, middle_layers


def layer_bands(ch: Chapter, sublayer: str) -> pd.DataFrame:
    """Cosine by layer for one kind of sublayer, with the paper's digitised mean beside it.

    Columns: ``source`` (this model | paper), ``part`` (layer | middle: all points of the middle half of the layers),
    ``space, lens, layer, mean, mean_lo, mean_hi, q05, q95, min, max``. Layers of the paper's model are
    stretched to the depth of this one, so that first lies on first and last on last.
    """
    rows = measure.similarity(layerwise(ch))
    rows = rows[rows["sublayer"] == sublayer]
    ours = bands(rows, "cosine", ["space", "lens", "layer"])
    ours.insert(0, "source", "this model")
    # What captions and text quote of the middle half of the layers is over all its points at once.
    inner = rows[rows["layer"].isin(middle_layers(ch.model["n_layers"]))]
    pooled = bands(inner, "cosine", ["space", "lens"]).assign(source="this model", part="middle")
    pieces = [ours.assign(part="layer"), pooled]
    for space, name in (("h", "embedding"), ("z", "logit"), ("p", "probability")):
        series = paper.series(f"fig:pruning_hierarchies_{sublayer}", name)
        _, layers = paper.source(f"fig:pruning_hierarchies_{sublayer}", name)
        stretched = series["x"] * (ch.model["n_layers"] - 1) / (layers - 1)
        theirs = pd.DataFrame({"source": "paper", "space": space, "lens": "raw", "layer": stretched})
        pieces.append(theirs.assign(part="layer", mean=series["y"]))
    return pd.concat(pieces, ignore_index=True)


def by_site(ch: Chapter) -> pd.DataFrame:
    """Mean ``1 − cos`` over tokens for every sublayer: ``sublayer, layer, space, mean`` (raw lens, T = 1)."""
    rows = measure.similarity(layerwise(ch))
    rows = rows[rows["lens"] == "raw"].assign(mean=lambda f: 1 - f["cosine"])
    return rows.groupby(["sublayer", "layer", "space"], as_index=False)["mean"].mean()


SMALLEST = {"h": 1e-6, "z": 1e-6, "p": 1e-6, "kl": 1e-5}
"""Where the histograms of :func:`deviation_spread` begin; below is rounding."""

DECADE = 10
"""Bins of theirs a decade."""


def deviation_spread(ch: Chapter) -> pd.DataFrame:
    """How the deviations of single tokens are distributed in the middle half of the layers (normed lens, T = 1).

    Rows of part "count" have ``sublayer, quantity`` (h, z, p: 1 − cos; kl: KL(dense ‖ pruned), nats),
    ``left, right`` (ends of a bin) and ``share`` of the tokens; rows of part "summary" ``mean, median, q05, q95``.
    """
    traces, middle = layerwise(ch), middle_layers(ch.model["n_layers"])
    p = traces.p[(traces.p["lens"] == "normed") & (traces.p["temperature"] == 1.0)]
    z = traces.z[traces.z["lens"] == "normed"]
    of = {
        "h": traces.h.set_index(["sublayer", "layer"])["one_minus_cos_h"],
        "z": z.set_index(["sublayer", "layer"])["one_minus_cos_z"],
        "p": p.set_index(["sublayer", "layer"])["one_minus_cos_p"],
        "kl": p.set_index(["sublayer", "layer"])["kl_dense_pruned"],
    }
    rows: list[dict] = []
    for quantity, values in of.items():
        values = values[values.index.get_level_values("layer").isin(middle)]
        for sublayer, some in values.groupby(level="sublayer"):
            about = {"sublayer": sublayer, "quantity": quantity}
            rows += [about | {"part": "count"} | cell for cell in _histogram(some.to_numpy(), SMALLEST[quantity])]
            q05, median, q95 = np.percentile(some, [5, 50, 95])
            numbers = {"mean": some.mean(), "median": median, "q05": q05, "q95": q95}
            rows.append(about | {"part": "summary"} | numbers)
    return pd.DataFrame(rows)


def _histogram(values: np.ndarray, smallest: float) -> list[dict]:
    """Bins of a tenth of a decade from ``smallest`` to the largest value, and the share of ``values`` in each."""
    first = round(DECADE * np.log10(smallest))
    last = int(np.ceil(DECADE * np.log10(max(values.max(), 10 * smallest)) + 1e-9))
    edges = 10.0 ** (np.arange(first, last + 1) / DECADE)
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    shares = zip(edges[:-1], edges[1:], counts / len(values), strict=True)
    return [dict(zip(("left", "right", "share"), cell, strict=True)) for cell in shares]


def record(ch: Chapter) -> None:
    """Record the values and claims C4, C6 and C7 of the layer chapter."""
    traces = layerwise(ch)
    middle = middle_layers(ch.model["n_layers"])
    rows = measure.similarity(traces)
    rows = rows[rows["layer"].isin(middle)]
    ch.value("layerwise.n_points", len(traces.h), exact=True, fmt=",d")
    ch.value("layerwise.n_prompts", traces.h["prompt_id"].nunique(), exact=True, fmt="d")
    ch.value("layerwise.middle_first", middle[0], exact=True, fmt="d")
    ch.value("layerwise.middle_last", middle[-1], exact=True, fmt="d")
    for sublayer in sorted(rows["sublayer"].unique()):
        for lens in LENSES:
            part = rows[(rows["sublayer"] == sublayer) & rows["lens"].isin([lens])]
            for space in ("h", "z", "p") if lens == "raw" else ("z", "p"):
                x = part[part["space"] == space]
                name = f"layerwise.{sublayer}.{lens}.cos_{space}"
                ch.value(name, *cluster_mean(x["cosine"], x["prompt_id"]), fmt=".4f")
                low = bootstrap(x, lambda f: np.percentile(f["cosine"], 5), seed=ch.seed)
                ch.value(f"{name}_q05", *low, fmt=".3f")
    raw = rows[rows["lens"] == "raw"]
    over = {"prompts": raw["prompt_id"].nunique(), "points": len(raw[raw["space"] == "z"])}
    ch.claim("C4", *bootstrap(raw, _spread_gap, seed=ch.seed), over=over)
    _record_amplification(ch, traces, middle)
    ch.say(say(ch.found))


def say(found: Found) -> dict[str, str]:
    """What the page says of this run: which spaces hold, does softmax amplify, and what does the temperature do?"""
    means = "; ".join(
        f"{name} {found.show(f'layerwise.{kind}.raw.cos_h', 'plain')}, "
        f"{found.show(f'layerwise.{kind}.raw.cos_z', 'plain')}, "
        f"{found.show(f'layerwise.{kind}.raw.cos_p', 'plain')}"
        for kind, name in (("attn", "attention"), ("mlp", "MLP"))
    )
    tail = by_verdict(
        found.verdict("C4"),
        "The low tail of the cosine of p lies below that of z",
        "The low tail of the cosine of p does not lie below that of z",
        "Whether the low tail of the cosine of p lies below that of z is not decided",
    )
    answer = (
        f"One sublayer of the middle layers dropped, the mean cosines of h, z and p (raw lens) are: {means}. {tail}: "
        f"the 5th "
        f"percentiles differ by {found.claim('C4')}."
    )
    shares = {lens: found.bracketed(f"amplification.{lens}.share") for lens in LENSES}
    sides = [found.side(f"amplification.{lens}.share", 0.5) for lens in LENSES]
    words = {
        1: "at more than half of the points",
        -1: "at less than half of the points",
        0: "at about half of the points",
    }
    amplifies = (
        f"Softmax turns the probabilities further than the logits {words[sides[1]]} with the normed lens "
        f"({shares['normed']}) "
        f"and {words[sides[0]]} with the raw lens ({shares['raw']}); the lenses disagree."
    )
    if sides[0] == sides[1]:
        amplifies = (
            f"Softmax turns the probabilities further than the logits {words[sides[0]]}, with the raw lens "
            f"({shares['raw']}) "
            f"and with the normed lens ({shares['normed']})."
        )
    low = found.show("temperature.low")
    mean = by_side(found.side("temperature.low_ratio", 1.0), "rises", "falls", "is not told apart from what it was")
    most = by_side(
        found.side("temperature.low_share_worse", 0.5),
        "at most points it is larger",
        "at most points it is smaller",
        "it is larger at about as many points as it is smaller",
    )
    both = found.side("temperature.low_ratio", 1.0) * found.side("temperature.low_share_worse", 0.5)
    link = {1: "and", -1: "but"}.get(both, "and")
    temperature = (
        f"At T = {low} the mean of 1 − cos p {mean} ({found.bracketed('temperature.low_ratio')} times its value at T "
        f"= 1), "
        f"{link} "
        f"{most} (worse at {found.bracketed('temperature.low_share_worse')})."
    )
    if found.number("temperature.low") >= 1:
        temperature = "No temperature below 1 was measured in this run."
    return {"answer": answer, "amplifies": amplifies, "temperature": temperature}


def _spread_gap(rows: pd.DataFrame) -> float:
    """How much lower the 5th percentile of cos p lies than that of cos z."""
    z, p = (rows.loc[rows["space"] == s, "cosine"].to_numpy() for s in ("z", "p"))
    return float(np.percentile(z, 5) - np.percentile(p, 5))


def _record_amplification(ch: Chapter, traces: Traces, middle: range) -> None:
    ratios, amplified = measure.amplification_rows(traces), {}
    for lens in LENSES:
        part = ratios[ratios["lens"] == lens]
        amplified[f"{lens} lens"] = share(part["ratio"] > 1, part["prompt_id"])
        ch.value(f"amplification.{lens}.share", *amplified[f"{lens} lens"], fmt=".1%")
        median = bootstrap(part, lambda f: np.median(f["ratio"]), seed=ch.seed)
        ch.value(f"amplification.{lens}.median", *median, fmt=".3g")
        # Where softmax is saturated there is little left to move.
        sure = part["pmax_dense"] > 0.95
        for name, some in (("saturated", part[sure]), ("open", part[~sure])):
            key = f"amplification.{lens}.share_{name}"
            if len(some):
                ch.value(key, *share(some["ratio"] > 1, some["prompt_id"]), fmt=".1%")
            else:  # the page names it all the same and reads "not defined"
                ch.value(key, None, exact=True)
    of_one = ratios[ratios["lens"] == LENSES[0]]
    over = {"prompts": of_one["prompt_id"].nunique(), "points": len(of_one)}
    ch.claim("C6", parts=amplified, over=over)
    p = traces.p[(traces.p["lens"] == "normed") & traces.p["layer"].isin(middle)]
    low, high = min(ch.temperatures), max(ch.temperatures)
    for name, t in (("low", low), ("high", high)):
        ch.value(f"temperature.{name}", t, exact=True, fmt="g")
    wide = p.pivot_table(
        index=["prompt_id", "position", "sublayer", "layer"], columns="temperature", values="one_minus_cos_p"
    ).reset_index()
    moved = {}
    for name, t in (("low", low), ("high", high)):
        ratio = smooth(wide, lambda f, t=t: f[t].mean() / f[1.0].mean())
        ch.value(f"temperature.{name}_ratio", *ratio, fmt=".2f")
        worse = share(wide[t] > wide[1.0], wide["prompt_id"])
        ch.value(f"temperature.{name}_share_worse", *worse, fmt=".1%")
        moved[name] = {"mean": ratio, "share of points": worse}
    if low < 1:
        ch.claim("C7", parts=moved["low"], over={"prompts": wide["prompt_id"].nunique(), "points": len(wide)})


def drop_lists(ch: Chapter, count: int = 0) -> pd.DataFrame:
    """The layers that cosine importance would drop, in order: one row for each kind of sublayer.

    ``count`` 0 means a quarter of the layers, at most 8. Raises PrunelibError
    when ``count`` is above the number of layers.
    """
    from prunelib.methods.drop import Drop

    count = count or min(8, max(1, ch.model["n_layers"] // 4))
    plans = [(Drop(kind, count), Drop(kind, count).choose(drop_order(ch))) for kind in ("attn", "mlp", "block")]
    rows = [(drop.label, drop.spec, " ".join(str(site.layer) for site in plan.sites)) for drop, plan in plans]
    return pd.DataFrame(rows, columns=["label", "spec", "layers"])
