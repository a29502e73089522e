"""From methods to compressed models, and from a compressed model to a running one."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

import pandas as pd
from torch import Tensor

from prunelib.errors import PrunelibError
from prunelib.methods.base import Joined, Method, parse
from prunelib.methods.inputs import Input, output_energy
from prunelib.methods.walk import walk
from prunelib.methods.weights import all_weights, replaced
from prunelib.models import hooks
from prunelib.models.sublayers import DropPlan, Site


@dataclass(frozen=True)
class NewWeights:
    """An edit: other values of matrices.

    ``values`` maps names such as ``"3.mlp.down_proj"`` to tensors [d_out, d_in].
    """

    values: dict[str, Tensor] = field(repr=False)

    def applied(self, lm):
        """Context in which ``lm`` has them."""
        return replaced(lm, self.values)


CURVE = ("step", "tokens", "kl_train", "kl_held")
"""Columns of :attr:`Repaired.curve`."""


@dataclass(frozen=True)
class Repaired(NewWeights):
    """An edit that repairs: new values of some matrices, and of parameters of :func:`~prunelib.methods.weights.others`
    by their names in the model.

    ``trained`` counts the numbers that were fitted, ``tokens`` those that were read, each time they were (held-out ones
    not counted). ``curve`` has a row a measurement on held-out rows: ``step, tokens`` (read so far), ``kl_train`` (mean
    loss since the row before, NaN in the first), ``kl_held`` (nats a token); it is empty where nothing was trained step
    by step. ``seconds`` is the time it took.
    """

    trained: int = 0
    tokens: int = 0
    curve: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=CURVE), repr=False, compare=False)
    seconds: float = field(default=float("nan"), compare=False)


@dataclass(frozen=True)
class Dropped:
    """An edit: sublayers that are not computed."""

    plan: DropPlan

    def applied(self, lm):
        """Context in which ``lm`` runs without them."""
        return hooks.dropped(lm, self.plan)


@dataclass(frozen=True)
class Compressed:
    """What a method does to one model: ``edits`` in the order in which they are made.

    ``bits_per_weight`` is the real storage of the blocks' matrices, a dense one taking 16.
    """

    method: Method
    edits: tuple[NewWeights | Dropped, ...]
    bits_per_weight: float

    @property
    def spec(self) -> str:
        return self.method.spec

    @property
    def label(self) -> str:
        return self.method.label

    @property
    def weights(self) -> dict[str, Tensor]:
        """All new matrices [d_out, d_in] by name, and what else repairs changed."""
        edits = (edit for edit in self.edits if isinstance(edit, NewWeights))
        return {name: value for edit in edits for name, value in edit.values.items()}

    @property
    def repairs(self) -> tuple[Repaired, ...]:
        """What repairs did, in their order."""
        return tuple(edit for edit in self.edits if isinstance(edit, Repaired))

    @property
    def sites(self) -> tuple[Site, ...]:
        """All dropped sublayers, in the order in which they were chosen."""
        return tuple(site for edit in self.edits if isinstance(edit, Dropped) for site in edit.plan.sites)

    @property
    def scores(self) -> dict[str, float]:
        """What the dropped sublayers and their rivals were chosen by."""
        return {k: v for edit in self.edits if isinstance(edit, Dropped) for k, v in (edit.plan.scores or {}).items()}

    @contextmanager
    def applied(self, lm) -> Iterator[None]:
        """Run ``lm`` compressed; it is dense again on exit."""
        with ExitStack() as stack:
            for edit in self.edits:
                stack.enter_context(edit.applied(lm))
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
    specs : specifications (:mod:`prunelib.methods.base`)
    input_ids : [n, S] calibration tokens; methods without data do not need them
    attention_mask : [n, S], 0 where a token is padding; padding is never counted
    batch_size : rows of a forward pass; results depend on it only by rounding
    progress : called with (done, all) blocks of the walk, or removals that are measured at the output

    Returns
    -------
    A :class:`Compressed` for each spec, by its spec.

    Raises
    ------
    PrunelibError
        For a bad spec, missing or bad calibration, or a model that a method cannot change.

    Examples
    --------
    A random model with half of its weights removed; it is dense again outside of the context.

    >>> import prunelib
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> sizes = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    >>> lm = prunelib.LM.from_model(LlamaForCausalLM(LlamaConfig(num_hidden_layers=2, **sizes)))
    >>> made = prunelib.compress(lm, ["magnitude:0.5"])["magnitude:0.5"]
    >>> with made.applied(lm):
    ...     float((lm.layers[0].mlp.up_proj.weight == 0).float().mean())
    0.5
    >>> float((lm.layers[0].mlp.up_proj.weight == 0).float().mean())
    0.0
    """
    methods = {one: parse(one) for one in specs}
    needing = [one for one, method in methods.items() if method.needs]
    if needing and (input_ids is None or input_ids.numel() == 0):
        raise PrunelibError(f"{needing[0]} needs calibration tokens, and there are none")
    calibration = input_ids, attention_mask, batch_size
    walked = {one: m for one, m in methods.items() if m.needs & {"norms", "gram"} and not isinstance(m, Joined)}
    new: dict[str, dict[str, Tensor]] = {one: {} for one in walked}
    for step in walk(lm, walked, *calibration) if walked else ():
        for one, made in step.new.items():
            new[one] |= made
        if progress:
            progress(step.layer + 1, lm.n_layers)
    found: dict[str, Compressed] = {}
    for one, method in methods.items():
        if isinstance(method, Joined):
            found[one] = _joined(lm, method, calibration, progress)
        elif method.kind == "drop":
            found[one] = compressed(
                lm, method, Dropped(method.plan(lm, input_ids, batch_size, attention_mask, progress))
            )
        elif one in walked:
            found[one] = compressed(lm, method, NewWeights(new[one]))
        elif method.kind == "dense":
            found[one] = compressed(lm, method)
        else:
            blind = {w.name: w.resting(method.compress(w.get(), None)) for w in all_weights(lm)}
            found[one] = compressed(lm, method, NewWeights(blind))
    return found


