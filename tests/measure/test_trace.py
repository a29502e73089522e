"""The streamed trace against a plain float64 computation, for every family."""

import copy
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from prunelib.errors import PrunelibError
from prunelib.measure import tiles
from prunelib.measure.head import Head
from prunelib.measure.softmax_stats import PAIR_COLUMNS, pair_statistics, resolution
from prunelib.measure.trace import compare_states, sublayer_states, trace_layers
from prunelib.models.hooks import captured
from prunelib.models.lm import LM

INDEX = ["row", "position", "layer", "sublayer"]
TEMPERATURES = (0.3, 1.0, 2.0)
CHAIN = {"dense": slice(1, None), "pruned": slice(None, -1)}


def reference(z_dense, z_pruned, t):
    """Every z and p column of logits [N, V], in float64, by the definitions."""
    z, dz = z_dense.double(), z_pruned.double() - z_dense.double()
    log_p, log_q = (torch.log_softmax(x / t, -1) for x in (z, z + dz))
    p, q = log_p.exp(), log_q.exp()
    r = p.square() / p.square().sum(-1, keepdim=True)

    def cosine(a, b):
        return 1 - torch.nn.functional.cosine_similarity(a, b, dim=-1)

    def centred(x):
        return x - x.mean(-1, keepdim=True)

    def variance(w):
        return (w * (dz - (w * dz).sum(-1, keepdim=True)).square()).sum(-1)

    norm = z.norm(dim=-1)
    alpha = (z * dz).sum(-1) / norm**2
    return {
        "one_minus_cos_z": cosine(z, z + dz),
        "one_minus_cos_z_centred": cosine(centred(z), centred(z + dz)),
        "alpha_z": alpha,
        "beta_z": (dz - alpha[:, None] * z).norm(dim=-1) / norm,
        "rms_dz": dz.square().mean(-1).sqrt(),
        "mean_dz": dz.mean(-1),
        "norm_z": norm,
        "mean_z": z.mean(-1),
    }, {
        "one_minus_cos_p": cosine(p, q),
        "kl_dense_pruned": (p * (log_p - log_q)).sum(-1),
        "kl_pruned_dense": (q * (log_q - log_p)).sum(-1),
        "var_r": variance(r),
        "var_p": variance(p),
        "var_q": variance(q),
        "range_dz": dz.amax(-1) - dz.amin(-1),
        "entropy_dense": -(p * log_p).sum(-1),
        "pmax_dense": p.amax(-1),
        "top1_same": (z.argmax(-1) == (z + dz).argmax(-1)).double(),
        "norm_p": p.norm(dim=-1),
        "norm_dp": (q - p).norm(dim=-1),
    }


def batch(lm, rows=2, length=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, lm.vocab_size, (rows, length), generator=generator)
    return ids, torch.ones_like(ids), torch.ones_like(ids, dtype=torch.bool)


def random_head(v=700, d=24, seed=0, dtype=torch.float32, **options):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(v, d, generator=generator, dtype=torch.float64) * d**-0.5
    return Head(weight.to(dtype), **options)


