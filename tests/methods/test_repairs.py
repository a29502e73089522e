"""Repairs: what each promises to leave alone, what it cannot make worse, and checkpoints that say the same.

A new repair is one file in ``prunelib/methods``, one row here and its name in ``test_every_method.py``.
"""

import copy

import pytest
import tiny_files
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import prunelib
from prunelib import methods
from prunelib.errors import PrunelibError
from prunelib.measure.distances import kl
from prunelib.methods import distil, temperature
from prunelib.methods.apply import compress, compressed, repaired
from prunelib.methods.cuts import Cut, beside, cuts
from prunelib.methods.save import save
from prunelib.methods.weights import all_weights, head_name, others
from prunelib.models.checkpoint import auto_class
from prunelib.models.lm import LM
from prunelib.models.sublayers import Site

REPAIRS = {
    "temperature": "temperature", "norm": "norm", "linear": "linear", "head": "head:3", "lora": "lora:2",
    "full": "full:2",
}  # fmt: skip
DROPS, SPARSE = "sites:mlp:1+attn:2+mlp:2", "magnitude:0.5"
BEHIND = ("temperature", "norm", "head")
"""Those that change nothing in the blocks."""


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(3, 32, (9, 12), generator=torch.Generator().manual_seed(3))


def of_one(lm, spec, tokens, **options):
    return compress(lm, [spec], tokens, **options)[spec]


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


def mean_kl(lm, made, ids):
    z = logits(lm.model, {"input_ids": ids})
    with made.applied(lm):
        return kl(z, logits(lm.model, {"input_ids": ids})).mean().item()


def refused(lm, name):
    """Whether this repair cannot be folded into a model of this family."""
    capped = lm.arch.softcap and getattr(lm.config, lm.arch.softcap) is not None
    bare = not list(lm.ln_final.parameters())
    return {"temperature": capped or bare, "norm": bare, "linear": lm.arch.mlp_post is not None}.get(name, False)


def stacked(lm, name: str) -> str:
    """Name of the parameter that holds an expert's matrix."""
    return f"{lm.arch.layers}.{name.rpartition('.')[0]}"


# ---------------------------------------------------------------- every repair, every family


def test_every_repair_has_its_row():
    assert set(REPAIRS) == {m.name for m in methods.of_kind("recover")}
    for name, spec in REPAIRS.items():
        joined = methods.parse(f"{DROPS}+{spec}")
        assert joined.parts[-1].name == name and joined.spec == f"{DROPS}+{spec}" == methods.parse(joined.spec).spec


@pytest.mark.parametrize("base", [DROPS, SPARSE])
@pytest.mark.parametrize("name", REPAIRS)
def test_what_a_repair_leaves_alone(lm, name, base, tokens, record_property):
    """Drops and zeros stay, whatever is not named stays to the bit, and the model is dense again afterwards."""
    spec = f"{base}+{REPAIRS[name]}"
    if name == "linear" and base == SPARSE:
        record_property("refused", True)
        with pytest.raises(PrunelibError, match="linear would fill the zeros of magnitude:0.5 in"):
            methods.parse(spec)
        return
    before = {key: value.clone() for key, value in lm.model.state_dict().items()}
    if refused(lm, name):
        record_property("refused", True)
        with pytest.raises(PrunelibError, match=f"{name} cannot be folded into"):
            of_one(lm, spec, tokens)
        return
    plain, made = of_one(lm, base, tokens), of_one(lm, spec, tokens)
    assert all(torch.equal(value, before[key]) for key, value in lm.model.state_dict().items())
    assert not any(module._forward_hooks for module in lm.model.modules())
    assert made.sites == plain.sites and made.bits_per_weight == plain.bits_per_weight
    changed = set(made.repairs[0].values)
    assert changed and all(torch.isfinite(value).all() for value in made.weights.values())
    for key, value in plain.weights.items():
        assert torch.equal(made.weights[key] == 0, value == 0)  # masks
        assert key in changed or torch.equal(made.weights[key], value)
    blocks = {weight.name for weight in all_weights(lm)}
    rest = set(others(lm))
    if name in BEHIND:
        place = (lm.arch.ln_final, lm.arch.unembed)
        assert not changed & blocks and all(key.rpartition(".")[0] in place for key in changed)
    elif base == DROPS:
        with plain.applied(lm):
            left = {weight.name for weight in all_weights(lm)}
        assert changed - rest <= left  # nothing of what is dropped
        assert name != "full" or changed == left
        assert name != "lora" or {int(key.partition(".")[0]) for key in changed} <= {0, 1, 2, 3}
    else:
        assert changed == blocks
    with made.applied(lm):
        state = dict(lm.model.state_dict())
        for key, value in before.items():
            inside = any(key in (f"{lm.arch.layers}.{one}.weight", stacked(lm, one)) for one in made.weights)
            tied = key == head_name(lm) and head_name(lm) in changed
            if key not in changed and not inside and not tied:
                assert torch.equal(state[key], value), key
    assert torch.equal(logits(lm.model, {"input_ids": tokens}), logits(copy.deepcopy(lm.model), {"input_ids": tokens}))


