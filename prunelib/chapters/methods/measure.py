"""Every way to prune and quantize: what it does to the weights, to the stream and to perplexity.

The unit of work is a family of specifications that go through the model in one
walk. Weights that took calibration to find are kept in the run folder, where later notebooks read
them (:mod:`prunelib.runs.zoo.models`)."""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import pandas as pd

from prunelib.errors import PrunelibError
from prunelib.measure.stats import cluster_mean, smooth
from prunelib.methods import Method, default_specs, of_kind, parse, parse_list
from prunelib.models.memory import give_back
from prunelib.runs.progress import report_progress
from prunelib.runs.run import Run
from prunelib.runs.zoo.models import (
    WHOLE,
    calibration,
    compressed_model,
    learned_from,
    saved_weights,
    saving,
    scaled,
)

KINDS = ("dense", "sparsify", "quantize", "drop", "joined")
"""Kinds of methods that this chapter compares."""

WALK = 5
"""At most so many specifications walk through the model together: what a killed run loses is one walk."""


TABLES = ("method_weights", "method_stream", "method_nll")


_INDEX = {"spec": str, "label": str, "seed": int}


_WEIGHT_COLUMNS = _INDEX | {"layer": int, "weight": str, "numel": int, "zeros": int, "relative_error": float}


_STREAM_COLUMNS = _INDEX | {"layer": int, "sequence": int, "one_minus_cos": float}


@dataclass(frozen=True)
class Walk:
    """One unit of work: specifications and the seed of their calibration tokens."""

    specs: tuple[str, ...]
    seed: int


def drop_specs(run: Run) -> tuple[str, ...]:
    """Attention, MLP and block drops of the sizes used throughout: 8, 4 and 4 of 30 layers."""
    return tuple(scaled(run, ["drop:attn:8", "drop:mlp:4", "drop:block:4"]))


def families(named: Iterable[Method]) -> list[tuple[str, ...]]:
    """Specifications that walk through the model together: of one kind, with or without data, at most :data:`WALK`."""
    groups: dict[tuple, list[str]] = {}
    for method in named:
        # Without data, all kinds go together: they share nothing but the dense model beside them.
        groups.setdefault((method.kind, True) if method.needs else ("", False), []).append(method.spec)
    ordered = sorted(groups.items(), key=lambda group: group[0][1])
    return [tuple(some[i : i + WALK]) for _, some in ordered for i in range(0, len(some), WALK)]


def walks_of(run: Run, specs: str = "") -> list[Walk]:
    """What has to be computed: what the registered methods show in the profile, or a user's comma-separated specs."""
    profile = run.profile
    drops, named = drop_specs(run), [parse(one) for one in default_specs(profile)]
    seeded = run.settings.seeded
    if specs:
        named = [method for method in parse_list(specs) if method.kind != "dense"]
        drops = tuple(method.spec for method in named if method.kind in WHOLE)
        seeded = tuple(method.spec for method in named if method.kind == "sparsify" and method.needs)
    walks = [Walk(("dense", *drops), run.seed)]
    walks += [Walk(some, run.seed) for some in families(m for m in named if m.kind not in WHOLE)]
    if seeded:
        walks += [Walk(seeded, run.seed + i) for i in range(1, run.settings.seeds)]
    return walks


def measured(run: Run, specs: str = "") -> dict[str, pd.DataFrame]:
    """The tables of the chapter, one unit for each walk.

    ``method_weights``: each compressed matrix (``numel``, ``zeros``,
    ``relative_error`` of its output on the dense model's inputs).
    ``method_stream``: mean 1 − cos between dense and compressed stream after each
    block, for each calibration sequence; every block before it is compressed too.
    ``method_nll``: negative log-likelihood and token count of each held-out text.
    All with columns ``spec, label, seed``, the last two with ``bits``.
    """
    walks = walks_of(run, specs)
    settings = run.settings
    key = {
        "walks": [[w.specs, w.seed] for w in walks],
        "calibration": run.settings.calibration_key,
        "texts": settings.texts,
    } | learned_from(run, [spec for walk in walks for spec in walk.specs])
    return run.tables(TABLES, key, walks, lambda item: _measure(run, item))


