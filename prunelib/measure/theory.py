"""Theorems 1 to 3 of the paper: estimate, exact value, and a proven interval.

Source: He et al., "Demystifying When Pruning Works via Representation
Hierarchies" (arXiv:2603.24652), Theorems 1, 2 and 3. The paper states each as
"≈"; here each comes with the exact value and an interval ``lower <= exact <=
upper`` that holds for a perturbation of any size, proved in the notebooks
``cosine-theorem``, ``softmax-theorem`` and ``kl-theorem``. The paper's
estimate need not lie inside the interval.

Everything is computed in float64. Temperature ``T`` divides logits; ``x = Δz/T``
and ``R = max x − min x`` are in units of one e-fold of probability.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from prunelib.errors import PrunelibError
from prunelib.measure.distances import cosine_from_parts, decompose

DIRECTIONS = ("dense_pruned", "pruned_dense")
"""KL(dense‖pruned) and KL(pruned‖dense); the first name is the base of the variance."""

# A variance may underflow (all mass on one token) while R is large; no bound from above may then
# take it for 0, so it counts as at least the smallest normal number.
_TINY = torch.finfo(torch.float64).tiny

# Rounding of V/R² in float64 that the intervals allow for. Near its largest value, 1/4, they depend
# on the square root of what is missing.
_ROUNDING = 64 * torch.finfo(torch.float64).eps

# 1/(k+2)!, k = 17 … 0: below 1e-18 at |x| = 1, where the closed form takes over.
_SERIES = tuple(1.0 / torch.lgamma(torch.tensor(k + 3.0, dtype=torch.float64)).exp().item() for k in range(17, -1, -1))


class Bound(NamedTuple):
    """One deviation in four versions, each a float64 tensor of the leading shape."""

    estimate: Tensor
    """What the paper's theorem predicts."""
    exact: Tensor
    """The deviation itself, accurate relative to its own size."""
    lower: Tensor
    upper: Tensor


# ------------------------------------------------------------------ Theorem 1


def cosine_theorem(h: Tensor, dh: Tensor) -> Bound:
    """Theorem 1: ``1 − cos(h, h+Δh) ≈ ‖Δh⊥‖² / (2‖h‖²)``.

    Shapes: ``h``, ``dh`` are ``[..., n]`` (broadcast); results ``[...]``,
    dimensionless. With α = ⟨Δh,h⟩/‖h‖², β = ‖Δh⊥‖/‖h‖ and γ = β/(1+α) the exact
    value is ``1 − 1/√(1+γ²)`` and ``γ²/2 − 3γ⁴/8 <= exact <= γ²/2`` (cut to [0, 1]).

    Raises PrunelibError for NaN or infinite input, ``h = 0`` or ``α <= −1``
    (the perturbed vector no longer points to the side of ``h``).

    Examples
    --------
    A state that shrinks by a fifth and gains a tenth of its length across: the estimate is too low.

    >>> import torch
    >>> bound = cosine_theorem(torch.tensor([1.0, 0.0]), torch.tensor([-0.2, 0.1]))
    >>> [round(float(value), 5) for value in bound]  # estimate, exact, lower, upper
    [0.005, 0.00772, 0.00772, 0.00781]
    """
    h, dh = _pair(h, dh, "h", "dh")
    if (h == 0).all(-1).any():
        raise PrunelibError("Theorem 1 needs h ≠ 0: a zero vector has no direction")
    alpha, beta = decompose(h, dh)
    estimate, lower, upper = cosine_bounds(alpha, beta)
    return Bound(estimate, cosine_from_parts(alpha, beta), lower, upper)


def cosine_bounds(alpha, beta):
    """Theorem 1 from α and β alone: ``(estimate, lower, upper)``.

    Any common shape, arrays or tensors (the answer is of the same kind).
    Raises PrunelibError for ``α <= −1``, ``β < 0`` or non-finite values.
    """
    (alpha, beta), back = _statistics(alpha=alpha, beta=beta)
    if (alpha <= -1).any():
        raise PrunelibError("Theorem 1 needs alpha > -1: h + dh must keep a part along h")
    _non_negative(beta, "beta")
    half = (beta / (1 + alpha)).square() / 2
    # γ²/2 − 3γ⁴/8 is negative (says nothing) from γ² = 4/3 on; written to survive γ² = inf.
    lower = torch.where(half < 2 / 3, half * (1 - 1.5 * half.clamp(max=1)), 0)
    return back(beta.square() / 2, lower, half.clamp(max=1))


# ------------------------------------------------------------------ Theorem 2