@pytest.mark.parametrize("name", REPAIRS)
def test_a_repaired_checkpoint_is_an_ordinary_one(name, family, make_model, tokens, padded, tmp_path):
    """Plain transformers and prunelib.load give the logits of the context, to the bit."""
    lm = LM.from_model(make_model(family), tiny_files.tokenizer(), "tiny")
    if refused(lm, name):
        return
    made = of_one(lm, f"{DROPS}+{REPAIRS[name]}", tokens)
    manifest = save(lm, made, tmp_path / "out")
    with made.applied(lm):
        expected = logits(lm.model, padded)
    builder = auto_class(AutoConfig.from_pretrained(tmp_path / "out"))
    plain = builder.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    loaded = prunelib.load(str(tmp_path / "out"), device="cpu")
    assert torch.equal(logits(plain, padded), expected) and torch.equal(logits(loaded.model, padded), expected)
    assert loaded.fingerprint == manifest["fingerprints"]["compressed"] != lm.fingerprint
    assert {row["name"] for row in manifest["weights"]} == set(made.repairs[0].values)
    assert manifest["repairs"] == [{"trained": made.repairs[0].trained, "tokens": made.repairs[0].tokens}]
    assert manifest["drop"] == ["mlp:1", "attn:2", "mlp:2"]
    assert (manifest["zero_mask_sha256"] is None) == (name in BEHIND)


@pytest.mark.parametrize("name", REPAIRS)
def test_twice_is_the_same_to_the_bit(tiny, name, tokens):
    one, other = (of_one(tiny("llama"), f"{DROPS}+{REPAIRS[name]}", tokens) for _ in range(2))
    assert one.weights.keys() == other.weights.keys()
    assert all(torch.equal(value, other.weights[key]) for key, value in one.weights.items())
    assert one.repairs[0].curve.equals(other.repairs[0].curve) and one.repairs[0].tokens > 0


@pytest.mark.parametrize("name", REPAIRS)
def test_padding_does_not_matter(tiny, name, tokens):
    """Rows that are padded on the left teach the same as the rows alone."""
    lm = tiny("llama")
    pads = torch.zeros(len(tokens), 3, dtype=torch.long)
    mask = torch.cat([pads, torch.ones_like(tokens)], 1)
    base = of_one(lm, DROPS, tokens)
    repair = methods.parse(f"{DROPS}+{REPAIRS[name]}").parts[-1]
    one = repaired(lm, base, repair, tokens).weights
    other = repaired(lm, base, repair, torch.cat([pads, tokens], 1), mask).weights
    assert all(torch.allclose(value, other[key], rtol=1e-3, atol=2e-4) for key, value in one.items())


# ---------------------------------------------------------------- what a repair cannot make worse


@pytest.mark.parametrize("name", ["norm", "temperature"])
def test_convex_repairs_never_raise_kl_on_their_text(lm, name, tokens):
    if refused(lm, name):
        return
    learned = tokens[: len(tokens) - 1]
    plain, made = (of_one(lm, spec, tokens) for spec in (DROPS, f"{DROPS}+{name}"))
    assert mean_kl(lm, made, learned) <= mean_kl(lm, plain, learned) * (1 + 1e-5)


@pytest.mark.parametrize("name", ["head", "lora", "full"])
def test_trained_repairs_learn_and_never_end_above_on_held_out_rows(lm, name, tokens):
    held = tokens[:1]
    plain, made = (of_one(lm, spec, held.repeat(9, 1)) for spec in (DROPS, f"{DROPS}+{REPAIRS[name]}"))
    curve = made.repairs[0].curve
    assert mean_kl(lm, plain, held) == pytest.approx(curve["kl_held"].iloc[0], rel=1e-3)
    assert mean_kl(lm, made, held) == pytest.approx(curve["kl_held"].min(), rel=1e-3)
    assert curve["kl_held"].min() < curve["kl_held"].iloc[0]
    assert curve["tokens"].iloc[-1] == made.repairs[0].tokens == 2 * 8 * 12  # two passes over eight rows


