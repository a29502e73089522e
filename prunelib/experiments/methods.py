"""Every way to prune and quantize: what it does to the weights, to the stream and to perplexity.

The unit of work is a family of specifications that go through the model in one
walk. Weights that took calibration to find are kept in the run folder, where later notebooks read
them (:mod:`prunelib.experiments.zoo`).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from prunelib import store
from prunelib.errors import PrunelibError
from prunelib.experiments.chapter import Chapter
from prunelib.experiments.checks import parse_specs
from prunelib.experiments.zoo import WHOLE, compressed_model, keep_weights, kept_weights
from prunelib.measure.stats import cluster_mean, smooth
from prunelib.methods import Method, default_specs, of_kind, parse

WALK = 5
"""At most so many specifications walk through the model together: what a killed run loses is one walk."""

SEEDED = {
    "smoke": ("wanda:0.5", "sparsegpt:0.5"),
    "quick": ("wanda:0.5", "sparsegpt:0.5"),
    "full": ("wanda:0.5", "wanda:2:4", "sparsegpt:0.5", "sparsegpt:2:4"),
}
"""Specifications repeated with every calibration seed."""

TABLES = ("method_weights", "method_stream", "method_nll")
_INDEX = {"spec": str, "label": str, "seed": int}
_WEIGHT_COLUMNS = _INDEX | {"layer": int, "weight": str, "numel": int, "zeros": int, "relative_error": float}
_STREAM_COLUMNS = _INDEX | {"layer": int, "sequence": int, "one_minus_cos": float}


@dataclass(frozen=True)
class Walk:
    """One unit of work: specifications and the seed of their calibration tokens."""

    specs: tuple[str, ...]
    seed: int


def drop_specs(ch: Chapter) -> tuple[str, ...]:
    """Attention, MLP and block drops of the sizes used throughout: 8, 4 and 4 of 30 layers."""
    layers = ch.model["n_layers"]
    share = {"attn": 8, "mlp": 4, "block": 4}
    return tuple(f"drop:{kind}:{max(1, layers * n // 30)}" for kind, n in share.items())


def families(named: Iterable[Method]) -> list[tuple[str, ...]]:
    """Specifications that walk through the model together: of one kind, with or without data, at most :data:`WALK`."""
    groups: dict[tuple, list[str]] = {}
    for method in named:
        # Without data, all kinds go together: they share nothing but the dense model beside them.
        groups.setdefault((method.kind, True) if method.needs else ("", False), []).append(method.spec)
    ordered = sorted(groups.items(), key=lambda group: group[0][1])
    return [tuple(some[i : i + WALK]) for _, some in ordered for i in range(0, len(some), WALK)]


def plan_walks(ch: Chapter, specs: str = "") -> list[Walk]:
    """What has to be computed: what the registered methods show in the profile, or a user's comma-separated specs."""
    profile = ch.run.part["profile"]
    drops, named = drop_specs(ch), [parse(one) for one in default_specs(profile)]
    seeded = SEEDED[profile]
    if specs:
        named = [method for method in parse_specs(ch.run.notebook, specs) if method.kind != "dense"]
        drops = tuple(method.spec for method in named if method.kind in WHOLE)
        seeded = tuple(method.spec for method in named if method.kind == "sparsify" and method.needs)
    walks = [Walk(("dense", *drops), ch.seed)]
    walks += [Walk(some, ch.seed) for some in families(m for m in named if m.kind not in WHOLE)]
    if seeded:
        walks += [Walk(seeded, ch.seed + i) for i in range(1, ch.settings.seeds)]
    return walks


def measure(ch: Chapter, specs: str = "") -> dict[str, pd.DataFrame]:
    """The tables of the chapter, one unit for each walk.

    ``method_weights``: each compressed matrix (``numel``, ``zeros``,
    ``relative_error`` of its output on the dense model's inputs).
    ``method_stream``: mean 1 − cos between dense and compressed stream after each
    block, for each calibration sequence; every block before it is compressed too.
    ``method_nll``: negative log-likelihood and token count of each held-out text.
    All with columns ``spec, label, seed``, the last two with ``bits``.
    """
    walks = plan_walks(ch, specs)
    settings = ch.settings
    key = {"walks": [[w.specs, w.seed] for w in walks], "calibration": ch.calibration_key, "texts": settings.texts}
    return ch.tables(TABLES, key, walks, lambda item: _measure(ch, item))


