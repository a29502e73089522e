"""Theorems 1 to 3: identities, the proven intervals, and attempts to break them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import integrate

from prunelib.errors import PrunelibError
from prunelib.experiments import theorem_checks as checks
from prunelib.measure import theory

CASES = [(t, q) for t, names in checks.QUANTITIES.items() for q in names if q != "refined"]
KL = theory.DIRECTIONS


def tensor(values):
    return torch.as_tensor(values, dtype=torch.float64)


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax_pair(seed=0, n=50, size=1.0):
    z, dz = 2 * draw(seed, n), size * draw(seed + 1, n)
    return z, dz, torch.softmax(z, -1), torch.softmax(z + dz, -1)


def assert_ordered(bound):
    for values in bound:
        assert torch.isfinite(values).all()
    assert not checks.outside_interval(bound).any()


# ------------------------------------------------------------------ exact values


def test_cosine_exact_is_one_minus_cosine():
    h, dh = draw(0, 7, 3, 40), 0.3 * draw(1, 3, 40)
    bound = theory.cosine_theorem(h, dh)
    direct = 1 - torch.cosine_similarity(h, h + dh, dim=-1)
    assert bound.exact.shape == (7, 3)
    torch.testing.assert_close(bound.exact, direct, atol=1e-14, rtol=1e-12)


def test_softmax_exact_is_the_cosine_and_the_log_sum_exp_identity():
    z, dz, p, q = softmax_pair()
    exact = theory.softmax_theorem(z, dz).exact
    torch.testing.assert_close(exact, 1 - torch.cosine_similarity(p, q, dim=-1), rtol=1e-12, atol=0)

    def lse(x):
        return torch.logsumexp(x, -1)

    z2 = z + dz
    identity = 1 - torch.exp(lse(z + z2) - lse(2 * z) / 2 - lse(2 * z2) / 2)
    torch.testing.assert_close(exact, identity, rtol=1e-12, atol=0)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_kl_exact_is_the_divergence(temperature):
    z, dz, _, _ = softmax_pair()
    p = torch.distributions.Categorical(logits=z / temperature)
    q = torch.distributions.Categorical(logits=(z + dz) / temperature)
    for direction, (first, second) in zip(KL, ((p, q), (q, p)), strict=True):
        exact = theory.kl_theorem(z, dz, temperature, direction).exact
        expected = torch.distributions.kl_divergence(first, second)
        torch.testing.assert_close(exact, expected, rtol=1e-12, atol=0)


def tilted_variance(log_base, x, t):
    p = torch.softmax(log_base + t * x, -1)
    return float((p * (x - (p * x).sum()).square()).sum())


def test_kl_is_the_integral_of_the_variance_along_the_path():
    z, dz, _, _ = softmax_pair(size=2.0)
    x = dz / 0.7
    weights = {"dense_pruned": lambda t: 1 - t, "pruned_dense": lambda t: t}
    for direction, weight in weights.items():
        value, _ = integrate.quad(lambda t, w=weight: w(t) * tilted_variance(z / 0.7, x, t), 0, 1)
        exact = float(theory.kl_theorem(z, dz, 0.7, direction).exact)
        assert exact == pytest.approx(value, rel=1e-9)


def test_log_cosine_is_the_double_integral_of_the_variance():
    z, dz, _, _ = softmax_pair(size=0.7)
    # The sum of two uniform numbers has a triangular density: a double integral in one.
    value, _ = integrate.quad(
        lambda s: (1 - abs(1 - s)) * tilted_variance(2 * z, dz, s), 0, 2, points=[1.0]
    )
    exact = float(theory.softmax_theorem(z, dz).exact)
    assert -math.log1p(-exact) == pytest.approx(value / 2, rel=1e-9)


def test_tiny_deviations_keep_their_digits():
    """At size 1e-9 the deviations are 1e-19: far below what 1 − cos would leave of them."""
    h, dh = draw(0, 100), 1e-9 * draw(1, 100)
    bound = theory.cosine_theorem(h, dh)
    assert float(bound.exact) == pytest.approx(float(bound.estimate), rel=1e-7)
    for found in (theory.softmax_theorem(h, dh), theory.kl_theorem(h, dh)):
        assert 0 < float(found.exact) < 1e-17
        assert float(found.exact) == pytest.approx(float(found.estimate), rel=1e-7)
        assert_ordered(found)


def test_estimates_are_the_papers():
    z, dz, p, q = softmax_pair()
    r = p * p / (p * p).sum()

    def variance(weights):
        return float((weights * dz**2).sum() - (weights * dz).sum() ** 2)

    estimates = {
        variance(r): theory.softmax_theorem(z, dz).estimate,
        variance(p): theory.kl_theorem(z, dz).estimate,
        variance(q): theory.kl_theorem(z, dz, direction="pruned_dense").estimate,
    }
    for expected, found in estimates.items():
        assert float(found) == pytest.approx(expected / 2, rel=1e-12)
    assert float(theory.cosine_theorem([1.0, 0.0], [0.7, 0.2]).estimate) == pytest.approx(0.02)


def test_temperature_divides_logits_and_broadcasts():
    z, dz = draw(0, 4, 30), draw(1, 4, 30)
    temperatures = tensor([0.5, 1.0, 2.0, 8.0])
    for theorem in (theory.softmax_theorem, theory.kl_theorem):
        together = theorem(z, dz, temperatures)
        for i, t in enumerate(temperatures.tolist()):
            for found, scaled in zip(together, theorem(z[i] / t, dz[i] / t), strict=True):
                assert float(found[i]) == pytest.approx(float(scaled), rel=1e-12)


def test_a_uniform_shift_changes_no_probability():
    z, dz = draw(0, 20), draw(1, 20)
    for theorem in (theory.softmax_theorem, theory.kl_theorem):
        for plain, shifted in zip(theorem(z, dz), theorem(z - 3, dz + 5), strict=True):
            torch.testing.assert_close(plain, shifted, rtol=1e-10, atol=0)
        assert all(float(value) == 0 for value in theorem(z, torch.full_like(z, 5.0)))


def test_no_perturbation_gives_zeros():
    h = draw(0, 3, 8)
    for theorem in (theory.cosine_theorem, theory.softmax_theorem, theory.kl_theorem):
        assert all((value == 0).all() for value in theorem(h, 0 * h))


# ------------------------------------------------------------------ intervals


@pytest.mark.parametrize("theorem", ["T1", "T2", "T3"])
def test_twenty_thousand_random_draws_stay_inside(theorem):
    found = checks.random_draws(theorem, seed=1, draws=20_000)
    assert (found.groupby("quantity")["draws"].sum() >= 20_000).all()
    assert found["violations"].sum() == 0


@pytest.mark.parametrize("theorem", ["T1", "T2", "T3"])
def test_a_search_reaches_the_proven_edges_and_never_passes_them(theorem):
    found = checks.adversarial(theorem, seed=2, budget=2)
    assert found["violations"].sum() == 0
    assert (found["value"] >= found["lower"] * (1 - 1e-9)).all()
    assert (found["value"] <= found["upper"] * (1 + 1e-9)).all()
    top = found[found["case"] == "largest"]
    assert (top["value"] > 0.97 * top["upper"]).all()
    low = found[found["case"] == "smallest"]
    # T2's lower edge combines the worst variance with the worst shape: near, not attained.
    assert (low["value"] < (1.15 if theorem == "T2" else 1.02) * low["lower"]).all()


def test_a_gradient_free_search_finds_no_violation():
    """Mutate and keep what comes closest to an end of the interval, over z, Δz, T and dimension."""
    rng = np.random.default_rng(0)
    for theorem, quantity in CASES:
        for dimension in (2, 5, 40):
            many = 64
            size = 10 ** rng.uniform(-1, 1.5, (many, 1))
            base = tensor(rng.normal(size=(many, dimension)) * size)
            change = tensor(rng.normal(size=(many, dimension)) ** 3)
            temperature = tensor(10 ** rng.uniform(-1, 1, many))
            best = torch.full((many,), torch.inf, dtype=torch.float64)
            for _ in range(60):
                step = tensor(10 ** rng.uniform(-3, 0.5, (many, 1)))
                b = base + step * tensor(rng.normal(size=base.shape))
                c = change + step * tensor(rng.normal(size=base.shape))
                t = temperature * tensor(10 ** rng.normal(0, 0.1, many))
                if theorem == "T1":  # stay in the domain α > −1
                    c = c / torch.clamp(c.norm(dim=-1) / b.norm(dim=-1) / 0.999, min=1)[:, None]
                bound = checks.evaluate(theorem, quantity, b, c, t)
                assert_ordered(bound)
                gap = torch.minimum(bound.upper / bound.exact, bound.exact / bound.lower)
                better = gap < best
                best = torch.where(better, gap, best)
                base[better], change[better] = b[better], c[better]
                temperature[better] = t[better]


values = st.floats(-40, 40, allow_nan=False)


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(2, 12), st.floats(0.05, 20))
def test_intervals_hold_for_anything_hypothesis_thinks_of(data, n, temperature):
    z, dz = (tensor(data.draw(hnp.arrays(np.float64, n, elements=values))) for _ in range(2))
    assert_ordered(theory.softmax_theorem(z, dz, temperature))
    for direction in KL:
        assert_ordered(theory.kl_theorem(z, dz, temperature, direction))
    if z.norm() > 1e-3 and (z * dz).sum() / z.square().sum() > -1 + 1e-6:
        assert_ordered(theory.cosine_theorem(z, dz))


def test_exchanging_dense_and_pruned_exchanges_the_directions():
    z, dz = draw(0, 30), 2 * draw(1, 30)
    there, back = theory.kl_theorem(z, dz), theory.kl_theorem(z + dz, -dz, direction=KL[1])
    for one, other in zip(there, back, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=0)


# ------------------------------------------------------------------ extremes


@pytest.mark.parametrize("spread", [50.0, 1e3, 1e4, 1e6])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_large_ranges_do_not_overflow(spread, sign):
    for z in (torch.zeros(3), tensor([0.0, 100.0, -100.0]), tensor([1e4, 0.0, -1e4])):
        dz = tensor([0.0, sign * spread, 0.5])
        bounds = [theory.softmax_theorem(z, dz)]
        bounds += [theory.kl_theorem(z, dz, direction=direction) for direction in KL]
        for bound in bounds:
            assert_ordered(bound)
        assert float(bounds[0].upper) <= 1
        assert float(bounds[1].upper) <= float(dz.max() - dz.min()) ** 2 / 8 * (1 + 1e-12)


def test_extreme_vectors():
    h = tensor([[1e-150, 0.0], [1e150, 0.0], [1.0, 0.0]])
    dh = tensor([[0.0, 1e-151], [0.0, 1e149], [1e12 - 1, 1e12]])
    assert_ordered(theory.cosine_theorem(h, dh))
    assert_ordered(theory.cosine_theorem(tensor([1.0, 0.0]), tensor([-1 + 1e-12, 1e3])))


def test_log_kernel_agrees_with_its_integral_and_joins_smoothly():
    for x in (-800.0, -30.0, -1.0, -1e-3, 0.0, 1e-9, 0.5, 1.0, 20.0):
        value, _ = integrate.quad(lambda t, x=x: (1 - t) * math.exp(t * x), 0, 1, epsabs=0)
        assert float(theory.log_kernel(tensor(x))) == pytest.approx(math.log(value), abs=1e-9)
    assert float(theory.log_kernel(tensor(1e5))) == pytest.approx(1e5 - 2 * math.log(1e5))
    for edge in (-1.0, 1.0):
        sides = theory.log_kernel(tensor([edge - 1e-15, edge + 1e-15]))
        assert float(sides[1] - sides[0]) == pytest.approx(0, abs=1e-14)


# ------------------------------------------------------------------ remainders


def test_remainders_are_of_third_order_and_fourth_with_the_factor():
    """Slopes are fitted over sizes 1e-4 to 1e-2; the next term bends them by about 1e-2 there."""
    for theorem, quantity in [*CASES, ("T1", "refined")]:
        curves = checks.remainder(theorem, seed=3)
        curves = curves[curves["quantity"] == quantity]
        order = 4 if quantity == "refined" else 3
        for slope in checks.slopes(curves)["slope"]:
            assert slope == pytest.approx(order, abs=0.1), (theorem, quantity)


def test_the_leading_remainder_is_the_third_cumulant():
    """κ₃/6 for the KL, κ₃/2 for 1 − cos p, −αβ² for Theorem 1."""
    z, dz, size = draw(0, 60), draw(1, 60), 1e-4
    dz = size * dz
    for theorem, log_base, factor in (
        (theory.kl_theorem, z, 1 / 6), (theory.softmax_theorem, 2 * z, 1 / 2),
    ):  # fmt: skip
        weights = torch.softmax(log_base, -1)
        third = (weights * (dz - (weights * dz).sum()) ** 3).sum()
        bound = theorem(z, dz)
        assert float((bound.exact - bound.estimate) / third) == pytest.approx(factor, rel=1e-2)
    bound = theory.cosine_theorem([1.0, 0.0], [size, 2 * size])
    assert float(bound.exact - bound.estimate) == pytest.approx(-4 * size**3, rel=1e-3)


# ------------------------------------------------------------------ statistics and errors


def test_statistics_give_the_same_interval_as_the_vectors():
    z, dz, p, q = softmax_pair(n=30)
    spread = float(dz.max() - dz.min())
    r = p * p / (p * p).sum()
    cases = [(theory.softmax_bounds, r, theory.softmax_theorem(z, dz, 1.0))]
    cases.append((theory.kl_bounds, p, theory.kl_theorem(z, dz)))
    cases.append((theory.kl_bounds, q, theory.kl_theorem(z, dz, direction=KL[1])))
    for bounds, weights, bound in cases:
        variance = float((weights * (dz - (weights * dz).sum()) ** 2).sum())
        found = bounds(np.array([variance]), np.array([spread]))
        assert all(isinstance(value, np.ndarray) for value in found)
        wanted = (bound.estimate, bound.lower, bound.upper)
        assert [float(x[0]) for x in found] == pytest.approx([float(x) for x in wanted], rel=1e-10)


def test_statistics_accept_temperature_tensors_and_read_only_tables(recwarn):
    column = np.array([0.5, 2.0])
    column.flags.writeable = False
    at_two = theory.kl_bounds(column, column, 2.0)
    scaled = theory.kl_bounds(tensor([0.125, 0.5]), tensor([0.25, 1.0]))
    assert all(isinstance(value, torch.Tensor) for value in scaled)
    for a, b in zip(at_two, scaled, strict=True):
        np.testing.assert_allclose(a, b.numpy(), rtol=1e-14)
    assert not recwarn.list


def test_an_underflowed_variance_bounds_nothing_from_above():
    """All mass on one token: the variance underflows to 0 while the KL is large."""
    _, lower, upper = theory.kl_bounds(np.zeros(2), np.array([0.0, 2e3]))
    assert lower.tolist() == [0, 0] and upper[0] == 0 and upper[1] > 1e3


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: theory.softmax_theorem([0.0, 1.0], [0.0, 1.0], 0.0), "temperature"),
        (lambda: theory.kl_theorem([0.0, 1.0], [0.0, 1.0], -1.0), "temperature"),
        (lambda: theory.kl_bounds(1.0, 1.0, float("nan")), "temperature"),
        (lambda: theory.kl_theorem([0.0, math.nan], [0.0, 1.0]), "NaN"),
        (lambda: theory.softmax_theorem([0.0, 1.0], [0.0, math.inf]), "infinite"),
        (lambda: theory.cosine_theorem([0.0, 0.0], [0.0, 1.0]), "zero vector"),
        (lambda: theory.cosine_theorem([1.0, 0.0], [-1.0, 1.0]), "alpha > -1"),
        (lambda: theory.cosine_bounds(-2.0, 1.0), "alpha > -1"),
        (lambda: theory.cosine_bounds(0.0, -1.0), "negative"),
        (lambda: theory.softmax_bounds(-1.0, 1.0), "negative"),
        (lambda: theory.kl_bounds(1.0, math.nan), "range_dz"),
        (lambda: theory.cosine_theorem([1.0, 0.0], [1.0, 0.0, 0.0]), "last axis"),
        (lambda: theory.kl_theorem([0.0, 1.0], [0.0, 1.0], direction="forward"), "dense_pruned"),
    ],
)
def test_bad_input_is_refused_in_one_line(call, word):
    with pytest.raises(PrunelibError, match=word) as error:
        call()
    assert "\n" not in str(error.value)
