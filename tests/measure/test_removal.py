"""Removals measured from the changed block on, against plain forward passes of the whole model without them."""

import copy

import numpy as np
import pytest
import torch

from prunelib.errors import PrunelibError
from prunelib.measure import removal
from prunelib.measure.distances import kl, one_minus_cosine_p
from prunelib.measure.one_step import positions
from prunelib.measure.removal import COLUMNS, Removals, compare
from prunelib.models import hooks
from prunelib.models.sublayers import Site


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(3, 97, (5, 12), generator=torch.Generator().manual_seed(4))


def plainly(lm, inputs, sites, where):
    """Columns at ``where`` [(row, place)] by two whole forward passes and textbook formulas."""
    rows, places = zip(*where, strict=True)
    with torch.no_grad():
        dense = lm.model(**inputs).logits[list(rows), list(places)].double()
        with hooks.dropped(lm, sites):
            pruned = lm.model(**inputs).logits[list(rows), list(places)].double()
    p, q = dense.softmax(-1), pruned.softmax(-1)
    dz = pruned - dense
    variance = (p * dz.square()).sum(-1) - (p * dz).sum(-1).square()
    columns = (kl(dense, pruned), variance, (p - q).abs().sum(-1) / 2, one_minus_cosine_p(dense, pruned))
    return torch.stack(columns, -1)


def every(lm, kinds=("attn", "mlp", "block")):
    return [Site(kind, layer) for layer in range(lm.n_layers) for kind in kinds]


# ---------------------------------------------------------------- one pair of distributions


def test_two_tokens_by_hand():
    """p = (3/4, 1/4), Δz = (0, 2): q = (3, e²)/(3 + e²)."""
    z = torch.tensor([np.log(3.0), 0.0], dtype=torch.float64)
    found = dict(zip(COLUMNS, compare(z, z + torch.tensor([0.0, 2.0])).tolist(), strict=True))
    q = np.array([3, np.e**2]) / (3 + np.e**2)
    p = np.array([0.75, 0.25])
    assert found["kl_dense_pruned"] == pytest.approx(float((p * np.log(p / q)).sum()))
    assert found["var_p"] == pytest.approx(0.75) and found["tv"] == pytest.approx(0.75 - q[0])
    assert found["one_minus_cos_p"] == pytest.approx(1 - p @ q / np.linalg.norm(p) / np.linalg.norm(q))