def held_out(ch: Chapter) -> list[tuple[str, list[int]]]:
    """(id, token ids) of texts that no calibration saw: the project's own passages."""
    from prunelib import text
    from prunelib.paths import data_dir

    prompts = text.load_prompts(str(data_dir() / "tasks" / "passages.jsonl"), ch.settings.texts)
    return [(p.id, ch.lm.encode_one(p.text, chat=False)) for p in prompts]


def _measure(ch: Chapter, item: Walk) -> dict[str, pd.DataFrame]:
    from prunelib.methods.apply import Compressed

    found = _drops(ch, item) if item.specs[0] == "dense" else _weights(ch, item)
    variants: list[Compressed] = found.pop("variants")
    texts, rows = held_out(ch), []
    for variant in variants:
        from prunelib.measure.perplexity import text_nll

        with variant.applied(ch.lm):
            nll = text_nll(ch.lm, [ids for _, ids in texts])
        about = {"spec": variant.spec, "label": variant.label, "seed": item.seed, "bits": variant.bits_per_weight}
        rows.append(nll.assign(text_id=[name for name, _ in texts], **about))
    order = [*_INDEX, "bits", "text_id", "nll", "tokens"]
    return found | {"method_nll": pd.concat(rows, ignore_index=True)[order]}


def _weights(ch: Chapter, item: Walk) -> dict:
    """One walk of several specs beside the dense model."""
    from prunelib.methods.apply import NewWeights, compressed, output_errors
    from prunelib.methods.walk import walk

    lm, tokens = ch.lm, ch.calibration(item.seed)
    methods = {one: parse(one) for one in item.specs}
    new: dict[str, dict] = {one: {} for one in methods}
    errors, streams = [], []
    own = item.seed == ch.seed
    for step in walk(lm, methods, tokens, dense=own):
        for one, made in step.new.items():
            new[one] |= made
            if not own:  # other seeds: only what they do to masks and perplexity
                continue
            about = {"spec": one, "label": methods[one].label, "seed": item.seed}
            errors.append(output_errors(made, step.inputs).assign(**about))
            pairs = [(a.states, b.states) for a, b in zip(step.states["dense"], step.states[one], strict=True)]
            streams.append(_turned(pairs, step.layer).assign(**about))
        store.report_progress(f"compressing ({', '.join(item.specs)})", step.layer + 1, lm.n_layers)
    variants = [compressed(lm, methods[one], NewWeights(weights)) for one, weights in new.items()]
    for made in variants:
        if made.method.needs:
            keep_weights(ch, made, item.seed)
    return {
        "method_weights": _joined(errors, _WEIGHT_COLUMNS),
        "method_stream": _joined(streams, _STREAM_COLUMNS),
        "variants": variants,
    }


def _turned(pairs, layer: int) -> pd.DataFrame:
    """Mean 1 − cos of each sequence; ``pairs`` are (dense, compressed) states [b, S, d]."""
    import torch

    parts = [1 - torch.cosine_similarity(a.double(), b.double(), dim=-1).mean(1) for a, b in pairs]
    values = torch.cat(parts).clamp(min=0).cpu().numpy()
    return pd.DataFrame({"layer": layer, "sequence": np.arange(len(values)), "one_minus_cos": values})


def _drops(ch: Chapter, item: Walk) -> dict:
    """The dense model and its drop plans; they change no weight."""
    lm, tokens = ch.lm, ch.calibration(item.seed)
    streams, variants = [], [compressed_model(ch, "dense", item.seed)]
    for one in item.specs[1:]:
        made = compressed_model(ch, one, item.seed)
        variants.append(made)
        for layer, pairs in _both_streams(lm, made, tokens).items():
            about = {"spec": one, "label": made.label, "seed": item.seed}
            streams.append(_turned(pairs, layer).assign(**about))
    turned = _joined(streams, _STREAM_COLUMNS)
    return {"method_weights": _joined([], _WEIGHT_COLUMNS), "method_stream": turned, "variants": variants}


def _joined(parts: list[pd.DataFrame], columns: dict[str, type]) -> pd.DataFrame:
    """The parts one below the other; an empty table with the right types where there is none."""
    if not parts:
        return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in columns.items()})
    return pd.concat(parts, ignore_index=True)[list(columns)]


