"""OWL's layer sparsities against their definition."""

import pytest
import torch
from routing import expert_reads

from prunelib import methods
from prunelib.errors import PrunelibError
from prunelib.methods.apply import compress
from prunelib.methods.owl import outlier_shares
from prunelib.methods.walk import batches
from prunelib.methods.weights import weights


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(3, 97, (4, 10), generator=torch.Generator().manual_seed(3))


def inputs_of(lm, tokens):
    """What every matrix reads in the dense model [tokens, d_in], by plain hooks."""
    read, handles = {}, []
    for layer in range(lm.n_layers):
        for weight in weights(lm, layer):

            def keep(_, args, name=weight.name):
                read[name] = args[0].reshape(-1, args[0].shape[-1])

            if weight.expert is None:
                handles.append(weight.module.register_forward_pre_hook(keep))
            else:
                x = expert_reads(lm, layer, tokens)[weight.expert][weight.parameter == "down_proj"]
                read[weight.name] = x if len(x) else torch.ones(1, weight.shape[1])  # as if it read white noise
    with torch.no_grad():
        lm.model(input_ids=tokens, use_cache=False)
    for handle in handles:
        handle.remove()
    return read


@pytest.mark.parametrize("threshold", [1.5, 2.0])
def test_outliers_by_hand(lm, tokens, threshold):
    """Scores above ``threshold`` means of the whole block, one matrix after the other."""
    read, expected = inputs_of(lm, tokens), []
    for layer in range(lm.n_layers):
        scores = [(w.get().double().abs() * read[w.name].double().norm(dim=0)).flatten() for w in weights(lm, layer)]
        together = torch.cat(scores)
        expected.append((together > threshold * together.mean()).double().mean().item())
    rows = batches(lm, tokens, batch_size=3)
    before = [row.states.clone() for row in rows]
    assert outlier_shares(lm, rows, threshold).tolist() == pytest.approx(expected, abs=1e-3)
    assert all(torch.equal(row.states, kept) for row, kept in zip(rows, before, strict=True))


def test_sparsities_by_definition():
    """Shares stretched to twice the spread, centred, taken off the sparsity: the layer of most outliers keeps most."""
    owl = methods.parse("owl:wanda:0.6")
    shares = [0.01, 0.05, 0.02, 0.02]
    low, high = min(shares), max(shares)
    stretched = [(share - low) / (high - low) * 2 * owl.spread for share in shares]
    mean = sum(stretched) / len(stretched)
    found = owl.sparsities(torch.tensor(shares, dtype=torch.float64)).tolist()
    assert found == pytest.approx([0.6 - value + mean for value in stretched])
    assert sum(found) / 4 == pytest.approx(0.6) and found.index(min(found)) == 1
    assert max(found) - min(found) == pytest.approx(2 * owl.spread)


def test_equal_layers_share_alike():
    assert methods.parse("owl:wanda:0.6").sparsities(torch.full((3,), 0.02)).tolist() == pytest.approx([0.6] * 3)


def test_each_layer_is_its_inner_method_at_its_sparsity(tiny, tokens):
    """The first block by hand: Wanda at the sparsity that OWL gives it."""
    lm, owl = tiny("llama"), methods.parse("owl:wanda:0.5")
    first = owl.by_layer(lm, batches(lm, tokens))[0]
    made, alone = (compress(lm, [spec], tokens)[spec].weights for spec in (owl.spec, first.spec))
    assert first.pattern.sparsity != 0.5
    for weight in weights(lm, 0):
        assert torch.equal(made[weight.name], alone[weight.name])


@pytest.mark.parametrize("spec", ["owl:wanda:0.02", "owl:wanda:0.97"])
def test_a_sparsity_without_room_is_one_line(tiny, tokens, spec):
    with pytest.raises(PrunelibError, match="choose a sparsity further from 0 and 1"):
        compress(tiny("llama"), [spec], tokens)


@pytest.mark.parametrize("spec", ["owl:wanda:2:4", "owl:rtn:4", "owl:owl:wanda:0.5"])
def test_what_has_no_share_to_spread_is_one_line(spec):
    with pytest.raises(PrunelibError, match="owl spreads a share of weights, as in owl:wanda:0.5, not"):
        methods.parse(spec)