def test_a_model_needs_no_temperature_beside_itself(lm, tokens):
    """T = 1, and the final norm stays."""
    if refused(lm, "temperature"):
        return
    made = repaired(lm, compressed(lm, methods.parse("dense")), temperature.Temperature(), tokens)
    name = f"{lm.arch.ln_final}.weight"
    assert torch.allclose(made.weights[name], others(lm)[name].value(), rtol=0, atol=2e-6)


def test_a_wrong_temperature_is_found(lm, tokens):
    """A model whose logits are twice as large gets its own back: the norm's scale and shift, and a bias of the head."""
    if refused(lm, "temperature"):
        return
    twice = copy.deepcopy(lm)
    hotter = temperature.scaled_norm(twice, 2.0)
    with torch.no_grad():
        for name, value in hotter.items():
            others(twice)[name].value().copy_(value)
    z, hot = logits(lm.model, {"input_ids": tokens}), logits(twice.model, {"input_ids": tokens})
    assert torch.allclose(hot, 2 * z, rtol=1e-4, atol=1e-4)
    from prunelib.methods.apply import Compressed, NewWeights

    made = Compressed(methods.parse(DROPS), (NewWeights(hotter),), 16.0)
    back = repaired(lm, made, temperature.Temperature(), tokens)
    for name in hotter:
        assert torch.allclose(back.weights[name], others(lm)[name].value(), rtol=1e-3, atol=1e-3)


def test_a_linear_map_recovers_what_is_one(make_model, tokens):
    """The dropped MLP gives a linear function of the attention before it: M is found, and the model is whole again."""
    from prunelib.methods.apply import NewWeights

    lm = LM.from_model(make_model("llama"), None, "tiny")
    site = Site("mlp", 1)
    held, matrix = {}, torch.randn(32, 32, generator=torch.Generator().manual_seed(1)) / 6
    lm.layers[1].self_attn.register_forward_hook(lambda module, args, output: held.update(last=output[0]))
    lm.layers[1].mlp.forward = lambda x: held["last"] @ matrix
    many = torch.randint(3, 32, (24, 12), generator=torch.Generator().manual_seed(4))
    z = logits(lm.model, {"input_ids": many})
    base = of_one(lm, f"sites:{site}", None)
    made = repaired(lm, base, methods.parse(f"sites:{site}+linear").parts[-1], many)
    with made.applied(lm):
        again = logits(lm.model, {"input_ids": many})
    assert list(made.weights) == ["1.self_attn.o_proj"] and isinstance(made.edits[-1], NewWeights)
    assert (again - z).abs().max() < 0.02 * z.abs().max()
    with base.applied(lm):
        assert (logits(lm.model, {"input_ids": many}) - z).abs().max() > 0.2 * z.abs().max()


def test_a_linear_map_lowers_the_error_of_the_stream_where_it_was_fitted(tiny, tokens):
    from prunelib.methods.linear import _streams

    lm = tiny("llama")
    text = distil.Text.of(lm, tokens, None)
    cut = cuts([Site("mlp", 1)], 4, False)
    dense = next(_streams(lm, text, cut, 8))
    errors = []
    for spec in ("sites:mlp:1", "sites:mlp:1+linear"):
        with of_one(lm, spec, tokens).applied(lm):
            errors.append((next(_streams(lm, text, cut, 8)) - dense).norm())
    assert errors[1] < errors[0]


# ---------------------------------------------------------------- cuts


@pytest.mark.parametrize(("sites", "parallel", "found"), [
    ("mlp:1", False, [("attn:1", "mlp:1")]),
    ("attn:1", False, [("mlp:0", "attn:1")]),
    ("attn:1", True, [("mlp:1", "attn:1")]),
    ("block:1 block:2", False, [("mlp:0", "mlp:2")]),
    ("mlp:1 attn:2 mlp:3", False, [("attn:1", "attn:2"), ("attn:3", "mlp:3")]),
    ("attn:0 mlp:0", False, []),
    ("attn:0 mlp:2", False, [("attn:2", "mlp:2")]),
])  # fmt: skip
def test_cuts(sites, parallel, found):
    wanted = [Cut(*map(Site.parse, pair)) for pair in found]
    got = cuts(map(Site.parse, sites.split()), 4, parallel)
    assert [one.before for one in got] == [one.before for one in wanted]
    assert [one.last.layer for one in got] == [one.last.layer for one in wanted]


def test_layers_beside_a_cut():
    assert beside([Site("mlp", 0), Site("attn", 3)], 4) == [0, 1, 2, 3] and beside([Site("block", 2)], 8) == [1, 2, 3]


