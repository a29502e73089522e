"""Where the parts of a decoder live: one declarative row per model family.

Everything the package knows about a family is in its :class:`ArchSpec`. The
other modules never ask which family they run on; they follow the paths of the
row. The tests prove each row on a tiny random model of the family: the stream
points add up, and the final norm and the unembedding reproduce the logits.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from prunelib.errors import PrunelibError, nearest


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
    parallel: str | None = None
    """Config attribute that, when true, makes the blocks parallel."""
    requires: tuple[tuple[str, object], ...] = ()
    """Pairs (config attribute, the only value that this row describes)."""
    requires_equal: tuple[tuple[str, str], ...] = ()
    """Pairs of config attributes that must be equal."""

    @property
    def is_parallel(self) -> bool:
        """Attention and MLP read the same ``resid_pre``: there is no ``resid_mid``."""
        return self.mid is None


_OPT = ArchSpec(
    "opt",
    layers="model.decoder.layers",
    ln_final="model.decoder.final_layer_norm",
    mlp="fc2",
    mlp_in="fc1",
    mlp_up=None,
    attn_proj="self_attn.out_proj",
    mlp_proj="fc2",
    mid="final_layer_norm",
    attn_norm="self_attn_layer_norm",
    mlp_norm="final_layer_norm",
    requires=(("do_layer_norm_before", True), ("_remove_final_layer_norm", False)),
    requires_equal=(("word_embed_proj_dim", "hidden_size"),),
)

_GPT2 = ArchSpec(
    "gpt2",
    layers="transformer.h",
    ln_final="transformer.ln_f",
    attn="attn",
    attn_proj="attn.c_proj",
    mlp_proj="mlp.c_proj",
    mlp_up=None,
    attn_v=None,
    mid="ln_2",
    attn_norm="ln_1",
    mlp_norm="ln_2",
    requires=(("add_cross_attention", False),),
)

_GPT_NEOX = ArchSpec(
    "gpt_neox",
    layers="gpt_neox.layers",
    ln_final="gpt_neox.final_layer_norm",
    attn="attention",
    attn_proj="attention.dense",
    mlp_proj="mlp.dense_4h_to_h",
    mlp_up=None,
    attn_v=None,
    cache_kwarg="layer_past",
    parallel="use_parallel_residual",
)

_GEMMA2 = ArchSpec(
    "gemma2",
    mid="pre_feedforward_layernorm",
    mlp_norm="pre_feedforward_layernorm",
    attn_post="post_attention_layernorm",
    mlp_post="post_feedforward_layernorm",
    softcap="final_logit_softcapping",
    norm_offset=1.0,
)

_OLMO2 = ArchSpec(
    "olmo2",
    mid="mlp",
    attn_norm=None,
    mlp_norm=None,
    attn_post="post_attention_layernorm",
    mlp_post="post_feedforward_layernorm",
)

_GRANITE = ArchSpec("granite", residual_multiplier="residual_multiplier", logit_divisor="logits_scaling")

_COHERE = ArchSpec("cohere", mid=None, attn_norm=None, mlp_norm=None, logit_scale="logit_scale")

_PHI = ArchSpec(
    "phi",
    ln_final="model.final_layernorm",
    attn_proj="self_attn.dense",
    mlp_proj="mlp.fc2",
    mlp_up=None,
    mid=None,
    attn_norm=None,
    mlp_norm=None,
)

# Parallel StableLM blocks share the input norm, so neither sublayer owns it.
_STABLELM = ArchSpec("stablelm", attn_norm=None, mlp_norm=None, parallel="use_parallel_residual")

_ROWS = (
    *(ArchSpec(f) for f in ("llama", "mistral", "qwen2", "qwen3", "smollm3")),
    ArchSpec("gemma", norm_offset=1.0),
    ArchSpec("phi3", mlp_up=None, attn_v=None),
    _GEMMA2,
    replace(_GEMMA2, family="gemma3_text", requires=(("use_bidirectional_attention", False),)),
    _OLMO2,
    replace(_OLMO2, family="olmo3"),
    _GRANITE,
    _COHERE,
    _PHI,
    _STABLELM,
    _GPT2,
    _GPT_NEOX,
    _OPT,
)

ARCHS: dict[str, ArchSpec] = {row.family: row for row in _ROWS}
"""The supported families by ``config.model_type``."""


def arch_for(model) -> ArchSpec:
    """The row of a ``transformers`` causal language model, checked against the model.

    Raises :class:`PrunelibError` (one line: the class, and what is missing) for a
    family without a row, a variant that its row does not describe, or a model
    in which a path of the row leads nowhere.
    """
    name, config = type(model).__name__, getattr(model, "config", None)
    family = getattr(config, "model_type", None)
    if family not in ARCHS:
        raise PrunelibError(f"{name} is not supported: {_what_is_missing(model)}")
    row = ARCHS[family]
    for attribute, value in row.requires:
        if getattr(config, attribute, value) != value:
            raise PrunelibError(
                f"{name} is not supported: {family} with {attribute}="
                f"{getattr(config, attribute)} (missing: a row for anything but {value})"
            )
    for left, right in row.requires_equal:
        if getattr(config, left) != getattr(config, right):
            raise PrunelibError(
                f"{name} is not supported: {family} with {left}={getattr(config, left)} other "
                f"than {right}={getattr(config, right)} (missing: a row with that projection)"
            )
    if row.parallel and getattr(config, row.parallel):
        row = replace(row, mid=None)
    missing = next(_missing_paths(model, row), None)
    if missing:
        raise PrunelibError(f"{name} is not supported: no module '{missing}' as in {family} models")
    return row


def _what_is_missing(model) -> str:
    """Why a model without a row cannot be used, from its configuration and modules."""
    config = getattr(model, "config", None)
    family = str(getattr(config, "model_type", None))
    missing = []
    if getattr(config, "is_encoder_decoder", False):
        missing.append("a decoder-only stack (this is an encoder–decoder)")
    modules = getattr(model, "named_modules", lambda: ())
    leaves = [path.rsplit(".", 1)[-1].lower() for path, _ in modules()]
    if any("expert" in leaf for leaf in leaves):
        missing.append("one MLP a layer (this is a mixture of experts)")
    if not any("att" in leaf for leaf in leaves):
        missing.append("attention sublayers")
    if "lm_head" not in leaves or "MaskedLM" in type(model).__name__:
        missing.append("a causal language-model head")
    missing.append(f"a row for model type '{family}'{nearest(family, ARCHS)}")
    return f"missing {', '.join(missing)}; supported: {', '.join(sorted(ARCHS))}"


def _missing_paths(model, row: ArchSpec) -> Iterator[str]:
    """Paths of the row that the model or its first layer does not have."""
    for path in (row.layers, row.ln_final, row.unembed):
        if _submodule(model, path) is None:
            yield path
            return
    layers = _submodule(model, row.layers)
    if len(layers) == 0:
        yield f"{row.layers}.0"
        return
    inner = (row.attn, row.mlp, row.attn_proj, row.mlp_proj, row.mid, row.attn_norm)
    inner += (row.mlp_norm, row.attn_post, row.mlp_post, row.mlp_in)
    for path in filter(None, inner):
        if _submodule(layers[0], path) is None:
            yield f"{row.layers}.0.{path}"


def _submodule(root, path: str):
    """The module at a dotted path, or ``None``."""
    for part in path.split("."):
        root = getattr(root, part, None)
        if root is None:
            return None
    return root
