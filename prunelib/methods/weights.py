"""The matrices that a compression method may change: every linear map inside the blocks.

Embeddings, unembedding and norms are never compressed: with tied embeddings,
changing the head would change the input of the model too. A repair may change
the final norm, the unembedding (which then becomes the head's own) and biases.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prunelib.errors import PrunelibError, nearest
from prunelib.models import hooks
from prunelib.models.experts import STACKED
from prunelib.models.slots import Slot, runs_on, slots
from prunelib.models.sublayers import Site

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Weight:
    """One matrix of one block, always seen as [out, in].

    ``path`` is its place inside its block: that of ``module``, or, for a matrix of
    expert ``expert``, the stacked parameter and the expert (``mlp.experts.down_proj.5``).
    GPT-2 stores its matrices transposed (``Conv1D``), some mixtures too; :meth:`get` and
    :meth:`set` hide that.
    """

    layer: int
    path: str
    module: object = field(repr=False)
    transposed: bool = False
    parameter: str = "weight"
    expert: int | None = None

    @property
    def name(self) -> str:
        """``"3.self_attn.q_proj"``: unique in a model, and the key of compressed weights."""
        return f"{self.layer}.{self.path}"

    @property
    def slot(self) -> Slot:
        """The parameter that it is, or is a slice of."""
        return Slot(self.module, self.parameter)

    @property
    def tensor(self):
        """That parameter as its module holds it: without values where it is offloaded."""
        return self.slot.parameter

    @property
    def parameter_name(self) -> str:
        """Name of :attr:`tensor` behind that of the list of blocks: ``"3.self_attn.q_proj.weight"``."""
        return f"{self.name}.{self.parameter}" if self.expert is None else self.name.rpartition(".")[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in)."""
        out, into = self.tensor.shape[-2:]
        return (into, out) if self.transposed else (out, into)

    def get(self):
        """The weight [d_out, d_in] where its module runs: a view of the model's own storage, but of an offloaded one a
        copy, unless it is kept and runs on one device."""
        value = self.slot.value().detach()
        value = value if self.expert is None else value[self.expert]
        value = value.to(runs_on(self.module))
        return value.T if self.transposed else value

    def resting(self, value):
        """``value`` [d_out, d_in] where the weight is kept while nothing runs, so that results do not fill a device."""
        return value.to(self.slot.kept_on)

    def stored(self, value):
        """``value`` [d_out, d_in] in the layout, type and place in which it is kept."""
        value = value.T if self.transposed else value
        return value.to(self.slot.kept_on, self.tensor.dtype).contiguous()

    def set(self, value) -> None:
        """Overwrite the model's weight with ``value`` [d_out, d_in], in place."""
        whole = self.slot.value().detach()
        (whole if self.expert is None else whole[self.expert]).copy_(self.stored(value))
        self.slot.write(whole)


def assembled(values: "Iterable[tuple[Weight, Tensor]]") -> "list[tuple[Weight, Tensor]]":
    """New values of whole parameters from those [d_out, d_in] of matrices, in the layout in which modules keep them.

    Of the matrices of a stacked parameter, those that are not named keep their values; the first that is stands for it.
    """
    from torch import stack

    found, stacked = [], {}
    for weight, value in values:
        if weight.expert is None:
            found.append((weight, weight.stored(value)))
        else:
            whole = stacked.setdefault((weight.module, weight.parameter), (weight, list(weight.slot.value().detach())))
            whole[1][weight.expert] = weight.stored(value)
    return found + [(weight, stack(parts)) for weight, parts in stacked.values()]


