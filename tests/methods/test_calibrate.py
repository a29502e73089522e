"""The walk through the blocks: what reaches them, what is counted, what is left behind."""

import copy

import pytest
import torch

from prunelib.errors import PrunelibError
from prunelib.methods.apply import compress, output_errors
from prunelib.methods.inputs import InputStats
from prunelib.methods.pattern import Pattern
from prunelib.methods.walk import advance, batches, input_stats, walk
from prunelib.methods.wanda import Wanda
from prunelib.methods.weights import all_weights, replaced, weights
from prunelib.models import hooks

HALF = Pattern(0.5)


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(3, 97, (6, 12), generator=torch.Generator().manual_seed(11))


def final_stream(lm, ids, **inputs):
    with hooks.captured(lm, ("resid_post",)) as cap, torch.no_grad():
        lm.model(input_ids=ids, use_cache=False, **inputs)
    return cap["resid_post"][lm.n_layers - 1]


def test_replayed_blocks_are_the_model(lm, tokens):
    """Block by block with recorded masks and rotary tables, the stream is that of the model."""
    rows = batches(lm, tokens, batch_size=4)
    for layer in range(lm.n_layers):
        advance(lm, layer, rows)
    torch.testing.assert_close(torch.cat([b.states for b in rows]), final_stream(lm, tokens), rtol=1e-5, atol=1e-5)


def test_padding_is_never_counted(lm, padded):
    """Padded rows give the statistics of the same rows alone."""
    rows = batches(lm, padded["input_ids"], padded["attention_mask"])
    alone = [ids[mask.bool()][None] for ids, mask in zip(padded["input_ids"], padded["attention_mask"], strict=True)]
    single = [batch for ids in alone for batch in batches(lm, ids)]
    for layer in range(lm.n_layers):
        both = zip(input_stats(lm, layer, rows), input_stats(lm, layer, single), strict=True)
        for found, expected in both:
            routed = found.members[0].expert is not None
            assert found.stats.tokens == expected.stats.tokens
            assert found.stats.tokens == int(padded["attention_mask"].sum()) or routed
            torch.testing.assert_close(found.stats.gram, expected.stats.gram, rtol=1e-3, atol=1e-3)
        advance(lm, layer, rows)
        advance(lm, layer, single)


