"""What a model is made of: sizes, parameters and operations, from its configuration alone."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from prunelib.methods.weights import weights
from prunelib.models.checkpoint import auto_class, quiet
from prunelib.models.lm import LM
from prunelib.models.supported import arch_for, text_config

_CHOSEN = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts", "num_selected_experts")
"""Config attributes by which families say how many experts a token passes."""


@dataclass(frozen=True)
class Shape:
    """A language model without weights. Sizes are those of its text part, of its unembedding and of its blocks."""

    layers: int
    width: int
    vocab: int
    heads: int
    head_dim: float
    """Of queries and values, in the mean."""
    cached: int
    """Numbers that a token leaves in the cache of a layer, keys and values."""
    parameters: int
    """All numbers, each once (tied ones too), towers that are not used among them."""
    body: int
    """Of these, the numbers of the blocks."""
    active: float
    """Numbers of matrices in all blocks that a token is multiplied with: of experts only the chosen ones."""
    attention: float
    """Share of these that belongs to the attention."""
    matrices: tuple[tuple[int, int], ...]
    """(d_out, d_in) of what methods compress, of all blocks."""
    itemsize: int
    """Bytes of a number as the run computes with it."""

    @property
    def head(self) -> int:
        return self.vocab * self.width

    @property
    def bytes(self) -> int:
        """Of all weights."""
        return self.parameters * self.itemsize

    @property
    def body_bytes(self) -> int:
        return self.body * self.itemsize

    def forward(self, rows: int, tokens: int, past: int = 0, head_rows: int = 0) -> float:
        """Operations (a product and a sum are two) of reading ``rows`` sequences of ``tokens`` after ``past`` others.

        The matrices' products, attention over all positions (a mask saves none), and ``head_rows`` rows of logits.
        """
        seen = self.attended(rows, tokens, past)
        return 2 * self.active * rows * tokens + seen + 2 * self.head * head_rows

    def attended(self, rows: int, tokens: int, past: int = 0) -> float:
        """Operations of these that are attention's: scores, and values weighted by them."""
        return 4 * self.layers * self.heads * self.head_dim * rows * tokens * (past + tokens)

    @cached_property
    def widest(self) -> int:
        """The largest d_in of a matrix: a Gram matrix has its square."""
        return max(into for _, into in self.matrices)


def build(config, layers: int | None = None, device: torch.device | str = "meta") -> LM:
    """A model of a configuration without weights, with fewer ``layers`` where given.

    Its parameters are on the meta device, without storage; its buffers (frequencies of positions) on ``device``.
    """
    config = copy.deepcopy(config)
    text = text_config(config)
    if layers is not None:
        for name in ("num_hidden_layers", "n_layer", "num_layers"):
            if name in text.to_dict() or name in getattr(text, "attribute_map", {}):
                setattr(text, name, layers)
        for name, value in list(text.__dict__.items()):
            if isinstance(value, list) and name in (
                "layer_types",
                "no_rope_layers",
                "mlp_layer_types",
                "attention_layers",
            ):
                setattr(text, name, value[:layers])
    with quiet(), torch.device(device), _without_storage():
        model = auto_class(config).from_config(config)
    return LM(model.eval().requires_grad_(False), None, arch_for(model), "shape", "shape", None, "")


@contextmanager
def _without_storage() -> Iterator[None]:
    """Parameters that modules register go to the meta device."""
    plain = nn.Module.register_parameter

    def register(module, name, parameter):
        if parameter is not None and parameter.device.type != "meta":  # tied ones are registered twice
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=False)
        plain(module, name, parameter)

    nn.Module.register_parameter = register
    try:
        yield
    finally:
        nn.Module.register_parameter = plain


def shape(config, itemsize: int = 4) -> Shape:
    """The :class:`Shape` of a configuration. ``itemsize``: bytes of a number as the run computes with it."""
    lm = build(config)
    text = lm.config
    heads = text.num_attention_heads
    head_dim = _head_dim(text, lm.d_model, heads)
    layers = lm.layers
    return Shape(
        layers=len(layers),
        width=lm.d_model,
        vocab=lm.vocab_size,
        heads=heads,
        head_dim=head_dim,
        cached=2 * int((getattr(text, "num_key_value_heads", None) or heads) * head_dim),
        parameters=sum(p.numel() for p in lm.model.parameters()),
        body=sum(p.numel() for layer in layers for p in layer.parameters()),
        active=(active := sum(_active(lm, layer) for layer in range(len(layers)))),
        attention=sum(_active(lm, layer, lm.attn(layer)) for layer in range(len(layers))) / active,
        matrices=tuple(weight.shape for number in range(len(layers)) for weight in weights(lm, number)),
        itemsize=itemsize,
    )


def _head_dim(text, width: int, heads: int) -> float:
    """Mean size of a query and a value head: some families give them different ones."""
    query, value = (getattr(text, name, None) for name in ("qk_head_dim", "v_head_dim"))
    if query and value:
        return (query + value) / 2
    return getattr(text, "head_dim", None) or width // heads


def _active(lm: LM, layer: int, part: nn.Module | None = None) -> float:
    """Numbers of the matrices of a block, or of a part of it, that a token is multiplied with."""
    experts, found = lm.experts(layer), 0.0
    stacked = {id(p) for p in experts.module.parameters(recurse=False)} if experts else set()
    share = _chosen(lm.config, len(experts)) / len(experts) if experts else 0
    for module in (part or lm.layers[layer]).modules():
        if isinstance(module, nn.Embedding) or "norm" in type(module).__name__.lower():
            continue
        for p in module.parameters(recurse=False):
            if id(p) in stacked:
                found += share * p.numel() if p.dim() == 3 else 0
            elif p.dim() == 2:
                found += p.numel()
    return found


def _chosen(config, experts: int) -> int:
    """How many of a block's experts a token passes."""
    return next((value for name in _CHOSEN if (value := getattr(config, name, None))), experts)
