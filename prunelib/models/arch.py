"""Where the parts of a decoder live: what a row of :mod:`prunelib.models.families` says.

Everything the package knows about a family is in its :class:`ArchSpec`. The
other modules never ask which family they run on; they follow the paths of the
row. The tests prove each row on a tiny random model of the family: the stream
points add up, and the final norm and the unembedding reproduce the logits.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mixture:
    """An MLP of experts, each token's few chosen by a router; the family's other layers may have a plain one.

    Paths start at a layer.
    """

    experts: str = "mlp.experts"
    """Module with the matrices of all experts, stacked: ``gate_up_proj`` and ``down_proj`` [experts, ., .]."""
    shared: str | None = None
    """Expert that every token passes."""
    dense: tuple[str, ...] = ("mlp.gate",)
    """Routers and gates; no method changes them."""
    transposed: bool = False
    """The matrices are stored [experts, in, out], not [experts, out, in]."""
    linear_up: bool = True
    """An expert's output projection reads its up-projection's output times a gate: a scale of its rows passes."""
    returns_routing: bool = False
    """The MLP returns ``(output, routing)``."""


@dataclass(frozen=True)
class ArchSpec:
    """Paths and configuration attributes of one family (``config.model_type``).

    The residual stream of layer ``l`` is ``resid_pre`` → (+ ``attn_out``) →
    ``resid_mid`` → (+ ``mlp_out``) → ``resid_post``. Paths are dotted: those of
    ``layers``, ``ln_final`` and ``unembed`` start at the model, all others at a
    layer. ``None`` means that the family has no such part.
    """

    family: str
    attn: str = "self_attn"
    """Attention module; returns ``(output, weights)``."""
    mlp: str = "mlp"
    """Module whose output is the MLP's (for OPT, which has no MLP module, ``fc2``)."""
    attn_proj: str = "self_attn.o_proj"
    """Output projection of the attention."""
    mlp_proj: str = "mlp.down_proj"
    """Output projection of the MLP."""
    mid: str | None = "post_attention_layernorm"
    """Module whose input is ``resid_mid``; ``None`` for parallel blocks."""
    layers: str = "model.layers"
    ln_final: str = "model.norm"
    unembed: str = "lm_head"
    attn_norm: str | None = "input_layernorm"
    """Norm that only the attention reads; ``None`` if absent or shared with the MLP."""
    mlp_norm: str | None = "post_attention_layernorm"
    """Norm that only the MLP reads; ``None`` if absent or shared with the attention."""
    attn_post: str | None = None
    """Norm between the attention's output and the stream."""
    mlp_post: str | None = None
    """Norm between the MLP's output and the stream."""
    mlp_in: str | None = None
    """First projection, where the MLP is not one module (OPT)."""
    mlp_up: str | None = "mlp.up_proj"
    """Projection whose output the MLP's output projection reads multiplied by a gate: a scale of
    its rows passes through. ``None`` where a nonlinearity stands between, or it is fused."""
    attn_v: str | None = "self_attn.v_proj"
    """Value projection, whose rows pass through attention the same way; ``None`` if fused."""
    cache_kwarg: str = "past_key_values"
    """Keyword by which the attention receives the key–value cache."""
    residual_multiplier: str | None = None
    """Config attribute: factor on both sublayer outputs (Granite)."""
    norm_offset: float = 0.0
    """The final norm multiplies by this plus its weight (Gemma: 1)."""
    logit_scale: str | None = None
    """Config attribute: the logits are multiplied by it (Cohere)."""
    logit_divisor: str | None = None
    """Config attribute: the logits are divided by it (Granite)."""
    softcap: str | None = None
    """Config attribute: logits become ``c·tanh(logits/c)``; its value may be ``None``."""
    window: str = "sliding_window"
    """Config attribute: how many positions a layer with local attention sees, ``None`` where all are seen."""
    parallel: tuple[str, ...] = ()
    """Config attributes of which any that is true makes the blocks parallel."""
    shares_norm: bool = False
    """Where the blocks are parallel, attention and MLP read one norm, which then is neither's own."""
    mixture: Mixture | None = None
    """Where the MLP is a mixture of experts; the paths of a plain MLP are those of layers without experts."""
    adds_in_place: bool = False
    """The block adds to the MLP's output in place: what was read there must be a copy."""
    requires: tuple[tuple[str, object], ...] = ()
    """Pairs (config attribute, the only value that this row describes)."""
    requires_equal: tuple[tuple[str, str], ...] = ()
    """Pairs of config attributes that must be equal."""

    @property
    def is_parallel(self) -> bool:
        """Attention and MLP read the same ``resid_pre``: there is no ``resid_mid``."""
        return self.mid is None