def held_out(run: Run) -> list[tuple[str, list[int]]]:
    """(id, token ids) of texts that no calibration saw: the project's own passages."""
    from prunelib.engine import text
    from prunelib.paths import data_dir

    prompts = text.load_prompts(str(data_dir() / "tasks" / "passages.jsonl"), run.settings.texts)
    return [(p.id, run.lm.encode_one(p.text, chat=False)) for p in prompts]


def _measure(run: Run, item: Walk) -> dict[str, pd.DataFrame]:
    """The tables of one walk. In memory are the dense model, one compressed model at a time, and one block of each."""
    from prunelib.measure.perplexity import text_nll

    found = _drops(run, item) if item.specs[0] == "dense" else _weights(run, item)
    texts, rows = held_out(run), []
    for one in item.specs:
        variant = compressed_model(run, one, item.seed)
        with variant.applied(run.lm):
            nll = text_nll(run.lm, [ids for _, ids in texts])
        about = {"spec": variant.spec, "label": variant.label, "seed": item.seed, "bits": variant.bits_per_weight}
        rows.append(nll.assign(text_id=[name for name, _ in texts], **about))
        del variant  # before the next one is read
        give_back()
    order = [*_INDEX, "bits", "text_id", "nll", "tokens"]
    return found | {"method_nll": pd.concat(rows, ignore_index=True)[order]}


def _weights(run: Run, item: Walk) -> dict:
    """One walk of several specs beside the dense model; what took calibration to find goes to the run folder."""
    from prunelib.methods.apply import output_errors
    from prunelib.methods.walk import walk

    lm, tokens = run.lm, calibration(run, item.seed)
    methods = {one: parse(one) for one in item.specs}
    errors, streams = [], []
    own = item.seed == run.seed
    with ExitStack() as stack:
        kept = {one: stack.enter_context(saving(run, one, item.seed)) for one, m in methods.items() if m.needs}
        for step in walk(lm, methods, tokens, dense=own):
            for one, made in step.new.items():
                if one in kept:
                    kept[one](made)
                if not own:  # other seeds: only what they do to masks and perplexity
                    continue
                about = {"spec": one, "label": methods[one].label, "seed": item.seed}
                errors.append(output_errors(made, step.inputs).assign(**about))
                pairs = [(a.states, b.states) for a, b in zip(step.states["dense"], step.states[one], strict=True)]
                streams.append(_turned(pairs, step.layer).assign(**about))
            report_progress(f"compressing ({', '.join(item.specs)})", step.layer + 1, lm.n_layers)
    return {"method_weights": _joined(errors, _WEIGHT_COLUMNS), "method_stream": _joined(streams, _STREAM_COLUMNS)}


def _turned(pairs, layer: int) -> pd.DataFrame:
    """Mean 1 − cos of each sequence; ``pairs`` are (dense, compressed) states [b, S, d]."""
    import torch

    parts = [1 - torch.cosine_similarity(a.double(), b.double(), dim=-1).mean(1) for a, b in pairs]
    values = torch.cat(parts).clamp(min=0).cpu().numpy()
    return pd.DataFrame({"layer": layer, "sequence": np.arange(len(values)), "one_minus_cos": values})


def _drops(run: Run, item: Walk) -> dict:
    """The dense model and its drop plans; they change no weight."""
    lm, tokens = run.lm, calibration(run, item.seed)
    streams = []
    for one in item.specs[1:]:
        made = compressed_model(run, one, item.seed)
        for layer, pairs in _both_streams(lm, made, tokens).items():
            about = {"spec": one, "label": made.label, "seed": item.seed}
            streams.append(_turned(pairs, layer).assign(**about))
    turned = _joined(streams, _STREAM_COLUMNS)
    return {"method_weights": _joined([], _WEIGHT_COLUMNS), "method_stream": turned}


