"""How the projection of many states on a large vocabulary is cut into products and tiles.

A product projects some thousand rows on a chunk of the vocabulary; its logits are summarised a tile at a time. The
sizes of these, not the number of rows, are the memory used.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from prunelib.errors import PrunelibError
from prunelib.measure.compiled import compiles
from prunelib.measure.head import Head

_PRODUCT_ROWS = 4096  # below this a projection is limited by packing its inputs
_BLOCK_ROWS = 8192  # more rows at once gain nothing
# A compiled tile: one shape for all models, so that its code is built once; what its loops hand on fits the cache.
_ROWS, _COLUMNS = 512, 1024
_ELEMENTS = 2**17  # of a tile on a CPU otherwise: what thirty operations hand on stays in the cache
_COPIES = 14  # tiles that these operations hold together (compiled: fewer)


@dataclass(frozen=True)
class Tiling:
    """How the work is cut."""

    compiled: bool
    """Whether whole tiles are summarised by compiled code."""
    chunk: int
    """Logits of a chunk (the last may be smaller)."""
    chunks: int
    items: int
    """Chains of a tile."""
    rows: int
    """Rows that a tile is padded to, at least ``items`` × P."""
    tiles: int
    """Tiles of one product."""
    block: int
    """Chains that are finished before the next are begun; a multiple of ``items``."""
    fixed: int
    """Bytes in use whatever the number of chains."""
    per_chain: int
    """Bytes in use for each chain of a block."""


def tiling(chains: Tensor, head: Head, temperatures: int, sums: int, max_bytes: int) -> Tiling:
    """The cut for ``chains`` [N, P, d], with ``sums`` numbers kept for each point and chunk.

    Compiled tiles where the logits of this call, times ``temperatures``, are many and such tiles fit ``max_bytes``.
    Raises PrunelibError if not even a small tile fits.
    """
    n, points, _ = chains.shape
    if compiles(n * points * head.vocab_size * temperatures, chains.device):
        rows = max(_ROWS, points)
        plan = _cut(chains, head, sums, max_bytes, _COLUMNS, rows // points, rows)
        if plan.block and plan.chunk == _COLUMNS:
            return plan
    elements = max_bytes // (2 * _COPIES * _size(head))
    if chains.device.type == "cpu":
        elements = min(elements, _ELEMENTS)
    limit = min(max(elements // points, 256), 2048 if chains.device.type == "cpu" else 8192)
    chunks = math.ceil(head.vocab_size / limit)
    chunk = 64 * math.ceil(head.vocab_size / chunks / 64)  # aligned rows
    plan = _cut(chains, head, sums, max_bytes, chunk, min(max(1, elements // (points * chunk)), max(1, n)))
    if not plan.block:
        least = (plan.fixed + plan.items * plan.per_chain) / 2**20
        raise PrunelibError(
            f"max_bytes is too small: projecting on a vocabulary of {head.vocab_size} takes "
            f"{least:.1f} MiB, and {max_bytes / 2**20:.1f} MiB are left for it"
        )
    return plan


def _cut(chains, head: Head, sums: int, max_bytes: int, chunk: int, items: int, rows: int | None = None) -> Tiling:
    """The cut with these tiles, padded to ``rows`` for compiled code; no chain a block if they do not fit."""
    points, d = chains.shape[1:]
    size, compiled = _size(head), rows is not None
    rows = rows or items * points
    chunks = math.ceil(head.vocab_size / chunk)
    tile = rows * chunk * size
    tiles = max(1, min(math.ceil(_PRODUCT_ROWS / (items * points)), max_bytes // (8 * tile)))
    fixed = (tiles + 1 + _COPIES) * tile
    if head.weight.dtype != head.dtype or head.bias is not None:
        fixed += chunk * (d + 1) * size
    # Inputs, the table of chunk summaries, and what merging makes of it in float64.
    per_chain = points * (2 * (d + 1) * size + chunks * (2 * sums * size + 20 * 8))
    block = max(0, min((max_bytes - fixed) // per_chain, max(items, _BLOCK_ROWS // points)))
    return Tiling(compiled, chunk, chunks, items, rows, tiles, block - block % items, fixed, per_chain)


def _size(head: Head) -> int:
    return torch.finfo(head.dtype).bits // 8
