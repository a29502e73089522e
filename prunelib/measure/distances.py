"""Distances between dense and pruned states, in float64 and safe for tiny deviations.

All functions reduce the last dimension: ``[..., n] -> [...]``. The plain formula
``1 − ⟨a, b⟩/(‖a‖‖b‖)`` loses every digit below 1e-16 of 1; here a deviation is
accurate relative to its own size, because it is computed from the perturbation
and never as the difference of two numbers near 1.
"""

import torch
from torch import Tensor

from prunelib.errors import PrunelibError


def decompose(x: Tensor, dx: Tensor) -> tuple[Tensor, Tensor]:
    """Parts of a perturbation along and across a vector, relative to its norm.

    ``α = ⟨Δx, x⟩ / ‖x‖²`` (signed) and ``β = ‖Δx⊥‖ / ‖x‖ ≥ 0`` (paper, Theorem 1);
    NaN where ``x = 0``, which has no direction.
    """
    x, dx = x.double(), dx.double()
    # Scaled first: a massive activation must not overflow when squared, nor a tiny one vanish.
    scale = x.abs().amax(-1, keepdim=True)
    x, dx = x / scale, dx / scale
    norm = _norm(x)
    unit, dx = x / norm, dx / norm
    alpha = (dx * unit).sum(-1, keepdim=True)
    across = dx - alpha * unit
    # A second projection removes what rounding left along x when Δx is nearly parallel to it.
    across = across - (across * unit).sum(-1, keepdim=True) * unit
    return alpha.squeeze(-1), _norm(across).squeeze(-1)


def _norm(x: Tensor) -> Tensor:
    """Euclidean length ``[..., 1]`` of ``[..., n]``, without overflow or underflow of squares."""
    scale = x.abs().amax(-1, keepdim=True)
    length = scale * torch.linalg.vector_norm(x / scale, dim=-1, keepdim=True)
    return torch.where(scale > 0, length, scale)


def cosine_from_parts(alpha: Tensor, beta: Tensor) -> Tensor:
    """``1 − cos(x, x + Δx)`` from :func:`decompose`: ``1 − (1+α)/√((1+α)² + β²)``."""
    along = 1 + alpha
    length = torch.hypot(along, beta)
    # β²/(s(s+1+α)) is the same number without the cancellation, while 1 + α > 0.
    stable = (beta / length) * (beta / (length + along.clamp(min=0)))
    return torch.where(along > 0, stable, 1 - along / length)


def one_minus_cosine(a: Tensor, b: Tensor) -> Tensor:
    """``1 − cos(a, b)`` in [0, 2]; exactly 0 for equal vectors, NaN if one is zero."""
    a, b = a.double(), b.double()
    return cosine_from_parts(*decompose(a, b - a))


def one_minus_cosine_p(z_dense: Tensor, z_pruned: Tensor, temperature: float = 1.0) -> Tensor:
    """``1 − cos`` of the two distributions ``softmax(z / T)`` of logits ``[..., V]``."""
    p, q = (torch.softmax(z, -1) for z in _scaled(z_dense, z_pruned, temperature))
    return one_minus_cosine(p, q)


def kl(z_dense: Tensor, z_pruned: Tensor, temperature: float = 1.0) -> Tensor:
    """``KL(dense ‖ pruned)`` in nats of ``softmax(z / T)``, logits ``[..., V]``; >= 0.

    Swap the arguments for the other direction. Raises PrunelibError for T <= 0.
    """
    log_p, log_q = (torch.log_softmax(z, -1) for z in _scaled(z_dense, z_pruned, temperature))
    x = log_q - log_p
    # Σ p (eˣ − 1 − x) = KL since Σ p (eˣ − 1) = 0; every term is >= 0, so nothing cancels.
    p, q = log_p.exp(), log_q.exp()
    terms = torch.where(x < 1, p * (torch.expm1(x) - x), q - p * (1 + x))
    return terms.sum(-1).clamp(min=0)


def _scaled(z_dense: Tensor, z_pruned: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    check_temperature(temperature)
    return z_dense.double() / temperature, z_pruned.double() / temperature


def check_temperature(temperature: float) -> float:
    """The temperature as a float; raises PrunelibError unless it is finite and above 0."""
    try:
        value = float(temperature)
    except (TypeError, ValueError):
        value = float("nan")
    if not 0 < value < float("inf"):
        raise PrunelibError(f"temperature must be a number above 0, got {temperature}")
    return value
