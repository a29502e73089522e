"""The LM head as a linear map: its spectrum, and where a vector lies in it.

``W = U diag(σ) Vᵀ`` maps the stream ``[d]`` to logits ``[V]``. The gain of a
vector is ``g(x) = ‖W x‖ / ‖x‖ = √(Σ σᵢ² eᵢ(x))`` with ``eᵢ(x)`` the share of
``‖x‖²`` along the i-th right singular vector. Everything is float64 and works
on the ``d × d`` Gram matrix, never on ``V`` rows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class HeadSpectrum:
    """``sigma`` [d], descending; ``basis`` [d, d], column i the i-th right singular vector;
    ``common`` [d], the mean row of ``W``: ``x @ common`` is the mean logit."""

    sigma: Tensor
    basis: Tensor
    common: Tensor
    vocab_size: int

    @property
    def isotropic_gain(self) -> float:
        """Root-mean-square singular value: the gain of a random direction."""
        return float(self.sigma.square().mean().sqrt())

    @property
    def offset_share(self) -> float:
        """Share of the top direction's squared gain that is a common offset of all logits."""
        mean_logit = self.basis[:, 0] @ self.common
        return float(self.vocab_size * mean_logit**2 / self.sigma[0] ** 2)


def head_spectrum(weight: Tensor, chunk: int = 8192) -> HeadSpectrum:
    """Singular values and right singular vectors of an unembedding ``weight`` [V, d]."""
    d = weight.shape[1]
    gram = torch.zeros(d, d, dtype=torch.float64, device=weight.device)
    total = torch.zeros(d, dtype=torch.float64, device=weight.device)
    for rows in weight.detach().split(chunk):
        rows = rows.double()
        gram += rows.T @ rows
        total += rows.sum(0)
    values, vectors = torch.linalg.eigh(gram)
    sigma = values.flip(0).clamp_min(0).sqrt()
    return HeadSpectrum(sigma, vectors.flip(1), total / len(weight), len(weight))


def energy(spectrum: HeadSpectrum, x: Tensor) -> Tensor:
    """Shares of ``‖x‖²`` along the right singular vectors: [..., d], each row sums to 1."""
    shares = (x.double() @ spectrum.basis).square()
    return shares / shares.sum(-1, keepdim=True)


def gain(spectrum: HeadSpectrum, shares: Tensor) -> Tensor:
    """``‖W x‖ / ‖x‖`` of vectors with these energy shares: [..., d] -> [...]."""
    return (shares @ spectrum.sigma.square()).sqrt()


def orthogonal_part(h: Tensor, dh: Tensor) -> Tensor:
    """``Δh⊥ = Δh − α h``, the part of a perturbation across ``h`` (paper, Theorem 1): [..., d]."""
    h, dh = h.double(), dh.double()
    return dh - (dh * h).sum(-1, keepdim=True) / h.square().sum(-1, keepdim=True) * h