def softmax_theorem(z: Tensor, dz: Tensor, temperature=1.0) -> Bound:
    """Theorem 2: ``1 − cos(p, p+Δp) ≈ Var_r(Δz) / (2T²)`` with ``r ∝ p²``.

    ``p = softmax(z/T)``, ``p + Δp = softmax((z+Δz)/T)``. Shapes: ``z``, ``dz``
    ``[..., V]`` in logit units (broadcast), ``temperature`` a number or
    ``[...]``; results ``[...]``, dimensionless. Exact value: half the squared distance
    of ``p/‖p‖`` and ``q/‖q‖``. Interval: :func:`softmax_bounds`.

    Raises PrunelibError for NaN or infinite input or ``T <= 0``.

    Examples
    --------
    A shift of all logits turns nothing; half a logit on one of three tokens does.

    >>> import torch
    >>> z = torch.tensor([2.0, 1.0, 0.0])
    >>> round(float(softmax_theorem(z, torch.full((3,), 7.0)).exact), 12)
    0.0
    >>> bound = softmax_theorem(z, torch.tensor([0.0, 0.5, 0.0]))
    >>> [round(float(value), 4) for value in bound]
    [0.0129, 0.0183, 0.0087, 0.0183]
    """
    z, x = _logits(*_pair(z, dz, "z", "dz"), temperature)
    log_r = torch.log_softmax(2 * z, dim=-1)
    estimate, lower, upper = softmax_bounds(_variance(log_r, x), _range(x))
    return Bound(estimate, _half_squared_distance(log_r, 2 * x), lower, upper)


def softmax_bounds(var_r, range_dz, temperature=1.0):
    """Theorem 2 from statistics alone: ``(estimate, lower, upper)`` of ``1 − cos p``.

    ``var_r`` = Var_r(Δz) in squared logits, ``range_dz`` = max Δz − min Δz in
    logits; any common shape, arrays or tensors. With V = var_r/T², R = range/T the
    lower end is the value of two tokens a distance R apart of which the rarer falls,
    the upper end that of two of which the rarer rises, their variance being V or,
    for the upper end, ``V* = R²/(4 cosh²(R/2))`` if that is less: from there on the
    upper end is ``1 − 1/cosh(R/2)`` (Kantorovich, weighted). The lower end is best
    possible, the upper up to V*.
    """
    (variance, spread), back = _scaled(var_r, range_dz, temperature)
    pair = _two_tokens(variance, spread)
    # At V* the rarer token has weight 1/(1 + e^R).
    log_most = -torch.logaddexp(torch.zeros_like(spread), pair.distance)
    least = _two_token_angle(pair.log_rare, -pair.distance)
    most = _two_token_angle(torch.minimum(pair.log_rare, log_most), pair.distance)
    return back(variance / 2, _unless_lost(variance, least), most)


# ------------------------------------------------------------------ Theorem 3


def kl_theorem(z: Tensor, dz: Tensor, temperature=1.0, direction: str = "dense_pruned") -> Bound:
    """Theorem 3: ``KL(p‖q) ≈ Var_p(Δz) / (2T²)``, p dense, q pruned, in nats.

    ``direction="pruned_dense"`` gives KL(q‖p), with the variance under q.
    Shapes and errors as in :func:`softmax_theorem`. Exact value: ``log E_p[e^x]
    − E_p[x]``, x = Δz/T. Interval: :func:`kl_bounds`.

    Examples
    --------
    The same change at half the temperature moves the distribution further.

    >>> import torch
    >>> z, dz = torch.tensor([2.0, 1.0, 0.0]), torch.tensor([0.0, 0.5, 0.0])
    >>> [round(float(kl_theorem(z, dz, t).exact), 4) for t in (1.0, 0.5)]
    [0.025, 0.0663]
    """
    if direction not in DIRECTIONS:
        raise PrunelibError(f"direction must be one of {', '.join(DIRECTIONS)}, not {direction!r}")
    z, dz = _pair(z, dz, "z", "dz")
    if direction == "pruned_dense":  # the same theorem, walked back from q to p
        z, dz = z + dz, -dz
    z, x = _logits(z, dz, temperature)
    log_base = torch.log_softmax(z, dim=-1)
    estimate, lower, upper = kl_bounds(_variance(log_base, x), _range(x))
    return Bound(estimate, _log_mean_exp(log_base, x), lower, upper)


def kl_bounds(var, range_dz, temperature=1.0):
    """Theorem 3 from statistics alone: ``(estimate, lower, upper)`` of the KL, in nats.

    ``var`` = variance of Δz under the first distribution of the KL, in squared
    logits; ``range_dz`` in logits; any common shape, arrays or tensors. With
    V = var/T², R = range/T, ``b = (R + √(R² − 4V))/2`` and ``a = R − b``:
    ``log((b e^a + a e^{−b})/R) <= KL <= log((b e^{−a} + a e^b)/R)``. Both ends are
    best possible: they belong to two tokens a distance R apart.
    """
    (variance, spread), back = _scaled(var, range_dz, temperature)
    pair = _two_tokens(variance, spread)
    least = _unless_lost(variance, _two_token_kl(pair, -1))
    return back(variance / 2, least, _two_token_kl(pair, 1))


