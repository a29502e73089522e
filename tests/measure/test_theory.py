"""Theorems 1 to 3: identities, the proven intervals, and attempts to break them."""

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import integrate

from prunelib.errors import PrunelibError
from prunelib.measure import theorem_checks as checks
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
    value, _ = integrate.quad(lambda s: (1 - abs(1 - s)) * tilted_variance(2 * z, dz, s), 0, 2, points=[1.0])
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
    assert (low["value"] < 1.02 * low["lower"]).all()


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


def two_tokens(weight, spread):
    """Logits and change of two tokens: the first of probability ``weight`` rises by ``spread``."""
    return tensor([math.log(weight) - math.log1p(-weight), 0.0]), tensor([spread, 0.0])


@pytest.mark.parametrize("weight", [1e-200, 1e-9, 0.01, 0.3, 0.45])
@pytest.mark.parametrize("spread", [1e-9, 1e-3, 0.5, 3.0, 40.0, 1e4])
def test_two_tokens_reach_the_ends(weight, spread):
    """The rarer token rising is the upper end of Theorem 3, falling the lower, whatever V and R."""
    z, dz = two_tokens(weight, spread)
    rising, falling = theory.kl_theorem(z, dz), theory.kl_theorem(z, -dz)
    assert float(rising.exact) == pytest.approx(float(rising.upper), rel=1e-9, abs=0)
    assert float(falling.exact) == pytest.approx(float(falling.lower), rel=1e-9, abs=0)
    rising, falling = theory.softmax_theorem(z / 2, dz), theory.softmax_theorem(z / 2, -dz)
    assert float(falling.exact) == pytest.approx(float(falling.lower), rel=1e-9, abs=0)
    # Up to V*, where the rarer token has the weight 1/(1 + e^R) under r.
    if math.log(weight) <= -np.logaddexp(0, spread):
        assert float(rising.exact) == pytest.approx(float(rising.upper), rel=1e-9, abs=0)
    else:
        kantorovich = 2 * math.sinh(spread / 4) ** 2 / math.cosh(spread / 2) if spread < 1e3 else 1
        assert float(rising.upper) == pytest.approx(kantorovich, rel=1e-9, abs=0)


def test_the_ends_of_theorem_3_are_the_written_formula():
    for variance, spread in ((1e-30, 5.0), (0.3, 4.0), (2.0, 3.0), (1.0, 60.0), (1e-9, 1e-4)):
        with mpmath.workdps(60):
            v, r = mpmath.mpf(variance), mpmath.mpf(spread)
            b = (r + mpmath.sqrt(r * r - 4 * v)) / 2
            a = r - b
            ends = [mpmath.log((b * mpmath.exp(s * a) + a * mpmath.exp(-s * b)) / r) for s in (1, -1)]
        found = theory.kl_bounds(variance, spread)[1:]
        assert [float(x) for x in found] == pytest.approx([float(x) for x in ends], rel=1e-11, abs=0)


def test_the_largest_variance_leaves_one_value():
    """V = R²/4 only fits two tokens of equal weight, so both ends meet, rounding apart."""
    for spread in (1e-6, 1.0, 20.0, 1e5):
        found = theory.kl_bounds(np.array(spread**2 / 4), np.array(spread))[1:]
        value = float(torch.logaddexp(tensor(spread / 2), tensor(-spread / 2))) - math.log(2)
        wanted = value if spread > 1e-3 else spread**2 / 8
        assert [float(x) for x in found] == pytest.approx([wanted] * 2, rel=1e-6, abs=0)
        assert found[0] <= wanted * (1 + 1e-12) and found[1] >= wanted * (1 - 1e-12)


def test_the_interval_lies_inside_the_looser_ones():
    """V(e^{∓R} − 1 ± R)/R², Hoeffding's R²/8, and the exponents V/2·((e^R − 1)/R)²."""
    spread = tensor(np.geomspace(1e-6, 300, 60))
    for share in (1e-12, 1e-3, 0.1, 0.249):
        variance = share * spread**2
        _, lower, upper = theory.kl_bounds(variance, spread)
        slack = 1 + 1e-9
        assert (lower * slack >= variance * theory.log_kernel(-spread).exp()).all()
        assert (upper <= variance * theory.log_kernel(spread).exp() * slack).all()
        assert (upper <= theory.kl_most(spread) * slack).all()
        _, lower, upper = theory.softmax_bounds(variance, spread)
        growth = [torch.expm1(s * spread) / spread for s in (-1, 1)]
        assert (lower * slack >= -torch.expm1(-variance / 2 * growth[0] ** 2)).all()
        assert (upper <= -torch.expm1(-variance / 2 * growth[1] ** 2) * slack).all()
        assert (upper <= (1 - 1 / torch.cosh(spread / 2)) * slack + 1e-15).all()


