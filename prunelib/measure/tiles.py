"""How the projection of many states on a large vocabulary is cut into pieces of work.

A chunk of the vocabulary is one task of one thread, which projects blocks of rows
and works through the logits in tiles that fit its cache. All buffers are
allocated once a thread; their size, not the number of rows, is the memory used.
"""

import math
import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from prunelib.errors import PrunelibError
from prunelib.measure.head import Head

_CACHE_ELEMENTS = 96_000  # of a tile: four float32 buffers of it fit a 2 MiB cache
_GEMM_ROWS = 480  # below this a projection is limited by packing the weights
_BLOCK_ROWS = 8192  # more rows at once gain nothing
_MAX_WORKERS = 4  # Python's lock limits how many threads can issue small operations


@dataclass(frozen=True)
class Tiling:
    """How the work is cut."""

    chunk: int
    """Logits of a chunk (the last may be smaller)."""
    chunks: int
    items: int
    """Chains of a tile, which is ``items`` × P × ``chunk`` logits."""
    tiles: int
    """Tiles of one projection."""
    threads: int
    block: int
    """Chains that are finished before the next are begun; a multiple of ``items``."""


def tiling(chains: Tensor, head: Head, sums: int, max_bytes: int) -> Tiling:
    """The cut for ``chains`` [N, P, d] with ``sums`` numbers kept for each point and chunk.

    Raises PrunelibError if not even one tile of each thread fits ``max_bytes``.
    """
    items_total, points, d = chains.shape
    size = torch.finfo(head.dtype).bits // 8
    on_cpu = chains.device.type == "cpu"
    threads = min(torch.get_num_threads(), _MAX_WORKERS) if on_cpu else 1
    # A GPU has no use for small tiles: one tile a projection, in an eighth of the budget.
    elements = _CACHE_ELEMENTS if on_cpu else max(_CACHE_ELEMENTS, max_bytes // (8 * size))
    chunk_limit = 2048 if on_cpu else 8192
    chunks = math.ceil(head.vocab_size / min(max(elements // points, 256), chunk_limit))
    chunk = 64 * math.ceil(head.vocab_size / chunks / 64)  # aligned rows
    chunks = math.ceil(head.vocab_size / chunk)
    items = min(max(1, elements // (points * chunk)), max(1, items_total))
    tiles = max(1, math.ceil(_GEMM_ROWS / (items * points))) if on_cpu else 1
    tile = points * items * chunk * size
    fixed = threads * (tiles + 6) * tile
    if head.weight.dtype != head.dtype or head.bias is not None:
        fixed += threads * chunk * (d + 1) * size
    # Inputs, the table of chunk summaries, and what merging makes of it in float64.
    per_item = points * (2 * (d + 1) * size + chunks * (2 * sums * size + 20 * 8))
    block = min((max_bytes - fixed) // per_item, max(items, _BLOCK_ROWS // points))
    block -= block % items
    if block < 1:
        least = (fixed + items * per_item) / 2**20
        raise PrunelibError(
            f"max_bytes is too small: projecting on a vocabulary of {head.vocab_size} takes "
            f"{least:.1f} MiB, and {max_bytes / 2**20:.1f} MiB are left for it"
        )
    return Tiling(chunk, chunks, items, tiles, threads, block)


@contextmanager
def workers(plan: Tiling, device: torch.device) -> Iterator:
    """A function that runs ``work(chunk_index, workspace)`` for all chunks."""
    if device.type != "cpu":
        space = Workspace()
        yield lambda work: [work(index, space) for index in range(plan.chunks)]
        return
    available = torch.get_num_threads()

    def start():
        # Both hold for this thread only. Flushing matters: squares of tail probabilities
        # are denormal numbers, on which a CPU is a hundred times slower.
        torch.set_num_threads(max(1, available // plan.threads))
        torch.set_flush_denormal(True)

    spaces: queue.SimpleQueue = queue.SimpleQueue()
    for _ in range(plan.threads):
        spaces.put(Workspace())

    def guarded(work, index):
        space = spaces.get()
        try:
            with torch.no_grad():
                work(index, space)
        finally:
            spaces.put(space)

    with ThreadPoolExecutor(plan.threads, initializer=start) as pool:
        try:
            yield lambda work: list(pool.map(lambda i: guarded(work, i), range(plan.chunks)))
        finally:
            torch.set_num_threads(available)


class Workspace:
    """One worker's buffers, allocated at first use and reused for every tile."""

    def __init__(self):
        self._flat: dict[str, Tensor] = {}

    def get(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        size = math.prod(shape)
        if name not in self._flat or len(self._flat[name]) < size:
            self._flat[name] = like.new_empty(size)
        return self._flat[name][:size].view(shape)
