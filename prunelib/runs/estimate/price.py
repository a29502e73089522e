"""What counted work costs at the rates of a machine: seconds, operations, memory and disk of every notebook."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from prunelib.runs.estimate.calibration import Rates
from prunelib.runs.estimate.source import Source
from prunelib.runs.estimate.work import Loaded, Moved, Plan, Solved

FIXED = 700_000
"""Bytes of an executed notebook with its tables that do not grow with the model: the mean of a run."""


@dataclass(frozen=True)
class Row:
    """One notebook, or all of them: seconds, bytes at most and on disk, operations."""

    notebook: str
    seconds: float
    memory: float
    disk: float
    flops: float


@dataclass(frozen=True)
class Estimate:
    """All notebooks of a run, and what they were priced with."""

    rows: list[Row]
    rates: Rates
    plan: Plan
    model_disk: int
    """Bytes that the model will take on this disk, beside the run folder."""
    download: int | None

    @property
    def total(self) -> Row:
        """Seconds, operations and run folder add up, and one notebook runs at a time."""
        seconds, disk, flops = (sum(getattr(row, name) for row in self.rows) for name in ("seconds", "disk", "flops"))
        return Row("total", seconds, max(row.memory for row in self.rows), disk + self.model_disk, flops)

    def warnings(self, folder: Path, memory: float | None) -> list[str]:
        """A line for each of main memory (GiB, None if unknown) and free disk that is smaller than the estimate."""
        total, found = self.total, []
        if memory is not None and total.memory > memory * 2**30:
            found.append(
                f"about {total.memory / 1e9:.1f} GB of memory are needed, this machine has {memory * 2**30 / 1e9:.1f}: "
                "take a smaller --profile, or --dtype bfloat16"
            )
        there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
        free = shutil.disk_usage(there).free
        if total.disk > free:
            found.append(f"about {total.disk / 1e9:.1f} GB of disk are needed and {free / 1e9:.1f} are free at {there}")
        return found


def price(plan: Plan, rates: Rates, source: Source, base: float) -> Estimate:
    """``base``: bytes of a process that has imported everything and no model."""
    shape, rows = plan.shape, []
    stored = getattr(getattr(source.config, "dtype", None), "itemsize", shape.itemsize)
    # Files of another type are in memory beside the numbers that are made of them.
    loading = shape.parameters * (shape.itemsize + (stored if stored != shape.itemsize else 0))
    for name, pieces in plan.pieces.items():
        loaded = Loaded() in pieces
        # A compressed model is held beside the dense one; what is asked of it needs its memory on top.
        held = max((p.memory(shape) for p in pieces if isinstance(p, Solved | Moved)), default=0)
        working = max((p.memory(shape) for p in pieces if not isinstance(p, Solved | Moved)), default=0)
        rows.append(
            Row(
                name,
                sum(times * piece.seconds(shape, rates) for piece, times in pieces.items()),
                base + max(loaded * loading, loaded * shape.bytes + held + working),
                FIXED + plan.written[name],
                sum(times * piece.flops(shape) for piece, times in pieces.items()),
            )
        )
    return Estimate(rows, rates, plan, source.kept, source.download)
