"""Statistics of softmax pairs over a large vocabulary, without ever holding the logits.

``chains`` [N, P, d] are P head inputs for each of N items; neighbouring points
are compared, so each is projected once. The vocabulary is cut into chunks. A
chunk is summarised on its own (its maximum, and sums of products of
``e = exp((z − max)/T)`` and ``Δz``), independent of all others; the summaries are
merged once, in float64, by the usual rescaling of a running softmax. So the
result does not depend on the number of threads, and memory is chunk × rows.

Speed on a CPU: the projections cost 2·d·V operations a point, and every pass over
the logits a few percent of that. So passes run on tiles that fit the second-level
cache, one chunk a thread, and nearly all sums of products come from three small
Gram matrices a pair: eight sums for little more than one pass. They treat the
two points of a pair alike; which one is dense matters only to the merge.

Resolution: sums are float32 in a tile and float64 above it. 1 − cos p and both
KLs are accurate to about 1e-6 absolute, variances to about 1e-5 of their own
size; equal inputs give exactly 0. A float64 weight makes everything float64.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from prunelib.measure.head import Head
from prunelib.measure.tiles import Plan, Workspace, plan_tiles, workers

PAIR_COLUMNS = (
    "one_minus_cos_p", "kl_dense_pruned", "kl_pruned_dense", "var_r", "var_p", "var_q",
    "range_dz", "entropy_dense", "pmax_dense", "top1_same",
)  # fmt: skip

# Rows of the tables below: of a point and of a pair of neighbours, without and with a cap.
_POINT_CAP, _PAIR_ROWS, _PAIR_CAP = 2, 3, 4
_PAIR_SUMS = 2 + 3 * 8  # centres and Gram matrices at one temperature


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
    ones; the two of a pair are neighbours in the chain, in either order. Returns,
    for each temperature, the columns :data:`PAIR_COLUMNS` as [N, K] float64
    (variances and range in logit units, entropy in nats), and for a head with
    softcap the moments that :func:`~prunelib.measure.head.linear_moments` cannot
    give (else None). Extra memory stays below ``max_bytes``; PrunelibError where
    that is impossible.
    """
    capped, n_t = head.cap is not None, len(temperatures)
    sums = 1 + n_t + _PAIR_ROWS + _PAIR_SUMS * n_t + (_POINT_CAP + _PAIR_CAP) * capped
    plan = plan_tiles(chains, head, sums, max_bytes)
    pairs = _Pairs.of(chains.shape[1], dense, pruned, chains.device)
    parts = []
    with torch.no_grad(), workers(plan, chains.device) as run:
        for block in chains.split(plan.block):
            tables = _block_tables(block, head, temperatures, plan, run)
            same = (block[:, dense] == block[:, pruned]).all(-1)
            merged = {t: _merge(tables, pairs, t, k, same) for k, t in enumerate(temperatures)}
            parts.append((merged, _cap_moments(tables, pairs) if capped else None))
    joined = {t: _cat([part[0][t] for part in parts]) for t in temperatures}
    return joined, _cat([part[1] for part in parts]) if capped else None