def test_the_range_alone_bounds_the_divergence():
    assert float(theory.kl_most(20.0)) == pytest.approx(16.0043, abs=1e-4)
    for spread in (1e-170, 1e-9, 1e-4, 1e-3, 1.0, 30.0, 1e6):
        with mpmath.workdps(80):
            r = mpmath.mpf(spread)
            wanted = mpmath.log(mpmath.expm1(r) / r) - 1 + r / mpmath.expm1(r) if r > 1e-12 else r * r / 8
        assert float(theory.kl_most(spread)) == pytest.approx(float(wanted), rel=1e-9, abs=0)
    shares = np.linspace(1e-3, 0.25, 4000)
    for spread in (0.5, 5.0, 20.0):
        _, _, upper = theory.kl_bounds(shares * spread**2, np.full(4000, spread))
        assert upper.max() == pytest.approx(float(theory.kl_most(spread)), rel=1e-5, abs=0)
    assert theory.kl_most(0.0) == 0 and theory.kl_most(tensor([2.0]), 2.0).shape == (1,)


def test_two_tokens_of_this_variance_do_not_bound_theorem_2_from_above():
    """Three tokens turn p further than two of the same V and R do, above V*."""
    r, x = tensor([0.559, 0.439, 0.002]), tensor([0.0, 9.5, 15.0])
    variance = float((r * x**2).sum() - (r * x).sum() ** 2)
    rare = (1 - math.sqrt(1 - 4 * variance / 225)) / 2
    pair = theory.softmax_theorem(two_tokens(rare, 15.0)[0] / 2, [15.0, 0.0])
    bound = theory.softmax_theorem(r.log() / 2, x)
    assert float(pair.estimate) == pytest.approx(variance / 2)
    assert float(bound.exact) > 1.3 * float(pair.exact)
    assert_ordered(bound)


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


def oracle(z, dz):
    """1 − cos p, KL(dense‖pruned) and KL(pruned‖dense) with 120 digits."""
    with mpmath.workdps(120):
        z = [mpmath.mpf(float(value)) for value in z]
        y = [a + mpmath.mpf(float(b)) for a, b in zip(z, dz, strict=True)]
        p, q = ([mpmath.exp(a - max(v)) for a in v] for v in (z, y))
        p, q = ([a / mpmath.fsum(v) for a in v] for v in (p, q))
        dots = [mpmath.fdot(a, b) for a, b in ((p, q), (p, p), (q, q))]
        ratios = [mpmath.log(a / b) for a, b in zip(p, q, strict=True)]
        cosine = dots[0] / mpmath.sqrt(dots[1] * dots[2])
        return [float(x) for x in (1 - cosine, mpmath.fdot(p, ratios), -mpmath.fdot(q, ratios))]


@pytest.mark.parametrize("spread", [1e-9, 1.0, 1e3, 1e5, 1e7])
@pytest.mark.parametrize("far", [0, 1, -1])
def test_exact_values_keep_their_digits_at_any_range(spread, far):
    """``far`` ±1: only an unlikely token moves far, the others by 1e-4 of a logit at most."""
    rng = np.random.default_rng(3)
    for size in (1.0, 12.0):
        z, dz = size * rng.normal(size=6), rng.normal(size=6)
        dz *= spread / np.ptp(dz) if far == 0 else min(spread, 1e-4)
        if far:
            z[0], dz[0] = z.max() - 60, dz[0] + far * spread
        found = [theory.softmax_theorem(z, dz), *(theory.kl_theorem(z, dz, 1.0, d) for d in KL)]
        for value, wanted in zip(found, oracle(z, dz), strict=True):
            assert float(value.exact) == pytest.approx(wanted, rel=1e-7 if spread > 1e6 else 1e-9, abs=0)
            assert_ordered(value)


@pytest.mark.parametrize("scale", [1e-300, 1e-170, 1e-150, 1.0, 1e154, 1e170, 1e300])
def test_the_length_of_h_does_not_matter(scale):
    h, dh = tensor([3.0, 4.0, 0.0]), tensor([0.2, -0.1, 0.5])
    for found, wanted in zip(theory.cosine_theorem(scale * h, scale * dh), theory.cosine_theorem(h, dh), strict=True):
        assert float(found) == pytest.approx(float(wanted), rel=1e-12)


def test_tiny_temperatures_and_single_tokens():
    """T² may underflow where V/T² does not; a vocabulary of one token cannot turn."""
    found = theory.kl_bounds(np.array([1e-340 * 1e300 * 1e40]), np.array([1e-160]), 1e-160)
    assert np.isfinite(found).all()
    assert float(theory.kl_bounds(1e-300, 1e-149, 1e-150)[0]) == pytest.approx(0.5)
    for theorem in (theory.softmax_theorem, theory.kl_theorem):
        assert all(float(value) == 0 for value in theorem([4.0], [7.0]))


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
        (theory.kl_theorem, z, 1 / 6),
        (theory.softmax_theorem, 2 * z, 1 / 2),
    ):
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
