"""Saved checkpoints: plain transformers gives the compressed model's logits, the manifest says how they came about."""

import copy
import hashlib
import json

import numpy as np
import pytest
import tiny_files
import torch
from transformers import AutoConfig, AutoTokenizer

import prunelib
from prunelib.engine import text
from prunelib.errors import PrunelibError
from prunelib.methods import parse
from prunelib.methods.apply import compress
from prunelib.methods.save import CALIBRATION, check_target, save
from prunelib.models import hooks
from prunelib.models.checkpoint import auto_class
from prunelib.models.dropped import stay_dropped
from prunelib.models.lm import LM

METHODS = ["magnitude:0.5", "wanda:0.5", "sparsegpt:2:4", "rtn:4:g8", "gptq:3:g16:act", "awq:4:g16", "awq:3:sym"]
DROPS = ["drop:attn:2", "drop:joint:3:iter", "drop:angular:2", "sites:attn:0+mlp:1+block:3"]


@pytest.fixture(scope="module")
def tokens():
    ids = torch.randint(3, 32, (4, 8), generator=torch.Generator().manual_seed(5))
    return text.Tokens(ids, "made up", hashlib.sha256(ids.numpy().tobytes()).hexdigest())


@pytest.fixture
def make_lm(make_model):
    def make(variant="llama", **changes):
        return LM.from_model(make_model(variant, **changes), tiny_files.tokenizer(), f"tiny-{variant}")

    return make


def plain(folder, dtype=torch.float32):
    """The checkpoint as any user of transformers opens it."""
    return auto_class(AutoConfig.from_pretrained(folder)).from_pretrained(folder, dtype=dtype).eval()


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


def compressed_logits(lm, made, batch):
    with made.applied(lm):
        return logits(lm.model, batch)


def one(lm, spec, tokens):
    return compress(lm, [spec], tokens.ids)[spec]


def manifest_of(folder):
    return json.loads((folder / "prunelib.json").read_text())


# ---------------------------------------------------------------- the same logits, every family


def test_pruned_weights_of_every_family(family, make_lm, tokens, padded, tmp_path):
    lm = make_lm(family)
    made = one(lm, "wanda:2:4", tokens)
    save(lm, made, tmp_path / "out", tokens)
    expected = compressed_logits(lm, made, padded)
    assert torch.equal(logits(plain(tmp_path / "out"), padded), expected)
    assert (expected - logits(lm.model, padded)).abs().max() > 1e-3
    loaded = prunelib.load(str(tmp_path / "out"), device="cpu")
    assert loaded.fingerprint == manifest_of(tmp_path / "out")["fingerprints"]["compressed"] != lm.fingerprint


def test_dropped_sublayers_of_every_family(family, make_lm, padded, tmp_path):
    """Plain transformers, prunelib.load and the context agree to the bit; a loaded model computes no dropped part."""
    lm = make_lm(family)
    made = compress(lm, [DROPS[-1]])[DROPS[-1]]
    save(lm, made, tmp_path / "out")
    expected = compressed_logits(lm, made, padded)
    model = plain(tmp_path / "out")
    assert model.config.prunelib_drop == ["attn:0", "mlp:1", "block:3"]
    assert torch.equal(logits(model, padded), expected)
    loaded = prunelib.load(str(tmp_path / "out"), device="cpu")
    assert loaded.fingerprint == manifest_of(tmp_path / "out")["fingerprints"]["compressed"]
    ran = []
    for layer in range(lm.n_layers):
        experts = loaded.experts(layer)
        for kind, path in (("attn", lm.arch.attn_proj), ("mlp", experts.path if experts else lm.arch.mlp_proj)):
            if path == lm.arch.mlp:
                continue  # OPT's MLP is its projection, whose stub runs in its place
            module = loaded.layers[layer].get_submodule(path)
            module.register_forward_hook(lambda *_, name=f"{kind}:{layer}": ran.append(name))
    assert torch.equal(logits(loaded.model, padded), expected)
    assert ran and not {"attn:0", "mlp:1", "attn:3", "mlp:3"} & set(ran)


@pytest.mark.parametrize("kind", ["attn", "mlp", "block"])
def test_every_sublayer_of_one_kind(kind, family, make_lm, padded, tmp_path):
    lm = make_lm(family)
    spec = "sites:" + "+".join(f"{kind}:{layer}" for layer in range(lm.n_layers))
    made = compress(lm, [spec])[spec]
    save(lm, made, tmp_path / "out")
    assert torch.equal(logits(plain(tmp_path / "out"), padded), compressed_logits(lm, made, padded))