def kl_most(range_dz, temperature=1.0):
    """The largest KL, in nats, that a range R = range_dz/T of the change allows.

    ``log((e^R − 1)/R) − 1 + R/(e^R − 1)``, the maximum over V of the upper end of
    :func:`kl_bounds`; below R²/8 (Hoeffding's lemma), near ``R − log R − 1`` for
    large R. Any shape, array or tensor.
    """
    (spread,), back = _statistics(range_dz=range_dz)
    _non_negative(spread, "range_dz")
    spread = spread / _temperature(temperature, spread.device)
    # The weight of the token that rises. Being at a maximum, the KL forgives a small error in it.
    large = torch.where(spread > 1e-4, spread, 1.0)
    weight = torch.where(spread > 1e-4, 1 / large - 1 / torch.expm1(large), 0.5 - spread / 12)
    variance = weight * (1 - weight) * spread * spread
    return back(_two_token_kl(_two_tokens(variance, spread), 1))[0]


class _TwoTokens(NamedTuple):
    """Two tokens of weights ``a/R`` (rarer) and ``b/R``, changed by ``±b`` and ``∓a``.

    With ``a·b = V`` and ``a + b = R`` their mean change is 0 and its variance V.
    """

    rare: Tensor  # b, how far the rarer token moves
    common: Tensor  # a
    distance: Tensor  # R
    log_rare: Tensor  # log a/R
    log_common: Tensor  # log b/R
    log_variance: Tensor  # log V


def _two_tokens(variance: Tensor, spread: Tensor) -> _TwoTokens:
    """The pair of variance V and distance R, the latter rounded up; V is cut to R²/4."""
    log_spread = torch.log(torch.where(spread > 0, spread, 1.0))
    log_scaled = torch.log(variance.clamp(min=_TINY)) - 2 * log_spread
    log_scaled = log_scaled.clamp(max=math.log(0.25))  # more is rounding (Popoviciu's inequality)
    missing = (1 - 4 * log_scaled.exp()).clamp(min=0)
    share = (1 + torch.sqrt(missing + _ROUNDING)) / 2  # b/R; any b that is too large is safe
    log_rest = log_scaled - torch.log(share)
    rest = log_rest.exp()
    log_total = torch.log(share + rest)
    nothing = spread <= 0
    return _TwoTokens(
        rare=spread * share,
        common=spread * rest,
        distance=spread * (share + rest),
        log_rare=log_rest - log_total,
        log_common=torch.log(share) - log_total,
        log_variance=torch.where(nothing, -torch.inf, log_scaled + 2 * log_spread),
    )


def _unless_lost(variance: Tensor, lower: Tensor) -> Tensor:
    """A variance too small for a normal number may be 0: nothing follows from below."""
    return torch.where(variance < _TINY, 0.0, lower)


def _two_token_kl(pair: _TwoTokens, sign: int) -> Tensor:
    """Its KL, ``log E[e^y]`` with mean 0; the rarer token rises (sign 1) or falls (−1)."""
    # log(1 + E[e^y − 1 − y]): nothing cancels.
    log_sum = pair.log_variance + torch.logaddexp(
        pair.log_rare + log_kernel(-sign * pair.common),
        pair.log_common + log_kernel(sign * pair.rare),
    )
    return torch.logaddexp(log_sum, torch.zeros_like(log_sum))


def _two_token_angle(log_weight: Tensor, move: Tensor) -> Tensor:
    """``1 − cos`` if a token of weight δ (under r, given as log δ) moves by ``move``.

    ``sin² = δ(1−δ)(e^move − 1)² / (1 − δ + δ e^{2 move})``, ``1 − cos = sin²/(1 + cos)``.
    """
    log_other = torch.log(-torch.expm1(log_weight))
    log_square = torch.logaddexp(log_other, log_weight + 2 * move)
    log_growth = torch.log(-torch.expm1(-move.abs())) + move.clamp(min=0)
    square = torch.exp(log_weight + log_other + 2 * log_growth - log_square)
    cosine = torch.exp(torch.logaddexp(log_other, log_weight + move) - log_square / 2)
    return square / (1 + cosine)


# ------------------------------------------------------------------ shared parts


def log_kernel(x: Tensor) -> Tensor:
    """``log((e^x − 1 − x) / x²)``, elementwise, any finite x; ``log ½`` at 0.

    This is ``log ∫₀¹ (1−t) e^{tx} dt``, the weight Theorem 3 gives to a
    variance that grows like ``e^{tx}``. Never overflows, no cancellation.
    """
    small = torch.where(x.abs() <= 1, x, 0.0)
    series = torch.zeros_like(x)
    for coefficient in _SERIES:
        series = series * small + coefficient
    low = torch.where(x < -1, x, -2.0)
    high = torch.where(x > 1, x, 2.0)
    below = torch.log(torch.expm1(low) - low) - 2 * torch.log(-low)
    above = high + torch.log1p(-(1 + high) * torch.exp(-high)) - 2 * torch.log(high)
    return torch.where(x < -1, below, torch.where(x > 1, above, torch.log(series)))


