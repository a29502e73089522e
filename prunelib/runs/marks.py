"""Folders of ours: known by a mark, a small file that only we write into them.

Whatever replaces or removes a folder asks here first. A folder without the
mark belongs to the user, whatever the names of the files in it.
"""

import os
from pathlib import Path

from prunelib.errors import PrunelibError
from prunelib.files import read_json, write_json

SCHEMA = 1
KINDS = ("run", "site", "build", "comparison")


def mark(folder: Path, kind: str) -> None:
    """Make ``folder`` one of ``kind`` (:data:`KINDS`); the folder is created if needed."""
    if not is_marked(folder, kind):
        write_json(_file(folder, kind), {"kind": kind, "schema": SCHEMA})


def is_marked(folder: Path, kind: str) -> bool:
    """Whether ``folder`` carries our mark of this ``kind``. A link in the mark's place is none."""
    file = _file(folder, kind)
    return os.path.isfile(file) and not os.path.islink(file) and read_json(file).get("kind") == kind


def is_empty(folder: Path) -> bool:
    """Whether there is no such folder or nothing in it. Raises PrunelibError if it cannot be read or is a file."""
    try:
        return not any(Path(folder).iterdir())
    except FileNotFoundError:
        return True
    except OSError as error:
        raise PrunelibError(f"cannot write to {folder}: {error.strerror}") from error


def _file(folder: Path, kind: str) -> Path:
    if kind not in KINDS:
        raise ValueError(f"no kind of folder is called '{kind}'")
    return Path(folder) / f".prunelib-{kind}"