def random_chains(n=9, points=5, d=24, scale=3.0, step=0.5, seed=1, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(n, 1, d, generator=generator, dtype=torch.float64)
    steps = torch.randn(n, points - 1, d, generator=generator, dtype=torch.float64) * step
    return (torch.cat([start, start + steps.cumsum(1)], 1) * scale).to(dtype)


def check(found, expected, rtol=1e-4, atol=2e-6):
    for name, value in expected.items():
        column = torch.as_tensor(np.asarray(found[name], dtype=float)).reshape(value.shape)
        if name == "norm_dp":  # what the trace adds up, and what its resolution is of, is the square
            column, value = column.square(), value.square()
        torch.testing.assert_close(column, value, rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


# ------------------------------------------------------------- the vocabulary kernel


@pytest.mark.parametrize("dtype,rtol,atol", [(torch.float32, 1e-4, 2e-6), (torch.float64, 1e-10, 1e-12)])
@pytest.mark.parametrize("options", [{}, {"scale": 0.3}, {"cap": 4.0}, {"cap": 4.0, "scale": 0.5}])
@pytest.mark.parametrize("with_bias", [False, True])
def test_streamed_equals_plain(dtype, rtol, atol, options, with_bias):
    head = random_head(dtype=dtype, **options)
    if with_bias:
        head.bias = torch.linspace(-1, 1, head.vocab_size, dtype=dtype)
    x = random_chains(dtype=dtype)
    z = x.double() @ head.weight.double().T + (head.bias.double() if with_bias else 0)
    z = z * head.scale
    z = head.cap * torch.tanh(z / head.cap) if head.cap else z
    found, moments = pair_statistics(x, head, **CHAIN, temperatures=TEMPERATURES)
    assert (moments is not None) == (head.cap is not None)
    for t in TEMPERATURES:
        _, expected = reference(z[:, 1:].flatten(0, 1), z[:, :-1].flatten(0, 1), t)
        check(found[t], expected, rtol, atol)


@pytest.mark.parametrize("elements", [300, 5_000, 96_000])
@pytest.mark.parametrize("threads", [1, 2])
def test_chunked_equals_unchunked(monkeypatch, elements, threads):
    head, x = random_head(v=3000), random_chains(n=11)
    whole, _ = pair_statistics(x, head, **CHAIN, temperatures=(1.0,))
    monkeypatch.setattr(tiles, "_ELEMENTS", elements)
    monkeypatch.setattr(tiles, "_BLOCK_ROWS", 20)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        parts, _ = pair_statistics(x, head, **CHAIN, temperatures=(1.0,))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    check(parts[1.0], whole[1.0], rtol=1e-5, atol=1e-6)


def test_repeated_runs_are_equal_to_the_bit():
    head, x = random_head(v=5000), random_chains(n=20)
    first, second = (pair_statistics(x, head, **CHAIN, temperatures=(1.0,))[0][1.0] for _ in "12")
    assert all(torch.equal(first[name], second[name]) for name in PAIR_COLUMNS)


def test_several_temperatures_equal_separate_calls():
    head, x = random_head(), random_chains()
    together, _ = pair_statistics(x, head, **CHAIN, temperatures=TEMPERATURES)
    for t in TEMPERATURES:
        alone, _ = pair_statistics(x, head, **CHAIN, temperatures=(t,))
        check(together[t], alone[t], rtol=1e-6, atol=1e-7)


def test_a_common_offset_of_all_logits_is_invisible():
    x = random_chains()
    plain, _ = pair_statistics(x, random_head(), **CHAIN, temperatures=(1.0,))
    # One more input that every token reads equally: z + c, another c for each state.
    head = random_head()
    head.weight = torch.cat([head.weight, torch.ones(head.vocab_size, 1)], 1)
    offset = torch.randn(*x.shape[:2], 1, generator=torch.Generator().manual_seed(5)) * 20
    shifted, _ = pair_statistics(torch.cat([x, offset], -1), head, **CHAIN, temperatures=(1.0,))
    # Larger logits are rounded more coarsely, which the column that says so must show.
    assert (shifted[1.0].pop("resolution") > plain[1.0]["resolution"]).any()
    check(shifted[1.0], {n: plain[1.0][n] for n in shifted[1.0]}, rtol=2e-4, atol=5e-6)


@pytest.mark.parametrize("scale", [30.0, 300.0, 3000.0])
def test_huge_logits_neither_overflow_nor_lose_the_saturated_tail(scale):
    head, x = random_head(dtype=torch.float64), random_chains(scale=scale, dtype=torch.float64)
    z = x @ head.weight.T
    single = Head(head.weight.float())
    found, _ = pair_statistics(x.float(), single, **CHAIN, temperatures=TEMPERATURES)
    exact, _ = pair_statistics(x, head, **CHAIN, temperatures=TEMPERATURES)
    for t in TEMPERATURES:
        assert all(torch.isfinite(found[t][name]).all() for name in PAIR_COLUMNS)
        _, expected = reference(z[:, 1:].flatten(0, 1), z[:, :-1].flatten(0, 1), t)
        check(exact[t], expected, rtol=1e-8, atol=1e-9)
        # A float32 logit of size scale is known to 1e-6·scale.
        names = ("one_minus_cos_p", "kl_dense_pruned", "range_dz", "pmax_dense")
        rough = {name: expected[name] for name in names}
        check(found[t], rough, rtol=2e-3, atol=2e-5 * scale / t)


@pytest.mark.parametrize("size,rtol", [(1e-2, 1e-3), (1e-3, 5e-3), (1e-4, 5e-2)])
def test_small_deviations_are_resolved(size, rtol):
    head, x = random_head(), random_chains(step=size)
    z = x.double() @ head.weight.double().T
    found, _ = pair_statistics(x, head, **CHAIN, temperatures=(1.0,))
    _, expected = reference(z[:, 1:].flatten(0, 1), z[:, :-1].flatten(0, 1), 1.0)
    check(found[1.0], {n: expected[n] for n in ("var_r", "var_p", "var_q")}, rtol=rtol, atol=1e-11)
    check(found[1.0], expected, rtol=2e-3, atol=5e-6)


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0, 600.0])
def test_no_deviation_is_further_off_than_the_stated_resolution(scale):
    """Logits up to 600, as the raw lens has them: 1e-6 would not hold there."""
    head, exact = random_head(), Head(random_head().weight.double())
    worst = 0.0
    for step in (1e-5, 1e-2, 0.3):
        x = random_chains(step=step) * scale
        temperatures = (1.0, 0.3, 20.0)
        found, _ = pair_statistics(x, head, **CHAIN, temperatures=temperatures)
        wanted, _ = pair_statistics(x.double(), exact, **CHAIN, temperatures=temperatures)
        z = (x.double() @ head.weight.double().T).abs().amax(-1)
        largest = torch.maximum(z[:, 1:], z[:, :-1])
        for t in temperatures:
            limit = resolution(largest, t)
            torch.testing.assert_close(found[t]["resolution"], limit, rtol=1e-5, atol=0)
            assert (wanted[t]["resolution"] < 1e-7 * limit).all()
            for name in PAIR_COLUMNS[:3]:
                off = (found[t][name] - wanted[t][name]).abs()
                assert (off <= limit + 1e-3 * wanted[t][name]).all(), name
                worst = max(worst, float(off.max()))
    assert scale < 600 or worst > 1e-6