def _joined(lm, method: Joined, calibration, progress) -> Compressed:
    """Each part on the model that those before it left."""
    made = Compressed(method, (), 16.0)
    for part in method.parts:
        if part.kind == "recover":
            made = repaired(lm, made, part, *calibration, progress)
            continue
        with made.applied(lm):
            own = compress(lm, [part.spec], *calibration, progress)[part.spec]
        made = Compressed(method, made.edits + own.edits, 16.0)
    return compressed(lm, method, *made.edits)


def repaired(
    lm,
    made: Compressed,
    repair: Method,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    batch_size: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> Compressed:
    """``made`` with one more edit, by a method of kind ``recover`` that reads tokens [n, S].

    ``lm`` is the dense model and is left as it is; ``made`` keeps its own method and size. Raises PrunelibError for a
    model that cannot be repaired so.
    """
    repair.check_model(lm)
    started = time.perf_counter()
    edit = repair.repair(lm, made, input_ids, attention_mask, batch_size, progress)
    edit = replace(edit, seconds=time.perf_counter() - started)
    return Compressed(made.method, (*made.edits, edit), made.bits_per_weight)


def compressed(lm, method: Method, *edits: NewWeights | Dropped) -> Compressed:
    """A :class:`Compressed` from the edits that a method makes to ``lm``, with its real size.

    Raises PrunelibError where weights were left out: never silently dense.
    """
    made = Compressed(method, edits, 16.0)
    with ExitStack() as stack:
        for edit in edits:
            if type(edit) is NewWeights:  # a repair may leave weights as they are
                missed = sorted({w.name for w in all_weights(lm)} - edit.values.keys())
                if missed:
                    raise PrunelibError(f"{method.label} left {len(missed)} weights untouched, such as {missed[0]}")
            stack.enter_context(edit.applied(lm))  # refuses sites that the model does not have
    changing = next((one for one in getattr(method, "parts", (method,)) if one.kind in ("sparsify", "quantize")), None)
    gone = {one for site in made.sites for one in site.sublayers}
    total = stored = 0
    for weight in all_weights(lm):
        inside = weight.path == lm.arch.attn or weight.path.startswith(lm.arch.attn + ".")
        size = weight.shape[0] * weight.shape[1]
        total += size
        if Site("attn" if inside else "mlp", weight.layer) not in gone:
            stored += size * (changing.bits_per_weight(weight.shape) if changing else 16)
    return Compressed(method, edits, stored / total)


def output_errors(new: dict[str, Tensor], inputs: Iterable[Input]) -> pd.DataFrame:
    """How far the new weights of one block move its outputs, on the inputs of the dense model.

    ``relative_error`` = ‖X(W′ − W)ᵀ‖_F / ‖XWᵀ‖_F over all calibration tokens, from the
    Gram matrix of ``inputs`` (a :class:`~prunelib.methods.walk.Step` with ``dense``
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