def _joined(parts: list[pd.DataFrame], columns: dict[str, type]) -> pd.DataFrame:
    """The parts one below the other; an empty table with the right types where there is none."""
    if not parts:
        return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in columns.items()})
    return pd.concat(parts, ignore_index=True)[list(columns)]


def _both_streams(lm, made, tokens, batch_size: int = 8) -> dict[int, list]:
    """(dense, compressed) ``resid_post`` by layer, batch by batch."""
    import torch

    from prunelib.models import hooks

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


def described(table: pd.DataFrame) -> pd.DataFrame:
    """The table with columns ``method`` (its title), ``kind`` and ``setting`` of each row's ``spec``."""
    found = {spec: parse(spec) for spec in table["spec"].unique()}
    columns = {
        "method": {spec: m.full_title for spec, m in found.items()},
        "kind": {spec: m.kind for spec, m in found.items()},
        "setting": {spec: m.shown_setting for spec, m in found.items()},
    }
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
        rows.append((spec, label, parse(spec).kind, float(some["bits"].iloc[0]), perplexity_of(some), *ratio))
    return pd.DataFrame(rows, columns=["spec", "label", "kind", "bits", "perplexity", "ratio", "lo", "hi"])


def _perplexity_ratio(f: pd.DataFrame) -> float:
    return float(np.exp((f["nll"].sum() - f["dense"].sum()) / f["tokens"].sum()))


def perplexity_of(f: pd.DataFrame) -> float:
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


def stability(run: Run, tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Do two calibration seeds remove the same weights, and does it matter?

    One row for each seeded spec and layer: ``overlap``, the share of the weights
    removed with one seed that is also removed with the other (mean over pairs of
    seeds), ``chance``, what two random masks of that sparsity would share, and
    the model's ``perplexity_min`` and ``perplexity_max`` over seeds.
    """
    nll = tables["method_nll"]
    seeds = nll.groupby("spec")["seed"].nunique()
    repeated = [spec for spec in seeds.index if seeds[spec] > 1]
    key = {"specs": repeated, "seeds": run.settings.seeds, "calibration": run.settings.calibration_key}
    masks = run.table("method_masks", key, lambda: _overlaps(run, repeated))
    sums = nll.groupby(["spec", "label", "seed"])[["nll", "tokens"]].sum()
    perplexity = np.exp(sums["nll"] / sums["tokens"]).groupby(["spec", "label"]).agg(["min", "max"]).reset_index()
    perplexity = perplexity.rename(columns={"min": "perplexity_min", "max": "perplexity_max"})
    return described(masks.merge(perplexity, on="spec"))


def _overlaps(run: Run, specs: list[str]) -> pd.DataFrame:
    rows = []
    for spec in specs:
        per_seed = [_zero_masks(run, spec, run.seed + i) for i in range(run.settings.seeds)]
        for together in zip(*per_seed, strict=True):
            layer, masks = together[0][0], [mask for _, mask in together]
            for i, a in enumerate(masks):
                for b in masks[i + 1 :]:
                    rows.append((spec, layer, int((a & b).sum()), int(a.sum()), a.numel()))
    table = pd.DataFrame(rows, columns=["spec", "layer", "shared", "removed", "numel"])
    sums = table.groupby(["spec", "layer"], sort=False)[["shared", "removed", "numel"]].sum().reset_index()
    shares = {"overlap": sums["shared"] / sums["removed"], "chance": sums["removed"] / sums["numel"]}
    return sums[["spec", "layer"]].assign(**shares)


def _zero_masks(run: Run, spec: str, seed: int):
    arrays = saved_weights(run, spec, seed)
    if arrays is None:
        arrays = iter(compressed_model(run, spec, seed).weights.items())
    return ((int(name.partition(".")[0]), weight == 0) for name, weight in arrays)