def test_statistics_against_a_hook_by_hand(lm, tokens):
    """Σx², Σ|x| and Σxxᵀ of every weight of the last block."""
    layer, read = lm.n_layers - 1, {}
    handles = [
        w.module.register_forward_pre_hook(lambda _, args, n=w.name: read.__setitem__(n, args[0].detach().clone()))
        for w in weights(lm, layer)
        if w.expert is None
    ]
    with torch.no_grad():
        lm.model(input_ids=tokens, use_cache=False)
    for handle in handles:
        handle.remove()
    rows = batches(lm, tokens, batch_size=5)
    for block in range(layer):
        advance(lm, block, rows)
    for entry in (one for one in input_stats(lm, layer, rows) if one.members[0].expert is None):
        for weight in entry.members:
            x = read[weight.name].reshape(-1, weight.shape[1]).double()
            assert entry.stats.tokens == len(x) == tokens.numel()
            torch.testing.assert_close(entry.stats.sq_norms, x.square().sum(0), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(entry.stats.abs_sum, x.abs().sum(0), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(entry.stats.gram.double(), x.T @ x, rtol=1e-3, atol=1e-3)


def test_inputs_are_shared_where_the_model_shares_them(tiny, tokens):
    shared = [
        ({w.path.rsplit(".")[-1] for w in e.members}, e.absorbed_by)
        for e in input_stats(tiny("llama"), 0, batches(tiny("llama"), tokens))
    ]
    assert shared == [
        ({"q_proj", "k_proj", "v_proj"}, "input_layernorm"),
        ({"o_proj"}, None),  # grouped queries: two heads read one value channel
        ({"gate_proj", "up_proj"}, "post_attention_layernorm"),
        ({"down_proj"}, "mlp.up_proj"),
    ]


SPECS = ["magnitude:0.5", "wanda:2:4", "sparsegpt:0.5", "rtn:4:g8", "gptq:4:g8", "gptq:3:g20:act", "awq:4:g8:sym"]


@pytest.mark.parametrize("spec", SPECS)
def test_every_family_is_compressed_whole(lm, tokens, spec):
    before = {n: p.clone() for n, p in lm.model.named_parameters()}
    dense = lm.model(input_ids=tokens).logits
    done = compress(lm, [spec], tokens)[spec]
    assert all(torch.equal(p, before[n]) for n, p in lm.model.named_parameters())
    assert set(done.weights) == {w.name for w in all_weights(lm)}
    for weight in all_weights(lm):
        new = done.weights[weight.name]
        assert not torch.equal(new, weight.get())
        if ":g" not in spec:
            assert (new == 0).sum() == weight.shape[0] * weight.shape[1] // 2, weight.name
    with done.applied(lm):
        assert not torch.allclose(lm.model(input_ids=tokens).logits, dense)
    assert torch.equal(lm.model(input_ids=tokens).logits, dense)
    assert all(torch.equal(p, before[n]) for n, p in lm.model.named_parameters())


def test_each_block_reads_what_the_compressed_blocks_produce(tiny, tokens):
    """The last block's mask, from a copy of the model whose earlier blocks really are compressed."""
    lm = tiny("llama")
    new = {n: w for step in walk(lm, {"w": Wanda(HALF)}, tokens) for n, w in step.new["w"].items()}
    model = copy.deepcopy(lm.model)
    for layer in range(lm.n_layers):
        block, read = model.model.layers[layer], {}
        linears = {f"{layer}.{n}": m for n, m in block.named_modules() if isinstance(m, torch.nn.Linear)}
        handles = [
            m.register_forward_pre_hook(lambda _, a, n=n, read=read: read.__setitem__(n, a[0]))
            for n, m in linears.items()
        ]
        with torch.no_grad():
            model(input_ids=tokens, use_cache=False)
        for handle in handles:
            handle.remove()
        for name, module in linears.items():
            x = read[name].reshape(-1, module.in_features)
            expected = Wanda(HALF).compress(module.weight.detach(), InputStats.of(x))
            assert torch.equal(new[name] == 0, expected == 0), name
            module.weight.data = expected


def test_many_specs_in_one_walk_are_the_same_as_one_by_one(tiny, tokens):
    lm = tiny("qwen3")
    specs = ["magnitude:0.5", "wanda:0.5", "wanda:2:4", "sparsegpt:0.5"]
    together = compress(lm, specs, tokens)
    for spec in specs:
        alone = compress(lm, [spec], tokens)[spec]
        assert all(torch.equal(alone.weights[n], together[spec].weights[n]) for n in alone.weights)


@pytest.mark.parametrize("spec", ["wanda:0.5", "sparsegpt:0.5"])
def test_the_batch_size_matters_only_by_rounding(tiny, tokens, spec):
    lm = tiny("llama")
    whole, single = (compress(lm, [spec], tokens, batch_size=b)[spec].weights for b in (6, 1))
    same = sum(((whole[n] == 0) == (single[n] == 0)).sum().item() for n in whole)
    assert same >= 0.999 * sum(w.numel() for w in whole.values())


def test_errors_on_dense_inputs_by_hand(tiny, tokens):
    lm = tiny("llama")
    done = compress(lm, ["magnitude:0.5"], tokens)["magnitude:0.5"]
    steps = walk(lm, {}, tokens, dense=True)
    table = next(output_errors(done.weights, step.inputs) for step in steps if step.layer == 2)
    assert (table["zeros"] == table["numel"] // 2).all()
    table = table.set_index(["layer", "weight"])["relative_error"]
    read = {}
    target = lm.layers[2].mlp.down_proj
    handle = target.register_forward_pre_hook(lambda _, args: read.update(x=args[0].detach()))
    lm.model(input_ids=tokens)
    handle.remove()
    x = read["x"].reshape(-1, target.in_features).double()
    w, new = target.weight.double(), done.weights["2.mlp.down_proj"].double()
    assert table[2, "mlp.down_proj"] == pytest.approx(((x @ (new - w).T).norm() / (x @ w.T).norm()).item(), rel=1e-4)


def test_the_dense_model_walks_along(tiny, tokens):
    """Its stream is the model's own, and methods do not disturb it."""
    lm = tiny("gemma2")
    for step in walk(lm, {"w": Wanda(HALF)}, tokens, dense=True):
        with hooks.captured(lm, ("resid_post",), [step.layer]) as cap, torch.no_grad():
            lm.model(input_ids=tokens, use_cache=False)
        dense, pruned = (torch.cat([b.states for b in step.states[n]]) for n in ("dense", "w"))
        torch.testing.assert_close(dense, cap["resid_post"][step.layer], rtol=1e-5, atol=1e-5)
        assert not torch.allclose(dense, pruned)


def test_progress_is_told(tiny, tokens):
    told = []
    compress(tiny("llama"), ["wanda:0.5"], tokens, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_weights_of_unknown_names_and_shapes(tiny):
    lm = tiny("llama")
    for new, problem in [
        ({"0.self_attn.q_prj": torch.ones(1)}, "did you mean"),
        ({"9.self_attn.q_proj": torch.ones(1)}, "no weight '9"),
        ({"0.self_attn.q_proj": torch.ones(3, 3)}, r"is \[32, 32\], the new weight is \[3, 3\]"),
    ]:
        with pytest.raises(PrunelibError, match=problem), replaced(lm, new):
            pass


def test_empty_or_broken_calibration_is_one_line(tiny, tokens):
    lm = tiny("llama")
    empty = tokens[:0]
    for ids, mask, problem in [
        (None, None, "wanda:0.5 needs calibration tokens"),
        (empty, None, "wanda:0.5 needs calibration tokens"),
        (tokens, torch.zeros_like(tokens), "calibration is empty"),
        (tokens, tokens[:, :3], "attention_mask must be"),
    ]:
        with pytest.raises(PrunelibError, match=problem):
            compress(lm, ["wanda:0.5"], ids, mask)


def test_activations_with_nan_are_one_line(make_model, tokens):
    from prunelib.models.lm import LM

    lm = LM.from_model(make_model("llama"), name="broken")
    lm.layers[1].input_layernorm.weight.data[3] = float("nan")
    for spec in ("wanda:0.5", "sparsegpt:0.5"):
        with pytest.raises(PrunelibError, match="NaN or Inf at the input of 1.self_attn.q_proj"):
            compress(lm, [spec], tokens)


def test_a_block_without_matrices_is_refused(tiny):
    lm = copy.copy(tiny("llama"))
    lm.model = copy.deepcopy(lm.model)
    lm.model.model.layers[1] = torch.nn.Identity()
    with pytest.raises(PrunelibError, match="layer 1 holds no Linear or Conv1D"):
        weights(lm, 1)


def test_a_matrix_that_the_row_does_not_name_is_refused(tiny):
    lm = copy.copy(tiny("llama"))
    lm.model = copy.deepcopy(lm.model)
    lm.model.model.layers[1].mlp.experts = torch.nn.ParameterList([torch.ones(2, 3, 4)])
    with pytest.raises(PrunelibError, match="neither Linear nor Conv1D"):
        weights(lm, 1)


def test_magnitude_needs_no_calibration(tiny):
    assert compress(tiny("llama"), ["magnitude:0.5"])["magnitude:0.5"].bits_per_weight == 9


def test_one_gram_matrix_serves_all_readers(tiny, tokens):
    """The inverse factor is computed once for q, k and v."""
    lm = tiny("llama")
    entry = input_stats(lm, 0, batches(lm, tokens))[0]
    assert entry.stats.factor(0.01) is entry.stats.factor(0.01)
