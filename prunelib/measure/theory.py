"""Theorems 1 to 3 of the paper: estimate, exact value, and a proven interval.

Source: He et al., "Demystifying When Pruning Works via Representation
Hierarchies" (arXiv:2603.24652), Theorems 1, 2 and 3. The paper states each as
"≈"; here each comes with the exact value and an interval ``lower <= exact <=
upper`` that holds for a perturbation of any size, proved in the notebooks
``01-cosine-theorem``, ``02-softmax-theorem`` and ``03-kl-theorem``. The paper's
estimate need not lie inside the interval.

Everything is computed in float64. Temperature ``T`` divides logits; ``x = Δz/T``
and ``R = max x − min x`` are in units of one e-fold of probability.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from prunelib.errors import PrunelibError

DIRECTIONS = ("dense_pruned", "pruned_dense")
"""KL(dense‖pruned) and KL(pruned‖dense); the first name is the base of the variance."""

# A variance may underflow (all mass on one token) while R is large; no bound from above may then
# take it for 0, so it counts as at least the smallest normal number.
_TINY = torch.finfo(torch.float64).tiny

# 1/(k+2)!, k = 17 … 0: below 1e-18 at |x| = 1, where the closed form takes over.
_SERIES = tuple(1.0 / torch.lgamma(torch.tensor(k + 3.0, dtype=torch.float64)).exp().item()
                for k in range(17, -1, -1))


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
    """
    h, dh = _pair(h, dh, "h", "dh")
    norm = torch.linalg.vector_norm(h, dim=-1, keepdim=True)
    if (norm == 0).any():
        raise PrunelibError("Theorem 1 needs h ≠ 0: a zero vector has no direction")
    unit = h / norm
    along = (dh * unit).sum(-1, keepdim=True)
    across = dh - along * unit
    # A second projection removes what rounding left along h when Δh is nearly parallel to it.
    across = across - (across * unit).sum(-1, keepdim=True) * unit
    alpha = (along / norm).squeeze(-1)
    beta = torch.linalg.vector_norm(across, dim=-1) / norm.squeeze(-1)
    estimate, lower, upper = cosine_bounds(alpha, beta)
    gamma = beta / (1 + alpha)
    root = torch.hypot(torch.ones_like(gamma), gamma)
    exact = (gamma / root) * (gamma / (1 + root))  # = 1 − 1/root without the cancellation
    return Bound(estimate, exact, lower, upper)


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
    ``[...]``; results ``[...]``, dimensionless. Exact value: ``−log cos =
    ½ log E_r[e^{2x}] − log E_r[e^x]``, x = Δz/T. Interval: :func:`softmax_bounds`.

    Raises PrunelibError for NaN or infinite input or ``T <= 0``.
    """
    z, x = _logits(z, dz, temperature)
    log_r = torch.log_softmax(2 * z, dim=-1)
    minus_log_cos = _log_mean_exp(log_r, 2 * x) / 2 - _log_mean_exp(log_r, x)
    bounds = softmax_bounds(_variance(log_r, x), _range(x), 1.0)
    return Bound(bounds[0], -torch.expm1(-minus_log_cos.clamp(min=0)), *bounds[1:])


def softmax_bounds(var_r, range_dz, temperature=1.0):
    """Theorem 2 from statistics alone: ``(estimate, lower, upper)`` of ``1 − cos p``.

    ``var_r`` = Var_r(Δz) in squared logits, ``range_dz`` = max Δz − min Δz in
    logits; any common shape, arrays or tensors. With V = var_r/T², R = range/T:
    ``exp(−V/2·((e^R−1)/R)²) <= cos <= exp(−V/2·((1−e^{−R})/R)²)`` and
    ``cos >= 1/cosh(R/2)``, the better of the two lower bounds being used.
    """
    (variance, spread), back = _scaled(var_r, range_dz, temperature)
    log_growth = _log_growth(spread)
    most = torch.exp(torch.log(variance.clamp(min=_TINY) / 2) + 2 * log_growth)  # inf: no bound
    least = variance / 2 * torch.exp(2 * (log_growth - spread))
    shrunk = torch.exp(-spread / 2)
    kantorovich = torch.expm1(-spread / 2).square() / (1 + shrunk.square())  # 1 − 1/cosh(R/2)
    upper = torch.minimum(-torch.expm1(-most), kantorovich)
    return back(variance / 2, -torch.expm1(-least), upper)


# ------------------------------------------------------------------ Theorem 3


def kl_theorem(z: Tensor, dz: Tensor, temperature=1.0, direction: str = "dense_pruned") -> Bound:
    """Theorem 3: ``KL(p‖q) ≈ Var_p(Δz) / (2T²)``, p dense, q pruned, in nats.

    ``direction="pruned_dense"`` gives KL(q‖p), with the variance under q.
    Shapes and errors as in :func:`softmax_theorem`. Exact value: ``log E_p[e^x]
    − E_p[x]``, x = Δz/T. Interval: :func:`kl_bounds`.
    """
    if direction not in DIRECTIONS:
        raise PrunelibError(f"direction must be one of {', '.join(DIRECTIONS)}, not {direction!r}")
    z, x = _logits(z, dz, temperature)
    if direction == "pruned_dense":  # the same theorem, walked back from q to p
        z, x = z + x, -x
    log_base = torch.log_softmax(z, dim=-1)
    bounds = kl_bounds(_variance(log_base, x), _range(x), 1.0)
    return Bound(bounds[0], _log_mean_exp(log_base, x), *bounds[1:])


def kl_bounds(var, range_dz, temperature=1.0):
    """Theorem 3 from statistics alone: ``(estimate, lower, upper)`` of the KL, in nats.

    ``var`` = variance of Δz under the first distribution of the KL, in squared
    logits; ``range_dz`` in logits; any common shape, arrays or tensors. With
    V = var/T², R = range/T: ``V(e^{−R}−1+R)/R² <= KL <= V(e^R−1−R)/R²`` and
    ``KL <= R²/8``, the better of the two upper bounds being used.
    """
    (variance, spread), back = _scaled(var, range_dz, temperature)
    most = torch.exp(torch.log(variance.clamp(min=_TINY)) + log_kernel(spread))  # inf: no bound
    least = variance * torch.exp(log_kernel(-spread))
    return back(variance / 2, least, torch.minimum(most, spread.square() / 8))


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


def _log_growth(spread: Tensor) -> Tensor:
    """``log((e^R − 1)/R)`` for R >= 0, without overflow; 0 at R = 0."""
    safe = torch.where(spread > 0, spread, 1.0)
    value = safe + torch.log(-torch.expm1(-safe)) - torch.log(safe)
    return torch.where(spread > 0, value, 0.0)


def _log_mean_exp(log_base: Tensor, x: Tensor) -> Tensor:
    """``log E[e^{x − E x}]`` under ``exp(log_base)``, accurate relative to its own size.

    Since ``E[x − Ex] = 0`` it equals ``log(1 + E[e^c − 1 − c])``, c = x − Ex: every
    term is non-negative, so nothing cancels; kept in logs, nothing overflows.
    """
    centred = x - _mean(log_base, x)
    log_terms = log_base + 2 * torch.log(centred.abs()) + log_kernel(centred)
    log_sum = torch.logsumexp(log_terms, dim=-1)
    return torch.logaddexp(log_sum, torch.zeros_like(log_sum))


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


def _logits(z, dz, temperature) -> tuple[Tensor, Tensor]:
    """``z/T`` and ``x = (Δz − mid-range)/T``: a uniform shift changes nothing, to the last bit."""
    z, dz = _pair(z, dz, "z", "dz")
    temperature = _temperature(temperature, z.device)[..., None]
    middle = dz.amin(-1, keepdim=True) / 2 + dz.amax(-1, keepdim=True) / 2
    x = (dz - middle) / temperature
    z, x = torch.broadcast_tensors(z / temperature, x)
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
    return (variance / temperature.square(), spread / temperature), back


def _statistics(**named):
    """The inputs as float64 tensors, and a function that returns results in their kind."""
    # np.array copies: a table's columns are read-only, which torch warns about.
    given = [value if isinstance(value, Tensor) else np.array(value) for value in named.values()]
    tensors = [torch.as_tensor(value, dtype=torch.float64) for value in given]
    for name, value in zip(named, tensors, strict=True):
        _finite(value, name)
    as_tensor = any(isinstance(value, Tensor) for value in named.values())
    return torch.broadcast_tensors(*tensors), lambda *out: tuple(
        value if as_tensor else value.numpy() for value in out
    )


def _finite(value: Tensor, name: str) -> None:
    if not torch.isfinite(value).all():
        raise PrunelibError(f"{name} holds NaN or infinite values")


def _non_negative(value: Tensor, name: str) -> None:
    if (value < 0).any():
        raise PrunelibError(f"{name} must not be negative")
