"""What the temperature does to a perturbation of the logits: exact deviations, limits, bounds, and where each peaks.

``z`` and ``Δz`` are in logit units, ``p = softmax(z/T)``, ``p + Δp = softmax((z + Δz)/T)``. Three regimes:

- hot, ``T → ∞``: all deviations fall like ``Var_u(Δz)/(2T²)``, u the uniform weights (:func:`hot_limit`);
- cold, ``T → 0``: p is its top token alone, so that 1 − cos p and ‖Δp‖ go to 0 where the pruned model has the same
  top token (*kept*), and to 1 and √2 where it has another (*overtaken*); KL(dense ‖ pruned) then grows like 1/T;
- between them a deviation of a kept token peaks, at a temperature of its own (:func:`peaks`).

In absolute size softmax never amplifies without limit: :func:`lipschitz` and :func:`range_limit`. Points are rows of
the tables of :mod:`prunelib.measure.trace`.
"""

import math

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from prunelib.measure import theory
from prunelib.measure.distances import one_minus_cosine

GRID = (0.1, 0.14, 0.2, 0.28, 0.4, 0.55, 0.75, 1.0, 1.4, 2.0, 2.8, 4.0)
"""Temperatures of a sweep: a factor of about 1.4 from one to the next, 1 among them."""

BANDS = ("below 0.2", "0.2 to 0.5", "0.5 to 0.9", "above 0.9")
"""Confidence of a token: the largest probability of the dense distribution at T = 1."""

_EDGES = (0.2, 0.5, 0.9)

TOPS = ("kept", "overtaken")
"""Whether the pruned model has the dense model's top token (at every T: the order of tokens does not depend on it)."""

DEVIATIONS = ("one_minus_cos_p", "kl_dense_pruned", "kl_pruned_dense", "norm_dp")
"""What is followed along T: 1 − cos p, both KLs (nats), and ‖Δp‖₂."""

_INDEX = ["prompt_id", "position", "layer", "sublayer"]


def sweep(z: Tensor, dz: Tensor, temperatures) -> dict[str, Tensor]:
    """Exact deviations of logits at many temperatures, in float64: the plain definition of what a trace measures.

    Shapes: ``z``, ``dz`` ``[..., V]``, ``temperatures`` n numbers above 0. Returns ``[..., n]`` for each of
    :data:`DEVIATIONS` and ``amplification`` = (1 − cos p)/(1 − cos z), which is NaN or infinite where the logits keep
    their direction. Raises PrunelibError for NaN or infinite input or ``T <= 0``.

    Examples
    --------
    The second of two tokens nearly overtakes the first: cold, nothing is seen of it; hot, little.

    >>> import torch
    >>> found = sweep(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 1.5]), (0.05, 0.5, 1.0, 20.0))
    >>> [round(float(value), 4) for value in found["one_minus_cos_p"]]
    [0.0, 0.0553, 0.0832, 0.0007]
    """
    z, dz = (torch.as_tensor(value, dtype=torch.float64) for value in (z, dz))
    found: dict[str, list[Tensor]] = {name: [] for name in DEVIATIONS}
    for t in temperatures:
        found["one_minus_cos_p"].append(theory.softmax_theorem(z, dz, t).exact)
        found["kl_dense_pruned"].append(theory.kl_theorem(z, dz, t).exact)
        found["kl_pruned_dense"].append(theory.kl_theorem(z, dz, t, "pruned_dense").exact)
        p, q = (torch.softmax(value / t, -1) for value in (z, z + dz))
        found["norm_dp"].append(torch.linalg.vector_norm(q - p, dim=-1))
    columns = {name: torch.stack(torch.broadcast_tensors(*values), -1) for name, values in found.items()}
    turned = one_minus_cosine(*torch.broadcast_tensors(z, z + dz))
    return columns | {"amplification": columns["one_minus_cos_p"] / turned[..., None]}


def hot_limit(variance, temperature):
    """What 1 − cos p and both KLs (nats) are for ``T → ∞``, to leading order: ``Var_u(Δz)/(2T²)``.

    ``variance`` is that of Δz over the whole vocabulary, all tokens alike, in squared logits; any shape. The
    relative error is of order R/T, with R the largest range of z and z + Δz.
    """
    return variance / (2 * np.square(temperature))


def lipschitz(norm_dz, temperature):
    """The largest ‖Δp‖₂ that a perturbation of length ``norm_dz`` = ‖Δz‖₂ allows: ``‖Δz‖₂/(2T)``.

    Softmax is ½-Lipschitz in ℓ2 (Nair, arXiv:2510.23012). Since a shift of all logits changes nothing, ``norm_dz`` may
    be that of Δz without its mean, which is the shortest. Any shape; two equally likely tokens come as near to the ½ as
    one likes, the smaller Δz.
    """
    return norm_dz / (2 * np.asarray(temperature))


