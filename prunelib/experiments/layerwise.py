"""The all-layers trace: one sublayer dropped at a time along the dense model's own text.

The dense model continues every prompt greedily; the resulting sequences are
fed back teacher-forced, and at chosen decoding positions each sublayer is
removed alone (the paper's layerwise protocol). The tables are shared by
the theorem chapters, the LM-head chapter and the layer curves.

The base of every comparison is the dense state, the stream right after the sublayer; the pruned one is that stream
without the sublayer's output, with all earlier tokens in view. α and β are relative to the dense state.
The authors' scripts (CASE-Lab-UMD/Pruning-on-Representations, ``transition_layerwise_compare.py`` and
``transition_metrics_logging.py``) call the base ``residual``. For replaced weights it is the dense state too, but KL
and the weighted variances are those of the pruned p, KL(pruned ‖ dense), and the replaced attention runs without the
cache, so that it sees one token only. For dropped sublayers the base is the recorded ``residual``, by its name the
stream before the sublayer, which is the pruned state: α and β are relative to that, KL and variances to the dense p.
Cosines are the same either way.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from prunelib.errors import PrunelibError
from prunelib.experiments.chapter import Chapter, prompt_file
from prunelib.experiments.zoo import drop_order
from prunelib.measure.stats import bands, bootstrap, cluster_mean, share, smooth

BATCH = 4  # prompts in one resumable unit
LENSES = ("raw", "normed")
INDEX = ["prompt_id", "kind", "position"]


@dataclass(frozen=True)
class Traces:
    """Trace tables with ``prompt_id`` and ``kind`` columns (columns: see measure.trace)."""

    h: pd.DataFrame
    z: pd.DataFrame
    p: pd.DataFrame


def trajectories(ch: Chapter) -> pd.DataFrame:
    """The dense model's greedy continuations: ``prompt_id, kind, n_prompt, input_ids, text``."""

    def compute(prompts) -> dict[str, pd.DataFrame]:
        from prunelib import text

        found = text.trajectories(ch.lm, prompts, ch.settings.new_tokens, seed=ch.seed)
        columns = ["prompt_id", "kind", "n_prompt", "input_ids", "text"]
        rows = [[getattr(t, c) for c in columns] for t in found]
        return {"trajectories": pd.DataFrame(rows, columns=columns)}

    from prunelib.text import load_prompts

    prompts = load_prompts(ch.prompts_source, ch.settings.prompts)
    key = {
        "prompts": prompt_file(ch.prompts_source),
        "limit": ch.settings.prompts,
        "new_tokens": ch.settings.new_tokens,
    }
    groups = [prompts[i : i + 16] for i in range(0, len(prompts), 16)]
    return ch.tables(["trajectories"], key, groups, compute)["trajectories"]


def _key(ch: Chapter, paths: pd.DataFrame) -> dict:
    """Traces depend on the very token ids that are fed back."""
    ids = [list(map(int, x)) for x in paths["input_ids"]]
    return {"ids": ids, "n_prompt": paths["n_prompt"].tolist()}


def _batch(ch: Chapter, rows: pd.DataFrame):
    """Left-padded ids and mask of some trajectories, and where decoding starts in each row."""
    import torch

    longest = max(len(x) for x in rows["input_ids"])
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for i, x in enumerate(rows["input_ids"]):
        ids[i, longest - len(x) :] = torch.tensor(x)
        mask[i, longest - len(x) :] = 1
    # The state at the last prompt token decides the first written token.
    first = [longest - len(x) + n - 1 for x, n in zip(rows["input_ids"], rows["n_prompt"], strict=True)]
    return ids.to(ch.lm.device), mask.to(ch.lm.device), first


def _decoding_positions(first: list[int], length: int, count: int):
    """``count`` evenly spaced decoding positions of each row, as a boolean mask [rows, length]."""
    import torch

    chosen = torch.zeros(len(first), length, dtype=torch.bool)
    for i, start in enumerate(first):
        steps = np.linspace(start, length - 2, min(count, length - 1 - start))
        chosen[i, np.unique(steps.round().astype(int))] = True
    return chosen


