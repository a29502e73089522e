"""Statistics of softmax pairs over a large vocabulary, without ever holding the logits.

``chains`` [N, P, d] are P head inputs for each of N items; neighbouring points
are compared, so each is projected once. The vocabulary is cut into chunks. A
chunk is summarised on its own (its maximum, and sums of products of
``e = exp((z − max)/T)`` and ``Δz``), independent of all others; the summaries are
merged once, in float64, by the usual rescaling of a running softmax. So memory is
chunk × rows.

Speed: the projections cost 2·d·V operations a point and are products of torch. Some
thirty operations on the logits of a tile would cost as much again, being limited by
memory; one function, :func:`summary`, holds them all and is compiled where that pays
(:mod:`prunelib.measure.compiled`).

Resolution: logits are float32, so each carries a rounding of eps·max|z|/T, and a
deviation cannot be told from what that does to p: :func:`resolution`. 1 − cos p and
both KLs are accurate to it and, where they are larger, to 1e-3 of their own size;
equal inputs give exactly 0. ``norm_dp`` is
accurate to ``‖p‖·√(2·resolution)``, being the root of a square. A float64 weight makes everything float64.
"""

import math

import torch
from torch import Tensor

from prunelib.measure.compiled import compiled
from prunelib.measure.head import Head
from prunelib.measure.tiles import Tiling, tiling

PAIR_COLUMNS = (
    "one_minus_cos_p", "kl_dense_pruned", "kl_pruned_dense", "var_r", "var_p", "var_q",
    "range_dz", "entropy_dense", "pmax_dense", "top1_same", "resolution", "norm_p", "norm_dp",
)  # fmt: skip

ROUNDINGS = 4
"""Roundings of a logit that a deviation may be off by (seen on the default model: less)."""

_POINT_SUMS, _PAIR_SUMS, _CAP_SUMS = 5, 10, 5
# Exponentials are held 2^40 times as large, and those below e^-60 of a chunk's largest count as 0: their squares and
# products would be denormal numbers, on which a CPU is a hundred times slower.
_SCALE, _LOWEST = 2.0**40, -60.0


