"""Statistics of softmax pairs over a large vocabulary, without ever holding the logits.

``chains`` [N, P, d] are P head inputs for each of N items; neighbouring points
are compared, so each is projected once. The vocabulary is cut into chunks. A
chunk is summarised on its own (its maximum, and sums of products of
``e = exp((z − max)/T)`` and ``Δz``), independent of all others; the summaries are
merged once, in float64, by the usual rescaling of a running softmax. So the
result does not depend on the number of threads, and memory is chunk × rows.

Speed on a CPU: the projections cost 2·d·V operations a point, and some twenty
passes over the logits would cost as much again from main memory. Here they run
on tiles that fit the second-level cache, one chunk a thread.

Resolution: logits are float32, so each carries a rounding of eps·max|z|/T, and a
deviation cannot be told from what that does to p: :func:`resolution`. 1 − cos p and
both KLs are accurate to it and, where they are larger, to 1e-3 of their own size;
equal inputs give exactly 0. ``norm_dp`` is
accurate to ``‖p‖·√(2·resolution)``, being the root of a square. A float64 weight makes everything float64.
"""

import math

import torch
from torch import Tensor

from prunelib.measure.head import Head
from prunelib.measure.tiles import Tiling, Workspace, tiling, workers

PAIR_COLUMNS = (
    "one_minus_cos_p", "kl_dense_pruned", "kl_pruned_dense", "var_r", "var_p", "var_q",
    "range_dz", "entropy_dense", "pmax_dense", "top1_same", "resolution", "norm_p", "norm_dp",
)  # fmt: skip

ROUNDINGS = 4
"""Roundings of a logit that a deviation may be off by (seen on the default model: less)."""

_POINT_SUMS, _PAIR_SUMS, _CAP_SUMS = 3, 8, 5


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
    sums = 4 + len(temperatures) * (_POINT_SUMS + _PAIR_SUMS) + _CAP_SUMS * (head.cap is not None)
    plan = tiling(chains, head, sums, max_bytes)
    parts = []
    with torch.no_grad(), workers(plan, chains.device) as run:
        for block in chains.split(plan.block):
            point, pair = _block_tables(block, head, dense, pruned, temperatures, plan, run)
            same = (block[:, dense] == block[:, pruned]).all(-1)
            merged = {t: _merge(point, pair, dense, pruned, t, k, same) for k, t in enumerate(temperatures)}
            moments = _cap_moments(pair) if head.cap is not None else None
            parts.append((merged, moments))
    joined = {t: _cat([part[0][t] for part in parts]) for t in temperatures}
    return joined, _cat([part[1] for part in parts]) if head.cap is not None else None