def test_saturated_softmax_keeps_its_variance_when_the_top_token_moves():
    # Dense is certain of token 0; pruned lowers that logit by 40: a common centre would
    # cost 1600·1e-7 of a variance that is itself 1e-4.
    weight = torch.eye(64, dtype=torch.float32)
    z = torch.zeros(1, 64)
    z[0, 0], z[0, 1] = 30.0, 15.0
    pruned = z.clone()
    pruned[0, 0] -= 40
    x = torch.stack([pruned, z], 1)
    found, _ = pair_statistics(x, Head(weight), **CHAIN, temperatures=(1.0,))
    _, expected = reference(z, pruned, 1.0)
    names = ("var_p", "var_r", "kl_dense_pruned")
    check(found[1.0], {n: expected[n] for n in names}, rtol=1e-4, atol=1e-12)


def test_equal_states_give_exactly_zero():
    x = random_chains(n=7)
    x[:, 2] = x[:, 1]
    found, _ = pair_statistics(x, random_head(v=999), **CHAIN, temperatures=TEMPERATURES)
    for t in TEMPERATURES:
        for name in PAIR_COLUMNS[:7]:
            assert (found[t][name][:, 1] == 0).all(), name
            assert (found[t][name][:, 0] > 0).all(), name
        assert (found[t]["top1_same"][:, 1] == 1).all()


# ------------------------------------------------------------- the trace of a model


def test_every_family_against_plain_logits(lm):
    ids, mask, chosen = batch(lm)
    found = trace_layers(lm, ids, mask, chosen, temperatures=TEMPERATURES)
    sites = list(sublayer_states(lm, ids, mask, chosen))
    assert len(found.h) == ids.numel() * 2 * lm.n_layers == ids.numel() * len(sites)
    for sublayer, layer, dense, pruned in sites:
        site = f"layer == {layer} and sublayer == '{sublayer}'"
        h, dh = dense.double(), (pruned - dense).double()
        expected = {
            "one_minus_cos_h": 1 - torch.nn.functional.cosine_similarity(h, h + dh, dim=-1),
            "alpha_h": (h * dh).sum(-1) / h.square().sum(-1),
            "norm_h": h.norm(dim=-1),
        }
        check(found.h.query(site), expected, rtol=1e-5, atol=1e-7)
        for lens in ("raw", "normed"):
            z, z_new = lm.unembed(dense, lens), lm.unembed(pruned, lens)
            for t in TEMPERATURES:
                of_z, of_p = reference(z, z_new, t)
                rows = found.p.query(f"{site} and lens == '{lens}' and temperature == {t}")
                check(rows, of_p, rtol=1e-3, atol=2e-5)
            check(found.z.query(f"{site} and lens == '{lens}'"), of_z, rtol=1e-3, atol=1e-5)


