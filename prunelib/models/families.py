"""The supported families: one row each of where the parts of a decoder live."""

from dataclasses import replace

from prunelib.models.arch import ArchSpec, Mixture

_FUSED = {"mlp_up": None, "attn_v": None}
"""Query, key and value in one matrix, and gate and up in one."""

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

_XGLM = replace(
    _OPT, family="xglm", layers="model.layers", ln_final="model.layer_norm",
    requires=(("add_cross_attention", False),), requires_equal=(),
)  # fmt: skip

_GPT2 = ArchSpec(
    "gpt2",
    layers="transformer.h",
    ln_final="transformer.ln_f",
    attn="attn",
    attn_proj="attn.c_proj",
    mlp_proj="mlp.c_proj",
    **_FUSED,
    mid="ln_2",
    attn_norm="ln_1",
    mlp_norm="ln_2",
    requires=(("add_cross_attention", False),),
)

# Attention and MLP read one norm, side by side.
_GPTJ = replace(
    _GPT2, family="gptj", attn_proj="attn.out_proj", mlp_proj="mlp.fc_out", attn_v="attn.v_proj", mid=None,
    attn_norm=None, mlp_norm=None, cache_kwarg="layer_past", requires=(),
)  # fmt: skip

_GPT_NEOX = ArchSpec(
    "gpt_neox",
    layers="gpt_neox.layers",
    ln_final="gpt_neox.final_layer_norm",
    attn="attention",
    attn_proj="attention.dense",
    mlp_proj="mlp.dense_4h_to_h",
    **_FUSED,
    cache_kwarg="layer_past",
    parallel=("use_parallel_residual",),
)

# Three layouts: one norm before both sublayers (7B), one norm each (40B), or one sublayer after the other (RW).
# A layer has the norms of its own layout, so none of them is asked for here.
_FALCON = ArchSpec(
    "falcon",
    layers="transformer.h",
    ln_final="transformer.ln_f",
    attn="self_attention",
    attn_proj="self_attention.dense",
    mlp_proj="mlp.dense_4h_to_h",
    **_FUSED,
    cache_kwarg="layer_past",
    parallel=("parallel_attn", "new_decoder_architecture"),
    shares_norm=True,
    adds_in_place=True,
    requires=(("alibi", False),),
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
_GEMMA3 = replace(_GEMMA2, family="gemma3_text", requires=(("use_bidirectional_attention", False),))

_OLMO2 = ArchSpec(
    "olmo2",
    mid="mlp",
    attn_norm=None,
    mlp_norm=None,
    attn_post="post_attention_layernorm",
    mlp_post="post_feedforward_layernorm",
)

_GLM4 = ArchSpec("glm4", mlp_up=None, attn_post="post_self_attn_layernorm", mlp_post="post_mlp_layernorm")

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

_STABLELM = ArchSpec("stablelm", parallel=("use_parallel_residual",), shares_norm=True)

# An activation stands between the up-projection and the output of these MLPs.
_PLAIN_MLP = (
    ArchSpec("nemotron", mlp_up=None, norm_offset=1.0),
    ArchSpec("arcee", mlp_up=None),
    ArchSpec("starcoder2", mlp_up=None, mlp_proj="mlp.c_proj"),
    ArchSpec("nanochat", mlp_up=None, mlp_proj="mlp.fc2", softcap="final_logit_softcapping"),
    ArchSpec(
        "apertus", mlp_up=None, attn_norm="attention_layernorm", mid="feedforward_layernorm",
        mlp_norm="feedforward_layernorm",
    ),
    ArchSpec(
        "persimmon", **_FUSED, attn_proj="self_attn.dense", mlp_proj="mlp.dense_4h_to_h",
        ln_final="model.final_layernorm",
    ),
)  # fmt: skip

_LIKE_LLAMA = (
    *("llama", "mistral", "qwen2", "qwen3", "smollm3", "ministral", "ministral3", "seed_oss", "ernie4_5"),
    *("hunyuan_v1_dense", "helium", "cwm", "olmo"),
)
"""One layout; what else differs (norms of queries and keys, biases, rotary tables) lies inside the sublayers."""

_DENSE = (
    *map(ArchSpec, _LIKE_LLAMA),
    ArchSpec("gemma", norm_offset=1.0),
    ArchSpec("phi3", **_FUSED),
    ArchSpec("glm", mlp_up=None),
    _GLM4,
    _GEMMA2,
    _GEMMA3,
    _OLMO2,
    replace(_OLMO2, family="olmo3"),
    replace(_OLMO2, family="exaone4"),
    _GRANITE,
    _COHERE,
    replace(_COHERE, family="cohere2"),
    _PHI,
    _STABLELM,
    *_PLAIN_MLP,
    _GPT2,
    replace(_GPT2, family="gpt_bigcode", cache_kwarg="layer_past"),
    replace(
        _GPT2, family="gpt_neo", attn_proj="attn.attention.out_proj", attn_v="attn.attention.v_proj",
        cache_kwarg="layer_past", window="window_size", requires=(),
    ),
    _GPTJ,
    replace(_GPTJ, family="codegen", attn_v=None),
    _GPT_NEOX,
    _FALCON,
    _OPT,
    _XGLM,
    replace(
        _XGLM, family="biogpt", layers="biogpt.layers", ln_final="biogpt.layer_norm", unembed="output_projection"
    ),
)  # fmt: skip

_EXPERTS = Mixture()
_SHARED = replace(_EXPERTS, shared="mlp.shared_experts")
_ROUTED = replace(_EXPERTS, dense=("mlp.router",))
_QWEN2 = replace(_EXPERTS, shared="mlp.shared_expert", dense=("mlp.gate", "mlp.shared_expert_gate"))
_LLAMA4 = Mixture(
    "feed_forward.experts", "feed_forward.shared_expert", ("feed_forward.router",), transposed=True,
    returns_routing=True,
)  # fmt: skip
_MIXTURES = (
    *(ArchSpec(family, mixture=_EXPERTS) for family in ("mixtral", "qwen3_moe", "olmoe")),
    ArchSpec("qwen2_moe", mixture=_QWEN2),
    ArchSpec("deepseek_v3", mixture=_SHARED, attn_v=None),
    ArchSpec("glm4_moe", mixture=_SHARED),
    ArchSpec("phimoe", mixture=_ROUTED),
    ArchSpec("gpt_oss", mixture=replace(_ROUTED, transposed=True, linear_up=False, returns_routing=True)),
    replace(
        _GRANITE, family="granitemoe", mlp="block_sparse_moe",
        mixture=Mixture("block_sparse_moe.experts", dense=("block_sparse_moe.router",)),
    ),
    ArchSpec(
        "llama4_text", window="attention_chunk_size", mlp="feed_forward", mlp_proj="feed_forward.down_proj",
        mlp_up="feed_forward.up_proj", mixture=_LLAMA4,
    ),
)  # fmt: skip


def _inside(row: ArchSpec, family: str) -> ArchSpec:
    """The row of a wrapper of several towers, whose text tower has the layout of ``row``."""
    tower = {name: getattr(row, name).replace("model.", "model.language_model.", 1) for name in ("layers", "ln_final")}
    return replace(row, family=family, **tower)


# Models that read images too; here they read text alone.
_LLAMA = ArchSpec("llama")
_WRAPPERS = (
    _inside(_GEMMA3, "gemma3"),
    *(_inside(_LLAMA, family) for family in ("mistral3", "llava", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")),
)

ARCHS: dict[str, ArchSpec] = {row.family: row for row in (*_DENSE, *_MIXTURES, *_WRAPPERS)}
"""The supported families by ``config.model_type``."""
