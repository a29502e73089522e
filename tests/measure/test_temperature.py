"""Along the temperature: limits, bounds, bands and peaks against plain float64 computation."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from prunelib.errors import PrunelibError
from prunelib.measure import temperature as along
from prunelib.measure import theory
from prunelib.measure.head import Head
from prunelib.measure.softmax_stats import pair_statistics
from prunelib.measure.trace import sublayer_states, trace_layers

V = 200


def logits(seed, rows=50, spread=3.0, step=1.0):
    rng = torch.Generator().manual_seed(seed)
    z = torch.randn(rows, V, generator=rng, dtype=torch.float64) * spread
    return z, torch.randn(rows, V, generator=rng, dtype=torch.float64) * step


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def plain(z, dz, t):
    """The four deviations of one pair by their definitions."""
    p, q = softmax(z / t), softmax((z + dz) / t)
    cosine = p @ q / np.sqrt((p @ p) * (q @ q))
    return [1 - cosine, (p * np.log(p / q)).sum(), (q * np.log(q / p)).sum(), np.sqrt(((q - p) ** 2).sum())]


# ---------------------------------------------------------------- the sweep and its limits


def test_a_sweep_is_the_definition_at_every_temperature():
    z, dz = logits(0, rows=4)
    found = along.sweep(z, dz, (0.5, 1.0, 3.0))
    for i, (a, b) in enumerate(zip(z.numpy(), dz.numpy(), strict=True)):
        turned = 1 - a @ (a + b) / np.sqrt((a @ a) * ((a + b) @ (a + b)))
        for k, t in enumerate((0.5, 1.0, 3.0)):
            expected = plain(a, b, t)
            assert [float(found[name][i, k]) for name in along.DEVIATIONS] == pytest.approx(expected, rel=1e-9)
            assert float(found["amplification"][i, k]) == pytest.approx(expected[0] / turned, rel=1e-9)


def test_a_sweep_takes_one_pair_or_a_batch_and_refuses_no_temperature():
    z, dz = logits(1, rows=2)
    assert along.sweep(z, dz, along.GRID)["norm_dp"].shape == (2, len(along.GRID))
    assert along.sweep(z[0], dz, (1.0,))["kl_dense_pruned"].shape == (2, 1)
    assert along.sweep(z[0], dz[0], (1.0, 2.0))["amplification"].shape == (2,)
    with pytest.raises(PrunelibError, match="temperature"):
        along.sweep(z, dz, (1.0, 0.0))


@pytest.mark.parametrize("name", along.DEVIATIONS[:3])
def test_hot_every_deviation_is_the_uniform_variance_over_two_t_squared(name):
    z, dz = logits(2, rows=5)
    hot = (1e2, 1e3, 1e4)
    expected = along.hot_limit(dz.var(-1, unbiased=False)[:, None], torch.tensor(hot, dtype=torch.float64))
    wrong = (along.sweep(z, dz, hot)[name] / expected - 1).abs().amax(0)
    assert wrong[2] < 2e-3
    assert wrong[0] / wrong[1] == pytest.approx(10, rel=0.2)  # the next order is 1/T smaller
    assert wrong[1] / wrong[2] == pytest.approx(10, rel=0.2)


def test_cold_a_kept_top_token_leaves_nothing_and_an_overtaken_one_everything():
    z, dz = torch.tensor([[3.0, 1.0, 0.0], [3.0, 1.0, 0.0]]), torch.tensor([[0.0, 1.9, 0.0], [0.0, 2.1, 0.0]])
    cold = along.sweep(z, dz, (1e-3, 1e-2, 1.0))
    assert cold["one_minus_cos_p"][:, 0].tolist() == pytest.approx([0, 1], abs=1e-9)
    assert cold["norm_dp"][:, 0].tolist() == pytest.approx([0, np.sqrt(2)], abs=1e-9)
    assert float(cold["kl_dense_pruned"][0, 0]) == pytest.approx(0, abs=1e-9)
    # What is overtaken by a margin of 0.1 costs 0.1/T.
    assert float(cold["kl_dense_pruned"][1, 0]) * 1e-3 == pytest.approx(0.1, rel=1e-6)
    assert cold["one_minus_cos_p"][0, 2] > cold["one_minus_cos_p"][0, 0]


def test_a_shift_of_all_logits_moves_nothing_at_any_temperature():
    z, _ = logits(3, rows=2)
    found = along.sweep(z, torch.full_like(z, 7.0), along.GRID)
    for name in along.DEVIATIONS:
        assert found[name].abs().max() < 1e-12


# ---------------------------------------------------------------- bounds


def adversarial():
    """Pairs that come near the bounds: two tokens far above all others, moved against each other."""
    for move in (1e-4, 0.1, 1.0, 5.0, 50.0):
        for t in (0.1, 1.0, 4.0):
            z = torch.full((V,), -500.0 * max(1.0, move), dtype=torch.float64)
            z[:2] = torch.tensor([move / 2, -move / 2])
            dz = torch.zeros(V, dtype=torch.float64)
            dz[:2] = torch.tensor([-move, move])
            yield z, dz, t


def test_no_pair_moves_further_than_either_bound():
    sizes = itertools.product((0.01, 1.0, 30.0), (1e-3, 1.0, 30.0), along.GRID)
    tried = [(*logits(seed, rows=20, spread=s, step=d), t) for seed, (s, d, t) in enumerate(sizes)]
    for z, dz, t in [*tried, *adversarial()]:
        moved = along.sweep(z, dz, (t,))["norm_dp"][..., 0]
        length = (dz - dz.mean(-1, keepdim=True)).norm(dim=-1)
        assert (moved <= along.lipschitz(length, t) * (1 + 1e-9)).all()
        spread = dz.amax(-1) - dz.amin(-1)
        assert (moved <= along.range_limit(spread, t) * (1 + 1e-9)).all()


def test_two_tokens_reach_the_bounds():
    used = {"lipschitz": [], "range": []}
    for z, dz, t in adversarial():
        moved = float(along.sweep(z, dz, (t,))["norm_dp"])
        used["lipschitz"].append(moved / float(along.lipschitz(dz.norm(), t)))
        used["range"].append(moved / float(along.range_limit(dz.amax() - dz.amin(), t)))
    assert max(used["lipschitz"]) == pytest.approx(1, rel=1e-6)
    assert used["range"] == pytest.approx([1] * len(used["range"]), rel=1e-6)


def test_the_proven_intervals_hold_at_every_temperature():
    for z, dz in (logits(4), logits(5, spread=10, step=3), *((z, dz) for z, dz, _ in adversarial())):
        for t in along.GRID:
            for bound in (theory.softmax_theorem(z, dz, t), theory.kl_theorem(z, dz, t),
                          theory.kl_theorem(z, dz, t, "pruned_dense")):  # fmt: skip
                slack = 1e-9 * bound.exact + 1e-300
                assert (bound.lower <= bound.exact + slack).all() and (bound.exact <= bound.upper + slack).all()


# ---------------------------------------------------------------- on a trace


def test_the_trace_measures_what_the_sweep_defines(tiny):
    """The streamed statistics of a model at the temperatures of the book, against the plain sweep of its logits."""
    lm = tiny("llama")
    ids = torch.randint(3, lm.vocab_size, (2, 6), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    traced = trace_layers(lm, ids, mask, mask.bool(), layers=[1], lenses=("normed",), temperatures=along.GRID)
    p, z = (f.assign(prompt_id=f["row"]).drop(columns="row") for f in (traced.p, traced.z))
    rows = along.points(p, z, lm.vocab_size)
    assert len(rows) == 2 * 6 * 2 * len(along.GRID)
    for sublayer, layer, dense, pruned in sublayer_states(lm, ids, mask, mask.bool(), layers=[1]):
        with torch.no_grad():
            a, b = (lm.model.lm_head(lm.model.model.norm(h)).double() for h in (dense, pruned))
        found = along.sweep(a, b - a, along.GRID)
        some = rows[(rows["sublayer"] == sublayer) & (rows["layer"] == layer)]
        some = some.sort_values(["prompt_id", "position", "temperature"])
        for name in (*along.DEVIATIONS, "amplification"):
            mine = some[name].to_numpy().reshape(len(a), -1)
            assert mine == pytest.approx(found[name].numpy(), rel=2e-3, abs=5e-6 if name != "norm_dp" else 5e-4), name
        length = (b - a - (b - a).mean(-1, keepdim=True)).norm(dim=-1).numpy()
        assert some["norm_dz"].to_numpy().reshape(len(a), -1)[:, 0] == pytest.approx(length, rel=1e-4)
        same = (a.argmax(-1) == b.argmax(-1)).numpy()
        kept = some["top"].to_numpy().reshape(len(a), -1) == "kept"
        assert (kept == same[:, None]).all()
        sure = torch.softmax(a, -1).amax(-1).numpy()
        assert list(some["band"].to_numpy().reshape(len(a), -1)[:, 0]) == [along.BANDS[i] for i in
                                                                           along.confidence(sure)]  # fmt: skip
    assert not along.beyond(rows, "lipschitz").any() and not along.beyond(rows, "range_limit").any()


def test_the_length_of_the_move_is_streamed_like_the_rest():
    rng = torch.Generator().manual_seed(0)
    head = Head(torch.randn(700, 24, generator=rng, dtype=torch.float64))
    x = torch.randn(9, 5, 24, generator=rng, dtype=torch.float64).cumsum(1)
    z, chain = x @ head.weight.T, {"dense": slice(1, None), "pruned": slice(None, -1)}
    found, _ = pair_statistics(x, head, **chain, temperatures=(0.3, 2.0))
    for t in (0.3, 2.0):
        p = torch.softmax(z / t, -1)
        expected = (p[:, :-1] - p[:, 1:]).norm(dim=-1)
        torch.testing.assert_close(found[t]["norm_dp"], expected, rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(found[t]["norm_p"], p[:, 1:].norm(dim=-1))
    same, _ = pair_statistics(torch.cat([x[:, :1], x[:, :1]], 1), head, **chain, temperatures=(1.0,))
    assert (same[1.0]["norm_dp"] == 0).all()


# ---------------------------------------------------------------- bands and peaks


def test_bands_of_confidence_share_no_token():
    assert along.confidence([0.0, 0.19, 0.2, 0.49, 0.5, 0.9, 1.0]).tolist() == [0, 0, 1, 1, 2, 3, 3]


def frame(values_by_point):
    rows = [{"prompt_id": f"p{i}", "position": 0, "layer": 1, "sublayer": "attn", "band": "below 0.2", "top": "kept",
             "temperature": t, "kl_dense_pruned": v, "norm_dp": v, "norm_p": 1.0, "resolution": 1e-6}
            for i, values in enumerate(values_by_point) for t, v in values.items()]  # fmt: skip
    return pd.DataFrame(rows).sample(frac=1, random_state=0)


def test_a_peak_is_the_largest_value_and_of_equal_ones_the_hottest():
    found = along.peaks(frame([{0.1: 0.1, 1.0: 0.5, 4.0: 0.2}, {0.1: 9.0, 1.0: 0.5, 4.0: 0.2},
                               {0.1: 0.5, 1.0: 0.5, 4.0: 0.5}]), "kl_dense_pruned")  # fmt: skip
    assert found.set_index("prompt_id")["peak"].to_dict() == {"p0": 1.0, "p1": 0.1, "p2": 4.0}


def test_what_never_rises_above_rounding_has_no_peak():
    small = frame([{0.1: 0.0, 1.0: 5e-7, 4.0: 0.0}, {0.1: 0.0, 1.0: 5e-4, 4.0: 0.0}])
    assert along.peaks(small, "kl_dense_pruned")["prompt_id"].tolist() == ["p1"]
    assert along.peaks(small, "norm_dp").empty  # a length is the root: rounding counts more


def test_cold_peaks_belong_to_overtaken_tokens():
    """By the limits: an overtaken token's 1 − cos p grows all the way, a kept one's peak lies inside."""
    z = torch.tensor([[2.0, 0.0], [0.3, 0.0]], dtype=torch.float64)
    found = along.sweep(z, torch.tensor([[0.0, 1.5], [0.0, 1.5]], dtype=torch.float64), along.GRID)["one_minus_cos_p"]
    best = [along.GRID[i] for i in found.argmax(-1)]
    assert along.GRID[0] < best[0] < along.GRID[-1] and best[1] == along.GRID[0]
