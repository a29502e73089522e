"""Distances: exact at any size, against plain definitions and torch.distributions."""

import math

import pytest
import torch

from prunelib.errors import PrunelibError
from prunelib.measure.distances import (
    cosine_from_parts,
    decompose,
    kl,
    one_minus_cosine,
    one_minus_cosine_p,
)


def pairs(n=40, v=50, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(n, v, generator=generator, dtype=torch.float64) * 3
    return a, a + scale * torch.randn(n, v, generator=generator, dtype=torch.float64)


def test_cosine_agrees_with_the_definition():
    a, b = pairs()
    plain = 1 - torch.nn.functional.cosine_similarity(a, b, dim=-1)
    torch.testing.assert_close(one_minus_cosine(a, b), plain, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(one_minus_cosine(a, -a), torch.full((40,), 2.0).double())


@pytest.mark.parametrize("size", [1e-3, 1e-6, 1e-9, 1e-12])
def test_cosine_keeps_its_digits_for_tiny_angles(size):
    # A rotation by a known angle: 1 − cos = 2 sin²(θ/2).
    a = torch.tensor([1.0, 0.0], dtype=torch.float64)
    dx = torch.tensor([0.0, math.tan(size)], dtype=torch.float64)
    found = cosine_from_parts(*decompose(a, dx))
    assert found.item() == pytest.approx(2 * math.sin(size / 2) ** 2, rel=1e-12)


@pytest.mark.parametrize("factor", [1e-100, 1e-20, 1.0, 1e20, 1e100])
def test_scale_changes_nothing(factor):
    a, b = pairs()
    torch.testing.assert_close(one_minus_cosine(a * factor, b * factor), one_minus_cosine(a, b), rtol=1e-9, atol=0)


def test_equal_vectors_give_exactly_zero_and_zero_vectors_nan():
    a, b = pairs()
    assert (one_minus_cosine(a, a.clone()) == 0).all()
    assert (kl(a, a.clone()) == 0).all()
    assert (one_minus_cosine_p(a, a.clone()) == 0).all()
    assert one_minus_cosine(torch.zeros_like(a), b).isnan().all()


def test_decomposition_rebuilds_the_perturbation():
    a, b = pairs()
    alpha, beta = decompose(a, b - a)
    torch.testing.assert_close((alpha**2 + beta**2) * a.square().sum(-1), (b - a).square().sum(-1))
    along, across = decompose(a, -0.25 * a)
    torch.testing.assert_close(along, torch.full((40,), -0.25).double())
    assert (across < 1e-15).all()


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_kl_agrees_with_torch_distributions(temperature):
    a, b = pairs(scale=2.0)
    p, q = (torch.distributions.Categorical(logits=z / temperature) for z in (a, b))
    reference = torch.distributions.kl_divergence(p, q)
    torch.testing.assert_close(kl(a, b, temperature), reference, rtol=1e-10, atol=1e-13)
    reverse = torch.distributions.kl_divergence(q, p)
    torch.testing.assert_close(kl(b, a, temperature), reverse, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("size", [1e-2, 1e-4, 1e-6])
def test_tiny_kl_and_cosine_follow_their_second_order(size):
    a, b = pairs(scale=size)
    p, dz = torch.softmax(a, -1), b - a
    r = p.square() / p.square().sum(-1, keepdim=True)

    def half_variance(w):
        return (w * (dz - (w * dz).sum(-1, keepdim=True)).square()).sum(-1) / 2

    torch.testing.assert_close(kl(a, b), half_variance(p), rtol=20 * size, atol=0)
    torch.testing.assert_close(one_minus_cosine_p(a, b), half_variance(r), rtol=20 * size, atol=0)


def test_a_shift_of_all_logits_is_invisible_to_softmax():
    a, b = pairs()
    torch.testing.assert_close(kl(a + 1234.5, b - 77.0), kl(a, b), rtol=1e-9, atol=1e-12)
    assert (kl(a, a + 5.0) < 1e-25).all()


def test_huge_logits_stay_finite():
    a, b = pairs()
    assert torch.isfinite(kl(a * 1e4, b * 1e4)).all()
    assert torch.isfinite(one_minus_cosine_p(a * 1e4, b * 1e4)).all()


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), float("inf"), "cold"])
def test_bad_temperature_is_one_clear_line(temperature):
    a, b = pairs()
    with pytest.raises(PrunelibError, match="temperature must be a number above 0"):
        kl(a, b, temperature)