def test_bounds_and_what_a_shift_does():
    z, other = torch.randn(2, 50, 97, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    found = dict(zip(COLUMNS, compare(z, other).T, strict=True))
    assert (found["tv"] <= (found["kl_dense_pruned"] / 2).sqrt()).all()  # Pinsker
    assert all((value > 0).all() for value in found.values()) and (found["tv"] < 1).all()
    assert compare(z, z + 5).abs().max() < 1e-14 and compare(z, z).abs().max() < 1e-15
    small = dict(zip(COLUMNS, compare(z, z + 1e-3 * other).T, strict=True))
    torch.testing.assert_close(small["kl_dense_pruned"], small["var_p"] / 2, rtol=0.02, atol=0)  # Theorem 3


# ---------------------------------------------------------------- a model


def test_a_removal_is_that_of_the_whole_model(lm, tokens):
    """From the changed block on, or from the first token on: float32 rounding apart."""
    found = Removals(lm, tokens, positions=3)
    where = [(row, int(place)) for row in range(5) for place in positions(12, 3)]
    for site in every(lm):
        expected = plainly(lm, {"input_ids": tokens}, [site], where)
        torch.testing.assert_close(found.without(site), expected, rtol=2e-4, atol=1e-6, msg=str(site))


def test_removals_beside_others_that_are_gone(lm, tokens):
    """Greedy: the dense model stays the reference, whatever was taken away and put back in between."""
    found, gone = Removals(lm, tokens, positions=2), [Site("mlp", 2), Site("attn", 1)]
    where = [(row, int(place)) for row in range(5) for place in positions(12, 2)]
    for base in (gone[:1], gone, gone[1:], [], gone):
        found.rebase(base)
        for site in (Site("attn", 0), Site("mlp", 1), Site("attn", 3)):
            expected = plainly(lm, {"input_ids": tokens}, [*base, site], where)
            torch.testing.assert_close(found.without(site), expected, rtol=2e-4, atol=1e-6)
        torch.testing.assert_close(
            found.without(), plainly(lm, {"input_ids": tokens}, base, where), rtol=2e-4, atol=1e-6
        )


def test_nothing_removed_is_nothing_changed(lm, tokens):
    assert Removals(lm, tokens).without().abs().max() < 1e-15


def test_a_sublayer_that_writes_nothing_does_nothing(tiny, tokens):
    lm = copy.deepcopy(tiny("llama"))
    lm.layers[2].mlp.down_proj.weight.data.zero_()
    found = Removals(lm, tokens)
    assert found.without(Site("mlp", 2)).abs().max() < 1e-15 and found.without(Site("mlp", 1)).min() > 1e-6


def test_the_model_is_left_as_it_was(lm, tokens):
    with torch.no_grad():
        before = lm.model(input_ids=tokens).logits
        found = Removals(lm, tokens)
        found.rebase([Site("block", 1)])
        found.measured(every(lm, ("attn",)))
        assert torch.equal(lm.model(input_ids=tokens).logits, before)


def test_the_batch_does_not_matter(lm, tokens):
    sites = every(lm, ("mlp",))
    whole = Removals(lm, tokens, batch_size=5).measured(sites)
    assert list(whole.columns) == ["layer", "kind", "sequence", *COLUMNS]
    assert len(whole) == 5 * len(sites) and sorted(set(whole["sequence"])) == list(range(5))
    for size in (1, 2, 100):
        found = Removals(lm, tokens, batch_size=size).measured(sites)
        assert found[["layer", "kind", "sequence"]].equals(whole[["layer", "kind", "sequence"]])
        np.testing.assert_allclose(found[list(COLUMNS)], whole[list(COLUMNS)], rtol=2e-4, atol=1e-6)


def test_positions_in_blocks_are_positions_at_once(tiny, tokens, monkeypatch):
    lm, site = tiny("gemma2"), Site("attn", 1)
    whole = Removals(lm, tokens).without(site)
    monkeypatch.setattr(removal, "_BLOCK_BYTES", 3 * 8 * lm.vocab_size)
    assert torch.equal(Removals(lm, tokens).without(site), whole)


def test_padding_is_never_counted(lm, padded):
    """Each row of a padded batch as if it stood alone, without padding."""
    ids, mask = padded["input_ids"], padded["attention_mask"]
    found = Removals(lm, ids, attention_mask=mask, positions=2).measured([Site("attn", 1), Site("mlp", 2)])
    for row in range(len(ids)):
        alone = Removals(lm, ids[row][mask[row].bool()][None], positions=2)
        alone = alone.measured([Site("attn", 1), Site("mlp", 2)])
        own = found[found["sequence"] == row]
        np.testing.assert_allclose(own[list(COLUMNS)], alone[list(COLUMNS)], rtol=5e-4, atol=1e-6)


def test_the_mean_of_all_positions_is_that_of_the_sequences(tiny, tokens):
    found, site, ticks = Removals(tiny("llama"), tokens, positions=4), Site("mlp", 1), []
    means = found.measured([site], lambda: ticks.append(1))[list(COLUMNS)].mean()
    np.testing.assert_allclose(means, found.without(site).mean(0), rtol=1e-12)
    assert len(ticks) == 1 and found.measured([]).empty


def test_what_cannot_be_read_is_one_line(tiny, tokens):
    lm = tiny("llama")
    for arguments, reason in (
        ((tokens[0],), "token ids"),
        ((tokens, 0), "batch_size"),
        ((tokens, 8, torch.ones(2, 2)), "attention_mask must be"),
        ((tokens, 8, torch.zeros_like(tokens)), "is empty"),
        ((tokens, 8, None, 0), "positions must be at least 1"),
    ):
        with pytest.raises(PrunelibError, match=reason):
            Removals(lm, *arguments)
    broken = copy.deepcopy(lm)
    broken.layers[1].mlp.down_proj.weight.data.fill_(3e38)
    with pytest.raises(PrunelibError, match="the output is not a number"):
        Removals(broken, tokens).without(Site("attn", 0))