def test_dense_and_pruned_are_the_stream_with_and_without_the_sublayer(lm):
    ids, mask, chosen = batch(lm)
    outputs = ["resid_post", "attn_out", "mlp_out"]
    with captured(lm, outputs) as cap, torch.no_grad():
        logits = lm.model(input_ids=ids, attention_mask=mask).logits
    for sublayer, layer, dense, pruned in sublayer_states(lm, ids, mask, chosen):
        out = cap[f"{sublayer}_out"][layer].reshape(-1, lm.d_model)
        torch.testing.assert_close(dense - pruned, out, rtol=1e-4, atol=1e-5)
        after_mlp = cap["resid_post"][layer].reshape(-1, lm.d_model)
        if sublayer == "mlp" or lm.arch.is_parallel:
            torch.testing.assert_close(dense, after_mlp)
    last = list(sublayer_states(lm, ids, mask, chosen, layers=[lm.n_layers - 1]))[-1][2]
    torch.testing.assert_close(lm.unembed(last), logits.flatten(0, 1).float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family_name", ["llama", "gemma2", "gpt_neox", "gpt2"])
def test_subsets_of_sites_give_the_same_numbers(tiny, family_name):
    lm = tiny(family_name)
    ids, mask, chosen = batch(lm)
    whole = trace_layers(lm, ids, mask, chosen)
    for options in (
        {"layers": [0, 2]},
        {"sublayers": ("attn",)},
        {"sublayers": ("mlp",), "layers": [3]},
        {"layers": [1, 2]},
    ):
        part = trace_layers(lm, ids, mask, chosen, **options)
        for space, index in (("h", INDEX), ("z", [*INDEX, "lens"]), ("p", [*INDEX, "lens", "temperature"])):
            some, every = getattr(part, space), getattr(whole, space)
            merged = some.merge(every, on=index, suffixes=("", "_all"), validate="one_to_one")
            assert len(merged) == len(some) > 0
            for name in some.columns.difference(index):
                np.testing.assert_allclose(
                    merged[name].astype(float), merged[f"{name}_all"].astype(float),
                    rtol=1e-3, atol=3e-6, err_msg=name,
                )  # fmt: skip


@pytest.mark.parametrize("family_name", ["llama", "gpt2", "opt", "gpt_neox", "gemma2"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_and_batch_change_nothing(tiny, family_name, side):
    lm = tiny(family_name)
    short, long = batch(lm, 1, 5, seed=1)[0], batch(lm, 1, 9, seed=2)[0]
    ids, mask = torch.zeros(2, 9, dtype=torch.long), torch.zeros(2, 9, dtype=torch.long)
    where = slice(4, 9) if side == "left" else slice(0, 5)
    ids[0, where], mask[0, where], ids[1], mask[1] = short[0], 1, long[0], 1
    together = trace_layers(lm, ids, mask, mask.bool())
    for row, alone in ((0, short), (1, long)):
        ones = torch.ones_like(alone)
        single = trace_layers(lm, alone, ones, ones.bool())
        for space in ("h", "z", "p"):
            some = getattr(together, space).query(f"row == {row}").reset_index(drop=True)
            other = getattr(single, space)
            numbers = [c for c in some if c not in (*INDEX, "lens")]
            assert list(some["layer"]) == list(other["layer"])
            np.testing.assert_allclose(some[numbers].astype(float), other[numbers].astype(float), rtol=2e-3, atol=2e-5)


def test_position_mask_selects_and_names_rows(tiny):
    lm = tiny("llama")
    ids, mask, chosen = batch(lm, 3, 6)
    whole = trace_layers(lm, ids, mask, chosen).p
    few = torch.zeros_like(chosen)
    few[0, 5] = few[2, 1] = few[2, 4] = True
    part = trace_layers(lm, ids, mask, few).p
    assert set(zip(part["row"], part["position"], strict=True)) == {(0, 5), (2, 1), (2, 4)}
    index = [*INDEX, "lens", "temperature"]
    both = part.merge(whole, on=index, suffixes=("", "_all"), validate="one_to_one")
    np.testing.assert_allclose(both["var_p"], both["var_p_all"], rtol=1e-3, atol=1e-6)


def test_temperatures_can_differ_between_lenses(tiny):
    lm = tiny("llama")
    found = trace_layers(lm, *batch(lm), temperatures={"raw": (1.0,), "normed": (0.5, 1.0)})
    pairs = set(found.p.groupby(["lens", "temperature"]).groups)
    assert pairs == {("raw", 1.0), ("normed", 0.5), ("normed", 1.0)}
    assert found.z["lens"].value_counts().nunique() == 1
    assert found.p["top1_same"].dtype == bool


def test_dropping_a_sublayer_that_adds_nothing_is_exactly_zero(make_model):
    model = make_model("llama")
    for projection in (model.model.layers[1].self_attn.o_proj, model.model.layers[2].mlp.down_proj):
        projection.weight.data.zero_()
    lm = LM.from_model(model)
    found = trace_layers(lm, *batch(lm), temperatures=TEMPERATURES)
    null = "(layer == 1 and sublayer == 'attn') or (layer == 2 and sublayer == 'mlp')"
    h, z, p = (getattr(found, space).query(null) for space in "hzp")
    assert (h[["one_minus_cos_h", "alpha_h", "beta_h"]] == 0).all(axis=None)
    assert (z[["one_minus_cos_z", "one_minus_cos_z_centred", "beta_z", "rms_dz"]] == 0).all(axis=None)
    assert (p[list(PAIR_COLUMNS[:7])] == 0).all(axis=None) and p["top1_same"].all()
    others = found.p.drop(p.index)
    assert (others["kl_dense_pruned"] > 0).all()


@pytest.mark.parametrize("family_name", ["llama", "gemma2"])
def test_a_twin_of_the_model_gives_exactly_zero(tiny, family_name):
    lm = tiny(family_name)
    twin = LM.from_model(copy.deepcopy(lm.model))
    states = [list(sublayer_states(m, *batch(m)))[-1][2] for m in (lm, twin)]
    found = compare_states(lm, *states)
    assert (found.h[["one_minus_cos_h", "beta_h"]] == 0).all(axis=None)
    assert (found.z[["one_minus_cos_z", "rms_dz"]] == 0).all(axis=None)
    assert (found.p[list(PAIR_COLUMNS[:7])] == 0).all(axis=None)


def test_compare_states_is_the_core_of_the_trace(tiny):
    lm = tiny("qwen3")
    ids, mask, chosen = batch(lm)
    found = trace_layers(lm, ids, mask, chosen)
    sublayer, layer, dense, pruned = list(sublayer_states(lm, ids, mask, chosen))[3]
    pairs = compare_states(lm, dense, pruned)
    assert list(pairs.h["row"]) == list(range(len(dense)))
    for space in ("h", "z", "p"):
        site = getattr(found, space).query(f"layer == {layer} and sublayer == '{sublayer}'")
        other = getattr(pairs, space)
        numbers = [c for c in other if c not in ("row", "lens")]
        np.testing.assert_allclose(site[numbers].astype(float), other[numbers].astype(float), rtol=1e-3, atol=3e-6)


def test_z_of_a_tiny_perturbation_keeps_its_digits(make_model):
    lm = LM.from_model(make_model("llama").double())
    dense = torch.randn(20, lm.d_model, dtype=torch.float64)
    step = torch.randn(20, lm.d_model, dtype=torch.float64)
    found = [compare_states(lm, dense, dense + size * step, lenses=("raw",)).z for size in (1e-3, 1e-6)]
    ratio = found[0]["one_minus_cos_z"] / found[1]["one_minus_cos_z"]
    np.testing.assert_allclose(ratio, 1e6, rtol=2e-2)  # second order: (10³)², far below 1e-7


def test_bfloat16_models_are_measured_in_float32(make_model):
    lm = LM.from_model(make_model("qwen2").to(torch.bfloat16))
    found = trace_layers(lm, *batch(lm))
    dense, pruned = list(sublayer_states(lm, *batch(lm)))[2][2:]
    z, z_new = (x.float() @ lm.W.float().T for x in (dense, pruned))
    rows = found.p.query("layer == 1 and sublayer == 'attn' and lens == 'raw'")
    check(rows, reference(z, z_new, 1.0)[1], rtol=1e-3, atol=1e-5)


# ------------------------------------------------------------- bounds and bad input


def test_few_bytes_give_the_same_table(tiny):
    lm = tiny("llama")
    ids, mask, chosen = batch(lm, 4, 12)
    whole = trace_layers(lm, ids, mask, chosen)
    # Small enough that a single row of the batch has to be run in several parts.
    small = trace_layers(lm, ids, mask, chosen, max_bytes=300_000)
    from prunelib.measure import stream

    plan = stream.layout(lm)
    parts = list(stream.stream_chains(lm, ids, mask, chosen, plan, 5 * plan.points * lm.d_model * 4))
    assert max(len(part.row) for part in parts) == 5
    assert sum(len(part.row) for part in parts) == chosen.sum()
    pd.testing.assert_frame_equal(small.h, whole.h, rtol=1e-4, atol=1e-7)
    pd.testing.assert_frame_equal(small.p, whole.p, rtol=1e-3, atol=3e-6)


MEMORY = """
import resource, sys, torch
from prunelib.measure.head import Head
from prunelib.measure.softmax_stats import pair_statistics
positions, v, d = int(sys.argv[1]), 20000, 64
head = Head(torch.randn(v, d))
x = torch.randn(positions, 21, d)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
pair_statistics(x[:1], head, slice(1, None), slice(None, -1), (1.0,), 2**26)
before = peak()
pair_statistics(x, head, slice(1, None), slice(None, -1), (1.0,), 2**26)
print(peak() - before)
"""


def test_memory_is_bounded_whatever_the_number_of_positions():
    used = [
        int(subprocess.run([sys.executable, "-c", MEMORY, str(n)], check=True, capture_output=True,
                           text=True, env=os.environ | {"PRUNELIB_COMPILE": "0"}).stdout)
        for n in (40, 400)
    ]  # fmt: skip
    unchunked = 400 * 21 * 20000 * 4
    assert max(used) < 2**26 + 2**25 < unchunked / 6  # the bound, and the allocator's slack
    assert used[1] < used[0] + 2**25


@pytest.mark.parametrize("compiler", [False, True])
@pytest.mark.parametrize("vocabulary,d,points", [(151_936, 896, 49), (262_144, 2048, 53), (50_257, 4096, 257)])
def test_default_memory_is_planned_below_a_gibibyte(monkeypatch, vocabulary, d, points, compiler):
    monkeypatch.setattr(tiles, "compiles", lambda work, device: compiler)
    head = Head(torch.empty(vocabulary, d, device="meta"))
    plan = tiles.tiling(torch.empty(1000, points, d), head, 6, 15 * 6, 2**27)
    logits = (plan.tiles * plan.items * points + plan.rows) * plan.chunk * 4
    tables = plan.block * points * plan.chunks * 15 * 6 * 4
    # A dozen tiles: the operations of a summary one after the other.
    assert logits + 12 * plan.rows * plan.chunk * 4 + tables < 2**27
    assert plan.block >= plan.items >= 1 and plan.rows >= plan.items * points


def test_bad_input_is_one_clear_line(tiny):
    lm = tiny("llama")
    ids, mask, chosen = batch(lm)
    bad = {
        "temperature must be": {"temperatures": (0.0,)},
        "temperature must": {"temperatures": {"raw": (-1.0,), "normed": (1.0,)}},
        "no temperature": {"temperatures": {"raw": (1.0,)}},
        "unknown lens 'norm'.*normed": {"lenses": ("norm",)},
        "no lens": {"lenses": ()},
        "unknown sublayer 'att'.*attn": {"sublayers": ("att",)},
        "no layer 9.*0 to 3": {"layers": [9]},
        "nothing to trace": {"layers": []},
        "max_bytes is too small.*vocabulary of 97": {"max_bytes": 1000},
    }
    for message, options in bad.items():
        with pytest.raises(PrunelibError, match=message):
            trace_layers(lm, ids, mask, chosen, **options)
    with pytest.raises(PrunelibError, match="no position"):
        trace_layers(lm, ids, mask, torch.zeros_like(chosen))
    with pytest.raises(PrunelibError, match="one shape"):
        trace_layers(lm, ids, mask, chosen[:, :2])
    padded = mask.clone()
    padded[0, 0] = 0
    with pytest.raises(PrunelibError, match="padding"):
        trace_layers(lm, ids, padded, chosen)
    with pytest.raises(PrunelibError, match=r"states must both be \[N, 32\]"):
        compare_states(lm, torch.zeros(3, 5), torch.zeros(3, 5))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_stream_is_named(make_model, value):
    model = make_model("llama")
    lm = LM.from_model(model, name="broken")
    with torch.no_grad():
        model.model.layers[2].mlp.down_proj.weight[0, 0] = value
    with pytest.raises(PrunelibError, match="stream of broken.*layer 2, sublayer mlp"):
        trace_layers(lm, *batch(lm))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_gives_the_same_tables(make_model):
    model = make_model("gemma2")
    tables = []
    for device in ("cpu", "cuda"):
        lm = LM.from_model(copy.deepcopy(model).to(device))
        tables.append(trace_layers(lm, *batch(lm), temperatures=TEMPERATURES))
    pd.testing.assert_frame_equal(tables[0].p, tables[1].p, rtol=1e-2, atol=1e-4)
