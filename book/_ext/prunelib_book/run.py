"""The run that the book shows, as staged below ``_extra``."""

import json
from functools import lru_cache
from pathlib import Path


def extra(env) -> Path:
    """The folder whose files are published as they are."""
    return Path(env.srcdir) / "_extra"


def manifest(env) -> dict:
    """The run's manifest; the current page is read again when it changes."""
    file = extra(env) / "manifest.json"
    env.note_dependency(str(file))
    return _load(file, file.stat().st_mtime_ns)


def reference(env) -> dict[str, dict]:
    """Rows of the committed reference run's ledger by claim; empty when it is the run that the book shows."""
    file = extra(env) / "reference.json"
    env.note_dependency(str(file))
    found = _load(file, file.stat().st_mtime_ns)
    return {row["id"]: row for row in found.get("claims", [])}


@lru_cache(4)
def _load(file: Path, _changed: int) -> dict:
    return json.loads(file.read_text())
