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

Resolution: sums are float32 in a tile and float64 above it. 1 − cos p and both
KLs are accurate to about 1e-6 absolute, variances to about 1e-5 of their own
size; equal inputs give exactly 0. A float64 weight makes everything float64.
"""

import math

import torch
from torch import Tensor

from prunelib.measure.head import Head
from prunelib.measure.tiles import Plan, Workspace, plan_tiles, workers

PAIR_COLUMNS = (
    "one_minus_cos_p", "kl_dense_pruned", "kl_pruned_dense", "var_r", "var_p", "var_q",
    "range_dz", "entropy_dense", "pmax_dense", "top1_same",
)  # fmt: skip

_POINT_SUMS, _PAIR_SUMS, _CAP_SUMS = 3, 8, 5


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
    sums = 3 + len(temperatures) * (_POINT_SUMS + _PAIR_SUMS) + _CAP_SUMS * (head.cap is not None)
    plan = plan_tiles(chains, head, sums, max_bytes)
    parts = []
    with torch.no_grad(), workers(plan, chains.device) as run:
        for block in chains.split(plan.block):
            point, pair = _block_tables(block, head, dense, pruned, temperatures, plan, run)
            same = (block[:, dense] == block[:, pruned]).all(-1)
            merged = {
                t: _merge(point, pair, dense, pruned, t, k, same)
                for k, t in enumerate(temperatures)
            }
            moments = _cap_moments(pair) if head.cap is not None else None
            parts.append((merged, moments))
    joined = {t: _cat([part[0][t] for part in parts]) for t in temperatures}
    return joined, _cat([part[1] for part in parts]) if head.cap is not None else None


def _cat(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _block_tables(
    block, head, dense, pruned, temperatures, plan: Plan, run
) -> tuple[Tensor, Tensor]:
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
    point = x.new_empty(plan.chunks, n_tiles, 1 + _POINT_SUMS * n_t, n, points)
    n_pair = 2 + _PAIR_SUMS * n_t + (_CAP_SUMS if capped else 0)
    pair = x.new_empty(plan.chunks, n_tiles, n_pair, n, k_pairs)

    def work(index: int, space: Workspace) -> None:
        start = index * plan.chunk
        rows = head.rows(start, min(start + plan.chunk, head.vocab_size)).T
        width = rows.shape[1]
        buffers = _Buffers(space, x, n, points, k_pairs, width, dense, pruned)
        point_out, pair_out = point[index].unbind(0), pair[index].unbind(0)
        for first in range(0, n_tiles, plan.tiles):
            some = min(plan.tiles, n_tiles - first)
            logits = space.get("logits", (some * n * points, width), x)
            step = n * points
            torch.mm(x[first * step : (first + some) * step], rows, out=logits)
            if capped:
                logits.div_(head.cap).tanh_().mul_(head.cap)
            for k, z in enumerate(logits.view(some, n, points, width).unbind(0)):
                out = point_out[first + k], pair_out[first + k]
                _tile(z, *out, buffers, dense, pruned, temperatures, capped)

    run(work)

    def flat(table: Tensor) -> Tensor:
        return table.movedim(2, 1).reshape(plan.chunks, table.shape[2], padded, -1)[:, :, :n_items]

    return flat(point), flat(pair)


class _Buffers:
    """Views that every tile of a chunk shares; making a view costs as much as a small sum."""

    def __init__(self, space, like, n, points, k_pairs, width, dense, pruned):
        self.e = space.get("e", (n, points, width), like)
        self.e_dense, self.e_pruned = self.e[:, dense], self.e[:, pruned]
        self.d = space.get("d", (n, k_pairs, width), like)
        self.g = space.get("g", (n, k_pairs, width), like)
        spare = space.get("spare", (n * points * width,), like)
        self.by_point = spare.view(n, points, width)
        self.by_pair = spare[: n * k_pairs * width].view(n, k_pairs, width)


def _tile(z, point, pair, buffers, dense, pruned, temperatures, capped) -> None:
    """Summarise logits ``z`` [n, P, C], which are overwritten.

    ``point`` [1 + 3·n_T, n, P]: max z; for each T Σe, Σe·t, Σe² with t = z − max.
    ``pair`` [2 + 8·n_T, n, K], d = t_pruned − t_dense: max d, min d; for each T
    Σ e_d·e_p and its max; mean c of d by e_p, Σ e_p·(d−c)²; mean c of d by e_d,
    Σ e_d·(d−c)², Σ e_d²·(d−c)², Σ e_d²·(d−c). Centred, because a top token whose
    logit moves by D would otherwise cost a saturated variance D²·1e-7.
    """
    b = buffers
    points, pairs = iter(point.unbind(0)), iter(pair.unbind(0))
    z_dense, z_pruned = z[:, dense], z[:, pruned]
    if capped:
        _cap_sums(z_dense, z_pruned, pair[-_CAP_SUMS:], b)
    highest = next(points)
    torch.amax(z, -1, out=highest)
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
        total = next(points)
        torch.sum(b.e, -1, out=total)
        torch.sum(torch.mul(b.e, z, out=by_point), -1, out=next(points))
        torch.sum(torch.square(b.e, out=by_point), -1, out=next(points))
        torch.mul(b.e_dense, b.e_pruned, out=b.g)
        torch.sum(b.g, -1, out=next(pairs))
        torch.amax(b.g, -1, out=next(pairs))

        mean = next(pairs)
        torch.sum(torch.mul(b.e_pruned, b.d, out=b.g), -1, out=mean)
        mean.div_(total[:, pruned])
        d = torch.sub(b.d, mean.unsqueeze(-1), out=z_pruned if last else b.by_pair)
        torch.mul(b.e_pruned, d, out=b.g)
        torch.sum(b.g.mul_(d), -1, out=next(pairs))

        mean = next(pairs)
        torch.sum(torch.mul(b.e_dense, b.d, out=b.g), -1, out=mean)
        mean.div_(total[:, dense])
        d = torch.sub(b.d, mean.unsqueeze(-1), out=b.d if last else b.by_pair)
        torch.mul(b.e_dense, d, out=b.g)
        torch.sum(d.mul_(b.g), -1, out=next(pairs))
        torch.linalg.vector_norm(b.g, dim=-1, out=next(pairs)).square_()
        torch.sum(b.g.mul_(b.e_dense), -1, out=next(pairs))
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
    first = 1 + _POINT_SUMS * k
    total, weighted, squared = (point[:, first + i].double() for i in range(_POINT_SUMS))
    norm = (factor * total).sum(0)
    norm2 = (factor.square() * squared).sum(0)
    mean_t = (factor * (weighted + offset * total)).sum(0) / norm

    first = 2 + _PAIR_SUMS * k
    cross, cross_max, mean_q, var_q, mean_p, var_p, r2, r1 = (
        pair[:, first + i].double() for i in range(_PAIR_SUMS)
    )
    f_dense, f_pruned = factor[..., dense], factor[..., pruned]
    shift = offset[..., pruned] - offset[..., dense]
    norm_d, norm_p = norm[..., dense], norm[..., pruned]
    mean_q, var_q = _moments(f_pruned, total[..., pruned], mean_q + shift, var_q, norm_p)
    mean_r, mass_r = mean_p + shift, squared[..., dense]
    mean_p, var_p = _moments(f_dense, total[..., dense], mean_r, var_p, norm_d)
    # r was summed around the mean of p: moved to its own mean, chunk by chunk.
    mean_r, r2 = mean_r + r1 / mass_r, r2 - r1.square() / mass_r
    _, var_r = _moments(f_dense.square(), mass_r, mean_r, r2, norm2[..., dense])
    overlap = (f_dense * f_pruned * cross).sum(0)
    cosine = overlap / (norm2[..., dense] * norm2[..., pruned]).sqrt()
    log_ratio = norm_p.log() - norm_d.log()
    gap = highest[..., pruned] - highest[..., dense]
    deviations = {
        "one_minus_cos_p": 1 - cosine,
        "kl_dense_pruned": log_ratio - mean_p * inv,
        "kl_pruned_dense": mean_q * inv - log_ratio,
        "var_r": var_r,
        "var_p": var_p,
        "var_q": var_q,
        "range_dz": (pair[:, 0] + gap).amax(0) - (pair[:, 1] + gap).amin(0),
    }
    # The top tokens agree if one logit is both maxima: there both exponentials are 1.
    tops = (offset[..., dense] == 0) & (offset[..., pruned] == 0) & (cross_max == 1)
    levels = {
        "entropy_dense": (norm.log() - mean_t * inv).clamp(min=0)[..., dense].expand(same.shape),
        "pmax_dense": (1 / norm)[..., dense].expand(same.shape),
        "top1_same": (tops.any(0) | same).double(),
    }
    # Equal inputs may land in different places of a projection and differ in the last bit.
    zeroed = {n: v.clamp(min=0).masked_fill(same, 0.0) for n, v in deviations.items()}
    return zeroed | levels


def _moments(factor, mass, means, squares, norm) -> tuple[Tensor, Tensor]:
    """Mean and variance over all chunks (axis 0), from each chunk's mass, mean and
    squared deviations: within plus between."""
    mean = (factor * mass * means).sum(0) / norm
    return mean, (factor * (squares + mass * (means - mean).square())).sum(0) / norm
