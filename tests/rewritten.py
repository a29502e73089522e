"""The same function in another family: the weights of a Llama model, laid out as another family keeps them.

An exact oracle for everything that follows the row of a family: wherever the arithmetic is the same, tables of the
copy equal those of the original to the bit.
"""

import math
import re

import torch

_SIGHT = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
          "image_size": 28, "patch_size": 14}  # fmt: skip
_QWEN_SIGHT = {"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2}
_EXPERTS = re.compile(r"(model\.layers\.\d+)\.mlp\.(gate|up|down)_proj\.weight")

EXACT = (
    "mistral",
    "ministral",
    "qwen2",
    "smollm3",
    "seed_oss",
    "cwm",
    "phi3",
    "granite",
    "llava",
    "mistral3",
    "qwen2_vl",
)
"""Families whose arithmetic is that of Llama, operation by operation."""
CLOSE = ("gemma", "mixtral", "mixtral-4", "granitemoe", "qwen2_moe")
"""Those that reach the same numbers another way: a scale of 1 + w in the norms, experts weighted and added."""


def rewritten(model, kind: str):
    """A model of another family (``mixtral-4`` has four equal experts) that computes what the Llama ``model`` does."""
    from transformers import AutoConfig

    from prunelib.models.checkpoint import auto_class

    family, _, experts = kind.partition("-")
    old, weights = model.config, dict(model.state_dict())
    weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])
    text = _common(old) | _settings(old, family, int(experts or 1))
    if family in ("llava", "mistral3", "qwen2_vl"):
        sight = _QWEN_SIGHT | {"out_hidden_size": old.hidden_size} if family == "qwen2_vl" else _SIGHT
        inner = {"llava": "llama", "mistral3": "mistral"}.get(family)
        text |= {"model_type": inner} if inner else {}
        config = AutoConfig.for_model(
            family, text_config=text, vision_config=sight, tie_word_embeddings=old.tie_word_embeddings
        )
    else:
        config = AutoConfig.for_model(family, **text)
    other = auto_class(config).from_config(config, dtype=model.dtype).eval()
    new = _laid_out(weights, family, old, int(experts or 1))
    missing, unexpected = other.load_state_dict(new, strict=False)
    seen = [name for name in missing if "vision" not in name and "visual" not in name and "projector" not in name]
    assert not unexpected and set(seen) <= {"lm_head.weight"}, (seen, unexpected)
    other.tie_weights()
    other.generation_config = model.generation_config
    return other


def _common(old) -> dict:
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
             "num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings", "bos_token_id",
             "eos_token_id", "pad_token_id", "hidden_act", "head_dim")  # fmt: skip
    return {name: getattr(old, name) for name in names} | {"rope_parameters": dict(old.rope_parameters)}


def _settings(old, family: str, experts: int) -> dict:
    width = old.head_dim or old.hidden_size // old.num_attention_heads
    layers = ["full_attention"] * old.num_hidden_layers
    granite = {"attention_multiplier": width**-0.5, "embedding_multiplier": 1.0, "residual_multiplier": 1.0,
               "logits_scaling": 1.0}  # fmt: skip
    routed = {"num_local_experts": experts, "num_experts_per_tok": min(2, experts)}
    return {
        "mistral": {"sliding_window": None},
        "mistral3": {"sliding_window": None},
        "ministral": {"sliding_window": old.max_position_embeddings, "layer_types": layers},
        "cwm": {"sliding_window": old.max_position_embeddings, "layer_types": layers},
        "smollm3": {"no_rope_layers": [1] * old.num_hidden_layers, "use_sliding_window": False},
        "seed_oss": {"attention_bias": False, "attention_out_bias": False},
        "granite": granite,
        "granitemoe": granite | routed,
        "gemma": {"tie_word_embeddings": False, "hidden_activation": old.hidden_act},
        "mixtral": routed | {"sliding_window": None},
        "qwen2_moe": {
            "num_experts": 1, "num_experts_per_tok": 1, "moe_intermediate_size": old.intermediate_size,
            "shared_expert_intermediate_size": 8, "norm_topk_prob": True,
        },
        "qwen2_vl": {"rope_parameters": dict(old.rope_parameters) | {"mrope_section": _thirds(width // 2)}},
    }.get(family, {})  # fmt: skip


def _thirds(size: int) -> list[int]:
    """Shares of time, height and width; in a text all three positions are one."""
    return [size // 4, size // 4, size - 2 * (size // 4)]


def _laid_out(weights: dict, family: str, old, experts: int) -> dict:
    new = {}
    for name, value in weights.items():
        if family in ("mixtral", "granitemoe", "qwen2_moe") and (found := _EXPERTS.match(name)):
            if found[2] == "gate":
                up = weights[name.replace("gate_proj", "up_proj")]
                place = "block_sparse_moe" if family == "granitemoe" else "mlp"
                down = weights[name.replace("gate_proj", "down_proj")]
                stack = lambda one: one.expand(experts, *one.shape).clone()  # noqa: E731
                new[f"{found[1]}.{place}.experts.gate_up_proj"] = stack(torch.cat([value, up]))
                new[f"{found[1]}.{place}.experts.down_proj"] = stack(down)
                gate = "router" if family == "granitemoe" else "gate"
                new[f"{found[1]}.{place}.{gate}.weight"] = value.new_zeros(experts, value.shape[1])
                if family == "qwen2_moe":
                    for part, shape in (("gate_proj", (8, -1)), ("up_proj", (8, -1)), ("down_proj", (-1, 8))):
                        sizes = [value.shape[1] if size == -1 else size for size in shape]
                        new[f"{found[1]}.mlp.shared_expert.{part}.weight"] = value.new_zeros(sizes)
                    new[f"{found[1]}.mlp.shared_expert_gate.weight"] = value.new_zeros(1, value.shape[1])
        elif family == "phi3" and ".q_proj." in name:
            others = [weights[name.replace("q_proj", part)] for part in ("k_proj", "v_proj")]
            new[name.replace("q_proj", "qkv_proj")] = torch.cat([value, *others])
        elif family == "phi3" and ".gate_proj." in name:
            new[name.replace("gate_proj", "gate_up_proj")] = torch.cat([value, weights[name.replace("gate", "up")]])
        elif family == "phi3" and re.search(r"\.(k|v|up)_proj\.", name):
            continue
        elif family == "gemma" and "norm" in name:
            new[name] = value - 1
        elif family == "gemma" and name == "model.embed_tokens.weight":
            new[name] = value / math.sqrt(old.hidden_size)
        else:
            new[name] = value
            if family in ("qwen2", "qwen2_moe", "qwen2_vl") and re.search(r"\.(q|k|v)_proj\.weight", name):
                new[name.replace("weight", "bias")] = value.new_zeros(len(value))
    if family in ("llava", "mistral3", "qwen2_vl"):
        new = {re.sub(r"^model\.", "model.language_model.", name): value for name, value in new.items()}
    return new
