"""What a compressed model needs in storage: all of it, not its block matrices alone.

Bytes are counted, not measured: matrices of the blocks at the bits that their method stores
(:meth:`prunelib.methods.base.Method.bits_per_weight`), everything else at 16 bits, nothing of what is dropped.
"""

from collections.abc import Iterable, Sequence

import pandas as pd

from prunelib.methods import parse
from prunelib.models.slots import slots
from prunelib.models.sublayers import Site
from prunelib.runs.run import Run
from prunelib.runs.zoo.models import plan_of

PLAIN_BITS = 16
"""Of every number that no method compresses, whatever type it was loaded in."""

_REST, _BOTH = "rest", "both"


def tensors(lm) -> pd.DataFrame:
    """Every parameter of a model once, tied ones too: ``name, layer, part, numel, d_out, d_in``.

    ``part`` is ``attn`` or ``mlp`` (the sublayer's own norms are its part), ``both`` for what the two sublayers of
    a block share, ``rest`` for what is in no block (``layer`` −1). ``d_out`` and ``d_in`` are 0 for all but the
    matrices that methods compress; of stacked experts they are those of one.
    """
    from prunelib.methods.weights import all_weights

    matrices = {weight.slot: weight.shape for weight in all_weights(lm)}
    places = {slot: (i, path) for i, block in enumerate(lm.layers) for path, slot in slots(block)}
    rows = []
    for name, slot in slots(lm.model):
        layer, path = places.get(slot, (-1, ""))
        part = _REST if layer < 0 else _part(lm.arch, path)
        rows.append((name, layer, part, slot.parameter.numel(), *matrices.get(slot, (0, 0))))
    return pd.DataFrame(rows, columns=["name", "layer", "part", "numel", "d_out", "d_in"])


def _part(arch, path: str) -> str:
    """The sublayer of a block that a parameter belongs to."""
    own = {
        "attn": (arch.attn, arch.attn_norm, arch.attn_post),
        "mlp": (arch.mlp, arch.mlp_in, arch.mlp_norm, arch.mlp_post),
    }
    inside = (part for part, places in own.items() if any(path.startswith(f"{p}.") for p in places if p))
    return next(inside, _BOTH)


def whole_bytes(stored: pd.DataFrame, spec: str, sites: Iterable[Site] = ()) -> float:
    """Bytes of a model whose :func:`tensors` are ``stored``, compressed by ``spec``; ``sites`` are those it drops.

    Dense: two bytes a parameter. Of several joined methods the one that changes weights says how they are stored.
    """
    method = parse(spec)
    parts = getattr(method, "parts", (method,))
    changing = next((part for part in parts if part.kind in ("sparsify", "quantize")), None)
    gone = {(one.kind, one.layer) for site in sites for one in site.sublayers}
    bits = 0.0
    for row in stored.itertuples():
        kinds = ("attn", "mlp") if row.part == _BOTH else (row.part,)
        if all((kind, row.layer) in gone for kind in kinds):
            continue
        compressed = changing is not None and row.d_out > 0
        bits += row.numel * (changing.bits_per_weight((row.d_out, row.d_in)) if compressed else PLAIN_BITS)
    return bits / 8


def largest_sparsity(stored: pd.DataFrame, method: str, spec: str) -> str:
    """The specification ``method:S`` of the largest sparsity S, in whole percents, whose model is no smaller than
    that of ``spec``: an equal weight that is never to the loss of the pruned model."""
    least = whole_bytes(stored, spec)
    fits = (percent for percent in range(99, -1, -1) if whole_bytes(stored, f"{method}:{percent / 100:g}") >= least)
    return f"{method}:{next(fits, 0) / 100:g}"


def run_tensors(run: Run) -> pd.DataFrame:
    """:func:`tensors` of the run's model, kept as a table."""

    def compute() -> pd.DataFrame:
        return tensors(run.lm)

    return run.table("stored_tensors", {}, compute)


def _sites(run: Run, spec: str) -> Sequence[Site]:
    """What a specification drops, by the run's own calibration text."""
    method = parse(spec)
    dropping = [part.spec for part in getattr(method, "parts", (method,)) if part.kind == "drop"]
    return [site for one in dropping for site in plan_of(run, one).sites]


def memory(run: Run, specs: Sequence[str]) -> pd.DataFrame:
    """``spec, label, kind, bytes`` and ``share`` (of the dense bytes) of the dense model and each of ``specs``."""
    stored, rows = run_tensors(run), []
    dense = whole_bytes(stored, "dense")
    for spec in dict.fromkeys(("dense", *specs)):
        method = parse(spec)
        size = whole_bytes(stored, spec, _sites(run, spec))
        rows.append((spec, method.label, method.kind, size, size / dense))
    return pd.DataFrame(rows, columns=["spec", "label", "kind", "bytes", "share"])


def plain(run: Run, specs: Sequence[str]) -> pd.DataFrame:
    """``spec, plain`` (bytes) and ``plain_share`` (of the dense bytes) without a format of its own: 16 bits a number.

    Zeros and rounded weights take as much as others; dropped sublayers are left out.
    """
    stored = run_tensors(run)
    dense = whole_bytes(stored, "dense")
    found = {spec: whole_bytes(stored, "dense", _sites(run, spec)) for spec in dict.fromkeys(("dense", *specs))}
    return pd.DataFrame([(spec, size, size / dense) for spec, size in found.items()],
                        columns=["spec", "plain", "plain_share"])  # fmt: skip