def _both_streams(lm, made, tokens, batch_size: int = 8) -> dict[int, list]:
    """(dense, compressed) ``resid_post`` by layer, batch by batch."""
    import torch

    from prunelib import hooks

    pairs: dict[int, list] = {layer: [] for layer in range(lm.n_layers)}
    for batch in tokens.split(batch_size):
        with torch.no_grad(), hooks.stop_after(lm, lm.n_layers - 1), hooks.captured(lm, ("resid_post",)) as cap:
            lm.model(input_ids=batch.to(lm.device), use_cache=False)
            dense = dict(cap["resid_post"])
            with made.applied(lm):
                lm.model(input_ids=batch.to(lm.device), use_cache=False)
            for layer, state in dense.items():
                pairs[layer].append((state, cap["resid_post"][layer]))
    return pairs


# ---------------------------------------------------------------- what the figures draw


def described(table: pd.DataFrame) -> pd.DataFrame:
    """The table with columns ``method`` (its title), ``kind`` and ``setting`` of each row's ``spec``."""
    found = {spec: parse(spec) for spec in table["spec"].unique()}
    columns = {"method": {spec: m.full_title for spec, m in found.items()},
               "kind": {spec: m.kind for spec, m in found.items()},
               "setting": {spec: m.shown_setting for spec, m in found.items()}}  # fmt: skip
    return table.assign(**{name: table["spec"].map(values) for name, values in columns.items()})