def _cat(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _block_tables(block, head, dense, pruned, temperatures, plan: Tiling, run) -> tuple[Tensor, Tensor]:
    """Chunk summaries of one block: [chunks, sums, N, P] and [chunks, sums, N, K]."""
    n_items, points, _ = block.shape
    padded = math.ceil(n_items / plan.items) * plan.items
    x = head.inputs(block)
    if padded > n_items:
        x = torch.cat([x, x.new_zeros(padded - n_items, *x.shape[1:])])
    x = x.reshape(padded * points, -1)
    n_tiles, n = padded // plan.items, plan.items
    k_pairs = len(range(points)[pruned])
    capped = head.cap is not None
    n_t = len(temperatures)
    point = x.new_empty(plan.chunks, n_tiles, 2 + _POINT_SUMS * n_t, n, points)
    n_pair = 2 + _PAIR_SUMS * n_t + (_CAP_SUMS if capped else 0)
    pair = x.new_empty(plan.chunks, n_tiles, n_pair, n, k_pairs)

    def work(index: int, space: Workspace) -> None:
        start = index * plan.chunk
        rows = head.rows(start, min(start + plan.chunk, head.vocab_size)).T
        buffers = _Buffers(space, x, (n, points, rows.shape[1]), plan.tiles, dense, pruned)
        point_out, pair_out = point[index].unbind(0), pair[index].unbind(0)
        for first in range(0, n_tiles, plan.tiles):
            some = min(plan.tiles, n_tiles - first)
            logits = buffers.logits[: some * n * points]
            torch.mm(x[first * n * points :][: len(logits)], rows, out=logits)
            if capped:
                logits.div_(head.cap).tanh_().mul_(head.cap)
            for k in range(some):
                out = point_out[first + k], pair_out[first + k]
                _tile(buffers.tiles[k], *out, buffers, temperatures, capped)

    run(work)

    def flat(table: Tensor) -> Tensor:
        return table.movedim(2, 1).reshape(plan.chunks, table.shape[2], padded, -1)[:, :, :n_items]

    return flat(point), flat(pair)


class _Buffers:
    """All views that the tiles of a chunk need; making one costs as much as a small sum."""

    def __init__(self, space: Workspace, like, shape, tiles: int, dense: slice, pruned: slice):
        n, points, width = shape
        by_pair = n, len(range(points)[pruned]), width
        self.logits = space.get("logits", (tiles * n * points, width), like)
        views = self.logits.view(tiles, *shape).unbind(0)
        self.tiles = [(z, z[:, dense], z[:, pruned]) for z in views]
        self.e = space.get("e", shape, like)
        self.e_dense, self.e_pruned = self.e[:, dense], self.e[:, pruned]
        self.total = space.get("total", (n, points), like)
        self.total_dense, self.total_pruned = self.total[:, dense], self.total[:, pruned]
        self.d, self.g = space.get("d", by_pair, like), space.get("g", by_pair, like)
        # Only touched when there are several temperatures.
        self.by_point, self.by_pair, self.spare = (
            space.get(name, size, like) for name, size in (("point", shape), ("pair", by_pair), ("spare", by_pair))
        )


def _tile(views, point, pair, buffers: _Buffers, temperatures, capped: bool) -> None:
    """Summarise logits ``z`` [n, P, C], which are overwritten.

    ``point`` [2 + 3·n_T, n, P]: max z, min z; for each T Σe, Σe·t, Σe² with t = z − max.
    ``pair`` [2 + 8·n_T, n, K], d = t_pruned − t_dense: max d, min d; for each T
    Σ e_d·e_p and its max; c, the mean of d by e_d; with d' = d − c: Σ e_d²·d'²,
    Σ e_d·d'², Σ e_d²·d'; c', the mean of d' by e_p, and Σ e_p·(d' − c')². Centred,
    because a top token whose logit moves by D would otherwise cost D²·1e-7 of a
    saturated, that is tiny, variance.
    """
    b = buffers
    points, pairs = iter(point.unbind(0)), iter(pair.unbind(0))
    z, z_dense, z_pruned = views
    if capped:
        _cap_sums(z_dense, z_pruned, pair[-_CAP_SUMS:], b)
    highest = next(points)
    torch.amax(z, -1, out=highest)
    torch.amin(z, -1, out=next(points))
    z.sub_(highest.unsqueeze(-1))
    torch.sub(z_pruned, z_dense, out=b.d)
    torch.amax(b.d, -1, out=next(pairs))
    torch.amin(b.d, -1, out=next(pairs))
    for t in temperatures:
        # After the last temperature z and d are free: fewer buffers, more cache.
        last = t == temperatures[-1]
        by_point = z if last else b.by_point
        if t == 1:
            torch.exp(z, out=b.e)
        else:
            torch.mul(z, 1 / t, out=b.e).exp_()
        torch.sum(b.e, -1, out=b.total)
        next(points).copy_(b.total)
        torch.sum(torch.mul(b.e, z, out=by_point), -1, out=next(points))
        torch.sum(torch.square(b.e, out=by_point), -1, out=next(points))
        torch.mul(b.e_dense, b.e_pruned, out=b.g)
        torch.sum(b.g, -1, out=next(pairs))
        torch.amax(b.g, -1, out=next(pairs))

        mean = next(pairs)
        torch.sum(torch.mul(b.e_dense, b.d, out=b.g), -1, out=mean)
        mean.div_(b.total_dense)
        d, spare = (b.d, z_pruned) if last else (b.by_pair, b.spare)
        torch.sub(b.d, mean.unsqueeze(-1), out=d)
        torch.mul(b.e_dense, d, out=b.g)
        torch.linalg.vector_norm(b.g, dim=-1, out=next(pairs)).square_()
        torch.sum(torch.mul(b.g, d, out=spare), -1, out=next(pairs))
        torch.sum(b.g.mul_(b.e_dense), -1, out=next(pairs))
        mean = next(pairs)
        torch.sum(torch.mul(b.e_pruned, d, out=b.g), -1, out=mean)
        d.sub_(mean.div_(b.total_pruned).unsqueeze(-1))
        torch.mul(b.e_pruned, d, out=b.g)
        torch.sum(d.mul_(b.g), -1, out=next(pairs))


def _cap_sums(z_dense, z_pruned, out, b) -> None:
    """Σz², Σz·Δz, Σ Δz², Σz, ΣΔz of a tile: z is not linear in h under a softcap."""
    zz, zd, dd, sum_z, sum_d = out.unbind(0)
    torch.sub(z_pruned, z_dense, out=b.d)
    torch.sum(b.d, -1, out=sum_d)
    torch.sum(torch.mul(b.d, z_dense, out=b.g), -1, out=zd)
    torch.sum(torch.square(b.d, out=b.g), -1, out=dd)
    b.g.copy_(z_dense)  # also repeats one dense point over all pairs
    torch.sum(b.g, -1, out=sum_z)
    torch.sum(b.g.square_(), -1, out=zz)


def _cap_moments(pair: Tensor) -> dict[str, Tensor]:
    sums = pair[:, -_CAP_SUMS:].double().sum(0)
    return dict(zip(("zz", "zd", "dd", "sum_z", "sum_d"), sums.unbind(0), strict=True))


def _merge(point, pair, dense, pruned, temperature, k, same) -> dict[str, Tensor]:
    """Columns [N, K] of the ``k``-th temperature from all chunk summaries.

    With m the maximum over all chunks, chunk sums are multiplied by
    ``exp((m_c − m)/T)`` and their Δz moments moved to the common origin.
    """
    inv = 1 / temperature
    highest = point[:, 0].double()
    offset = highest - highest.amax(0)
    factor = (offset * inv).exp()
    first = 2 + _POINT_SUMS * k
    total, weighted, squared = (point[:, first + i].double() for i in range(_POINT_SUMS))
    norm = (factor * total).sum(0)
    norm2 = (factor.square() * squared).sum(0)
    mean_t = (factor * (weighted + offset * total)).sum(0) / norm

    first = 2 + _PAIR_SUMS * k
    cross, cross_max, centre, r2, p2, r1, move, q2 = (pair[:, first + i].double() for i in range(_PAIR_SUMS))
    f_dense, f_pruned = factor[..., dense], factor[..., pruned]
    norm_d, norm_p = norm[..., dense], norm[..., pruned]
    centre = centre + offset[..., pruned] - offset[..., dense]
    mean_p, var_p = _moments(f_dense, total[..., dense], centre, 0.0, p2, norm_d)
    mean_q, var_q = _moments(f_pruned, total[..., pruned], centre + move, 0.0, q2, norm_p)
    mass_r, norm_r = squared[..., dense], norm2[..., dense]
    _, var_r = _moments(f_dense.square(), mass_r, centre, r1, r2, norm_r)
    overlap = (f_dense * f_pruned * cross).sum(0)
    cosine = overlap / (norm2[..., dense] * norm2[..., pruned]).sqrt()
    log_ratio = norm_p.log() - norm_d.log()
    gap = highest[..., pruned] - highest[..., dense]
    length, length_q = norm2[..., dense].sqrt() / norm_d, norm2[..., pruned].sqrt() / norm_p
    # ‖q − p‖² from the two lengths and the angle between them: no second pass over the logits.
    squared_move = (length - length_q).square() + 2 * length * length_q * (1 - cosine).clamp(min=0)
    size = torch.maximum(highest.abs(), point[:, 1].double().abs()).amax(0)
    deviations = {
        "one_minus_cos_p": 1 - cosine,
        "kl_dense_pruned": log_ratio - mean_p * inv,
        "kl_pruned_dense": mean_q * inv - log_ratio,
        "var_r": var_r,
        "var_p": var_p,
        "var_q": var_q,
        "range_dz": (pair[:, 0] + gap).amax(0) - (pair[:, 1] + gap).amin(0),
        "norm_dp": squared_move.sqrt(),
    }
    # The top tokens agree if one logit is both maxima: there both exponentials are 1.
    tops = (offset[..., dense] == 0) & (offset[..., pruned] == 0) & (cross_max == 1)
    levels = {
        "norm_p": length.expand(same.shape),
        "entropy_dense": (norm.log() - mean_t * inv).clamp(min=0)[..., dense].expand(same.shape),
        "pmax_dense": (1 / norm)[..., dense].expand(same.shape),
        "top1_same": (tops.any(0) | same).double(),
        "resolution": resolution(torch.maximum(size[..., dense], size[..., pruned]), temperature, point.dtype),
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
