"""Models in bfloat16 and float16: what is measured on their states is measured in float32.

A state in half precision is a vector like any other: the theorems hold on it to the rounding of float32, whatever the
model rounded before.
"""

import copy

import numpy as np
import pytest
import torch

from prunelib.measure.theory import cosine_bounds, kl_bounds, softmax_bounds
from prunelib.measure.trace import compare_states, sublayer_states, trace_layers
from prunelib.methods.apply import compress
from prunelib.models import hooks
from prunelib.models.lm import LM

FAMILIES = ["llama", "gemma2", "gpt_neox", "falcon", "mixtral", "gpt_oss", "qwen2_vl"]
TYPES = [torch.bfloat16, torch.float16]


@pytest.fixture(params=TYPES, ids=["bfloat16", "float16"])
def dtype(request):
    return request.param


@pytest.fixture(params=FAMILIES)
def half(request, make_model, dtype):
    return LM.from_model(make_model(request.param).to(dtype), name=request.param)


def batch(lm):
    ids = torch.randint(3, 97, (3, 9), generator=torch.Generator().manual_seed(5))
    return ids, torch.ones_like(ids), torch.ones_like(ids)


def inside(value, bound, slack) -> bool:
    _, lower, upper = bound
    return bool(((value >= lower - slack) & (value <= upper + slack)).all())


def test_the_theorems_hold_on_states_of_half_precision(half):
    found = trace_layers(half, *batch(half))
    h, p = found.h, found.p
    parts = (h["alpha_h"] > -0.99).to_numpy()
    assert parts.mean() > 0.5
    some = h[parts]
    bound = cosine_bounds(some["alpha_h"].to_numpy(float), some["beta_h"].to_numpy(float))
    assert inside(some["one_minus_cos_h"].to_numpy(float), bound, 1e-5)
    spread = p["range_dz"].to_numpy(float)
    slack = 4 * p["resolution"].to_numpy(float)
    for name, bounds, variance in (
        ("one_minus_cos_p", softmax_bounds, "var_r"),
        ("kl_dense_pruned", kl_bounds, "var_p"),
        ("kl_pruned_dense", kl_bounds, "var_q"),
    ):
        values = p[name].to_numpy(float)
        assert np.isfinite(values).all() and (values >= 0).all() and values.max() > 1e-3
        assert inside(values, bounds(p[variance].to_numpy(float), spread), slack), name


def test_a_twin_differs_in_nothing(half):
    twin = LM.from_model(copy.deepcopy(half.model))
    states = [list(sublayer_states(one, *batch(one)))[-1][2] for one in (half, twin)]
    assert states[0].dtype == half.dtype
    found = compare_states(half, *states)
    assert (found.h[["one_minus_cos_h", "beta_h"]] == 0).all(axis=None)
    assert (found.p[["one_minus_cos_p", "kl_dense_pruned", "kl_pruned_dense", "range_dz"]] == 0).all(axis=None)


@pytest.mark.parametrize("spec", ["wanda:2:4", "gptq:4:g8", "drop:mlp:1"])
def test_compressed_and_dense_again(half, spec):
    ids = batch(half)[0]
    before = half.model(input_ids=ids).logits
    made = compress(half, [spec], ids)[spec]
    assert all(value.dtype == half.dtype for value in made.weights.values())
    with made.applied(half):
        assert not torch.equal(half.model(input_ids=ids).logits, before)
        if spec == "wanda:2:4":
            zeros = {float((value == 0).float().mean()) for value in made.weights.values()}
            assert zeros == {0.5}
    assert torch.equal(half.model(input_ids=ids).logits, before)


def test_the_stream_adds_up_to_the_rounding_of_the_type(half):
    """resid_post is the sum that the model formed in its own type."""
    ids, eps = batch(half)[0], torch.finfo(half.dtype).eps
    with hooks.captured(half, ["resid_pre", "attn_out", "mlp_out", "resid_post"]) as cap:
        half.model(input_ids=ids)
    for layer in range(half.n_layers):
        parts = [cap[name][layer].float() for name in ("resid_pre", "attn_out", "mlp_out")]
        size = sum(part.abs() for part in parts)
        assert ((sum(parts) - cap["resid_post"][layer].float()).abs() <= 2 * eps * size).all()