def _trace(ch: Chapter, rows: pd.DataFrame, count: int, **options) -> dict[str, pd.DataFrame]:
    from prunelib.measure.trace import trace_layers

    ids, mask, first = _batch(ch, rows)
    chosen = _decoding_positions(first, ids.shape[1], count).to(ids.device)
    traced = trace_layers(ch.lm, ids, mask, chosen, lenses=LENSES, **options)
    names = pd.DataFrame({"row": range(len(rows)), "prompt_id": rows["prompt_id"].to_numpy()})
    names["kind"], names["first"] = rows["kind"].to_numpy(), first
    frames = {}
    for space in ("h", "z", "p"):
        frame = getattr(traced, space).merge(names, on="row", how="left", validate="many_to_one")
        frame["position"] -= frame["first"]  # 0 = the step that writes the first token
        rest = [c for c in frame if c not in (*INDEX, "row", "first")]
        frames[space] = frame[INDEX + rest]
    return frames


def layerwise(ch: Chapter) -> Traces:
    """Every sublayer of every layer, at the profile's number of decoding positions a prompt.

    The raw lens is traced at T = 1 (the paper's code), the normed lens at every
    temperature of the run.
    """
    paths = trajectories(ch)
    key = _key(ch, paths) | {"positions": ch.settings.layer_positions, "temperatures": ch.temperatures}
    temperatures = {"raw": (1.0,), "normed": ch.temperatures}
    names = ["layerwise_h", "layerwise_z", "layerwise_p"]

    def compute(rows) -> dict[str, pd.DataFrame]:
        frames = _trace(ch, rows, ch.settings.layer_positions, temperatures=temperatures)
        return {f"layerwise_{space}": frame for space, frame in frames.items()}

    groups = [paths.iloc[i : i + BATCH] for i in range(0, len(paths), BATCH)]
    found = ch.tables(names, key, groups, compute)
    return Traces(*(found[name] for name in names))


def middle_layer(ch: Chapter, layer: int = -1, temperature: float = 1.0) -> Traces:
    """One attention sublayer at every decoding position (paper, Fig. 6). ``layer`` -1: the middle one.

    Raises PrunelibError when the model has no such layer or T <= 0.
    """
    n = ch.model["n_layers"]
    layer = n // 2 if layer == -1 else layer
    if not 0 <= layer < n:
        raise PrunelibError(f"layer must be -1 or 0 to {n - 1} for this model, got {layer}")
    if not temperature > 0:
        raise PrunelibError(f"temperature must be above 0, got {temperature:g}")
    paths = trajectories(ch)
    names = ["middle_h", "middle_z", "middle_p"]

    def compute(rows) -> dict[str, pd.DataFrame]:
        options = {"layers": [layer], "sublayers": ("attn",), "temperatures": (temperature,)}
        frames = _trace(ch, rows, ch.settings.new_tokens, **options)
        return {f"middle_{space}": frame for space, frame in frames.items()}

    key = _key(ch, paths) | {"layer": layer, "temperature": temperature}
    groups = [paths.iloc[i : i + 2 * BATCH] for i in range(0, len(paths), 2 * BATCH)]
    found = ch.tables(names, key, groups, compute)
    return Traces(*(found[name] for name in names))


# ---------------------------------------------------------------- what the figures draw


