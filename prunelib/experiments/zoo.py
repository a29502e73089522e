"""What several chapters of a run share: importance scores, drop plans, compressed models.

Each is computed once, kept in the run folder, and read there by every later notebook; no chapter
asks another for it.
"""

import numpy as np
import pandas as pd

from prunelib import store
from prunelib.experiments.chapter import Chapter
from prunelib.methods import parse
from prunelib.methods.plans import DropPlan, Site

WHOLE = ("drop", "joined")
"""Kinds that are applied to a model as a whole; the others walk through it block by block."""


def drop_order(ch: Chapter, seed: int | None = None) -> pd.DataFrame:
    """Importance of every sublayer and block on text sampled from the dense model itself.

    ``seed`` is that of the calibration text, the run's own unless given. Columns
    ``layer, kind, cosine`` (similarity of the residual stream before and after, mean
    over calibration tokens) and ``rank`` (0 is dropped first).
    """

    def compute() -> pd.DataFrame:
        from prunelib.methods.criterion import COSINE

        scores = COSINE.scores(ch.lm, ch.calibration(seed))
        order = scores.sort_values(["kind", "cosine", "layer"], ascending=[True, False, True])
        order["rank"] = order.groupby("kind").cumcount()
        return order.sort_values(["kind", "layer"], ignore_index=True)

    own = seed is None or seed == ch.seed
    key = {"calibration": ch.calibration_key} | ({} if own else {"of_seed": seed})
    return ch.table("drop_order" if own else f"drop_order_seed{seed}", key, compute)


def plan_of(ch: Chapter, spec: str, seed: int | None = None):
    """The sites that a specification drops, by the calibration text of ``seed``, the run's own unless given.

    Those that scores of the dense model do not give (``drop:attn:8:iter``, ``drop:angular:4``) are kept as a table.
    """
    seed, method = ch.seed if seed is None else seed, parse(spec)
    if not method.needs:
        return DropPlan(method.sites)
    if method.chosen_at_once:
        return method.choose(drop_order(ch, seed))

    def compute() -> pd.DataFrame:
        sites = method.plan(ch.lm, ch.calibration(seed)).sites
        return pd.DataFrame({"kind": [s.kind for s in sites], "layer": [s.layer for s in sites]})

    key = {"spec": method.spec, "calibration": ch.calibration_key, "of_seed": seed}
    found = ch.table(f"drop_plan_{method.spec.replace(':', '-')}_seed{seed}", key, compute)
    return DropPlan(tuple(Site(row.kind, int(row.layer)) for row in found.itertuples()), {})


# ---------------------------------------------------------------- weights that took calibration to find


_MASK = "mask"


def _file(ch: Chapter, spec: str, seed: int):
    return ch.run.folder / "weights" / f"{store.short(spec.replace(':', '-'))}.seed{seed}.parquet"


def _key(ch: Chapter, spec: str, seed: int) -> dict:
    return ch.key(__name__, spec=spec, calibration=ch.calibration_key, calibration_seed=seed)


def keep_weights(ch: Chapter, made, seed: int) -> None:
    """Exact: the weights themselves, or only the mask where all others kept their dense value."""
    import torch

    from prunelib.methods.weights import all_weights

    dense = {weight.name: weight for weight in all_weights(ch.lm)}
    target = _file(ch, made.spec, seed)
    with store.ArrayFile(target, _key(ch, made.spec, seed)) as file:
        for name, weight in made.weights.items():
            kept = weight != 0
            if torch.equal(weight, dense[name].get().masked_fill(~kept, 0)):
                file.add(name, weight.shape, _MASK, np.packbits(kept.cpu().numpy()).tobytes())
                continue
            plain = weight.detach().cpu().contiguous()
            data = plain.view(-1).view(torch.uint8).numpy().tobytes()
            file.add(name, plain.shape, str(plain.dtype).removeprefix("torch."), data)
    store.seal(target)


def kept_weights(ch: Chapter, spec: str, seed: int):
    """``(name, tensor)`` one at a time from the run folder, or None where it has no such file."""
    import torch

    from prunelib.methods.weights import all_weights

    file = _file(ch, spec, seed)
    arrays = store.read_arrays(file, _key(ch, spec, seed)) if store.is_sealed(file) else None
    if arrays is None:
        return None
    dense = {weight.name: weight for weight in all_weights(ch.lm)}

    def tensor(name, shape, dtype, data):
        if dtype != _MASK:
            return torch.frombuffer(bytearray(data), dtype=getattr(torch, dtype)).view(*shape)
        kept = np.unpackbits(np.frombuffer(data, np.uint8), count=shape[0] * shape[1])
        whole = dense[name].get()
        return whole.masked_fill(torch.from_numpy(kept).bool().view(*shape).to(whole.device).logical_not(), 0)

    return ((name, tensor(name, shape, dtype, data)) for name, shape, dtype, data in arrays)


def compressed_model(ch: Chapter, spec: str, seed: int | None = None):
    """A compressed model of this run: read from its folder, or computed and kept there.

    ``seed`` is that of the calibration tokens, by default the run's. Drops are
    planned on the importance scores of that text, data-free methods are computed
    anew, which is as fast as reading.
    """
    from prunelib.methods import apply

    seed, method = ch.seed if seed is None else seed, parse(spec)
    if method.kind == "drop":
        return apply.compressed(ch.lm, method, apply.Dropped(plan_of(ch, spec, seed)))
    saved = kept_weights(ch, spec, seed) if method.needs else None
    if saved is not None:
        return apply.compressed(ch.lm, method, apply.NewWeights(dict(saved)))
    tokens = ch.calibration(seed) if method.needs else None
    made = apply.compress(ch.lm, [spec], tokens)[spec]
    if method.needs and method.kind not in WHOLE:
        keep_weights(ch, made, seed)
    return made
