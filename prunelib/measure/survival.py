"""How long two models that draw with the same noise write the same text.

With Gumbel noise in common (:class:`prunelib.engine.decode.Gumbel`), both models draw token i from p and q exactly
with probability ``w_i = 1 / Σ_j max(p_j/p_i, q_j/q_i)``: a Gumbel draw is the first of exponential clocks, and i is
first in both if every other clock waits for the later of the two. The noise of different steps is independent, so
texts agree for t steps with probability ``Σ_y Π_s w(y_s) = E_{y ∼ dense} Π_s w(y_s)/p(y_s)``: forced one-step numbers
along the dense model's own samples say how long free texts agree. The same holds for the best of all couplings, with
``min(p, q)`` for ``w``. In one step ``TV ≤ 1 − Σ w ≤ 2·TV/(1 + TV)``, as ``min(p_i, q_i)/(1 + TV) ≤ w_i ≤ min(p_i,
q_i)``.

Bavarian, Ghazi, Haramaty, Kamath, Rivest and Sudan (2016) give the bound, Daliri, Musco and Suresh (2024) the use
with language models. Along the dense text, ``E Π (1 − TV)`` is another number: texts that agree are no fair sample of
it.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Agreement(NamedTuple):
    """Of one step, float64, [N] each."""

    tv: Tensor
    """Total variation, ½ Σ |p − q|."""
    best: Tensor
    """Probability that the other model takes the token too, in the best coupling: min(1, q/p)."""
    common: Tensor
    """The same with common Gumbel noise: w/p."""


def agreement(log_p: Tensor, log_q: Tensor, chosen: Tensor) -> Agreement:
    """Of distributions ``log_p`` (it chose the tokens) and ``log_q`` [N, V], in nats; ``chosen`` [N] token ids."""
    log_p, log_q = log_p.double(), log_q.double()
    here = (log_q - log_p).gather(-1, chosen[:, None])[:, 0]
    return agreement_of(log_p.exp(), log_q.exp(), here)


def agreement_of(p: Tensor, q: Tensor, ratio: Tensor) -> Agreement:
    """The same from the probabilities [N, V]; ``ratio`` [N] is log q/p of the token that was chosen."""
    # Σ_j max(p_j, q_j·p_y/q_y): tokens that the other model favours more than this one count by q.
    mass = torch.maximum(p, q * (-ratio).clamp(max=_MOST).exp()[:, None]).sum(-1)
    return Agreement((p - q).abs_().sum(-1) / 2, ratio.exp().clamp(max=1.0), (1 / mass).clamp(max=1.0))


_MOST = 700.0
"""Largest exponent whose exponential is a number, in float64."""


def agreeing(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Σ w [N]: the probability that one draw with common Gumbel noise is the same token; ``[N, V]`` in nats."""
    log_p, log_q = log_p.double(), log_q.double()
    order = (log_q - log_p).argsort(-1)
    p, q = (x.gather(-1, order).exp() for x in (log_p, log_q))
    above = q.flip(-1).cumsum(-1).flip(-1) - q
    return (1 / (p.cumsum(-1) / p + above / q)).sum(-1)


def surviving(agree: Tensor) -> Tensor:
    """Probability of agreeing up to and with each step: [N, steps] of one-step probabilities along a text."""
    return torch.cumprod(agree.double(), -1)
