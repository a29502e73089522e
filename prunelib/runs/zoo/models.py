"""Importance scores, drop plans and compressed models of a run, each computed once and kept in its folder."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from prunelib.files import is_sealed, seal, short_name
from prunelib.methods import parse
from prunelib.methods.base import JOIN
from prunelib.models.memory import give_back
from prunelib.models.sublayers import DropPlan, Site
from prunelib.runs.progress import report_progress
from prunelib.runs.run import Run
from prunelib.runs.tables import ArrayFile, read_arrays

WHOLE = ("drop", "joined")
"""Kinds that are applied to a model as a whole; the others walk through it block by block."""


def calibration(run: Run, seed: int | None = None):
    """Calibration token ids [n, length], sampled from the dense model; kept as a table of the run.

    ``seed`` is the run's own unless given. Sampling is slow, and every method
    of a run should see the same text.
    """
    seed, settings = run.seed if seed is None else seed, run.settings
    key = {"calibration": settings.calibration_key, "of_seed": seed}
    return _sampled(run, f"calibration_seed{seed}", key, settings.calibration, settings.calibration_tokens, seed)


TRAINING, HELD = 1000, 3000
"""Added to the seed of what repairs learn from and of what they are judged on: neither is calibration text, and the
learning rates of the repairs were not chosen on the second."""


def training(run: Run, seed: int | None = None):
    """Token ids [n, length] that repairs learn from: :func:`training_text` without the rest."""
    return _ids(training_text(run, seed))


SAMPLES, ANSWERS = "samples", "answers"


def training_text(run: Run, seed: int | None = None) -> pd.DataFrame:
    """What repairs learn from, a table of the run: ``sequence, position, token, source``.

    In turn a row sampled from the dense model (:data:`SAMPLES`) and one of its :data:`ANSWERS` to questions on
    passages that no item is about (tasks.answered); samples alone where there are no more answers of that length.
    """
    seed, settings = run.seed if seed is None else seed, run.settings
    n, length = settings.training, settings.training_tokens

    def compute() -> pd.DataFrame:
        import torch

        from prunelib.engine import text
        from prunelib.tasks.answered import answered

        own = answered(run.lm, n // 2, length, TRAINING + seed)
        samples, k = text.calibration(run.lm, "self", n - len(own), length, TRAINING + seed).ids, len(own)
        rows = torch.cat([torch.stack([samples[:k], own], 1).flatten(0, 1), samples[k:]])
        names = [SAMPLES, ANSWERS] * k + [SAMPLES] * (n - 2 * k)
        return _token_table(rows).assign(source=np.repeat(names, length))

    return run.table(f"training_seed{seed}", {"training": settings.training_key, "of_seed": seed}, compute)


def learned_from(run: Run, specs: Iterable[str]) -> dict:
    """What the key of a table about models needs where one of them is repaired; empty where none is."""
    parts = (part for spec in specs for part in getattr(parse(spec), "parts", ()))
    return {"training": run.settings.training_key} if any(part.kind == "recover" for part in parts) else {}


def held_samples(run: Run):
    """Token ids [``settings.texts``, length] sampled from the dense model that nothing learns from."""
    settings = run.settings
    sizes = settings.texts, settings.calibration_tokens
    return _sampled(run, "held_samples", {"held": sizes}, *sizes, HELD + run.seed)


def _sampled(run: Run, name: str, key: dict, n: int, length: int, seed: int):
    def compute() -> pd.DataFrame:
        from prunelib.engine import text

        return _token_table(text.calibration(run.lm, "self", n, length, seed).ids)

    return _ids(run.table(name, key, compute))


def _token_table(ids) -> pd.DataFrame:
    n, length = ids.shape
    columns = {"sequence": np.repeat(np.arange(n), length), "position": np.tile(np.arange(length), n)}
    return pd.DataFrame(columns | {"token": ids.flatten().numpy()})


def _ids(table: pd.DataFrame):
    """Token ids [n, length] of a table of rows of one length."""
    import torch

    return torch.from_numpy(table["token"].to_numpy().copy()).view(int(table["sequence"].iloc[-1]) + 1, -1)


def drop_order(run: Run, seed: int | None = None) -> pd.DataFrame:
    """Importance of every sublayer and block on text sampled from the dense model itself.

    ``seed`` is that of the calibration text, the run's own unless given. Columns
    ``layer, kind, cosine`` (similarity of the residual stream before and after, mean
    over calibration tokens) and ``rank`` (0 is dropped first).
    """

    def compute() -> pd.DataFrame:
        from prunelib.methods.criterion import COSINE

        scores = COSINE.scores(run.lm, calibration(run, seed))
        order = scores.sort_values(["kind", "cosine", "layer"], ascending=[True, False, True])
        order["rank"] = order.groupby("kind").cumcount()
        return order.sort_values(["kind", "layer"], ignore_index=True)

    own = seed is None or seed == run.seed
    key = {"calibration": run.settings.calibration_key} | ({} if own else {"of_seed": seed})
    return run.table("drop_order" if own else f"drop_order_seed{seed}", key, compute)


def removals(run: Run, kind: str, seed: int | None = None) -> pd.DataFrame:
    """What removing each site of a kind does at the output of the dense model: a row a site and sequence.

    ``layer, kind, sequence`` and :data:`prunelib.measure.removal.COLUMNS`, on the first sequences and tokens of the
    calibration text of ``seed`` (the profile's ``removal_…``).
    """
    seed = run.seed if seed is None else seed

    def compute() -> pd.DataFrame:
        from prunelib.measure.removal import Removals

        sites = [Site(kind, layer) for layer in range(run.model["n_layers"]) if (kind, layer) not in _gone(run)]
        counted = iter(range(1, len(sites) + 1))
        tick = lambda: report_progress(f"{kind} sublayers removed", next(counted), len(sites))  # noqa: E731
        return Removals(run.lm, _removal_text(run, seed)).measured(sites, tick)

    return run.table(f"removals_{kind}_seed{seed}", _removal_key(run, seed) | {"kind": kind}, compute)


def _gone(run: Run) -> set[tuple[str, int]]:
    """``(kind, layer)`` of what the run's checkpoint dropped: it cannot be dropped again."""
    named = [Site.parse(site) for site in run.model.get("dropped", ())]
    single = {(one.kind, one.layer) for site in named for one in site.sublayers}
    return single | {("block", layer) for kind, layer in single if {("attn", layer), ("mlp", layer)} <= single}


def _removal_text(run: Run, seed: int):
    settings = run.settings
    return calibration(run, seed)[: settings.removal_sequences, : settings.removal_tokens]


def _removal_key(run: Run, seed: int) -> dict:
    settings = run.settings
    sizes = [settings.removal_sequences, settings.removal_tokens]
    return {"calibration": settings.calibration_key, "of_seed": seed, "removal": sizes}


def plan_of(run: Run, spec: str, seed: int | None = None):
    """The sites that a specification drops, by the calibration text of ``seed``, the run's own unless given.

    Those that scores of the dense model do not give (``drop:attn:8:iter``, ``drop:angular:4``) are kept as a table.
    Of what is chosen at the output, one table for each criterion has the longest plan of the run's profile: shorter
    ones are its beginnings.
    """
    seed, method = run.seed if seed is None else seed, parse(spec)
    if not method.needs:
        return method.given(run.model["n_layers"], _gone(run))
    if method.chosen_at_once:
        return method.choose(drop_order(run, seed))
    greedy = method.criterion.at_output
    whole = _longest(run, method, seed) if greedy else method

    def compute() -> pd.DataFrame:
        text = _removal_text(run, seed) if greedy else calibration(run, seed)
        show = lambda done, total: report_progress(f"{whole.label}, removals", done, total)  # noqa: E731
        plan = whole.plan(run.lm, text, progress=show)
        columns = {"kind": [s.kind for s in plan.sites], "layer": [s.layer for s in plan.sites]}
        return pd.DataFrame(columns | ({"score": [plan.scores[str(s)] for s in plan.sites]} if greedy else {}))

    own = {"calibration": run.settings.calibration_key, "of_seed": seed}
    key = {"spec": whole.spec} | (_removal_key(run, seed) if greedy else own)
    slug = whole.spec.replace(":", "-").replace(JOIN, "_")
    found = run.table(f"drop_plan_{slug}_seed{seed}", key, compute).iloc[: method.count]
    sites = tuple(Site(row.kind, int(row.layer)) for row in found.itertuples())
    return DropPlan(sites, dict(zip(map(str, sites), found["score"], strict=True)) if greedy else {})


def _longest(run: Run, method, seed: int):
    """The longest plan of the run that begins with the plan of ``method``; of another seed only what is asked for."""
    asked = run.settings.selected.get(method.ranking, ()) if seed == run.seed else ()
    layers = run.model["n_layers"]
    return replace(method, count=max([method.count, *(share_of(layers, n) for n in asked)]))


def share_of(layers: int, count: int) -> int:
    """``count`` sublayers of a model of 30 layers, scaled to one of ``layers``; at least 1.

    >>> share_of(30, 8), share_of(12, 8), share_of(4, 2)
    (8, 3, 1)
    """
    return max(1, layers * count // 30)


def scaled(run: Run, specs: Iterable[str]) -> list[str]:
    """Specifications whose drops are of a model of 30 layers, for the run's model, each once."""
    layers = run.model["n_layers"]

    def own(spec: str) -> str:
        parts = getattr(parse(spec), "parts", (parse(spec),))
        return JOIN.join(
            f"drop:{part.ranking}:{share_of(layers, part.count)}" if part.name == "drop" else part.spec
            for part in parts
        )

    return list(dict.fromkeys(own(spec) for spec in specs))


# ---------------------------------------------------------------- weights that took calibration to find


_MASK = "mask"


def _file(run: Run, spec: str, seed: int):
    return run.folder / "weights" / f"{short_name(spec.replace(':', '-'))}.seed{seed}.parquet"


def _key(run: Run, spec: str, seed: int) -> dict:
    return run.key(__name__, spec=spec, calibration=run.settings.calibration_key, calibration_seed=seed)


@contextmanager
def saving(run: Run, spec: str, seed: int) -> Iterator[Callable[[Mapping], None]]:
    """Keep a compressed model's weights, block by block: what it gives takes tensors [d_out, d_in] by name.

    Exact: the weights themselves, or only the mask where all others kept their dense value. The file is there once
    the context ended.
    """
    import torch

    from prunelib.methods.weights import all_weights

    dense = {weight.name: weight for weight in all_weights(run.lm)}
    target = _file(run, spec, seed)
    with ArrayFile(target, _key(run, spec, seed)) as file:

        def add(values: Mapping) -> None:
            for name, weight in values.items():
                kept = weight != 0
                if torch.equal(weight, dense[name].get().to(weight.device).masked_fill(~kept, 0)):
                    file.add(name, weight.shape, _MASK, np.packbits(kept.cpu().numpy()).tobytes())
                else:
                    _add(file, name, weight)

        yield add
    seal(target)


def saved_weights(run: Run, spec: str, seed: int):
    """``(name, tensor)`` one at a time from the run folder, or None where it has no such file."""
    import torch

    from prunelib.methods.weights import all_weights

    file = _file(run, spec, seed)
    arrays = read_arrays(file, _key(run, spec, seed)) if is_sealed(file) else None
    if arrays is None:
        return None
    dense = {weight.name: weight for weight in all_weights(run.lm)}

    def tensor(name, shape, dtype, data):
        if dtype != _MASK:
            return torch.frombuffer(bytearray(data), dtype=getattr(torch, dtype)).view(*shape)
        kept = np.unpackbits(np.frombuffer(data, np.uint8), count=shape[0] * shape[1])
        whole = dense[name].get()
        gone = torch.from_numpy(kept).bool().view(*shape).to(whole.device).logical_not()
        return dense[name].resting(whole.masked_fill(gone, 0))

    return ((name, tensor(name, shape, dtype, data)) for name, shape, dtype, data in arrays)


def compressed_model(run: Run, spec: str, seed: int | None = None, tokens: "Given | None" = None):
    """A compressed model of this run: read from its folder, or computed and kept there.

    ``seed`` is that of the calibration tokens, by default the run's. Drops are
    planned on the importance scores of that text, data-free methods are computed
    anew, which is as fast as reading. Repairs learn from :func:`training`. Other ``tokens`` take the place of the text
    of the last method, and only of that.
    """
    from prunelib.methods import apply

    seed, method = run.seed if seed is None else seed, parse(spec)
    if method.kind == "drop":
        return apply.compressed(run.lm, method, apply.Dropped(plan_of(run, spec, seed)))
    if method.kind == "joined" and method.parts[-1].kind == "recover":
        return repaired_model(run, method, seed, tokens)
    saved = saved_weights(run, spec, seed) if method.needs and tokens is None else None
    if saved is not None:
        new = apply.NewWeights(dict(saved))
        give_back()
        return apply.compressed(run.lm, method, new)
    ids = None if not method.needs else calibration(run, seed) if tokens is None else tokens.ids(run)
    made = apply.compress(run.lm, [spec], ids)[spec]
    if method.needs and method.kind not in WHOLE and tokens is None:
        with saving(run, spec, seed) as add:
            add(made.weights)
    return made


@dataclass(frozen=True)
class Given:
    """Text in the place of a run's own samples: ``name`` and ``key`` say which, ``ids(run)`` has tokens [n, length]."""

    name: str
    key: tuple
    ids: Callable


# ---------------------------------------------------------------- repaired models

_CURVE, _ABOUT = "~curve", "~about"


def repaired_model(run: Run, method, seed: int, tokens: Given | None = None):
    """A model whose last method repairs it; what that changed is read from the run's folder, or kept there."""
    import torch

    from prunelib.methods import apply

    base = compressed_model(run, JOIN.join(part.spec for part in method.parts[:-1]), seed)
    file, arrays = _repair_file(run, method.spec, seed, tokens)
    if arrays is not None:
        values = {name: torch.frombuffer(bytearray(data), dtype=getattr(torch, dtype)).view(*shape)
                  for name, shape, dtype, data in arrays}  # fmt: skip
        curve = values.pop(_CURVE).numpy() if _CURVE in values else np.empty((0, len(apply.CURVE)))
        curve = pd.DataFrame(curve, columns=apply.CURVE).astype({"step": int, "tokens": int})
        trained, read, seconds = values.pop(_ABOUT).tolist()
        return apply.compressed(
            run.lm, method, *base.edits, apply.Repaired(values, int(trained), int(read), curve, seconds)
        )
    ids = training(run, seed) if tokens is None else tokens.ids(run)
    show = lambda done, total: report_progress(method.label, done, total)  # noqa: E731
    edit = apply.repaired(run.lm, base, method.parts[-1], ids, progress=show).edits[-1]
    about = torch.tensor([edit.trained, edit.tokens, edit.seconds], dtype=torch.float64)
    curve = torch.tensor(edit.curve.reindex(columns=apply.CURVE).to_numpy(dtype=np.float64))
    with ArrayFile(file, _repair_key(run, method.spec, seed, tokens)) as kept:
        for name, value in {_ABOUT: about, _CURVE: curve, **edit.values}.items():
            if value.numel():
                _add(kept, name, value)
    seal(file)
    return apply.compressed(run.lm, method, *base.edits, edit)


def repair_seconds(run: Run, spec: str) -> float:
    """How long the last repair of a model took on the machine that made it, NaN where it is not kept.

    It is in no table, since it is never the same twice.
    """
    _, arrays = _repair_file(run, spec, run.seed, None)
    return float("nan") if arrays is None else float(np.frombuffer(next(arrays)[3])[2])


def _repair_key(run: Run, spec: str, seed: int, tokens: Given | None) -> dict:
    key = {"spec": spec, "calibration": run.settings.calibration_key, "calibration_seed": seed}
    own = {"training": run.settings.training_key} if tokens is None else {"text": tokens.key}
    return run.key(__name__, **key, **own)


def _repair_file(run: Run, spec: str, seed: int, tokens: Given | None):
    """The file of a repair, and the arrays in it, None where it is missing or of another key."""
    file = _file(run, spec + ("" if tokens is None else f".{tokens.name}"), seed)
    return file, read_arrays(file, _repair_key(run, spec, seed, tokens)) if is_sealed(file) else None


def _add(file: ArrayFile, name: str, value) -> None:
    import torch

    plain = value.detach().cpu().contiguous()
    data = plain.view(-1).view(torch.uint8).numpy().tobytes()
    file.add(name, plain.shape, str(plain.dtype).removeprefix("torch."), data)