def memory(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Perplexity of every method against its real size, relative to dense, run's own seed.

    Columns ``spec, label, kind, bits, perplexity, ratio, lo, hi``; the interval is
    that of the ratio, over texts, each compared with itself under the dense model.
    """
    nll = tables["method_nll"]
    nll = nll[nll["seed"] == nll.loc[nll["spec"] == "dense", "seed"].iloc[0]]
    dense = nll[nll["spec"] == "dense"].set_index("text_id")
    rows = []
    for (spec, label), some in nll.groupby(["spec", "label"], sort=False):
        paired = some.assign(dense=dense.loc[some["text_id"], "nll"].to_numpy())
        ratio = smooth(paired, _perplexity_ratio, by="text_id")
        rows.append((spec, label, parse(spec).kind, float(some["bits"].iloc[0]), _perplexity(some), *ratio))
    return pd.DataFrame(rows, columns=["spec", "label", "kind", "bits", "perplexity", "ratio", "lo", "hi"])


def _perplexity_ratio(f: pd.DataFrame) -> float:
    return float(np.exp((f["nll"].sum() - f["dense"].sum()) / f["tokens"].sum()))


def _perplexity(f: pd.DataFrame) -> float:
    return float(np.exp(f["nll"].sum() / f["tokens"].sum()))


def errors_by_layer(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Relative output error of each block: root mean square over its matrices.

    Columns ``spec, label, layer, error`` and those of :func:`described`.
    """
    table = tables["method_weights"]
    if not len(table):
        names = ", ".join(method.name for method in of_kind("sparsify", "quantize"))
        raise PrunelibError(f"no method changed a weight: give one of {names}")
    own = table[table["seed"] == table["seed"].min()]
    squared = own.assign(error=own["relative_error"] ** 2)
    mean = squared.groupby(["spec", "label", "layer"], sort=False)["error"].mean().reset_index()
    return described(mean.assign(error=np.sqrt(mean["error"])))


def stream_by_layer(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Mean 1 − cos of the stream after each block, 95 % interval over calibration sequences."""
    table = tables["method_stream"]
    own = table[table["seed"] == table["seed"].min()]
    rows = []
    for (spec, label, layer), some in own.groupby(["spec", "label", "layer"], sort=False):
        rows.append((spec, label, layer, *cluster_mean(some["one_minus_cos"], some["sequence"])))
    return described(pd.DataFrame(rows, columns=["spec", "label", "layer", "mean", "lo", "hi"]))


def stability(ch: Chapter, tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Do two calibration seeds remove the same weights, and does it matter?

    One row for each seeded spec and layer: ``overlap``, the share of the weights
    removed with one seed that is also removed with the other (mean over pairs of
    seeds), ``chance``, what two random masks of that sparsity would share, and
    the model's ``perplexity_min`` and ``perplexity_max`` over seeds.
    """
    nll = tables["method_nll"]
    seeds = nll.groupby("spec")["seed"].nunique()
    repeated = [spec for spec in seeds.index if seeds[spec] > 1]
    key = {"specs": repeated, "seeds": ch.settings.seeds, "calibration": ch.calibration_key}
    masks = ch.table("method_masks", key, lambda: _overlaps(ch, repeated))
    sums = nll.groupby(["spec", "label", "seed"])[["nll", "tokens"]].sum()
    perplexity = np.exp(sums["nll"] / sums["tokens"]).groupby(["spec", "label"]).agg(["min", "max"]).reset_index()
    perplexity = perplexity.rename(columns={"min": "perplexity_min", "max": "perplexity_max"})
    return described(masks.merge(perplexity, on="spec"))


def _overlaps(ch: Chapter, specs: list[str]) -> pd.DataFrame:
    rows = []
    for spec in specs:
        per_seed = [_zero_masks(ch, spec, ch.seed + i) for i in range(ch.settings.seeds)]
        for together in zip(*per_seed, strict=True):
            layer, masks = together[0][0], [mask for _, mask in together]
            for i, a in enumerate(masks):
                for b in masks[i + 1 :]:
                    rows.append((spec, layer, int((a & b).sum()), int(a.sum()), a.numel()))
    table = pd.DataFrame(rows, columns=["spec", "layer", "shared", "removed", "numel"])
    sums = table.groupby(["spec", "layer"], sort=False)[["shared", "removed", "numel"]].sum().reset_index()
    shares = {"overlap": sums["shared"] / sums["removed"], "chance": sums["removed"] / sums["numel"]}
    return sums[["spec", "layer"]].assign(**shares)


def _zero_masks(ch: Chapter, spec: str, seed: int):
    arrays = kept_weights(ch, spec, seed)
    if arrays is None:
        arrays = iter(compressed_model(ch, spec, seed).weights.items())
    return ((int(name.partition(".")[0]), weight == 0) for name, weight in arrays)


def summary(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """One row a method: bits, exact share of zeros, median output error, perplexity and its ratio to dense."""
    found = memory(tables).set_index("spec")
    weights = tables["method_weights"]
    weights = weights[weights["seed"] == weights["seed"].min()]
    grouped = weights.groupby("spec")
    found["zeros"] = grouped["zeros"].sum() / grouped["numel"].sum()
    found["output_error"] = grouped["relative_error"].median()
    columns = ["label", "bits", "zeros", "output_error", "perplexity", "ratio", "lo", "hi"]
    digits = {"bits": 2, "zeros": 3, "output_error": 3, "perplexity": 1, "ratio": 2, "lo": 2, "hi": 2}
    return found[columns].reset_index(drop=True).round(digits)


def record(ch: Chapter, tables: dict[str, pd.DataFrame], stable: pd.DataFrame) -> pd.DataFrame:
    """Record the chapter's numbers for its prose; returns :func:`summary`."""
    found = memory(tables)
    dense = tables["method_nll"].query("spec == 'dense'")
    ch.value("methods.dense.perplexity", *smooth(dense, _perplexity, by="text_id"), fmt=".1f")
    ch.value("methods.texts", dense["text_id"].nunique(), exact=True, fmt="d")
    ch.value("methods.tokens", int(dense["tokens"].sum()), exact=True, fmt=",d")
    settings = ch.settings
    ch.value("methods.calibration", f"{settings.calibration} × {settings.calibration_tokens}", exact=True, fmt="s")
    ch.value("methods.seeds", settings.seeds, exact=True, fmt="d")
    for row in found[found["spec"] != "dense"].itertuples():
        name = row.spec.replace(":", "-").replace(".", "")
        ch.value(f"methods.{name}.ratio", row.ratio, row.lo, row.hi, fmt=".2f")
        ch.value(f"methods.{name}.bits", row.bits, exact=True, fmt=".2f")
    for spec, some in stable.groupby("spec"):
        name = spec.replace(":", "-").replace(".", "")
        share = some["overlap"]
        ch.value(f"methods.{name}.overlap", share.mean(), share.min(), share.max(), fmt=".0%")
        low, high = some["perplexity_min"].iloc[0], some["perplexity_max"].iloc[0]
        ch.value(f"methods.{name}.seed_spread", high / low - 1, exact=True, fmt=".1%")
    ch.value("methods.best_under_5", *_best(found, 5), exact=True, fmt="s")
    ch.value("methods.best_under_10", *_best(found, 10), exact=True, fmt="s")
    return summary(tables)


def _best(found: pd.DataFrame, bits: float) -> tuple[str]:
    """Label of the method with the lowest perplexity at no more than ``bits`` a weight."""
    some = found[(found["bits"] <= bits) & (found["spec"] != "dense")]
    return (some.loc[some["ratio"].idxmin(), "label"] if len(some) else "none",)