def _log_mean_exp(log_base: Tensor, x: Tensor) -> Tensor:
    """``log E[e^{x − E x}]`` under ``exp(log_base)``, accurate relative to its own size.

    Since ``E[x − Ex] = 0`` it equals ``log(1 + E[e^c − 1 − c])``, c = x − Ex: every
    term is non-negative, so nothing cancels; kept in logs, nothing overflows.
    """
    centred = x - _mean(log_base, x)
    log_terms = log_base + 2 * torch.log(centred.abs()) + log_kernel(centred)
    log_sum = torch.logsumexp(log_terms, dim=-1)
    return torch.logaddexp(log_sum, torch.zeros_like(log_sum))


def _half_squared_distance(log_base: Tensor, y: Tensor) -> Tensor:
    """``½ Σ (√r − √s)²`` with ``r = exp(log_base)`` and ``s ∝ r e^y``, to its own size.

    This is 1 − cos of two vectors whose squared entries are proportional to r and s.
    """
    log_ratio = y - _mean(log_base, y) - _log_mean_exp(log_base, y)[..., None]
    larger = torch.exp(log_base + log_ratio.clamp(min=0))  # one of r and s: neither overflows
    return (larger * torch.expm1(-log_ratio.abs() / 2).square()).sum(-1) / 2


def _mean(log_base: Tensor, x: Tensor) -> Tensor:
    return (log_base.exp() * x).sum(-1, keepdim=True)


def _variance(log_base: Tensor, x: Tensor) -> Tensor:
    return (log_base.exp() * (x - _mean(log_base, x)).square()).sum(-1)


def _range(x: Tensor) -> Tensor:
    return x.amax(-1) - x.amin(-1)


def _pair(a, b, name_a: str, name_b: str) -> tuple[Tensor, Tensor]:
    a, b = (torch.as_tensor(value, dtype=torch.float64) for value in (a, b))
    if not a.ndim or not b.ndim or a.shape[-1] != b.shape[-1] or not a.shape[-1]:
        shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise PrunelibError(f"{name_a} and {name_b} must share their last axis, got {shapes}")
    for value, name in ((a, name_a), (b, name_b)):
        _finite(value, name)
    return torch.broadcast_tensors(a, b)


def _logits(z: Tensor, dz: Tensor, temperature) -> tuple[Tensor, Tensor]:
    """``z/T`` and ``x = (Δz − Δz at the top token)/T``.

    So a uniform shift changes nothing, to the last bit, and a token without weight that
    moves far does not cost the others their digits.
    """
    temperature = _temperature(temperature, z.device)[..., None]
    top = z.argmax(-1, keepdim=True)
    z, x = torch.broadcast_tensors(z / temperature, (dz - dz.gather(-1, top)) / temperature)
    _finite(z, "z / temperature")
    _finite(x, "dz / temperature")
    return z, x


def _temperature(temperature, device=None) -> Tensor:
    value = torch.as_tensor(temperature, dtype=torch.float64, device=device)
    if not (torch.isfinite(value) & (value > 0)).all():
        raise PrunelibError("temperature must be a finite number above 0")
    return value


def _scaled(variance, spread, temperature):
    (variance, spread), back = _statistics(variance=variance, range_dz=spread)
    _non_negative(variance, "variance")
    _non_negative(spread, "range_dz")
    temperature = _temperature(temperature, variance.device)
    # Twice, since T² may underflow.
    return (variance / temperature / temperature, spread / temperature), back


def _statistics(**named):
    """The inputs as float64 tensors, and a function that returns results in their kind."""
    # np.array copies: a table's columns are read-only, which torch warns about.
    given = [value if isinstance(value, Tensor) else np.array(value) for value in named.values()]
    tensors = [torch.as_tensor(value, dtype=torch.float64) for value in given]
    for name, value in zip(named, tensors, strict=True):
        _finite(value, name)
    as_tensor = any(isinstance(value, Tensor) for value in named.values())
    return torch.broadcast_tensors(*tensors), lambda *out: tuple(value if as_tensor else value.numpy() for value in out)


def _finite(value: Tensor, name: str) -> None:
    if not torch.isfinite(value).all():
        raise PrunelibError(f"{name} holds NaN or infinite values")


def _non_negative(value: Tensor, name: str) -> None:
    if (value < 0).any():
        raise PrunelibError(f"{name} must not be negative")