@pytest.mark.parametrize("spec", METHODS + DROPS)
def test_every_method(spec, make_lm, tokens, padded, tmp_path):
    lm = make_lm()
    dense = logits(lm.model, padded)
    made = one(lm, spec, tokens)
    save(lm, made, tmp_path / "out", tokens, seed=3)
    assert torch.equal(logits(plain(tmp_path / "out"), padded), compressed_logits(lm, made, padded))
    found = manifest_of(tmp_path / "out")
    assert (found["spec"], found["label"]) == (made.spec, made.label)
    assert found["bits_per_weight"] == pytest.approx(made.bits_per_weight) and 2 < found["bits_per_weight"] < 16
    assert torch.equal(logits(lm.model, padded), dense)


def test_decoding_with_a_cache(make_lm, padded, tmp_path):
    lm = make_lm()
    save(lm, compress(lm, ["sites:attn:0+block:2"])["sites:attn:0+block:2"], tmp_path / "out")
    inputs = {name: padded[name] for name in ("input_ids", "attention_mask")}
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    whole = plain(tmp_path / "out").generate(**inputs, **options)
    loaded = prunelib.load(str(tmp_path / "out"), device="cpu")
    assert torch.equal(loaded.model.generate(**inputs, **options), whole)


def test_tied_embeddings_and_half_precision(make_model, padded, tmp_path):
    tiny_files.write_folder(make_model("llama", tie_word_embeddings=True), tmp_path / "dense")
    lm = prunelib.load(str(tmp_path / "dense"), device="cpu", dtype="bfloat16")
    made = compress(lm, ["rtn:4:g8"])["rtn:4:g8"]
    found = save(lm, made, tmp_path / "out")
    model = plain(tmp_path / "out", torch.bfloat16)
    assert torch.equal(logits(model, padded), compressed_logits(lm, made, padded))
    assert torch.equal(model.lm_head.weight, lm.W) and model.config.dtype == torch.bfloat16
    loaded = prunelib.load(str(tmp_path / "out"), device="cpu", dtype="bfloat16")
    assert loaded.fingerprint == found["fingerprints"]["compressed"]
    assert "dtype='bfloat16'" in found["fingerprints"]["of"]


# ---------------------------------------------------------------- what else is in the folder


