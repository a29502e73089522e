"""The inverse Hessian of a layer's output error, as SparseGPT and GPTQ use it."""

import torch
from torch import Tensor

from prunelib.errors import PrunelibError

_ATTEMPTS = 5


def inverse_factor(gram: Tensor, damping: float = 0.01) -> tuple[Tensor, Tensor]:
    """Upper triangular U [d, d] with H⁻¹ = UᵀU, and which inputs are dead (bool [d]).

    H is the Gram matrix Σ x xᵀ [d, d] plus ``damping`` times its mean diagonal
    (Frantar et al. 2023, Algorithm 1). An input that is always zero gets H_ii = 1:
    it is tied to nothing. Where rounding still leaves H indefinite, the damping is
    raised tenfold, up to four times. Dtype and device follow ``gram``. Raises
    PrunelibError for NaN or Inf, and where no damping helps.
    """
    if not torch.isfinite(gram).all():
        raise PrunelibError("the Gram matrix of the calibration inputs holds NaN or Inf")
    h = gram.clone()
    diagonal = h.diagonal()
    dead = diagonal == 0
    diagonal[dead] = 1
    mean = diagonal.mean().item()
    total = 0.0
    for attempt in range(_ATTEMPTS):
        wanted = damping * mean * 10**attempt
        diagonal += wanted - total
        total = wanted
        lower, failed = torch.linalg.cholesky_ex(h)
        if failed:
            continue
        factor, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
        if not failed and torch.isfinite(factor).all():
            return factor, dead
    raise PrunelibError(
        f"the Gram matrix of the calibration inputs stays singular with damping {damping * 10 ** (_ATTEMPTS - 1):g}: "
        "use more calibration tokens"
    )
