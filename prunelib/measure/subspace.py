"""A few options' tokens against the whole distribution: the subspace in which a multiple-choice answer is decided.

Every function takes logits or log-probabilities, ``[..., V]`` of a vocabulary or ``[..., K]`` of the options, and
computes in float64. The same normalisation holds everywhere, a softmax over what is compared: over the options it is p
restricted to them and renormalised. Nothing changes when a constant is added to all logits of a model, but for
rounding (errors are relative, 1e-12 and below); equal logits give exactly 0. Source: the paper's analysis of the
"categorical-token subspace" at the answer position.
"""

import torch
from torch import Tensor

from prunelib.errors import PrunelibError
from prunelib.measure.distances import kl, one_minus_cosine_p

BANDS = {"1": (0, 1), "2–10": (1, 10), "11–100": (10, 100), "101–1,000": (100, 1000), "the rest": (1000, None)}
"""Ranks of the dense distribution, by name: the first that belongs to a band, counted from 0, and the one after it."""


def compare(dense: Tensor, pruned: Tensor) -> dict[str, Tensor]:
    """Two distributions by their logits or log-likelihoods ``[..., M]``, over a vocabulary or over options alike.

    Keys, each ``[...]``: ``one_minus_cos_p``, ``kl_dense_pruned`` and ``kl_pruned_dense`` (nats), ``top1_same``
    (the same first choice; of equal logits the first counts).
    """
    dense, pruned = dense.double(), pruned.double()
    return {
        "one_minus_cos_p": one_minus_cosine_p(dense, pruned),
        "kl_dense_pruned": kl(dense, pruned),
        "kl_pruned_dense": kl(pruned, dense),
        "top1_same": dense.argmax(-1) == pruned.argmax(-1),
    }


def restricted(z: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities ``[..., K]`` of the tokens ``ids`` among themselves: p restricted to them and renormalised."""
    return z.double().gather(-1, _distinct(ids)).log_softmax(-1)


def mass(z: Tensor, ids: Tensor) -> Tensor:
    """Probability ``[...]`` that softmax(z) gives to the tokens ``ids`` ``[..., K]`` together."""
    return z.double().log_softmax(-1).gather(-1, _distinct(ids)).exp().sum(-1)


def ranks(z: Tensor, ids: Tensor) -> Tensor:
    """Rank of each token ``ids`` ``[..., K]`` in z ``[..., V]``, from 1: one more than there are likelier tokens."""
    own = z.gather(-1, ids)
    likelier = [(z > own[..., k : k + 1]).sum(-1) for k in range(ids.shape[-1])]
    return 1 + torch.stack(likelier, -1)


def likeliest_others(z: Tensor, ids: Tensor, count: int) -> Tensor:
    """The likeliest tokens ``[..., count]`` that are none of ``ids`` ``[..., K]``: a control of the same size."""
    if count + ids.shape[-1] > z.shape[-1]:
        raise PrunelibError(f"a vocabulary of {z.shape[-1]} has no {count} tokens beside {ids.shape[-1]} options")
    return z.double().scatter(-1, _distinct(ids), -torch.inf).topk(count, -1).indices


def kl_split(dense: Tensor, pruned: Tensor, ids: Tensor) -> dict[str, Tensor]:
    """``KL(dense ‖ pruned)`` over the vocabulary by the chain rule, in nats; the three add up to it.

    With the options' dense mass P: ``options`` is P times the KL among the options, ``between`` the KL of "an option
    or not", ``rest`` is (1 − P) times the KL among all other tokens. None is negative, so that the KL among the
    options is at most 1/P times the whole. Logits ``[..., V]``, ids ``[..., K]`` with K < V, results ``[...]``.
    Raises PrunelibError where an id stands twice.

    Examples
    --------
    Four tokens, of which the first two are options; the pruned model moves only the last one.

    >>> dense, pruned = torch.zeros(4), torch.tensor([0.0, 0.0, 0.0, 1.0])
    >>> {name: round(float(part), 3) for name, part in kl_split(dense, pruned, torch.tensor([0, 1])).items()}
    {'options': 0.0, 'between': 0.047, 'rest': 0.06}
    """
    ids = _distinct(ids)
    inside = torch.zeros_like(dense, dtype=torch.bool).scatter(-1, ids, True)
    parts = []
    for z in (dense.double(), pruned.double()):
        log_p = z.log_softmax(-1)
        rest = log_p[~inside].view(*log_p.shape[:-1], -1)
        parts.append((log_p.gather(-1, ids), rest))
    (own, others), (own_pruned, others_pruned) = parts
    sides = [torch.stack([a.logsumexp(-1), b.logsumexp(-1)], -1) for a, b in parts]
    weight = sides[0].exp()
    return {
        "options": weight[..., 0] * kl(own, own_pruned),
        "between": kl(*sides),
        "rest": weight[..., 1] * kl(others, others_pruned),
    }


def margin(log_weights: Tensor) -> Tensor:
    """By how much the first choice leads the second, in nats: ``[..., K] -> [...]``, K of at least 2."""
    first, second = log_weights.double().topk(2, -1).values.unbind(-1)
    return first - second


def movement(dense: Tensor, pruned: Tensor) -> tuple[Tensor, Tensor]:
    """How far each token moves: ``|Δ log p|`` and ``|Δz − mean Δz|`` (the mean over the vocabulary), ``[..., V]`` each.

    Both are free of a common offset. Δ log p is Δz less the change of the normaliser, which the top of the
    distribution decides, so that a band may move in log p because another one does.
    """
    dense, pruned = dense.double(), pruned.double()
    dz = pruned - dense
    return (pruned.log_softmax(-1) - dense.log_softmax(-1)).abs(), (dz - dz.mean(-1, keepdim=True)).abs()


def by_band(dense: Tensor, values: Tensor) -> dict[str, Tensor]:
    """Mean of ``values`` ``[..., V]`` over the tokens of each of :data:`BANDS` in the dense logits, ``[...]`` each.

    Several kinds of values of the same tokens stand in dimensions before those of ``dense``. Of equal logits the first
    token ranks higher. NaN for a band that the vocabulary does not reach.
    """
    order = dense.double().sort(dim=-1, descending=True, stable=True).indices
    ordered = values.double().gather(-1, order.expand_as(values))
    return {name: ordered[..., first:last].mean(-1) for name, (first, last) in BANDS.items()}


def _distinct(ids: Tensor) -> Tensor:
    """The ids as they are; PrunelibError where a token stands twice, since its mass would count twice."""
    ordered = ids.sort(-1).values
    if bool((ordered[..., 1:] == ordered[..., :-1]).any()):
        raise PrunelibError("two options begin with the same token: they cannot be told apart by it")
    return ids
