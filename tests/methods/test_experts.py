"""Mixtures of experts: each expert's matrices, by what its own tokens read."""

import copy

import pytest
import torch
from routing import expert_reads

from prunelib import methods
from prunelib.methods.apply import compress
from prunelib.methods.inputs import InputStats
from prunelib.methods.walk import advance, batches, input_stats
from prunelib.methods.weights import all_weights, assembled, weights
from prunelib.models.families import ARCHS

MIXTURES = [family for family, row in ARCHS.items() if row.mixture]
SPECS = ["magnitude:0.5", "wanda:0.5", "sparsegpt:0.5", "rtn:4:g8", "gptq:4:g8", "awq:4:g8"]


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(3, 97, (6, 12), generator=torch.Generator().manual_seed(11))


@pytest.fixture(params=MIXTURES)
def mixture(request, tiny):
    return tiny(request.param)


def copied(lm):
    other = copy.copy(lm)
    other.model = copy.deepcopy(lm.model)
    return other


def routed(lm) -> int:
    """The first layer that has experts."""
    return next(layer for layer in range(lm.n_layers) if lm.experts(layer))


def experts_of(lm, layer):
    return [weight for weight in weights(lm, layer) if weight.expert is not None]


def test_every_expert_has_its_matrices_and_routers_have_none(mixture):
    layer = routed(mixture)
    experts, found = mixture.experts(layer), {w.path for w in weights(mixture, layer)}
    stacked = {f"{experts.path}.{name}.{e}" for name in ("gate_up_proj", "down_proj") for e in range(len(experts))}
    assert stacked <= found and not any(path.startswith(place) for path in found for place in experts.layout.dense)
    shared = {path for path in found if experts.layout.shared and path.startswith(f"{experts.layout.shared}.")}
    assert len(shared) == (3 if experts.shared is not None else 0)


def test_one_matrix_is_one_slice(mixture):
    """Written, read and replaced: that expert's numbers change and no others."""
    lm = copied(mixture)
    layer = routed(lm)
    chosen = experts_of(lm, layer)[1]
    before, new = chosen.tensor.detach().clone(), torch.ones(chosen.shape)
    ((weight, whole),) = assembled([(chosen, new)])
    assert weight is chosen
    chosen.set(new)
    assert torch.equal(chosen.get(), new) and torch.equal(whole, chosen.tensor)
    same = [e for e in range(len(before)) if e != chosen.expert]
    assert torch.equal(chosen.tensor[same], before[same])
    names = dict(lm.model.get_submodule(lm.arch.layers).named_parameters())
    assert names[chosen.parameter_name] is chosen.tensor


def test_an_expert_reads_its_own_tokens(mixture, tokens):
    layer = routed(mixture)
    expected = expert_reads(mixture, layer, tokens)
    rows = batches(mixture, tokens, batch_size=4)
    for before in range(layer):
        advance(mixture, before, rows)
    found = {
        w.path: entry for entry in input_stats(mixture, layer, rows) for w in entry.members if w.expert is not None
    }
    path = mixture.experts(layer).path
    total = 0
    for expert, reads in expected.items():
        for name, x in zip(("gate_up_proj", "down_proj"), reads, strict=True):
            stats = found[f"{path}.{name}.{expert}"].stats
            total += len(x) * (name == "down_proj")
            if len(x):
                assert stats.tokens == len(x)
                torch.testing.assert_close(stats.gram, x.T @ x, rtol=1e-3, atol=1e-3)
                torch.testing.assert_close(stats.sq_norms, x.double().square().sum(0), rtol=1e-3, atol=1e-4)
    chosen = mixture.config.num_experts_per_tok
    assert total == tokens.numel() * chosen  # no token is lost


@pytest.mark.parametrize("spec", SPECS)
def test_each_matrix_is_that_of_the_method_on_its_expert_alone(tiny, spec, tokens):
    lm = tiny("mixtral")
    made = compress(lm, [spec], tokens)[spec]
    for weight, (x, inner) in (
        (w, expert_reads(lm, 0, tokens)[w.expert]) for w in experts_of(lm, 0) if w.expert in (0, 2)
    ):
        reads = inner if "down" in weight.path else x
        (expected,) = methods.parse(spec).compress_readers(
            [weight.get()], InputStats.of(reads), absorbed="down" in weight.path
        )
        changed = (made.weights[weight.name] - expected).abs() > 1e-4
        assert changed.float().mean() < 0.02, weight.name  # ties of rounding
    experts = lm.experts(0)
    routers = [lm.layers[0].get_submodule(path).weight for path in experts.layout.dense]
    before = [router.clone() for router in routers]
    with made.applied(lm):
        assert all(torch.equal(now, then) for now, then in zip(routers, before, strict=True))


@pytest.mark.parametrize(("spec", "plain"), [
    ("wanda:0.5", None), ("sparsegpt:0.5", None), ("gptq:4:g8", "rtn:4:g8"), ("awq:4:g8", "rtn:4:g8"),
])  # fmt: skip
def test_an_expert_that_no_token_reached(tiny, spec, plain, tokens):
    """It loses its smallest weights, or is rounded to nearest, as if its inputs were white noise."""
    lm = copied(tiny("mixtral"))
    gate = lm.layers[0].mlp.gate.weight
    gate.zero_()  # equal scores: the first two experts are chosen for every token
    made = compress(lm, [spec], tokens)[spec]
    read = {w.expert for e in input_stats(lm, 0, batches(lm, tokens)) for w in e.members if e.stats.tokens > 1}
    unread = [w for w in experts_of(lm, 0) if w.expert not in read]
    assert len(unread) == 4
    for weight in unread:
        new, old = made.weights[weight.name], weight.get()
        if plain:
            assert torch.equal(new, compress(lm, [plain])[plain].weights[weight.name])
        else:
            share = (new == 0).float().mean()
            assert share == 0.5
            kept = torch.where(new == 0, 0, old)
            torch.testing.assert_close(new, kept, rtol=1e-4, atol=1e-6)  # nothing makes up for what is removed
            assert old[new == 0].abs().mean() < 0.6 * old[new != 0].abs().mean()


def test_four_equal_experts_are_one(tiny, make_model, tokens):
    """Whatever the router chooses, equal experts give the output of one, and are pruned to the same zeros by size."""
    lm = copied(tiny("mixtral"))
    for layer in range(lm.n_layers):
        for name in ("gate_up_proj", "down_proj"):
            stacked = getattr(lm.experts(layer).module, name)
            stacked.copy_(stacked[:1].expand_as(stacked).clone())
    before = lm.model(input_ids=tokens).logits
    for layer in range(lm.n_layers):
        lm.layers[layer].mlp.gate.weight.neg_()
    torch.testing.assert_close(lm.model(input_ids=tokens).logits, before, rtol=1e-4, atol=1e-5)
    made = compress(lm, ["magnitude:0.5"])["magnitude:0.5"]
    for weight in all_weights(lm):
        if weight.expert:
            first = weight.name.rpartition(".")[0] + ".0"
            assert torch.equal(made.weights[weight.name], made.weights[first])
