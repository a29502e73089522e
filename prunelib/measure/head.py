"""The LM head as the trace sees it, and everything about logits that a Gram matrix gives.

``z = cap·tanh(scale·(W x + b)/cap)`` with ``x`` the stream ``h`` (raw lens, the
paper's code) or ``ln_final(h)`` (normed lens, what the model does at its last
layer); most families have no bias, scale 1 and no cap. Without a cap z is linear
in x, so norms and angles over the V logits follow from ``G = WᵀW``: 2d² operations
a row instead of 2dV, and in float64.
"""

from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from prunelib.errors import PrunelibError, nearest
from prunelib.measure.distances import cosine_from_parts

LENSES = ("raw", "normed")
_GRAM_ROWS = 4096


@dataclass(eq=False)
class Head:
    """``weight`` [V, d], ``bias`` [V] or None, and the family's scale and softcap."""

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None

    @property
    def vocab_size(self) -> int:
        return len(self.weight)

    @property
    def dtype(self) -> torch.dtype:
        """Logits are computed in float32, or in float64 for a float64 model."""
        return torch.float64 if self.weight.dtype == torch.float64 else torch.float32

    def inputs(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Rows [..., d'] whose product with :meth:`rows` is the logit before the cap."""
        x = x.to(dtype or self.dtype)
        if self.bias is not None:  # one more input that is always 1
            x = torch.cat([x, x.new_ones(*x.shape[:-1], 1)], dim=-1)
        return x * self.scale if self.scale != 1 else x

    def rows(self, start: int, stop: int, dtype: torch.dtype | None = None) -> Tensor:
        """Weight rows [stop − start, d'] of a range of the vocabulary; a view where possible."""
        rows = self.weight[start:stop].to(dtype or self.dtype)
        if self.bias is None:
            return rows
        return torch.cat([rows, self.bias[start:stop, None].to(rows.dtype)], dim=1)

    @cached_property
    def gram(self) -> tuple[Tensor, Tensor]:
        """``G = WᵀW`` [d', d'] and the column sums ``Wᵀ1`` [d'], float64."""
        size = self.weight.shape[1] + (self.bias is not None)
        gram = self.weight.new_zeros(size, size, dtype=torch.float64)
        total = self.weight.new_zeros(size, dtype=torch.float64)
        for start in range(0, self.vocab_size, _GRAM_ROWS):
            rows = self.rows(start, start + _GRAM_ROWS, torch.float64)
            gram.addmm_(rows.T, rows)
            total += rows.sum(0)
        return gram, total


_HEADS: WeakKeyDictionary = WeakKeyDictionary()


def head_of(lm) -> Head:
    """The head of a loaded model; kept as long as its weights are these, so that G is computed once.

    An edit is seen whether it swaps the storage (``.data = ``, hooks.replaced), writes in place (PyTorch
    counts the version), or writes through ``.data``, which PyTorch does not count: hence a checksum.
    """
    state = _state(lm)
    known = _HEADS.get(lm)
    if known is None or known[0] != state:
        config, arch = lm.config, lm.arch
        factor, divisor, cap = (
            getattr(config, name, None) if name else None
            for name in (arch.logit_scale, arch.logit_divisor, arch.softcap)
        )
        scale = (1.0 if factor is None else factor) / (1.0 if divisor is None else divisor)
        known = state, Head(lm.W.detach(), lm.unembed_bias, float(scale), cap)
        _HEADS[lm] = known
    return known[1]


def _state(lm) -> list:
    """What changes when the head's weights do: storage, version, and sums that a changed entry moves."""
    found = []
    for weight in (lm.W, lm.unembed_bias):
        if weight is not None:
            plain = weight.detach()
            found += [plain.data_ptr(), weight._version, tuple(plain.shape), float(plain.sum()), float(plain.norm())]
    return found


def apply_lens(lm, h: Tensor, lens: str) -> Tensor:
    """What the head reads, [..., d]: ``h`` itself (raw) or ``ln_final(h)`` (normed)."""
    if lens not in LENSES:
        raise PrunelibError(f"unknown lens '{lens}'{nearest(lens, LENSES)}; use raw or normed")
    return h if lens == "raw" else lm.ln_final(h.to(lm.dtype))


def linear_moments(head: Head, x: Tensor, dense: slice, pruned: slice) -> dict[str, Tensor]:
    """Second moments over the vocabulary of z and Δz, from G, for ``x`` [N, P, d].

    Returns float64 [N, K]: ``zz = Σ z²``, ``zd = Σ z Δz``, ``dd = Σ Δz²``,
    ``sum_z``, ``sum_d``; K pairs, ``z`` dense and ``Δz`` pruned − dense.
    """
    gram, total = head.gram
    x = head.inputs(x, torch.float64)
    gx = x @ gram
    base, g_base = x[:, dense], gx[:, dense]
    # Δx itself enters, so a tiny deviation keeps its digits.
    dx, g_dx = x[:, pruned] - base, gx[:, pruned] - g_base
    moments = {
        "zz": (base * g_base).sum(-1),
        "zd": (dx * g_base).sum(-1),
        "dd": (dx * g_dx).sum(-1),
        "sum_z": base @ total,
        "sum_d": dx @ total,
    }
    return {name: value.expand(dx.shape[:2]) for name, value in moments.items()}


def logit_statistics(moments: dict[str, Tensor], vocab_size: int) -> dict[str, Tensor]:
    """The z columns of a trace (see :mod:`prunelib.measure.trace`) from moments [N, K].

    Centred means after subtracting each logit vector's own mean, the common
    offset that softmax ignores.
    """
    m, v = moments, vocab_size
    mean_z, mean_dz = m["sum_z"] / v, m["sum_d"] / v
    alpha, beta = _parts(m["zz"], m["zd"], m["dd"])
    centred = _parts(m["zz"] - v * mean_z**2, m["zd"] - v * mean_z * mean_dz, m["dd"] - v * mean_dz**2)
    return {
        "one_minus_cos_z": cosine_from_parts(alpha, beta),
        "one_minus_cos_z_centred": cosine_from_parts(*centred),
        "alpha_z": alpha,
        "beta_z": beta,
        "rms_dz": (m["dd"].clamp(min=0) / v).sqrt(),
        "mean_dz": mean_dz,
        "norm_z": m["zz"].sqrt(),
        "mean_z": mean_z,
    }


def _parts(zz: Tensor, zd: Tensor, dd: Tensor) -> tuple[Tensor, Tensor]:
    alpha = zd / zz
    return alpha, (dd / zz - alpha.square()).clamp(min=0).sqrt()
