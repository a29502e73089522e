"""The estimate of a run as a table, or as JSON."""

import json
from pathlib import Path

from prunelib.runs.estimate.price import Estimate, Row
from prunelib.runs.runner import memory_limit


def parameters(folder: Path, chosen: dict[str, dict]) -> str:
    """The run folder, and what each notebook would be given."""
    lines = [f"{name}: " + " ".join(f"{k}={v!r}" for k, v in some.items()) for name, some in chosen.items()]
    return "\n".join([f"run folder: {folder}", *lines])


def text(found: Estimate, folder: Path) -> str:
    """A line a notebook, the total, what was measured, and warnings."""
    heads = ("", "time", "memory", "disk", "TFLOP")
    rows = [heads, *(_cells(row) for row in [*found.rows, found.total])]
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    lines = [
        row[0].ljust(widths[0]) + "".join("  " + cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]
    lines.insert(-1, "-" * len(lines[0]))
    return "\n".join(["", *lines, "", *_about(found), *(f"warning: {line}" for line in _warnings(found, folder))])


def as_json(found: Estimate, folder: Path, chosen: dict[str, dict]) -> str:
    """The same for a program: seconds, bytes and operations."""
    rates = found.rates
    record = {
        "run_folder": str(folder),
        "notebooks": [_record(row) | {"parameters": chosen[row.notebook]} for row in found.rows],
        "total": _record(found.total),
        "model": {"parameters": found.plan.shape.parameters, "download_bytes": found.download,
                  "disk_bytes": found.model_disk},
        "calibration": {"seconds": rates.seconds, "threads": rates.threads, "load": rates.load,
                        "flop_per_second": rates.gemm, "bytes_per_second": rates.bandwidth},
        "warnings": _warnings(found, folder),
    }  # fmt: skip
    return json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)


def _record(row: Row) -> dict:
    return {"notebook": row.notebook, "seconds": row.seconds, "memory_bytes": round(row.memory),
            "disk_bytes": round(row.disk), "flop": row.flops}  # fmt: skip


def _cells(row: Row) -> tuple[str, ...]:
    return row.notebook, duration(row.seconds), size(row.memory), size(row.disk), f"{row.flops / 1e12:.2f}"


def _about(found: Estimate) -> list[str]:
    rates, shape = found.rates, found.plan.shape
    fetched = {None: "of unknown size", 0: "there already"}.get(found.download) or f"{size(found.download)} to download"
    busy = (
        f"; other work on this machine makes everything take {rates.load:.1f} times as long" if rates.load > 1.2 else ""
    )
    return [
        f"The model has {shape.parameters / 1e6:,.0f} M parameters in {shape.layers} layers; its files are {fetched}.",
        f"Calibrated in {rates.seconds:.0f} s with {rates.threads} thread{'s' * (rates.threads > 1)}: "
        f"{rates.gemm / 1e9:.0f} GFLOP/s, {rates.bandwidth / 1e9:.1f} GB/s{busy}. Times are rough, and "
        "suppose that the machine stays as busy as it is; a table that is there already takes none.",
    ]


def _warnings(found: Estimate, folder: Path) -> list[str]:
    return found.warnings(folder, memory_limit())


def duration(seconds: float) -> str:
    """
    >>> duration(42.3), duration(125), duration(9000)
    ('42 s', '2.1 min', '2.5 h')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size(number: float) -> str:
    """
    >>> size(3.4e6), size(2.19e9)
    ('3 MB', '2.2 GB')
    """
    return f"{number / 1e6:.0f} MB" if number < 1e9 else f"{number / 1e9:.1f} GB"