def weights(lm, layer: int) -> list[Weight]:
    """The matrices of a block in the order of its modules, without those of dropped sublayers.

    Each expert of a mixture has its own; routers are left out, they stay dense. Norms are no
    matrices, whatever the shape of their weight. Raises PrunelibError where the block holds a
    matrix that is none of these, ``nn.Linear`` or ``Conv1D``, or has none at all: a method must
    never leave part of a model silently dense.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    block, found, gone = lm.layers[layer], [], hooks.dropped_paths(lm, layer)
    experts = lm.experts(layer)
    left = (*gone, *(experts.layout.dense if experts else ()))
    for path, module in block.named_modules():
        if any(f"{path}.".startswith(f"{place}.") for place in left):
            continue
        if experts and module is experts.module:
            sliced = [(name, e) for name in STACKED for e in range(len(experts))]
            found += [Weight(layer, f"{path}.{n}.{e}", module, experts.layout.transposed, n, e) for n, e in sliced]
        elif isinstance(module, nn.Linear | Conv1D):
            found.append(Weight(layer, path, module, isinstance(module, Conv1D)))
        elif "norm" in type(module).__name__.lower():
            continue  # one scale a head and feature (Cohere's query and key norms) is no linear map
        elif any(p.dim() > 1 for p in module.parameters(recurse=False)):
            raise PrunelibError(
                f"{lm.name} cannot be compressed: layer {layer} has '{path}' ({type(module).__name__}), "
                "a weight that is neither Linear nor Conv1D"
            )
    if not found and not gone:
        raise PrunelibError(f"{lm.name} cannot be compressed: layer {layer} holds no Linear or Conv1D weight")
    return found


def all_weights(lm) -> list[Weight]:
    """:func:`weights` of all blocks, first to last."""
    return [weight for layer in range(lm.n_layers) for weight in weights(lm, layer)]


def others(lm) -> dict[str, Slot]:
    """What a repair may change besides the matrices, by its name in the model: the parameters of the final norm and of
    the unembedding, and the biases of the blocks' output projections."""
    arch = lm.arch
    found = {}
    for place in (arch.ln_final, arch.unembed):
        module = lm.model.get_submodule(place)
        found |= {f"{place}.{name}": Slot(module, name) for name, _ in module.named_parameters(recurse=False)}
    for layer in range(lm.n_layers):
        for kind in ("attn", "mlp"):
            found |= output_biases(lm, Site(kind, layer))
    return found


def output_weights(lm, site: Site) -> list[Weight]:
    """The matrices through which a sublayer writes to the stream: one, or one of each expert."""
    experts = lm.experts(site.layer) if site.kind == "mlp" else None
    ends = (f"{experts.path}.down_proj.", f"{experts.layout.shared}.down_proj.") if experts else ()
    ends = ends or (getattr(lm.arch, f"{site.kind}_proj") + ".",)
    return [weight for weight in weights(lm, site.layer) if f"{weight.path}.".startswith(ends)]


def output_biases(lm, site: Site) -> dict[str, Slot]:
    """The biases through which it does, [d] or [experts, d], by their name in the model."""
    experts = lm.experts(site.layer) if site.kind == "mlp" else None
    names = (getattr(lm.arch, f"{site.kind}_proj") + ".bias",)
    if experts:
        names = (f"{experts.path}.down_proj_bias", f"{experts.layout.shared}.down_proj.bias")
    here = dict(slots(lm.layers[site.layer]))
    return {f"{lm.arch.layers}.{site.layer}.{name}": here[name] for name in names if name in here}


def head_name(lm) -> str:
    """Name of the unembedding matrix in the model."""
    return f"{lm.arch.unembed}.weight"


def is_tied(lm) -> bool:
    """Whether the unembedding is the embedding."""
    return head_name(lm) not in dict(slots(lm.model))


def now(lm, names: Iterable[str]) -> "dict[str, Tensor]":
    """The values that parameters have now, by name: matrices [d_out, d_in], others as they are stored."""
    known = {weight.name: weight.get() for weight in all_weights(lm)}
    known |= {name: slot.value().detach().to(runs_on(slot.module)) for name, slot in others(lm).items()}
    return {name: known[name] for name in names}


@contextmanager
def replaced(lm, new: Mapping[str, "Tensor"]) -> Iterator[None]:
    """Run ``lm`` with other weights: ``new`` maps :attr:`Weight.name` to a tensor [d_out, d_in].

    Names of :func:`others` are known too, with tensors in the shape of the parameter. The dense weights are back on
    exit, bit by bit. Raises PrunelibError for a name or a shape that the model does not have.
    """
    rest = others(lm)
    layers = sorted({_layer(name, lm) for name in new if name not in rest})
    known = {w.name: w for layer in layers for w in weights(lm, layer)}
    pairs, matrices, head = [], [], None
    for name, value in new.items():
        if name not in known and name not in rest:
            raise PrunelibError(f"{lm.name} has no weight '{name}'{nearest(name, known)}")
        shape = known[name].shape if name in known else tuple(rest[name].parameter.shape)
        if tuple(value.shape) != shape:
            raise PrunelibError(f"{name} is {list(shape)}, the new weight is {list(value.shape)}")
        if name == head_name(lm):
            head = value
        elif name in known:
            matrices.append((known[name], value))
        else:
            slot = rest[name]
            pairs.append((slot, value.to(slot.kept_on, slot.parameter.dtype).contiguous()))
    pairs += [(weight.slot, value) for weight, value in assembled(matrices)]
    with hooks.replaced(pairs), hooks.own_head(lm, head) if head is not None else nullcontext():
        yield


def _layer(name: str, lm) -> int:
    layer = name.partition(".")[0]
    if not layer.isdigit() or int(layer) >= lm.n_layers:
        raise PrunelibError(f"{lm.name} has no weight '{name}': names look like 3.self_attn.q_proj")
    return int(layer)