def middle_layers(n_layers: int) -> range:
    """The middle half of the layers, where the paper reads its layer curves."""
    return range(n_layers // 4, max(n_layers // 4 + 1, n_layers - n_layers // 4))


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


def layer_bands(ch: Chapter, sublayer: str) -> pd.DataFrame:
    """Cosine by layer for one kind of sublayer, with the paper's digitised mean beside it.

    Columns: ``source`` (this model | paper), ``space, lens, layer, depth``
    (relative, 0 to 1), ``mean, mean_lo, mean_hi, q05, q95, min, max``.
    """
    from prunelib import paper

    rows = similarity(layerwise(ch))
    rows = rows[rows["sublayer"] == sublayer]
    ours = bands(rows, "cosine", ["space", "lens", "layer"])
    ours.insert(0, "source", "this model")
    pieces = [ours.assign(depth=ours["layer"] / max(1, ch.model["n_layers"] - 1))]
    for space, name in (("h", "embedding"), ("z", "logit"), ("p", "probability")):
        series = paper.series(f"fig:pruning_hierarchies_{sublayer}", name)
        theirs = pd.DataFrame({"source": "paper", "space": space, "lens": "raw", "layer": series["x"]})
        _, layers = paper.source(f"fig:pruning_hierarchies_{sublayer}", name)
        pieces.append(theirs.assign(depth=series["x"] / (layers - 1), mean=series["y"]))
    return pd.concat(pieces, ignore_index=True)


def amplification(ch: Chapter) -> pd.DataFrame:
    """``(1 − cos p) / (1 − cos z)`` by layer at T = 1: quartiles, and the share of tokens above 1.

    One row for each ``sublayer, lens, layer``; ``share`` has a 95 % interval
    over prompts.
    """
    rows = _amplification_rows(layerwise(ch))
    records = []
    for group, part in rows.groupby(["sublayer", "lens", "layer"], sort=True):
        q25, median, q75 = np.percentile(part["ratio"], [25, 50, 75])
        above = share(part["ratio"] > 1, part["prompt_id"])
        record = dict(zip(("sublayer", "lens", "layer"), group, strict=True))
        record |= {"q25": q25, "median": median, "q75": q75}
        records.append(record | dict(zip(("share", "share_lo", "share_hi"), above, strict=True)))
    return pd.DataFrame.from_records(records)


def _amplification_rows(traces: Traces, temperature: float = 1.0) -> pd.DataFrame:
    index = ["prompt_id", "position", "sublayer", "layer", "lens"]
    p = traces.p[traces.p["temperature"] == temperature]
    rows = p.merge(traces.z[[*index, "one_minus_cos_z"]], on=index, validate="one_to_one")
    # A point whose logits did not move has no ratio.
    rows = rows[rows["one_minus_cos_z"] > 0]
    return rows.assign(ratio=rows["one_minus_cos_p"] / rows["one_minus_cos_z"])


def temperature_curves(ch: Chapter) -> pd.DataFrame:
    """Mean ``1 − cos p`` and KL(dense ‖ pruned) against T in the middle half of the layers (normed lens)."""
    p = layerwise(ch).p
    p = p[(p["lens"] == "normed") & p["layer"].isin(middle_layers(ch.model["n_layers"]))]
    pieces = []
    for measure in ("one_minus_cos_p", "kl_dense_pruned"):
        pieces.append(bands(p, measure, ["sublayer", "temperature"]).assign(measure=measure))
    return pd.concat(pieces, ignore_index=True)


# ---------------------------------------------------------------- what the claims say


def record(ch: Chapter) -> pd.DataFrame:
    """Record the values and claims C4, C6 and C7 of the layer chapter; returns them as a table."""
    traces = layerwise(ch)
    middle = middle_layers(ch.model["n_layers"])
    rows = similarity(traces)
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
    ch.claim("C4", *bootstrap(rows[rows["lens"] == "raw"], _spread_gap, seed=ch.seed))
    _record_amplification(ch, traces, middle)
    return claims_table(ch)


def _spread_gap(rows: pd.DataFrame) -> float:
    """How much lower the 5th percentile of cos p lies than that of cos z."""
    z, p = (rows.loc[rows["space"] == s, "cosine"].to_numpy() for s in ("z", "p"))
    return float(np.percentile(z, 5) - np.percentile(p, 5))


def _record_amplification(ch: Chapter, traces: Traces, middle: range) -> None:
    ratios = _amplification_rows(traces)
    for lens in LENSES:
        part = ratios[ratios["lens"] == lens]
        ch.value(f"amplification.{lens}.share", *share(part["ratio"] > 1, part["prompt_id"]), fmt=".1%")
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
        if lens == "normed":
            ch.claim("C6", *share(part["ratio"] > 1, part["prompt_id"]))
    p = traces.p[(traces.p["lens"] == "normed") & traces.p["layer"].isin(middle)]
    low, high = min(ch.temperatures), max(ch.temperatures)
    for name, t in (("low", low), ("high", high)):
        ch.value(f"temperature.{name}", t, exact=True, fmt="g")
    wide = p.pivot_table(
        index=["prompt_id", "position", "sublayer", "layer"], columns="temperature", values="one_minus_cos_p"
    ).reset_index()
    for name, t in (("low", low), ("high", high)):
        ratio = smooth(wide, lambda f, t=t: f[t].mean() / f[1.0].mean())
        ch.value(f"temperature.{name}_ratio", *ratio, fmt=".2f")
        worse = share(wide[t] > wide[1.0], wide["prompt_id"])
        ch.value(f"temperature.{name}_share_worse", *worse, fmt=".1%")
    if low < 1:
        ch.claim("C7", *smooth(wide, lambda f: f[low].mean() / f[1.0].mean()))


def claims_table(ch: Chapter) -> pd.DataFrame:
    """What this notebook recorded about the paper's claims."""
    rows = [{"claim": k, **v} for k, v in sorted(ch.run.part["claims"].items())]
    return pd.DataFrame(rows, columns=["claim", "value", "lo", "hi", "verdict"])


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