def range_limit(range_dz, temperature):
    """The largest ‖Δp‖₂ that a range ``R = max Δz − min Δz`` allows: ``√2·tanh(R/(4T))``.

    The log-ratio of q and p has the range R/T, and of all pairs with that range the total variation is largest for
    two tokens of weight ``1/(1 + e^{±R/2T})``: ``tanh(R/(4T))``. A vector that sums to 0 has ``‖v‖₂ <= √2·TV``, with
    its positive and its negative part each of sum TV. Any shape; two tokens reach it.
    """
    return math.sqrt(2) * np.tanh(range_dz / (4 * np.asarray(temperature)))


def confidence(pmax) -> np.ndarray:
    """The band of each probability, as its place in :data:`BANDS`; an edge belongs to the band above it."""
    return np.searchsorted(_EDGES, np.asarray(pmax, dtype=np.float64), side="right")


def points(p: pd.DataFrame, z: pd.DataFrame, vocab_size: int) -> pd.DataFrame:
    """One row for each point and temperature of a trace of one lens, with what a sweep asks of it.

    ``p``, ``z`` are frames of a trace (one lens) that has T = 1 among its temperatures. Adds to ``p``:
    ``amplification`` = (1 − cos p)/(1 − cos z), NaN where the logits did not move; ``var_u`` and ``norm_dz``: variance
    over the vocabulary and length of Δz without its mean; ``norm_z``; ``lipschitz``, ``range_limit``: bounds of
    ‖Δp‖₂; ``band`` (:data:`BANDS`, by p at T = 1) and ``top`` (:data:`TOPS`).
    """
    logits = z[[*_INDEX, "one_minus_cos_z", "rms_dz", "mean_dz", "norm_z"]]
    rows = p.merge(logits, on=_INDEX, validate="many_to_one")
    # Hot, the exponentials of the first two tokens may round to the same: the order is read at T = 1.
    at_one = p.loc[p["temperature"] == 1.0, [*_INDEX, "pmax_dense", "top1_same"]]
    at_one = at_one.rename(columns={"pmax_dense": "pmax_at_one", "top1_same": "top1_at_one"})
    rows = rows.merge(at_one, on=_INDEX, validate="many_to_one")
    t = rows["temperature"].to_numpy()
    variance = (rows["rms_dz"] ** 2 - rows["mean_dz"] ** 2).clip(lower=0).to_numpy()
    length = np.sqrt(vocab_size * variance)
    moved = rows["one_minus_cos_z"].to_numpy()
    turned = rows["one_minus_cos_p"].to_numpy()
    return rows.assign(
        amplification=np.divide(turned, moved, out=np.full(len(rows), np.nan), where=moved > 0),
        var_u=variance,
        norm_dz=length,
        lipschitz=lipschitz(length, t),
        range_limit=range_limit(rows["range_dz"].to_numpy(), t),
        band=np.array(BANDS, dtype=object)[confidence(rows["pmax_at_one"])],
        top=np.where(rows["top1_at_one"].astype(bool), *TOPS),
    ).drop(columns=["rms_dz", "mean_dz", "pmax_at_one", "top1_at_one"])


def beyond(rows: pd.DataFrame, bound: str) -> pd.Series:
    """Whether ‖Δp‖₂ of :func:`points` is above ``bound`` (``lipschitz`` or ``range_limit``) by more than rounding."""
    # The length is the root of a square that is off by its resolution; Δz itself is float32.
    rounding = rows["norm_p"] * np.sqrt(2 * rows["resolution"])
    return rows["norm_dp"] > 1.001 * rows[bound] + rounding


def peaks(rows: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """The temperature at which ``quantity`` is largest, for each point: ``prompt_id … top``, ``peak``.

    ``rows`` are those of :func:`points`. Of equal values the highest temperature counts. Points at which the
    quantity never rises above its ``resolution`` have no peak and are left out. The first and the last temperature
    of the sweep stand for all beyond them.
    """
    ordered = rows.sort_values("temperature", ascending=False, kind="stable")
    best = ordered.loc[ordered.groupby(_INDEX, sort=False)[quantity].idxmax()]
    rounding = best["norm_p"] * np.sqrt(2 * best["resolution"]) if quantity == "norm_dp" else best["resolution"]
    best = best[best[quantity] > rounding]
    names = [*_INDEX, "band", "top", "temperature"]
    return best[names].rename(columns={"temperature": "peak"}).reset_index(drop=True)
