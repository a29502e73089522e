"""Files of the model cache: marker, verification, lock, and errors of the disk in one line."""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from prunelib.errors import PrunelibError
from prunelib.files import sha256

MARKER = "prunelib.json"

_FULL = {errno.ENOSPC, errno.EDQUOT}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """A full, read-only or misplaced cache folder becomes one clear line."""
    try:
        yield
    except PrunelibError as error:
        # A library's own words for a full disk, already shortened by its caller.
        if "No space left" not in str(error):
            raise
        raise PrunelibError(_full(folder)) from error
    except OSError as error:
        raise PrunelibError(_in_words(error, folder)) from error
    except Exception as error:  # safetensors reports the disk in its own exception
        if "No space left" in str(error):
            raise PrunelibError(_full(folder)) from error
        raise


def _in_words(error: OSError, folder: Path) -> str:
    if error.errno in _FULL:
        return _full(folder)
    if error.errno in _DENIED:
        return f"cannot write the model cache {folder} ({error.strerror}): set PRUNELIB_CACHE to a writable folder"
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        return f"the model cache {folder} is not a folder (a file is in the way): remove it or set PRUNELIB_CACHE"
    return f"cannot use the model cache {folder}: {error.strerror or error}"


def _full(folder: Path) -> str:
    return f"the disk is full at the model cache {folder}: free some space or set PRUNELIB_CACHE to another disk"


def need_space(folder: Path, wanted: int, what: str) -> None:
    """Refuse before starting when ``wanted`` bytes do not fit."""
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise PrunelibError(
            f"{what} needs {wanted / 1e6:.0f} MB in {folder} and only "
            f"{free / 1e6:.0f} MB are free: free some space or set PRUNELIB_CACHE"
        )


@contextlib.contextmanager
def locked(final: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of one cached model; it ends with the process, even a killed one."""
    final.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(final.parent / f".{final.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"waiting for another process that prepares {final.name}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def write_marker(folder: Path, source: dict) -> None:
    """Record source, sizes, times and hashes of all files, after they reached the disk."""
    entries = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest = sha256(path)
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        path.chmod(0o644)  # a cache may be shared; safetensors writes for the owner only
        stat = path.stat()
        entries[path.relative_to(folder).as_posix()] = {
            "size": stat.st_size,
            "mtime_ns": stat.st_mtime_ns,
            "sha256": digest,
        }
    text = json.dumps(source | {"files": entries}, indent=1, sort_keys=True)
    with open(folder / MARKER, "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_marker(folder: Path) -> dict | None:
    """The marker of a complete model, or None."""
    try:
        return json.loads((folder / MARKER).read_text())
    except (OSError, ValueError):
        return None


def is_complete(folder: Path, source: dict) -> bool:
    """Whether the folder was finished, from this source by this recipe."""
    marker = read_marker(folder)
    return marker is not None and all(marker.get(k) == v for k, v in source.items())


def verify(folder: Path, repair: str, content: bool = False) -> None:
    """Compare every file with the marker; a full hash only where size or time differ, or of each with ``content``.

    Bits that turn on a disk leave size and time as they were. Raises PrunelibError naming the file and the command
    that repairs it.
    """
    marker = read_marker(folder)
    touched = False
    for name, known in marker["files"].items():
        path = folder / name
        stat = path.stat() if path.is_file() else None
        same = stat and (stat.st_size, stat.st_mtime_ns) == (known["size"], known["mtime_ns"])
        if same and not content:
            continue
        if stat is None or stat.st_size != known["size"] or sha256(path) != known["sha256"]:
            fault = "missing" if stat is None else "not what was written"
            raise PrunelibError(
                f"corrupt model cache: {path} is {fault}; repair it with `prunelib models --refetch {repair}`"
            )
        touched = touched or not same
        known["mtime_ns"] = stat.st_mtime_ns
    if touched:  # copied or restored: the same bytes with another time
        with contextlib.suppress(OSError):
            temporary = folder / f".{MARKER}.{os.getpid()}"
            temporary.write_text(json.dumps(marker, indent=1, sort_keys=True) + "\n")
            os.replace(temporary, folder / MARKER)


def remove_leftovers(final: Path) -> None:
    """Delete what killed runs left beside ``final``. Call with the lock held."""
    for path in final.parent.glob(f".{final.name}.*.part"):
        shutil.rmtree(path, ignore_errors=True)
