"""Tiny random models of every family, made from their configurations (no download).

A test that takes ``family`` or ``lm`` runs once for each entry of ``FAMILIES``;
``tiny("llama")`` gives one by name. The models are shared by the whole session:
copy one (``copy.deepcopy``) before changing it.
"""

import functools
import os
from pathlib import Path

import pytest

if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):
    # Before torch is imported: threads of processes that share a core wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

pytest_plugins = ["fixtures_real"]


SANDBOXED = ("test_sandbox.py", "test_humaneval.py", "test_benchmarks.py", "test_harness.py")


def pytest_addoption(parser):
    parser.addoption("--families", metavar="FILE", help="write what works in each family to FILE (make families)")


def pytest_configure(config):
    if config.getoption("families") and not hasattr(config, "workerinput"):
        import families

        config.pluginmanager.register(families.Recorder(Path(config.getoption("families"))))


def pytest_collection_modifyitems(items):
    import families

    for item in items:
        variant = getattr(item, "callspec", None) and item.callspec.params.get("family")
        if variant and (column := families.column_of(item)):
            item.user_properties += [("family", variant), ("column", column)]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With several processes one gets a whole file, and all of the book: what a file made is made once.

    Of what counts the sandbox's processes, one runs at a time. In the order of their names, as in one process: the book
    and the chapters, which have few tests and long ones, come first.
    """
    from xdist.scheduler import LoadScopeScheduling

    config.option.loadscopereorder = False

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            if "/book/" in file:
                return "book"
            return "sandbox" if file.endswith(SANDBOXED) else file

    return ByFile(config, log)


VOCAB, WIDTH, LAYERS, WINDOW = 97, 32, 4, 8

_COMMON = {"vocab_size": VOCAB, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_MODERN = _COMMON | {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
_MIXED = {
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention"] * (LAYERS // 2),
}
_NEOX = {k: v for k, v in _MODERN.items() if k != "num_key_value_heads"}
_HEADS = {"head_dim": 8}
# Shorter than those families' default tables.
_ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
_YARN = {
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 2.0,
        "original_max_position_embeddings": 32,
        "llama_4_scaling_beta": 0.1,
    }
}
_GPT = _COMMON | {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 4, "n_positions": 64}
_FALCON = _COMMON | {
    "hidden_size": WIDTH,
    "ffn_hidden_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "alibi": False,
}
# Rows of whole cache lines: a file that is mapped into memory may give others another alignment, and rounding.
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_DEEPSEEK = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
# The towers that read images; nothing runs them here.
_SIGHT = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
_QWEN_SIGHT = {"depth": 1, "embed_dim": 16, "hidden_size": WIDTH, "num_heads": 2, "out_hidden_size": WIDTH}
_MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}}

CONFIGS = {
    "llama": _MODERN,
    "mistral": _MODERN | {"sliding_window": WINDOW},
    "qwen2": _MODERN,
    "qwen3": _MODERN | {"head_dim": 8},
    "gemma2": _MODERN | _MIXED | {"head_dim": 8, "final_logit_softcapping": 3.0},
    "phi3": _MODERN,
    "gpt2": _GPT,
    "gpt_neox": _NEOX | {"use_parallel_residual": True},
    "gpt_neox-sequential": _NEOX | {"use_parallel_residual": False},
    "opt": _COMMON
    | {
        "hidden_size": WIDTH,
        "word_embed_proj_dim": WIDTH,
        "ffn_dim": 48,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
    },
    "olmo2": _MODERN,
    "olmo3": _MODERN | _MIXED,
    "gemma": _MODERN | {"head_dim": 8},
    "gemma3_text": _MODERN | _MIXED | {"head_dim": 8},
    "granite": _MODERN | {"residual_multiplier": 0.7, "logits_scaling": 4.0},
    "cohere": _MODERN | {"logit_scale": 0.25},
    "cohere-qknorm": _MODERN | {"logit_scale": 0.25, "use_qk_norm": True},
    "phi": _MODERN,
    "smollm3": _MODERN,
    "stablelm": _MODERN,
    "stablelm-parallel": _MODERN | {"use_parallel_residual": True},
    "cohere2": _MODERN | _MIXED | {"logit_scale": 0.25},
    "glm": _MODERN | _HEADS,
    "glm4": _MODERN | _HEADS,
    "exaone4": _MODERN | _MIXED,
    "nemotron": _MODERN,
    "hunyuan_v1_dense": _MODERN | _HEADS,
    "seed_oss": _MODERN | _HEADS,
    "ernie4_5": _MODERN | _HEADS,
    "ministral": _MODERN | _MIXED | _HEADS,
    "ministral3": _MODERN | _HEADS | _YARN,
    "olmo": _MODERN | {"clip_qkv": 2.0},
    "helium": _MODERN | _HEADS,
    "apertus": _MODERN | _ROPE,
    "arcee": _MODERN,
    "starcoder2": _MODERN,
    "persimmon": _NEOX,
    "cwm": _MODERN | _MIXED | _HEADS | _ROPE,
    "nanochat": _MODERN | {"final_logit_softcapping": 3.0},
    "gpt_bigcode": _GPT,
    "gpt_neo": _COMMON
    | {
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_layers": LAYERS,
        "num_heads": 4,
        "max_position_embeddings": 64,
        "attention_types": [[["global", "local"], LAYERS // 2]],
        "window_size": WINDOW,
    },
    "gptj": _GPT | {"rotary_dim": 4},
    "codegen": _GPT | {"rotary_dim": 4},
    "xglm": _COMMON
    | {"d_model": WIDTH, "ffn_dim": 48, "num_layers": LAYERS, "attention_heads": 4, "max_position_embeddings": 64},
    "biogpt": _NEOX,
    "falcon": _FALCON,
    "falcon-new": _FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon-sequential": _FALCON | {"parallel_attn": False, "multi_query": False},
    "mixtral": _MODERN | _EXPERTS,
    "qwen2_moe": _MODERN
    | _EXPERTS
    | {"num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 48, "mlp_only_layers": [1]},
    "qwen3_moe": _MODERN | _HEADS | _EXPERTS | {"num_experts": 4, "moe_intermediate_size": 16},
    "olmoe": _MODERN | _EXPERTS | {"num_experts": 4},
    "deepseek_v3": _MODERN
    | _DEEPSEEK
    | {
        "num_key_value_heads": 4,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
        "n_group": 2,
    },
    "glm4_moe": _MODERN | _HEADS | _DEEPSEEK,
    "granitemoe": _MODERN | _EXPERTS | {"residual_multiplier": 0.7, "logits_scaling": 4.0},
    "phimoe": _MODERN | _EXPERTS,
    "gpt_oss": _MODERN | _MIXED | _HEADS | _EXPERTS | _YARN,
    "llama4_text": _MODERN
    | _HEADS
    | _EXPERTS
    | {"num_experts_per_tok": 1, "intermediate_size_mlp": 64, "interleave_moe_layer_step": 2},
    "gemma3": {"text_config": _MODERN | _MIXED | _HEADS, "vision_config": _SIGHT},
    "mistral3": {"text_config": _MODERN | _HEADS | {"model_type": "mistral"}, "vision_config": _SIGHT},
    "llava": {"text_config": _MODERN | {"model_type": "llama"}, "vision_config": _SIGHT},
    "qwen2_vl": {"text_config": _MODERN | _MROPE, "vision_config": _QWEN_SIGHT},
    "qwen2_5_vl": {"text_config": _MODERN | _MROPE, "vision_config": _QWEN_SIGHT},
    "qwen3_vl": {"text_config": _MODERN | _HEADS | _MROPE, "vision_config": _QWEN_SIGHT},
}
"""Configuration of each variant; the model type is the part before a dash."""

FAMILIES = list(CONFIGS)


def tiny_model(variant: str, **changes):
    """A seeded float32 model of a variant in which every weight matters.

    Norm weights and biases are random too, and projections have gain 1, so a
    bias or a norm that is forgotten shows in the logits.
    """
    import torch
    from transformers import AutoConfig

    from prunelib.models.checkpoint import auto_class

    config = AutoConfig.for_model(variant.partition("-")[0], **CONFIGS[variant] | changes)
    model = auto_class(config).from_config(config, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(FAMILIES.index(variant))
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.dim() > 1:
                weight.copy_(noise * WIDTH**-0.5)
            else:
                weight.add_(noise * 0.2)
    model.generation_config.eos_token_id = None
    return model


@functools.cache
def _tiny(variant: str):
    from prunelib.models.lm import LM

    return LM.from_model(tiny_model(variant), name=f"tiny-{variant}")


@pytest.fixture(scope="session")
def tiny():
    """Factory: ``tiny("llama")`` is the shared LM of a variant."""
    return _tiny


@pytest.fixture(scope="session")
def variants() -> list[str]:
    return FAMILIES


@pytest.fixture(scope="session")
def make_model():
    """Factory: ``make_model("opt", do_layer_norm_before=False)`` is a new bare model."""
    return tiny_model


@pytest.fixture(scope="session", params=FAMILIES)
def family(request) -> str:
    return request.param


@pytest.fixture(scope="session")
def lm(family):
    """The shared tiny LM, once for each family."""
    return _tiny(family)


@pytest.fixture(scope="session")
def padded():
    """A left-padded batch of three: input_ids, attention_mask, position_ids [3, 11]."""
    import torch

    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(3, VOCAB, (3, 11), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, :4], mask[2, :9] = 0, 0
    ids = ids * mask
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