def test_manifest_of_pruned_weights(make_lm, tokens, tmp_path):
    lm = make_lm()
    made = one(lm, "wanda:0.5", tokens)
    returned = save(lm, made, tmp_path / "out", tokens, seed=7, about={"packages": {"torch": "x"}})
    found = manifest_of(tmp_path / "out")
    assert {k: v for k, v in found.items() if k != "files"} == json.loads(json.dumps(returned))
    assert found["source"] == json.loads(json.dumps(lm.describe())) and found["packages"] == {"torch": "x"}
    assert found["fingerprints"]["dense"] == lm.fingerprint
    assert found["settings"]["pattern"]["fraction"] == 0.5
    assert found["drop"] == [] and found["drop_scores"] == {}

    about = found["calibration"]
    ids = torch.tensor(json.loads((tmp_path / "out" / about["ids"]).read_text()))
    assert torch.equal(ids, tokens.ids) and about["ids"] == CALIBRATION
    assert hashlib.sha256(ids.numpy().tobytes()).hexdigest() == about["ids_sha256"] == tokens.ids_hash
    assert (about["source"], about["seed"], about["sequences"], about["length"]) == ("made up", 7, 4, 8)

    # The mask, read back from the saved weights alone.
    state = plain(tmp_path / "out").state_dict()
    digest = hashlib.sha256()
    for row in found["weights"]:
        weight = state[f"model.layers.{row['name']}.weight"]
        assert list(weight.shape) == row["shape"] and int((weight == 0).sum()) == row["zeros"]
        assert row["zeros"] == weight.shape[0] * (weight.shape[1] // 2)
        dense = lm.model.get_submodule(f"model.layers.{row['name']}").weight.double()
        assert row["relative_change"] == pytest.approx(((weight - dense).norm() / dense.norm()).item())
        digest.update(f"{row['name']}\n".encode() + np.packbits(weight.numpy() == 0).tobytes())
    assert digest.hexdigest() == found["zero_mask_sha256"] and len(found["weights"]) == 7 * lm.n_layers

    for name, entry in found["files"].items():
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == entry["sha256"]
    assert set(found["files"]) | {"prunelib.json"} == {p.name for p in (tmp_path / "out").iterdir()}
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("a b")["input_ids"] == lm.tokenizer("a b")["input_ids"]


def test_manifest_of_a_drop(make_lm, tokens, tmp_path):
    lm = make_lm()
    made = one(lm, "drop:attn:2:iter", tokens)
    found = save(lm, made, tmp_path / "out", tokens)
    assert found["spec"] == "drop:attn:2:iter" and found["label"] == "Drop-2A iter"
    assert found["drop"] == [str(site) for site in made.sites] and len(found["drop_scores"]) == lm.n_layers
    assert found["weights"] == [] and found["zero_mask_sha256"] is None
    # Nothing but the listed projections differs from the dense weights.
    state = plain(tmp_path / "out").state_dict()
    silent = {f"model.layers.{site.layer}.self_attn.o_proj.weight" for site in made.sites}
    for name, dense in lm.model.state_dict().items():
        assert not state[name].any() if name in silent else torch.equal(state[name], dense)


def test_no_calibration_no_file(make_lm, tmp_path):
    lm = make_lm()
    found = save(lm, compress(lm, ["rtn:4"])["rtn:4"], tmp_path / "new" / "out")
    assert found["calibration"] is None and not (tmp_path / "new" / "out" / CALIBRATION).exists()


def test_the_same_bytes_again(make_lm, tokens, tmp_path):
    lm = make_lm()
    made = one(lm, "gptq:4:g16", tokens)
    for name in ("a", "b"):
        save(lm, made, tmp_path / name, tokens)
    first, second = ({n: e["sha256"] for n, e in manifest_of(tmp_path / name)["files"].items()} for name in "ab")
    assert first == second


def test_the_model_is_left_as_it_was(make_lm, tokens, tmp_path):
    lm = make_lm()
    config, own = lm.model.config, copy.deepcopy(lm.model.config.to_dict())
    dtype = lm.model.config.dtype
    for spec in ("sparsegpt:0.5", "sites:block:1"):
        save(lm, one(lm, spec, tokens), tmp_path / spec.replace(":", "-"), tokens)
    assert lm.model.config is config and config.to_dict() == own and config.dtype is dtype
    assert LM.from_model(lm.model).fingerprint == lm.fingerprint
    assert "forward" not in lm.layers[1].self_attn.__dict__


# ---------------------------------------------------------------- never half a checkpoint


def leftovers(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("stop", [OSError(28, "No space left on device"), KeyboardInterrupt(), RuntimeError("odd")])
def test_a_failure_leaves_nothing(stop, make_lm, tmp_path, monkeypatch):
    lm = make_lm()
    made = compress(lm, ["rtn:4"])["rtn:4"]

    def fail(folder):
        (folder / "tokenizer.json").write_text("{")
        raise stop

    monkeypatch.setattr(lm, "tokenizer", type("Tokenizer", (), {"save_pretrained": staticmethod(fail)}))
    with pytest.raises(KeyboardInterrupt if isinstance(stop, KeyboardInterrupt) else PrunelibError) as caught:
        save(lm, made, tmp_path / "out")
    assert leftovers(tmp_path) == [] and "\n" not in str(caught.value)
    assert "prunelib_drop" not in lm.config.to_dict()


def test_an_empty_folder_is_used_and_a_leftover_replaced(make_lm, padded, tmp_path, monkeypatch):
    lm = make_lm()
    made = compress(lm, ["rtn:4"])["rtn:4"]
    monkeypatch.setattr("os.getpid", lambda: 7)
    (tmp_path / "out").mkdir()
    (tmp_path / ".out.7.part").mkdir()
    (tmp_path / ".out.7.part" / "half.safetensors").write_text("half")
    save(lm, made, tmp_path / "out")
    assert leftovers(tmp_path) == ["out"] and not (tmp_path / "out" / "half.safetensors").exists()
    assert torch.equal(logits(plain(tmp_path / "out"), padded), compressed_logits(lm, made, padded))


def test_a_folder_filled_meanwhile_is_kept(make_lm, tmp_path, monkeypatch):
    lm = make_lm()
    made = compress(lm, ["rtn:4"])["rtn:4"]
    own = lm.tokenizer.save_pretrained

    def slow(folder):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine.txt").write_text("keep")
        return own(folder)

    monkeypatch.setattr(lm.tokenizer, "save_pretrained", slow)
    with pytest.raises(PrunelibError, match="cannot write .*out"):
        save(lm, made, tmp_path / "out")
    assert leftovers(tmp_path) == ["out"] and leftovers(tmp_path / "out") == ["mine.txt"]


# ---------------------------------------------------------------- refused in one line


def test_targets(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("")
    (tmp_path / "file").write_text("")
    with pytest.raises(PrunelibError, match="full exists and is not empty"):
        check_target(tmp_path / "full")
    with pytest.raises(PrunelibError, match="cannot write .*file is a file"):
        check_target(tmp_path / "file")
    with pytest.raises(PrunelibError, match="cannot write .*file is a file"):
        check_target(tmp_path / "file" / "deep" / "er")
    assert check_target(tmp_path / "new" / "deep") == tmp_path / "new" / "deep"
    assert leftovers(tmp_path) == ["file", "full"]


@pytest.mark.parametrize("spec", ["dense", "drop:attn:0", "drop:angular:0", "wanda:0"])
def test_nothing_to_save(spec, make_lm, tokens, tmp_path):
    lm = make_lm()
    with pytest.raises(PrunelibError, match=f"{spec} leaves every weight of tiny-llama as it is"):
        save(lm, one(lm, spec, tokens), tmp_path / "out", tokens)
    assert leftovers(tmp_path) == []


def test_sites_that_the_model_does_not_have(make_lm, tmp_path):
    from prunelib.methods.apply import Compressed, Dropped
    from prunelib.models.sublayers import DropPlan, Site

    made = Compressed(parse("sites:attn:9"), (Dropped(DropPlan((Site("attn", 9),))),), 15.0)
    with pytest.raises(PrunelibError, match="attn:9 is out of range: tiny-llama has 4 layers"):
        save(make_lm(), made, tmp_path / "out")
    assert leftovers(tmp_path) == []


def test_dropping_comes_last(make_lm, tokens, tmp_path, padded):
    """A pruned checkpoint can lose sublayers; one that lost some is not compressed again."""
    lm = make_lm()
    save(lm, one(lm, "wanda:0.5", tokens), tmp_path / "pruned", tokens)
    pruned = prunelib.load(str(tmp_path / "pruned"), device="cpu")
    both = one(pruned, "drop:mlp:1", tokens)
    save(pruned, both, tmp_path / "both", tokens)
    again = prunelib.load(str(tmp_path / "both"), device="cpu")
    assert torch.equal(logits(again.model, padded), compressed_logits(pruned, both, padded))
    with pytest.raises(PrunelibError, match="already has dropped sublayers .mlp:"):
        save(again, compress(again, ["rtn:4"])["rtn:4"], tmp_path / "third")


def edit_config(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("listed", "problem"),
    [
        (["attn:2"], "lists attn:2 as dropped, but its output projection is not zero"),
        (["attn:9"], "attn:9 is out of range"),
        (["atn:1"], "did you mean 'attn'"),
        ("attn:1", "prunelib_drop of .* is not a list"),
        (3, "prunelib_drop of .* is not a list"),
    ],
)
def test_a_list_that_does_not_fit_the_weights(listed, problem, make_lm, tmp_path):
    lm = make_lm()
    save(lm, compress(lm, ["sites:attn:1"])["sites:attn:1"], tmp_path / "out")
    edit_config(tmp_path / "out", prunelib_drop=listed)
    with pytest.raises(PrunelibError, match=problem) as caught:
        prunelib.load(str(tmp_path / "out"), device="cpu")
    assert "\n" not in str(caught.value)


def test_a_refused_list_leaves_no_stub(make_lm):
    lm = make_lm()
    lm.config.prunelib_drop = ["attn:2"]
    with pytest.raises(PrunelibError, match="not zero"):
        stay_dropped(lm)
    assert "forward" not in lm.layers[2].self_attn.__dict__


def test_drops_stay_through_other_contexts(make_lm, padded, tmp_path):
    lm = make_lm()
    save(lm, compress(lm, ["sites:attn:1"])["sites:attn:1"], tmp_path / "out")
    loaded = prunelib.load(str(tmp_path / "out"), device="cpu")
    before = logits(loaded.model, padded)
    with hooks.dropped(loaded, parse("sites:attn:1+mlp:2")), hooks.captured(loaded, ("resid_post",)):
        assert not torch.equal(logits(loaded.model, padded), before)
    assert torch.equal(logits(loaded.model, padded), before)
    assert "forward" in loaded.layers[1].self_attn.__dict__


def test_what_killed_processes_left_is_removed_and_nothing_else(make_lm, tokens, tmp_path):
    import subprocess
    import sys

    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead, alive, foreign = (tmp_path / f".out.{name}.part" for name in (ended.pid, 1, "mine"))
    for folder in (dead, alive, foreign):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
    lm = make_lm()
    save(lm, one(lm, "magnitude:0.5", tokens), tmp_path / "out")
    assert not dead.exists() and alive.exists() and foreign.exists()