# ---------------------------------------------------------------- memory


def test_no_more_logits_than_a_block_exist_at_once(tiny, tokens, monkeypatch):
    lm = tiny("llama")
    monkeypatch.setattr(distil, "BLOCK", 5 * lm.vocab_size)
    sizes, scale = [], lm.scale_logits
    monkeypatch.setattr(type(lm), "scale_logits", lambda self, z: sizes.append(z.numel()) or scale(z))
    few = of_one(lm, f"{DROPS}+head:3", tokens).weights
    assert max(sizes) == 5 * lm.vocab_size
    monkeypatch.undo()
    many = of_one(lm, f"{DROPS}+head:3", tokens).weights
    assert all(torch.allclose(value, few[key], atol=1e-4) for key, value in many.items())


# ---------------------------------------------------------------- tied embeddings, several repairs, refusals


def test_a_tied_head_gets_a_matrix_of_its_own(make_model, tokens, padded, tmp_path):
    tiny_files.write_folder(make_model("llama", tie_word_embeddings=True), tmp_path / "dense")
    lm = prunelib.load(str(tmp_path / "dense"), device="cpu")
    embedding = lm.model.get_input_embeddings().weight
    made = of_one(lm, f"{DROPS}+head:3", tokens)
    save(lm, made, tmp_path / "out")
    assert lm.W is embedding and lm.config.tie_word_embeddings
    with made.applied(lm):
        expected = logits(lm.model, padded)
        assert lm.W is not embedding
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    assert not plain.config.tie_word_embeddings and torch.equal(logits(plain, padded), expected)
    assert torch.equal(plain.get_input_embeddings().weight, embedding)
    assert torch.equal(plain.lm_head.weight, made.weights["lm_head.weight"])


def test_repairs_follow_each_other(tiny, tokens):
    lm = tiny("llama")
    both = of_one(lm, f"{DROPS}+linear+norm", tokens)
    first = of_one(lm, f"{DROPS}+linear", tokens)
    assert len(both.repairs) == 2 and first.weights.keys() < both.weights.keys()
    assert all(torch.equal(both.weights[key], value) for key, value in first.weights.items())
    assert mean_kl(lm, both, tokens[:-1]) <= mean_kl(lm, first, tokens[:-1])


def test_a_quantized_model_keeps_its_grid(tiny, tokens):
    lm = tiny("llama")
    for repair in ("temperature", "norm", "head:2"):
        plain, made = of_one(lm, "rtn:3:g8", tokens), of_one(lm, f"rtn:3:g8+{repair}", tokens)
        assert all(torch.equal(made.weights[key], value) for key, value in plain.weights.items())


@pytest.mark.parametrize(("spec", "problem"), [
    ("temperature", "temperature repairs a compressed model: write it after one, as in drop:mlp:4.temperature"),
    ("lora:8+drop:mlp:4", "lora repairs a compressed model: write it after one"),
    ("drop:mlp:4+temperature:2", "temperature takes no setting, got 'temperature:2'"),
    ("drop:mlp:4+lora", "lora needs a setting, such as drop:mlp:4.lora:8"),
    ("drop:mlp:4+lora:0", "the rank of lora must be at least 1"),
    ("drop:mlp:4+full:0", "the number of passes of full must be at least 1"),
    ("drop:mlp:4+full:x", "full is written as full:EPOCHS, a whole number"),
    ("rtn:4:g64+lora:8", "off their grid: a quantized model can be repaired by temperature, norm or head"),
    ("drop:mlp:4+rtn:4+linear", "linear would take the weights of rtn:4 off their grid"),
    ("wanda:0.5+drop:mlp:2+linear", "linear would fill the zeros of wanda:0.5 in: use lora or full"),
    ("wanda:0.5+temprature", "did you mean 'temperature'"),
])  # fmt: skip
def test_refusals_say_what_would_be_right(spec, problem):
    with pytest.raises(PrunelibError, match=problem) as caught:
        methods.parse(spec)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_learned_from(tiny, tokens):
    lm = tiny("llama")
    for ids, problem in ((None, "needs calibration tokens"), (tokens[:1], "needs two rows of tokens"),
                         (tokens.repeat(1, 9), "a calibration sequence needs 108 positions")):  # fmt: skip
        with pytest.raises(PrunelibError, match=problem):
            of_one(lm, "sites:mlp:1+norm", ids)
    with pytest.raises(PrunelibError, match="no sublayer is kept before what is dropped"):
        of_one(lm, "sites:block:0+linear", tokens)
