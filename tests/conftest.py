"""Tiny random models of every family, made from their configurations (no download).

A test that takes ``family`` or ``lm`` runs once for each entry of ``FAMILIES``;
``tiny("llama")`` gives one by name. The models are shared by the whole session:
copy one (``copy.deepcopy``) before changing it.
"""

import functools

import pytest

pytest_plugins = ["fixtures_real"]

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

CONFIGS = {
    "llama": _MODERN,
    "mistral": _MODERN | {"sliding_window": WINDOW},
    "qwen2": _MODERN,
    "qwen3": _MODERN | {"head_dim": 8},
    "gemma2": _MODERN | _MIXED | {"head_dim": 8, "final_logit_softcapping": 3.0},
    "phi3": _MODERN,
    "gpt2": _COMMON | {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 4, "n_positions": 64},
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
}
"""Configuration of each variant; the model type is the part before a dash."""

FAMILIES = list(CONFIGS)


def tiny_model(variant: str, **changes):
    """A seeded float32 model of a variant in which every weight matters.

    Norm weights and biases are random too, and projections have gain 1, so a
    bias or a norm that is forgotten shows in the logits.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(variant.partition("-")[0], **CONFIGS[variant] | changes)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
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
