"""A run split over several processes or machines: each computes some chapters, a plain run puts them together.

``prunelib run --shard 2/4`` computes its share of the chapters in ``<run>/shards/2-of-4``, a run folder of its own.
``prunelib run`` then takes every table that a shard computed under the same key, and computes only what none did.
"""

from collections.abc import Sequence
from pathlib import Path

from prunelib.errors import PrunelibError
from prunelib.runs.beside import reference_manifest
from prunelib.runs.folders import SHARDS
from prunelib.runs.sources import Notebook


def parse(text: str) -> tuple[int, int]:
    """``"2/4"`` as (2, 4). Raises PrunelibError for anything but a share of one of several.

    >>> parse("2/4")
    (2, 4)
    """
    number, slash, of = text.partition("/")
    plain = all(part.isascii() and part.isdigit() for part in (number, of))
    if not (slash and plain and 1 <= int(number) <= int(of)):
        raise PrunelibError(f"a shard is written as 2/4, the second of four, not '{text}'")
    return int(number), int(of)


def share(books: Sequence[Notebook], number: int, of: int, slug: str = "") -> list[Notebook]:
    """The chapters of shard ``number`` of ``of``: the dearest first, each to the shard that has least to do.

    What chapters cost relative to each other is told by the reference run of the model ``slug``, or the default
    model's. Raises PrunelibError where there are fewer chapters than shards.
    """
    if len(books) < of:
        raise PrunelibError(f"{len(books)} chapters cannot be split into {of} shards: take at most {len(books)}")
    known = reference_manifest(slug).get("notebooks", {})
    cost = {book.id: (known.get(book.id, {}).get("cost") or {}).get("seconds") or 60.0 for book in books}
    shards: list[list[Notebook]] = [[] for _ in range(of)]
    for book in sorted(books, key=lambda book: (-cost[book.id], book.id)):
        least = min(shards, key=lambda one: (len(one) > 0, sum(cost[b.id] for b in one)))
        least.append(book)
    chosen = {book.id for book in shards[number - 1]}
    return [book for book in books if book.id in chosen]


def folder(run: Path, number: int, of: int) -> Path:
    """Where a shard of the run in ``run`` computes."""
    return Path(run) / SHARDS / f"{number}-of-{of}"