def resolution(max_abs_z: Tensor, temperature: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """The smallest 1 − cos p or KL (nats) told from rounding: ``4·eps·max(1, max|z|/T)``.

    ``max_abs_z`` is the largest absolute logit of the two vectors, any shape; ``dtype`` is
    that of the logits. No shift is taken out first: z is rounded before it is shifted. The
    1 is for the sums of exponentials, which are rounded too.
    """
    return ROUNDINGS * torch.finfo(dtype).eps * (max_abs_z / temperature).clamp(min=1)


def pair_statistics(
    chains: Tensor,
    head: Head,
    dense: slice,
    pruned: slice,
    temperatures: tuple[float, ...],
    max_bytes: int = 2**28,
) -> tuple[dict[float, dict[str, Tensor]], dict[str, Tensor] | None]:
    """Compare ``chains[:, dense]`` with ``chains[:, pruned]`` after head and softmax.

    ``dense`` selects either K points or one that is compared with all K pruned
    ones. Returns, for each temperature, the columns :data:`PAIR_COLUMNS` as
    [N, K] float64 (variances and range in logit units, entropy in nats), and for
    a head with softcap the moments that :func:`~prunelib.measure.head.linear_moments`
    cannot give (else None). Extra memory stays below ``max_bytes``; PrunelibError
    where that is impossible.
    """
    capped = head.cap is not None
    sums = len(temperatures) * (_POINT_SUMS + _PAIR_SUMS) + _CAP_SUMS * capped
    plan = tiling(chains, head, len(temperatures), sums, max_bytes)
    parts = []
    with torch.no_grad():
        for block in chains.split(plan.block):
            point, pair, moments = _block_tables(block, head, dense, pruned, temperatures, plan)
            same = (block[:, dense] == block[:, pruned]).all(-1)
            merged = {t: _merge(point[:, k], pair[:, k], dense, pruned, t, same) for k, t in enumerate(temperatures)}
            parts.append((merged, _cap_moments(moments) if capped else None))
    joined = {t: _cat([part[0][t] for part in parts]) for t in temperatures}
    return joined, _cat([part[1] for part in parts]) if capped else None


def _cat(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _block_tables(block, head, dense, pruned, temperatures, plan: Tiling) -> tuple[Tensor, Tensor, Tensor]:
    """Chunk summaries of one block: of points [chunks, T, sums, N, P], of pairs [chunks, T, sums, N, K], of a softcap
    [chunks, sums, N, K]."""
    n_items, points, _ = block.shape
    x = head.inputs(block).flatten(0, 1)
    n, k_pairs, n_t = plan.items, len(range(points)[pruned]), len(temperatures)
    padded = n * math.ceil(n_items / n)
    point = x.new_empty(plan.chunks, n_t, _POINT_SUMS, padded, points)
    pair = x.new_empty(plan.chunks, n_t, _PAIR_SUMS, padded, k_pairs)
    moments = x.new_empty(plan.chunks, _CAP_SUMS if head.cap is not None else 0, padded, k_pairs)
    inverse = [x.new_tensor(1 / t) for t in temperatures]
    of_dense, of_pruned = (_rows(points, some, k_pairs, plan, x.device) for some in (dense, pruned))
    step = plan.tiles * n * points
    # A tile has as many rows as its code is made for: after its own come those of the next, or what lies there.
    space = x.new_zeros((step + plan.rows) * plan.chunk)
    for index in range(plan.chunks):
        start = index * plan.chunk
        rows = head.rows(start, min(start + plan.chunk, head.vocab_size)).T
        whole = plan.compiled and rows.shape[1] == plan.chunk
        of_points, of_caps = (compiled(f) if whole else f for f in (summary, cap_summary))
        logits = space[: (step + plan.rows) * rows.shape[1]].view(-1, rows.shape[1])
        for first in range(0, len(x), step):
            some = x[first : first + step]
            z = logits[: len(some)]
            torch.mm(some, rows, out=z)
            if head.cap is not None:
                z.div_(head.cap).tanh_().mul_(head.cap)
            for low in range(0, len(some), n * points):
                tile = logits[low : low + plan.rows]
                here = slice((first + low) // points, (first + low) // points + n)
                for k, inv in enumerate(inverse):
                    by_point, by_pair = of_points(tile, of_dense, of_pruned, inv)
                    point[index, k, :, here] = by_point[:, : n * points].view(-1, n, points)
                    pair[index, k, :, here] = by_pair[:, : n * k_pairs].view(-1, n, k_pairs)
                if head.cap is not None:
                    found = of_caps(tile, of_dense, of_pruned)
                    moments[index, :, here] = found[:, : n * k_pairs].view(-1, n, k_pairs)
    return point[..., :n_items, :], pair[..., :n_items, :], moments[..., :n_items, :]


def _rows(points: int, some: slice, pairs: int, plan: Tiling, device: torch.device) -> Tensor:
    """Rows of a tile that are the ``some`` points of its chains: one or ``pairs`` a chain, [items × pairs].

    Compiled code takes as many as the tile has rows; the rest compare its first row with itself.
    """
    starts = torch.arange(plan.items, device=device)[:, None] * points
    found = (starts + torch.arange(points, device=device)[some]).expand(plan.items, pairs).flatten()
    return torch.cat([found, found.new_zeros(plan.rows - len(found))]) if plan.compiled else found


def summary(z: Tensor, dense: Tensor, pruned: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Summarise logits ``z`` [R, C] at temperature 1/``inverse``: of points [5, R], of pairs [10, K].

    ``dense`` and ``pruned`` [K] say which rows are compared. With t = z − max, e = 2^40·exp(t/T) and
    d = t_pruned − t_dense: of points max z, min z, Σe, Σe·t, Σe²; of pairs max d, min d; max (t_dense + t_pruned),
    which is 0 where one token is on top of both; Σ e_d·e_p; c and c', the means of d by e_d and by e_p;
    Σ e_d·(d − c)², Σ e_d²·(d − c)², Σ e_d²·(d − c), Σ e_p·(d − c')². Centred, because a top token whose logit moves
    by D would otherwise cost D²·1e-7 of a saturated, that is tiny, variance.
    """
    highest = z.amax(-1)
    t = z - highest[:, None]
    x = t * inverse
    e = torch.where(x > _LOWEST, torch.exp(x), 0.0) * _SCALE
    total = e.sum(-1)
    by_point = torch.stack([highest, z.amin(-1), total, (e * t).sum(-1), e.square().sum(-1)])
    t_dense, t_pruned, e_dense, e_pruned = t[dense], t[pruned], e[dense], e[pruned]
    d = t_pruned - t_dense
    mean, mean_pruned = (e_dense * d).sum(-1) / total[dense], (e_pruned * d).sum(-1) / total[pruned]
    by_dense, by_pruned = d - mean[:, None], d - mean_pruned[:, None]
    weighed = e_dense * by_dense
    by_pair = [
        d.amax(-1), d.amin(-1), (t_dense + t_pruned).amax(-1), (e_dense * e_pruned).sum(-1), mean, mean_pruned,
        (weighed * by_dense).sum(-1), weighed.square().sum(-1), (weighed * e_dense).sum(-1),
        (e_pruned * by_pruned * by_pruned).sum(-1),
    ]  # fmt: skip
    return by_point, torch.stack(by_pair)


def cap_summary(z: Tensor, dense: Tensor, pruned: Tensor) -> Tensor:
    """Σz², Σz·Δz, Σ Δz², Σz, ΣΔz [5, K] of logits [R, C]: z is not linear in h under a softcap."""
    z_dense = z[dense]
    d = z[pruned] - z_dense
    sums = [z_dense.square().sum(-1), (z_dense * d).sum(-1), d.square().sum(-1), z_dense.sum(-1), d.sum(-1)]
    return torch.stack(sums)


def _cap_moments(moments: Tensor) -> dict[str, Tensor]:
    sums = moments.double().sum(0)
    return dict(zip(("zz", "zd", "dd", "sum_z", "sum_d"), sums.unbind(0), strict=True))


def _merge(point, pair, dense, pruned, temperature, same) -> dict[str, Tensor]:
    """Columns [N, K] at one temperature from its chunk summaries [chunks, sums, N, P] and [chunks, sums, N, K].

    With m the maximum over all chunks, chunk sums are multiplied by
    ``exp((m_c − m)/T)`` and their Δz moments moved to the common origin.
    """
    dtype, inv = point.dtype, 1 / temperature
    highest, lowest, *of_points = point.double().unbind(1)
    offset = highest - highest.amax(0)
    factor = (offset * inv).exp()
    total, weighted, squared = (x / s for x, s in zip(of_points, (_SCALE, _SCALE, _SCALE**2), strict=True))
    norm = (factor * total).sum(0)
    norm2 = (factor.square() * squared).sum(0)
    mean_t = (factor * (weighted + offset * total)).sum(0) / norm

    d_max, d_min, t_max, cross, centre, centre_q, p2, r2, r1, q2 = pair.double().unbind(1)
    p2, q2 = p2 / _SCALE, q2 / _SCALE
    cross, r2, r1 = (x / _SCALE**2 for x in (cross, r2, r1))
    f_dense, f_pruned = factor[..., dense], factor[..., pruned]
    norm_d, norm_p = norm[..., dense], norm[..., pruned]
    gap = offset[..., pruned] - offset[..., dense]
    centre, centre_q = centre + gap, centre_q + gap
    mean_p, var_p = _moments(f_dense, total[..., dense], centre, 0.0, p2, norm_d)
    mean_q, var_q = _moments(f_pruned, total[..., pruned], centre_q, 0.0, q2, norm_p)
    mass_r, norm_r = squared[..., dense], norm2[..., dense]
    _, var_r = _moments(f_dense.square(), mass_r, centre, r1, r2, norm_r)
    overlap = (f_dense * f_pruned * cross).sum(0)
    cosine = overlap / (norm2[..., dense] * norm2[..., pruned]).sqrt()
    log_ratio = norm_p.log() - norm_d.log()
    shift = highest[..., pruned] - highest[..., dense]
    length, length_q = norm2[..., dense].sqrt() / norm_d, norm2[..., pruned].sqrt() / norm_p
    # ‖q − p‖² from the two lengths and the angle between them: no second pass over the logits.
    squared_move = (length - length_q).square() + 2 * length * length_q * (1 - cosine).clamp(min=0)
    size = torch.maximum(highest.abs(), lowest.abs()).amax(0)
    deviations = {
        "one_minus_cos_p": 1 - cosine,
        "kl_dense_pruned": log_ratio - mean_p * inv,
        "kl_pruned_dense": mean_q * inv - log_ratio,
        "var_r": var_r,
        "var_p": var_p,
        "var_q": var_q,
        "range_dz": (d_max + shift).amax(0) - (d_min + shift).amin(0),
        "norm_dp": squared_move.sqrt(),
    }
    # The top tokens agree if one logit is both maxima.
    tops = (offset[..., dense] == 0) & (offset[..., pruned] == 0) & (t_max == 0)
    levels = {
        "norm_p": length.expand(same.shape),
        "entropy_dense": (norm.log() - mean_t * inv).clamp(min=0)[..., dense].expand(same.shape),
        "pmax_dense": (1 / norm)[..., dense].expand(same.shape),
        "top1_same": (tops.any(0) | same).double(),
        "resolution": resolution(torch.maximum(size[..., dense], size[..., pruned]), temperature, dtype),
    }
    # Equal inputs may land in different places of a projection and differ in the last bit.
    zeroed = {n: v.clamp(min=0).masked_fill(same, 0.0) for n, v in deviations.items()}
    return zeroed | levels


def _moments(factor, mass, centre, first, second, norm) -> tuple[Tensor, Tensor]:
    """Mean and variance over all chunks (axis 0) from each chunk's mass and its first and
    second moments about ``centre``: variance within chunks plus between them."""
    means = centre + first / mass
    within = second - first * (first / mass)
    mean = (factor * mass * means).sum(0) / norm
    return mean, (factor * (within + mass * (means - mean).square())).sum(0) / norm
