"""Every row of ARCHS describes its family; everything else is refused in one line."""

import copy

import pytest
import torch

from prunelib.errors import PrunelibError
from prunelib.methods.weights import output_weights
from prunelib.models.families import ARCHS
from prunelib.models.sublayers import Site
from prunelib.models.supported import arch_for

REQUIRED = {"llama", "mistral", "qwen2", "qwen3", "gemma2", "phi3"}
REQUIRED |= {"gpt2", "gpt_neox", "opt", "olmo2"}


def test_every_row_has_a_tiny_model(variants):
    assert {name.partition("-")[0] for name in variants} == set(ARCHS)
    assert set(ARCHS) >= REQUIRED
    assert all(name == row.family for name, row in ARCHS.items())


def test_paths_lead_to_the_parts(lm):
    width = lm.config.hidden_size
    assert lm.n_layers == lm.config.num_hidden_layers
    for layer in range(lm.n_layers):
        for kind in ("attn", "mlp"):
            written = output_weights(lm, Site(kind, layer))
            experts = lm.experts(layer) if kind == "mlp" else None
            assert len(written) == (len(experts) + (experts.shared is not None) if experts else 1)
            assert all(weight.shape[0] == width for weight in written)
    assert lm.W.shape == (lm.vocab_size, width)
    assert any(map(lm.experts, range(lm.n_layers))) == (lm.arch.mixture is not None)


def test_parallel_blocks_have_no_middle(tiny):
    parallel = ("gpt_neox", "cohere", "phi", "stablelm-parallel", "gptj", "falcon", "falcon-new")
    sequential = ("gpt_neox-sequential", "stablelm", "llama", "falcon-sequential")
    assert all(tiny(name).arch.is_parallel for name in parallel)
    assert not any(tiny(name).arch.is_parallel for name in sequential)


NO_ATTENTION = {"mamba", "mamba2", "falcon_mamba", "xlstm", "bamba", "granitemoehybrid"}
"""Those that have none, the last two in their default sizes."""

ENCODER = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def _bert():
    from transformers import BertConfig, BertForMaskedLM

    return BertForMaskedLM(BertConfig(**ENCODER))


def _roberta():
    from transformers import RobertaConfig, RobertaForMaskedLM

    return RobertaForMaskedLM(RobertaConfig(**ENCODER))


def _t5():
    from transformers import T5Config, T5ForConditionalGeneration

    return T5ForConditionalGeneration(T5Config(vocab_size=97, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4))


def _mamba():
    from transformers import MambaConfig, MambaForCausalLM

    return MambaForCausalLM(MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2))


def _headless():
    from transformers import LlamaConfig, LlamaModel

    return LlamaModel(LlamaConfig(**ENCODER))


class Unknown(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lm_head = torch.nn.Linear(4, 4)


@pytest.mark.parametrize(
    ("build", "name", "reason"),
    [
        (_bert, "BertForMaskedLM", "causal language-model head"),
        (_roberta, "RobertaForMaskedLM", "causal language-model head"),
        (_t5, "T5ForConditionalGeneration", "encoder–decoder"),
        (_mamba, "MambaForCausalLM", "attention sublayers"),
        (_headless, "LlamaModel", "'model.layers'"),
        (Unknown, "Unknown", "attention sublayers"),
    ],
)
def test_refused_naming_the_class_and_what_is_missing(build, name, reason):
    with pytest.raises(PrunelibError) as caught:
        arch_for(build())
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"{name} is not supported") and reason in line


@pytest.mark.parametrize(
    ("variant", "changes", "reason"),
    [
        ("opt", {"do_layer_norm_before": False}, "do_layer_norm_before=False"),
        ("opt", {"word_embed_proj_dim": 16}, "word_embed_proj_dim=16"),
        ("opt", {"_remove_final_layer_norm": True}, "_remove_final_layer_norm=True"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention=True"),
        ("llama", {"num_hidden_layers": 0}, "'model.layers.0'"),
    ],
)
def test_refused_variants(make_model, variant, changes, reason):
    with pytest.raises(PrunelibError, match="not supported") as caught:
        arch_for(make_model(variant, **changes))
    assert reason in str(caught.value)


def test_changed_layout_is_refused(tiny):
    model = copy.deepcopy(tiny("llama").model)
    for layer in model.model.layers:
        layer.feed_forward = layer.mlp
        del layer.mlp
    with pytest.raises(PrunelibError, match=r"LlamaForCausalLM .* 'model\.layers\.0\.mlp'"):
        arch_for(model)


def test_a_type_that_nobody_typed_is_not_corrected(tiny):
    model = copy.deepcopy(tiny("llama").model)
    model.config.model_type = "qwen4"
    with pytest.raises(PrunelibError, match=r"missing a row for model type 'qwen4'") as caught:
        arch_for(model)
    assert "did you mean" not in str(caught.value)


def test_no_part_is_said_to_be_missing_that_is_there():
    """Every causal model of transformers that has no row, built without storage from its default sizes."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    said = {}
    for config_class in MODEL_FOR_CAUSAL_LM_MAPPING:
        try:
            config = config_class()
            if getattr(config, "model_type", None) in ARCHS:
                continue
            with torch.device("meta"):
                model = MODEL_FOR_CAUSAL_LM_MAPPING[config_class](config)
        except Exception:
            continue
        with pytest.raises(PrunelibError) as caught:
            arch_for(model)
        said[config.model_type] = str(caught.value)
    assert len(said) > 60
    assert not any("\n" in line or "did you mean" in line for line in said.values())
    without = {family for family, line in said.items() if "missing attention" in line}
    assert without <= NO_ATTENTION, without - NO_ATTENTION
