"""One-step statistics against formulas written out token by token, twins, and the tables of other modules."""

import copy

import numpy as np
import pytest
import torch

from prunelib.measure import next_token, one_step, softmax_stats
from prunelib.measure.head import head_of
from prunelib.measure.token_summary import summarise
from prunelib.models.lm import LM

TEXTS = [[5, 9, 3, 44, 7, 61, 8], [8, 60, 4, 31, 2, 12, 90, 13, 14, 15, 16, 70, 5, 5]]
TARGETS = torch.tensor([token for ids in TEXTS for token in ids[1:]])


def moved(lm, size=0.05):
    """A copy whose blocks have other weights; the head stays."""
    model = copy.deepcopy(lm.model)
    generator = torch.Generator().manual_seed(1)
    for weight in torch.nn.ModuleList(LM.from_model(model).layers).parameters():
        weight.data += size * torch.randn(weight.shape, generator=generator)
    return LM.from_model(model, name="moved")


def streams(lm):
    """The last block's output at every token that is followed by another, [tokens, d], by a hook of its own."""
    found = []
    hook = lm.layers[-1].register_forward_hook(lambda *a: found.append(a[2][0] if isinstance(a[2], tuple) else a[2]))
    with torch.no_grad():
        for ids in TEXTS:
            lm.model(input_ids=torch.tensor([ids]), use_cache=False)
    hook.remove()
    return torch.cat([h[0, :-1] for h in found])


def test_variances_and_angles_by_hand():
    """Two tokens, p = (3/4, 1/4), Δz = (0, 2): mean 1/2, Var_p 3/4; r = (9/10, 1/10), mean 1/5, Var_r 9/25."""
    z = torch.tensor([[np.log(3.0), 0.0]], dtype=torch.float64)
    dz = torch.tensor([[0.0, 2.0]], dtype=torch.float64)
    h, turned_h = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    found = {name: float(value[0]) for name, value in one_step.turned(h, turned_h, z, z + dz).items()}
    assert found["var_p"] == pytest.approx(0.75) and found["var_r"] == pytest.approx(0.36)
    assert found["rms_dz"] == pytest.approx(2**0.5) and found["one_minus_cos_h"] == pytest.approx(1)
    q = np.array([3, np.e**2]) / (3 + np.e**2)
    assert found["one_minus_cos_p"] == pytest.approx(1 - (3 * q[0] + q[1]) / 10**0.5 / np.hypot(*q))
    assert found["one_minus_cos_z"] == pytest.approx(1 - np.log(3) / np.hypot(np.log(3), 2))


def test_a_common_shift_of_the_logits_turns_only_the_logits(tiny):
    z = torch.randn(5, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    h = torch.ones(5, 3)
    found = one_step.turned(h, h, z, z + 7)
    assert (found["rms_dz"] - 7).abs().max() < 1e-12 and found["one_minus_cos_z"].min() > 0.1
    assert all(found[name].max() < 1e-20 for name in ("var_p", "var_r", "one_minus_cos_p", "one_minus_cos_h"))


def test_a_twin_deviates_by_nothing_at_all(lm):
    h = streams(lm)
    found = one_step.compare(lm, h, h.clone(), TARGETS)
    exact = [*one_step.COLUMNS, "kl_dense_pruned", "kl_pruned_dense", "dp", "dp_top"]
    assert (found[exact] == 0).all().all() and (found["nll_dense"] == found["nll_pruned"]).all()
    assert (found["agree"] == 5).all() and (found["right_dense"] == found["right_pruned"]).all()


def test_next_tokens_are_those_of_the_module_on_next_tokens(lm):
    other = moved(lm)
    found = one_step.compare(lm, streams(lm), streams(other), TARGETS)
    wanted = next_token.compare(lm, other, list(enumerate(TEXTS)))
    for name in wanted.columns.drop("cluster"):
        np.testing.assert_allclose(found[name], wanted[name], rtol=2e-4, atol=2e-5, err_msg=name)
    assert (found["kl_dense_pruned"] > 1e-4).all()
    again = summarise(found.assign(cluster=wanted["cluster"])).set_index("name")["value"]
    assert again["kl_dense_pruned_mean"] == pytest.approx(wanted["kl_dense_pruned"].mean(), rel=2e-4)


@pytest.mark.parametrize("name", ["llama", "gemma2", "cohere"])
def test_variances_are_those_of_the_streamed_ones(tiny, name):
    lm = tiny(name)
    h, pruned = streams(lm), streams(moved(lm))
    found = one_step.compare(lm, h, pruned, TARGETS)
    chains = torch.stack([lm.ln_final(h), lm.ln_final(pruned)], 1).detach()
    other, _ = softmax_stats.pair_statistics(chains, head_of(lm), slice(0, 1), slice(1, 2), (1.0,))
    for column in ("var_p", "var_r", "kl_dense_pruned", "one_minus_cos_p"):
        np.testing.assert_allclose(found[column], other[1.0][column][:, 0], rtol=1e-3, atol=1e-6, err_msg=column)


def test_blocks_of_rows_change_nothing(tiny, monkeypatch):
    lm = tiny("llama")
    h, pruned = streams(lm), streams(moved(lm))
    whole = one_step.compare(lm, h, pruned, TARGETS)
    monkeypatch.setattr(one_step, "_BLOCK_BYTES", 8 * lm.vocab_size * 3)
    parts = one_step.compare(lm, h, pruned, TARGETS)
    np.testing.assert_allclose(parts.to_numpy(float), whole.to_numpy(float), rtol=1e-5, atol=1e-6)


def test_positions_are_spread_and_different():
    assert one_step.positions(1, 4).tolist() == [0] and one_step.positions(0, 4).tolist() == []
    for tokens in (2, 7, 100):
        for most in (1, 2, 7, 16):
            found = one_step.positions(tokens, most)
            assert len(found) == min(tokens, most) and np.diff(found).min(initial=1) >= 1
            assert found[0] >= 0 and found[-1] < tokens
