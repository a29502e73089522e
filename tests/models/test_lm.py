"""Loading: what is refused in one line, what an LM says about itself, exact unembedding."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_files
import torch
from refusals import refused
from safetensors.torch import load_file, save_file

import prunelib
from prunelib.models.lm import LM, fingerprint, pad

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path, make_model) -> Path:
    return tiny_files.write_folder(make_model("llama"), tmp_path / "my model")


def edit_config(folder: Path, **changes) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


# ---------------------------------------------------------------- package


def test_import_is_light():
    code = "import prunelib, sys; print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["False", "False"]
    assert prunelib.LM is LM
    with pytest.raises(AttributeError):
        prunelib.nothing  # noqa: B018


# ---------------------------------------------------------------- what is refused


def test_folder_without_config(tmp_path):
    with refused("not a model folder", "config.json"):
        prunelib.load(str(tmp_path))


def test_wrong_model_type(folder):
    edit_config(folder, model_type="lama")
    with refused("config.json", "no model type 'lama'", "did you mean 'llama'"):
        prunelib.load(str(folder))


def test_damaged_config(folder):
    (folder / "config.json").write_text("{")
    with refused("config.json"):
        prunelib.load(str(folder))


def test_impossible_sizes(folder):
    edit_config(folder, num_attention_heads=5)
    with refused("config.json"):
        prunelib.load(str(folder))


@pytest.mark.parametrize(("kind", "words"), [("t5", "T5"), ("bert", "Bert"), ("mamba", "Mamba"), ("bloom", "Bloom")])
def test_unsupported_architecture(tmp_path, kind, words):
    from transformers import AutoConfig

    AutoConfig.for_model(kind).save_pretrained(tmp_path)
    with refused(words, "not supported", "missing"):
        prunelib.load(str(tmp_path))


def test_encoder_alias_is_no_language_model():
    with refused("all-minilm-l6-v2 is an encoder"):
        prunelib.load("all-minilm-l6-v2")


def test_quantized_checkpoint(folder):
    edit_config(folder, quantization_config={"quant_method": "gptq", "bits": 4})
    with refused("quantized"):
        prunelib.load(str(folder))


def test_missing_weights(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with refused("no .safetensors weights"):
        prunelib.load(str(folder))


def test_truncated_weights(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with refused("cannot read the weights"):
        prunelib.load(str(folder))


def test_a_missing_tensor_is_not_made_up(folder):
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with refused("incomplete", "model.layers.1.mlp.up_proj.weight"):
        prunelib.load(str(folder))


def test_a_tensor_of_another_shape(folder):
    edit_config(folder, intermediate_size=64)
    with refused("does not fit its configuration", "model.layers.0.mlp.down_proj.weight is [", "in the file and ["):
        prunelib.load(str(folder))


@pytest.mark.parametrize(("name", "shape"), [
    ("model.layers.0.self_attn.q_proj.bias", (32,)),  # saved with biases, read with attention_bias false
    ("model.layers.9.mlp.up_proj.weight", (64, 32)),  # more layers than the configuration says
    ("model.layers.0.mlp.up_proj.weight_scale", (1,)),  # quantized, and not said so
])  # fmt: skip
def test_a_tensor_without_a_place_is_not_dropped(folder, name, shape):
    weights = load_file(folder / "model.safetensors")
    weights[name] = torch.ones(shape)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with refused("does not fit its configuration", f"the model has no place for {name}"):
        prunelib.load(str(folder))


def test_buffers_of_older_versions_are_no_fault(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    prunelib.load(str(folder))


@pytest.mark.parametrize("named", ["pytorch_model.bin", "../model.safetensors", "sub/model.safetensors", 7])
def test_an_index_that_names_other_files_is_not_followed(folder, named):
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    index = {"metadata": {}, "weight_map": dict.fromkeys(load_file(folder / "model.safetensors"), named)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with refused(f"names '{named}': only .safetensors files beside it are read"):
        prunelib.load(str(folder))


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 3}'])
def test_a_damaged_index(folder, text):
    (folder / "model.safetensors.index.json").write_text(text)
    with refused("cannot read", "model.safetensors.index.json"):
        prunelib.load(str(folder))


def test_an_index_that_names_a_file_that_is_not_there(folder):
    index = {"weight_map": dict.fromkeys(load_file(folder / "model.safetensors"), "model-00002-of-00002.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with refused("incomplete: it lacks model-00002-of-00002.safetensors"):
        prunelib.load(str(folder))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_weights(folder, value):
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.2.mlp.up_proj.weight"][3, 4] = value
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with refused("model.layers.2.mlp.up_proj.weight holds NaN or Inf"):
        prunelib.load(str(folder))


def test_offloaded_weights(make_model):
    with refused("offloaded"):
        LM.from_model(make_model("llama").to("meta"))


def test_no_tokenizer(tmp_path, make_model, tiny):
    tiny_files.write_folder(make_model("llama"), tmp_path / "m", with_tokenizer=False)
    with refused("cannot read a tokenizer"):
        prunelib.load(str(tmp_path / "m"))
    with refused("tiny-llama has no tokenizer"):
        tiny("llama").encode(["a"])


def test_dtype_and_device(folder):
    with refused("unknown dtype 'flot16'", "did you mean 'float16'"):
        prunelib.load(str(folder), dtype="flot16")
    with refused("device 'gpu'", "cpu"):
        prunelib.load(str(folder), device="gpu")
    assert prunelib.load(str(folder), device="cpu").dtype == torch.float32
    assert prunelib.load(str(folder), dtype="bfloat16", device="cpu").dtype == torch.bfloat16


# ---------------------------------------------------------------- identity


def test_local_folder(folder):
    lm = prunelib.load(str(folder), device="cpu")
    assert "my-model" in lm.slug and (lm.revision, lm.licence) == (None, "unknown")
    assert (lm.n_layers, lm.d_model) == (4, 32) and lm.vocab_size == lm.W.shape[0]
    assert not lm.model.training and not any(p.requires_grad for p in lm.model.parameters())
    assert {
        "name",
        "slug",
        "revision",
        "fingerprint",
        "family",
        "n_layers",
        "d_model",
        "vocab_size",
        "licence",
        "dtype",
        "device",
    } == set(lm.describe())


def test_loading_is_silent(folder, capfd):
    prunelib.load(str(folder))
    assert capfd.readouterr() == ("", "")


def test_fingerprint_is_stable_and_sees_one_weight(folder, make_model):
    model = make_model("llama")
    expected = fingerprint(model)
    assert prunelib.load(str(folder)).fingerprint == expected
    assert fingerprint(copy.deepcopy(model)) == expected
    with torch.no_grad():
        weight = model.model.layers[1].mlp.up_proj.weight
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(9.0))
    assert fingerprint(model) != expected
    assert fingerprint(make_model("llama").bfloat16()) != expected
    assert fingerprint(make_model("llama", rms_norm_eps=1e-3)) != expected


# ---------------------------------------------------------------- parts


def test_unembed_is_the_head_of_every_family(lm, padded):
    with torch.no_grad():
        out = lm.model(**padded)
        post = {}
        handle = lm.ln_final.register_forward_hook(
            lambda module, args, output: post.update(before=args[0], after=output)
        )
        lm.model(**padded)
        handle.remove()
    torch.testing.assert_close(lm.unembed(post["before"], "normed"), out.logits.float(), rtol=0, atol=0)
    torch.testing.assert_close(lm.unembed(post["after"], "raw"), out.logits.float(), rtol=0, atol=0)
    assert lm.W.data_ptr() == lm.model.get_output_embeddings().weight.data_ptr()
    with refused("unknown lens 'norm'", "normed"):
        lm.unembed(post["after"], "norm")


def test_parts_of_every_family(lm):
    assert len(lm.layers) == lm.n_layers == 4
    for layer in range(lm.n_layers):
        assert lm.attn(layer) in set(lm.layers[layer].modules())
        assert lm.mlp(layer) in set(lm.layers[layer].modules())
        assert (lm.mid(layer) is None) == lm.arch.is_parallel


# ---------------------------------------------------------------- encoding


@pytest.mark.parametrize("side", ["left", "right"])
def test_encode_pads_and_numbers_real_tokens(folder, side):
    lm = prunelib.load(str(folder), device="cpu")
    assert lm.tokenizer.pad_token is None
    batch = lm.encode(["a b c d", "hello"], side=side)
    assert batch["attention_mask"].sum(1).tolist() == [4, 1]
    row = batch["input_ids"][1][batch["attention_mask"][1] == 1]
    assert lm.decode(row.tolist()) == "hello"
    assert batch["position_ids"][0].tolist() == [0, 1, 2, 3]
    assert batch["position_ids"][1][batch["attention_mask"][1] == 1].tolist() == [0]
    with refused("no tokens"):
        lm.encode(["a", ""])
    with refused("no chat template"):
        lm.encode(["a"], chat=True)
    with refused("padding side"):
        pad([[1]], 0, "both")


def test_padding_does_not_change_logits(lm):
    rows = [[5, 6, 7, 8, 9, 10], [11, 12]]
    both = pad(rows, 0, "left")
    with torch.no_grad():
        batched = lm.model(**both).logits[1, -1]
        alone = lm.model(**pad(rows[1:], 0, "left")).logits[0, -1]
    torch.testing.assert_close(batched, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.real_model
def test_default_model(default_lm):
    lm = default_lm
    assert (lm.n_layers, lm.d_model, lm.vocab_size) == (30, 576, 49152)
    assert lm.licence == "Apache-2.0" and lm.arch.family == "llama" and lm.dtype == torch.float32
    batch = lm.encode(["What is the capital of France?", "Hi"])
    plain = lm.encode(["Hi"], chat=False)
    assert plain["input_ids"].shape[1] < batch["attention_mask"][1].sum()
    with torch.no_grad():
        hidden = lm.body(**batch).last_hidden_state
        assert torch.equal(lm.unembed(hidden, "raw"), lm.model(**batch).logits)
    assert lm.fingerprint == prunelib.load(lm.name, device="cpu", dtype="float32").fingerprint
