"""JSON lines, read with an error that names file and line."""

import json
from collections.abc import Sequence
from pathlib import Path

from prunelib.errors import PrunelibError


def read_jsonl(file: Path | str, required: Sequence[str] = ()) -> list[dict]:
    """The objects of a file, one a line; empty lines are skipped.

    Raises PrunelibError, naming file and line, for what is not a JSON object or
    lacks a field of ``required``, and for a file that cannot be read or is empty.
    """
    file = Path(file).expanduser()
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError as error:
        raise PrunelibError(f"cannot read {file}: {error.strerror}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        try:
            row = json.loads(line)
        except UnicodeDecodeError as error:
            raise PrunelibError(f"{where}: not UTF-8 text") from error
        except ValueError as error:
            raise PrunelibError(f"{where}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise PrunelibError(f"{where}: needs an object, got {type(row).__name__}")
        missing = [name for name in required if name not in row]
        if missing:
            raise PrunelibError(f'{where}: no field "{missing[0]}"')
        rows.append(row)
    if not rows:
        raise PrunelibError(f"{file} holds no row")
    return rows