def _cat(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@dataclass(frozen=True)
class _Pairs:
    """The K pairs as index tensors [K]: a tile only knows neighbours, left and right."""

    dense: Tensor
    pruned: Tensor
    left: Tensor
    dense_side: Tensor
    """1 where the dense point is the right one."""
    pruned_side: Tensor
    sign: Tensor
    """Δz = z_pruned − z_dense is ``sign`` · (z_left − z_right)."""

    @classmethod
    def of(cls, points: int, dense: slice, pruned: slice, device) -> "_Pairs":
        index = torch.arange(points, device=device)
        b, a = torch.broadcast_tensors(index[dense], index[pruned])
        left = torch.minimum(a, b)
        return cls(b, a, left, b - left, a - left, (b - a).double())


class _Tables:
    """Chunk summaries of a block: n items a tile, P points, S neighbours; see :func:`_tile`."""

    def __init__(self, like: Tensor, plan: Plan, n_items: int, points: int, n_t: int, capped: bool):
        lead = plan.chunks, math.ceil(n_items / plan.items)
        n_point, n_pair = 1 + n_t + _POINT_CAP * capped, _PAIR_ROWS + _PAIR_CAP * capped
        n, self.slots = plan.items, points // _step(points)
        self.n_items = n_items
        self.point = like.new_empty(*lead, n_point, n, points)
        self.pair = like.new_empty(*lead, n_pair, n, self.slots)
        self.centre = like.new_empty(*lead, n_t, n, self.slots, 2)
        self.gram = like.new_empty(*lead, n_t, 3, n, self.slots, 2, 2, 2)

    def take(self, table: Tensor, *where) -> Tensor:
        """[chunks, N, …] float64 of one row of a table, ``where`` indexing its axes after n."""
        return table.flatten(1, 2)[(slice(None), slice(self.n_items), *where)].double()


def _step(points: int) -> int:
    """Points from one pair of neighbours to the next, all chains of a tile taken as one.

    Pairs that join two chains are summarised too, but belong to nobody.
    """
    return 2 if points == 2 else 1


def _block_tables(block, head, temperatures, plan: Plan, run) -> _Tables:
    n_items, points, _ = block.shape
    capped, n = head.cap is not None, plan.items
    x = head.inputs(block)
    tables = _Tables(x, plan, n_items, points, len(temperatures), capped)
    n_tiles = tables.point.shape[1]
    if n_tiles * n > n_items:
        x = torch.cat([x, x.new_zeros(n_tiles * n - n_items, *x.shape[1:])])
    x = x.reshape(n_tiles * n * points, -1)

    def work(index: int, space: Workspace) -> None:
        start = index * plan.chunk
        rows = head.rows(start, min(start + plan.chunk, head.vocab_size)).T
        buffers = _Buffers(space, x, plan.tiles, n * points, rows.shape[1], _step(points))
        out = (
            tables.point[index].flatten(-2).unbind(0),
            tables.pair[index].flatten(-2)[..., : buffers.pairs].unbind(0),
            tables.centre[index].flatten(2, 3)[:, :, : buffers.pairs].unbind(0),
            tables.gram[index].flatten(3, 4).flatten(-2)[:, :, :, : buffers.pairs].unbind(0),
        )
        for first in range(0, n_tiles, plan.tiles):
            some = min(plan.tiles, n_tiles - first)
            logits = buffers.logits[: some * n * points]
            torch.mm(x[first * n * points :][: len(logits)], rows, out=logits)
            if capped:
                logits.div_(head.cap).tanh_().mul_(head.cap)
            for k in range(some):
                row = (table[first + k] for table in out)
                _tile(buffers.tiles[k], *row, buffers, temperatures, capped)

    run(work)
    return tables


class _Buffers:
    """All views that the tiles of a chunk need; making one costs as much as a small sum.

    A tile has ``points`` rows [C] of logits and W pairs of neighbouring rows, ``step`` apart.
    """

    def __init__(self, space: Workspace, like, tiles: int, points: int, width: int, step: int):
        c = width
        self.pairs = w = (points - 2) // step + 1
        self.logits = space.get("logits", (tiles * points, c), like)
        self.tiles = self.logits.view(tiles, points, c).unbind(0)
        by_point = space.get("point", (points, 2, c), like)
        self.e, self.t = by_point.unbind(1)
        self.et_columns = by_point.as_strided((w, c, 4), (2 * c * step, 1, c))
        by_side = by_point.as_strided((w, 2, 2, c), (2 * c * step, 2 * c, c, 1))
        self.e_rows = by_side[:, :, 0]
        self.t_left, self.t_right = by_side[:, :, 1].unbind(1)
        self.total = space.get("total", (points,), like)
        self.total_sides = self.total.as_strided((w, 2), (step, 1))
        self.difference = space.get("difference", (w, 1, c), like)
        self.d = self.difference[:, 0]
        by_pair = space.get("pair", (w, 4, c), like)
        self.dg_columns = by_pair.transpose(1, 2)
        self.d_rows, self.g_rows = by_pair[:, 0::2], by_pair[:, 1::2]
        self.spare = by_pair[:, 0]


def _tile(z, point, pair, centre, gram, b: _Buffers, temperatures, capped: bool) -> None:
    """Summarise logits ``z`` [n·P, C] and their W pairs of neighbours, left l and right r.

    ``point`` [1 + n_T, n·P]: max z; for each T Σe, with t = z − max and e = exp(t/T).
    ``pair`` [3, W], d = t_l − t_r: max d, min d, max (t_l + t_r).
    ``centre`` [n_T, W, 2] is the mean of d by e_l and by e_r.
    ``gram`` [n_T, 3, W, 2, 4]: products of (e_l, e_r) with (e_l, t_l, e_r, t_r), and of
    (e_l, e_r) and (g_l, g_r) with (d_l, g_l, d_r, g_r), where d_s = d − centre_s and
    g_s = e_s·d_s. Centred, because a top token whose logit moves by D would otherwise
    cost D²·1e-7 of a saturated, that is tiny, variance; for each side, because the
    top tokens of the two may differ. Under a cap come the sums of :func:`_cap_sums`.
    """
    if capped:
        _cap_sums(z, point[-_POINT_CAP:], pair[-_PAIR_CAP:], b)
    highest = point[0]
    torch.amax(z, -1, out=highest)
    torch.sub(z, highest.unsqueeze(-1), out=b.t)
    torch.sub(b.t_left, b.t_right, out=b.d)
    torch.amax(b.d, -1, out=pair[0])
    torch.amin(b.d, -1, out=pair[1])
    torch.amax(torch.add(b.t_left, b.t_right, out=b.spare), -1, out=pair[2])
    for k, temperature in enumerate(temperatures):
        if temperature == 1:
            torch.exp(b.t, out=b.e)
        else:
            torch.mul(b.t, 1 / temperature, out=b.e).exp_()
        torch.sum(b.e, -1, out=b.total)
        point[1 + k] = b.total
        of_points, of_means, of_squares = gram[k].unbind(0)
        mean = centre[k]
        torch.bmm(b.e_rows, b.et_columns, out=of_points)
        torch.sub(of_points[..., 1], of_points[..., 3], out=mean).div_(b.total_sides)
        torch.sub(b.difference, mean.unsqueeze(-1), out=b.d_rows)
        torch.mul(b.e_rows, b.d_rows, out=b.g_rows)
        torch.bmm(b.e_rows, b.dg_columns, out=of_means)
        torch.bmm(b.g_rows, b.dg_columns, out=of_squares)


def _cap_sums(z, point, pair, b: _Buffers) -> None:
    """Σz and Σz² of points; Σd, Σd², Σ z_l·d, Σ z_r·d of pairs: z is not linear in h then."""
    torch.sum(z, -1, out=point[0])
    torch.sum(torch.square(z, out=b.e), -1, out=point[1])
    b.t.copy_(z)
    torch.sub(b.t_left, b.t_right, out=b.d)
    torch.sum(b.d, -1, out=pair[0])
    for row, other in zip(pair[1:], (b.d, b.t_left, b.t_right), strict=True):
        torch.sum(torch.mul(b.d, other, out=b.spare), -1, out=row)


def _cap_moments(tables: _Tables, pairs: _Pairs) -> dict[str, Tensor]:
    sum_z, zz = (
        tables.take(tables.point[:, :, row], pairs.dense).sum(0) for row in (-2, -1)
    )
    sum_d, dd, left, right = (
        tables.take(tables.pair[:, :, row], pairs.left).sum(0) for row in range(-_PAIR_CAP, 0)
    )
    zd = torch.where(pairs.dense_side == 1, right, left)
    return {
        "zz": zz, "zd": zd * pairs.sign, "dd": dd, "sum_z": sum_z, "sum_d": sum_d * pairs.sign,
    }  # fmt: skip


def _merge(tables: _Tables, pairs: _Pairs, temperature, k, same) -> dict[str, Tensor]:
    """Columns [N, K] of the ``k``-th temperature from all chunk summaries.

    With m the maximum over all chunks, chunk sums are multiplied by
    ``exp((m_c − m)/T)`` and their Δz moments moved to the common origin.
    """
    take, inv = tables.take, 1 / temperature
    left, sign, p, q = pairs.left, pairs.sign, pairs.dense_side, pairs.pruned_side
    et, of_means, of_squares = tables.gram[:, :, k].unbind(2)
    highest_d, highest_p = (take(tables.point[:, :, 0], i) for i in (pairs.dense, pairs.pruned))
    total_d, total_p = (take(tables.point[:, :, 1 + k], i) for i in (pairs.dense, pairs.pruned))
    offset_d, offset_p = highest_d - highest_d.amax(0), highest_p - highest_p.amax(0)
    f_dense, f_pruned = (offset_d * inv).exp(), (offset_p * inv).exp()
    norm_d, norm_p = (f_dense * total_d).sum(0), (f_pruned * total_p).sum(0)
    weighted = take(et, left, p, p, 1)
    mean_t = (f_dense * (weighted + offset_d * total_d)).sum(0) / norm_d

    squared_d, squared_p, cross = (take(et, left, i, j, 0) for i, j in ((p, p), (q, q), (p, q)))
    norm2_d, norm2_p = (f_dense.square() * squared_d).sum(0), (f_pruned.square() * squared_p).sum(0)
    cosine = (f_dense * f_pruned * cross).sum(0) / (norm2_d * norm2_p).sqrt()

    # Per chunk: the centre for the weights of a side, then the moments about it.
    centres, moved = tables.centre[:, :, k], offset_p - offset_d
    centre_p, centre_q = (sign * take(centres, left, side) + moved for side in (p, q))
    p1, q1 = (sign * take(of_means, left, side, side, 0) for side in (p, q))
    p2, q2 = (take(of_squares, left, side, side, 0) for side in (p, q))
    r1, r2 = sign * take(of_means, left, p, p, 1), take(of_squares, left, p, p, 1)
    mean_p, var_p = _moments(f_dense, total_d, centre_p, p1, p2, norm_d)
    mean_q, var_q = _moments(f_pruned, total_p, centre_q, q1, q2, norm_p)
    _, var_r = _moments(f_dense.square(), squared_d, centre_p, r1, r2, norm2_d)

    log_ratio = norm_p.log() - norm_d.log()
    most, least, both = (take(tables.pair[:, :, row], left) for row in range(_PAIR_ROWS))
    gap = sign * (highest_p - highest_d)
    deviations = {
        "one_minus_cos_p": 1 - cosine,
        "kl_dense_pruned": log_ratio - mean_p * inv,
        "kl_pruned_dense": mean_q * inv - log_ratio,
        "var_r": var_r,
        "var_p": var_p,
        "var_q": var_q,
        "range_dz": (most + gap).amax(0) - (least + gap).amin(0),
    }
    # The top tokens agree if one logit is both maxima: there t is 0 twice.
    tops = (offset_d == 0) & (offset_p == 0) & (both == 0)
    levels = {
        "entropy_dense": (norm_d.log() - mean_t * inv).clamp(min=0),
        "pmax_dense": 1 / norm_d,
        "top1_same": (tops.any(0) | same).double(),
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
