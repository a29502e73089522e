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

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Weight:
    """One matrix of one block, always seen as [out, in].

    ``path`` is the module's place inside its block. GPT-2 stores its matrices
    transposed (``Conv1D``); :meth:`get` and :meth:`set` hide that.
    """

    layer: int
    path: str
    module: object = field(repr=False)
    transposed: bool = False

    @property
    def name(self) -> str:
        """``"3.self_attn.q_proj"``: unique in a model, and the key of compressed weights."""
        return f"{self.layer}.{self.path}"

    @property
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in)."""
        out, into = self.module.weight.shape
        return (into, out) if self.transposed else (out, into)

    def get(self):
        """The weight [d_out, d_in], a view of the model's own storage."""
        value = self.module.weight.detach()
        return value.T if self.transposed else value

    def stored(self, value):
        """``value`` [d_out, d_in] in the layout, type and place in which the module keeps it."""
        value = value.T if self.transposed else value
        return value.to(self.module.weight).contiguous()

    def set(self, value) -> None:
        """Overwrite the model's weight with ``value`` [d_out, d_in], in place."""
        self.module.weight.detach().copy_(self.stored(value))


def weights(lm, layer: int) -> list[Weight]:
    """The matrices of a block in the order of its modules, without those of dropped sublayers.

    Norms are no matrices, whatever the shape of their weight. Raises PrunelibError
    where the block holds a matrix that is neither an ``nn.Linear`` nor a ``Conv1D`` (such
    as the stacked experts of a mixture), or has none at all: a method must never leave part of a model silently dense.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    block, found, gone = lm.layers[layer], [], hooks.dropped_paths(lm, layer)
    for path, module in block.named_modules():
        if any(f"{path}.".startswith(f"{place}.") for place in gone):
            continue
        if isinstance(module, nn.Linear | Conv1D):
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


def others(lm) -> "dict[str, Tensor]":
    """What a repair may change besides the matrices, by its name in the model: the parameters of the final norm and of
    the unembedding, and the biases of the blocks' output projections."""
    arch = lm.arch
    projections = [f"{arch.layers}.{i}.{path}" for i in range(lm.n_layers) for path in (arch.attn_proj, arch.mlp_proj)]
    found = {}
    for place in (arch.ln_final, arch.unembed, *projections):
        for name, parameter in lm.model.get_submodule(place).named_parameters(recurse=False):
            if place not in projections or name == "bias":
                found[f"{place}.{name}"] = parameter
    return found


def head_name(lm) -> str:
    """Name of the unembedding matrix in the model."""
    return f"{lm.arch.unembed}.weight"


def is_tied(lm) -> bool:
    """Whether the unembedding is the embedding."""
    return lm.W is lm.model.get_input_embeddings().weight


def now(lm, names: Iterable[str]) -> "dict[str, Tensor]":
    """The values that parameters have now, by name: matrices [d_out, d_in], others as they are stored."""
    known = {weight.name: weight.get() for weight in all_weights(lm)}
    known |= {name: parameter.detach() for name, parameter in others(lm).items()}
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
    pairs, head = [], None
    for name, value in new.items():
        if name not in known and name not in rest:
            raise PrunelibError(f"{lm.name} has no weight '{name}'{nearest(name, known)}")
        shape = known[name].shape if name in known else tuple(rest[name].shape)
        if tuple(value.shape) != shape:
            raise PrunelibError(f"{name} is {list(shape)}, the new weight is {list(value.shape)}")
        if name == head_name(lm):
            head = value
        elif name in known:
            pairs.append((known[name].module.weight, known[name].stored(value)))
        else:
            pairs.append((rest[name], value.to(rest[name]).contiguous()))
    with hooks.replaced(pairs), hooks.own_head(lm, head) if head is not None else nullcontext():
        yield


def _layer(name: str, lm) -> int:
    layer = name.partition(".")[0]
    if not layer.isdigit() or int(layer) >= lm.n_layers:
        raise PrunelibError(f"{lm.name} has no weight '{name}': names look like 3.self_attn.q_proj")
    return int(layer)
