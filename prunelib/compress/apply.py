"""From specifications to compressed models, and from a compressed model to a running one."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pandas as pd
from torch import Tensor

from prunelib import hooks
from prunelib.compress import spec as specs_of
from prunelib.compress.calibrate import Input, output_energy, walk
from prunelib.compress.drop import DropPlan
from prunelib.compress.weights import all_weights, replaced
from prunelib.errors import PrunelibError


@dataclass(frozen=True)
class Compressed:
    """What a specification does to one model.

    ``weights`` maps names such as ``"3.mlp.down_proj"`` to new tensors [d_out,
    d_in]; ``plan`` lists the dropped sublayers; one of the two is empty (both, for
    ``dense``). ``bits_per_weight`` is the real storage of the blocks' matrices, a
    dense one taking 16.
    """

    spec: str
    label: str
    weights: dict[str, Tensor] = field(repr=False)
    plan: DropPlan | None
    bits_per_weight: float

    @contextmanager
    def applied(self, lm) -> Iterator[None]:
        """Run ``lm`` compressed; it is dense again on exit."""
        with replaced(lm, self.weights), hooks.dropped(lm, self.plan or ()):
            yield


def compress(
    lm,
    specs: Iterable[str],
    input_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
    batch_size: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Compressed]:
    """Compress one dense model in several ways, which all stand beside it afterwards.

    Parameters
    ----------
    specs : specification strings (:mod:`prunelib.compress.spec`)
    input_ids : [n, S] calibration tokens; methods without data do not need them
    attention_mask : [n, S], 0 where a token is padding; padding is never counted
    batch_size : rows of a forward pass; results depend on it only by rounding
    progress : called with (blocks done, blocks) of the walk

    Returns a :class:`Compressed` for each spec, by its spec. Raises PrunelibError
    for a bad spec, missing or bad calibration, or a model that a method cannot change.
    """
    methods = {one: specs_of.parse(one) for one in specs}
    needing = {one: m for one, m in methods.items() if m.needs}
    if needing and (input_ids is None or input_ids.numel() == 0):
        raise PrunelibError(f"{next(iter(needing))} needs calibration tokens, and there are none")
    found: dict[str, Compressed] = {}
    walked = {one: m for one, m in needing.items() if m.needs & {"norms", "gram"}}
    new: dict[str, dict[str, Tensor]] = {one: {} for one in walked}
    for step in walk(lm, walked, input_ids, attention_mask, batch_size) if walked else ():
        for one, made in step.new.items():
            new[one] |= made
        if progress:
            progress(step.layer + 1, lm.n_layers)
    for one, method in methods.items():
        if "tokens" in method.needs:
            found[one] = variant(lm, method, {}, method.plan(lm, input_ids, batch_size, attention_mask))
        elif isinstance(method, DropPlan):
            found[one] = variant(lm, method, {}, method)
        elif one in walked or method.spec == "dense":
            found[one] = variant(lm, method, new.get(one, {}))
        else:
            blind = {w.name: method.compress(w.get(), None) for w in all_weights(lm)}
            found[one] = variant(lm, method, blind)
    return found


def variant(lm, method, weights: dict[str, Tensor], plan: DropPlan | None = None) -> Compressed:
    """A :class:`Compressed` from what a method made of ``lm``, with its real size.

    Raises PrunelibError where the method left a weight out: never silently dense.
    """
    if weights:
        missed = sorted({w.name for w in all_weights(lm)} - weights.keys())
        if missed:
            raise PrunelibError(f"{method.label} left {len(missed)} weights untouched, such as {missed[0]}")
    if plan:
        with hooks.dropped(lm, plan):  # refuses sites that the model does not have
            pass
    bits = _bits_kept(lm, plan) if plan else _bits(lm, method)
    return Compressed(method.spec, method.label, weights, plan, bits)


def _bits(lm, method) -> float:
    shapes = [w.shape for w in all_weights(lm)]
    sizes = [out * into for out, into in shapes]
    total = sum(size * method.bits_per_weight(shape) for size, shape in zip(sizes, shapes, strict=True))
    return total / sum(sizes)


def _bits_kept(lm, plan: DropPlan) -> float:
    """16 bits for each weight of the sublayers that stay."""
    gone = kept = 0
    dropped = {(kind, s.layer) for s in plan.sites for kind in (("attn", "mlp") if s.kind == "block" else (s.kind,))}
    for weight in all_weights(lm):
        inside = weight.path == lm.arch.attn or weight.path.startswith(lm.arch.attn + ".")
        size = weight.shape[0] * weight.shape[1]
        if ("attn" if inside else "mlp", weight.layer) in dropped:
            gone += size
        else:
            kept += size
    return 16 * kept / (gone + kept)


def output_errors(new: dict[str, Tensor], inputs: Iterable[Input]) -> pd.DataFrame:
    """How far the new weights of one block move its outputs, on the inputs of the dense model.

    ``relative_error`` = ‖X(W′ − W)ᵀ‖_F / ‖XWᵀ‖_F over all calibration tokens, from the
    Gram matrix of ``inputs`` (a :class:`~prunelib.compress.calibrate.Step` with ``dense``
    has them). Columns: ``layer, weight, numel, zeros`` (count), ``relative_error``.
    """
    table = []
    for entry in inputs:
        gram = entry.stats.gram
        for weight in entry.members:
            changed = new[weight.name].to(gram)
            whole, moved = entry.energies[weight.name], output_energy(changed - weight.get().to(gram.dtype), gram)
            error = (moved / whole) ** 0.5 if whole else float("nan")
            table.append((weight.layer, weight.path, changed.numel(), int((changed == 0).sum()), error))
    return pd.DataFrame(table, columns=["layer", "weight", "numel", "zeros", "relative_error"])
