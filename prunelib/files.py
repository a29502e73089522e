"""Files: atomic writes, hashes, folders that appear whole, and text that a user may have written.

Every write goes to a temporary sibling and is renamed, so a killed process leaves only whole files and folders.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from prunelib.errors import PrunelibError

# ---------------------------------------------------------------- atomic writes


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A temporary sibling of ``path`` to write to; renamed to ``path`` on success.

    Raises PrunelibError in one line when the disk is full or the folder is
    read-only, after removing the temporary file.
    """
    path = Path(path)
    # The suffix stays last: some writers choose their format by it.
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise PrunelibError(f"cannot write {path}: {reason}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: Path, content) -> None:
    """Write ``content`` as sorted, indented JSON, atomically."""
    with writing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, sort_keys=True, default=float) + "\n")


def read_json(path: Path) -> dict:
    """The JSON object at ``path``, or ``{}`` when there is none or it is damaged."""
    try:
        found = json.loads(Path(path).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


# ---------------------------------------------------------------- folders


@contextlib.contextmanager
def new_folder(final: Path, replace: bool = True) -> Iterator[Path]:
    """A temporary sibling of ``final`` to fill; it takes the place of ``final`` on success.

    An older ``final`` is replaced as a whole, or stays as it was. ``replace=False`` takes only the place of
    an absent or empty one. What killed processes left of this is removed or, where it is the only copy, put back.
    Raises OSError.
    """
    final = Path(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    clear_dead_parts(final)
    part, old = (final.with_name(f".{final.name}.{os.getpid()}.{kind}") for kind in ("part", "old.part"))
    shutil.rmtree(part, ignore_errors=True)  # left by a killed process of the same number
    part.mkdir()
    try:
        yield part
        if final.is_dir():
            final.rename(old) if replace else final.rmdir()  # fails if somebody filled it meanwhile
        try:
            part.rename(final)
        except OSError:
            if old.is_dir():
                old.rename(final)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def clear_dead_parts(final: Path) -> None:
    """Remove what processes that are no more left beside ``final``; a moved-away ``final`` is put back."""
    for path in final.parent.glob(f".{final.name}.*.part"):
        process, _, old = path.name.removeprefix(f".{final.name}.").removesuffix(".part").partition(".")
        if process.isdigit() and old in ("", "old") and not path.is_symlink() and not _is_running(int(process)):
            if old and not final.exists():
                path.rename(final)
            else:
                shutil.rmtree(path, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True  # somebody else's
    return True


# ---------------------------------------------------------------- hashes and names


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def key_hash(key: dict) -> str:
    """Hex SHA-256 of a JSON-serialisable key, independent of the order of its fields."""
    return hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()


LONGEST = 140
"""Bytes of a table's name; with what is put around it, a file name stays below the 255 of most file systems."""


def short_name(name: str) -> str:
    """``name``, or where it is longer than :data:`LONGEST` its beginning and a hash of the whole."""
    encoded = name.encode()
    if len(encoded) <= LONGEST:
        return name
    return f"{encoded[:80].decode(errors='ignore').rstrip('-_,.')}-{hashlib.sha256(encoded).hexdigest()[:16]}"


def is_plain(name) -> bool:
    """Whether ``name`` is that of a file beside others: no folder, not hidden, nothing that a system refuses."""
    return isinstance(name, str) and re.fullmatch(r"[^./\\\0][^/\\\0]{0,254}", name) is not None


def seal(path: Path) -> None:
    """Record the hash of a file that no part of the manifest names, in ``<name>.sha256`` beside it."""
    seal = path.with_name(f"{path.name}.sha256")
    with writing(seal) as temporary:
        temporary.write_text(sha256(path) + "\n")


def is_sealed(path: Path) -> bool:
    """Whether ``path`` is, byte for byte, the file that :func:`seal` saw."""
    try:
        return path.with_name(f"{path.name}.sha256").read_text().strip() == sha256(path)
    except (OSError, ValueError):
        return False


# ---------------------------------------------------------------- text that a user may have written


_NAMES = {str: "text", int: "a whole number", list: "a list", dict: "an object"}


class Row(dict):
    """An object of a file; ``where`` says in which file and line it stands."""

    where: str

    def need(self, name: str, kind: type = str, filled: bool = True):
        """The field ``name``, which must be a ``kind``, and hold something unless ``filled`` is False.

        Raises PrunelibError naming file and line. For ``str``, numbers are taken as their digits (ids often are).
        """
        if name not in self:
            raise PrunelibError(f'{self.where}: no field "{name}"')
        value = self[name]
        if kind is str and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise PrunelibError(f'{self.where}: "{name}" must be {_NAMES[kind]}, not {_shown(value)}')
        if filled and hasattr(value, "__len__") and not (value.strip() if isinstance(value, str) else value):
            raise PrunelibError(f'{self.where}: "{name}" is empty')
        return value


def _shown(value) -> str:
    text = "null" if value is None else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}…"


def read_text(file: Path | str) -> str:
    """A file's text; a byte order mark is no part of it.

    Raises PrunelibError for a file that cannot be read, or naming the line that is not UTF-8.
    """
    try:
        content = Path(file).expanduser().read_bytes()
        return content.removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    except OSError as error:
        raise PrunelibError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise PrunelibError(f"{file}, line {line}: not UTF-8 text") from None


def text_lines(file: Path | str) -> Iterator[tuple[int, str]]:
    """(number, text) of the lines of a :func:`read_text` that are not blank, however they end."""
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if line.strip():
            yield number, line.removesuffix("\r")


def read_jsonl(file: Path | str, fields: Mapping[str, type] | None = None) -> list[Row]:
    """The objects of a file, one a line; empty lines are skipped.

    Raises PrunelibError, naming file and line, for what is not a JSON object, is no text in UTF-8, or
    lacks one of ``fields`` (name: type), and for a file that cannot be read or is empty.
    """
    file = Path(file).expanduser()
    rows = []
    for number, line in text_lines(file):
        row = parse_row(line, f"{file}, line {number}")
        for name, kind in (fields or {}).items():
            row[name] = row.need(name, kind)
        rows.append(row)
    if not rows:
        raise PrunelibError(f"{file} holds no row")
    return rows


def parse_row(line: str, where: str) -> Row:
    """The JSON object of a line. Raises PrunelibError that begins with ``where``."""
    try:
        found = json.loads(line, parse_constant=_no_number)
        json.dumps(found, ensure_ascii=False).encode()
    except RecursionError:
        raise PrunelibError(f"{where}: nested too deeply") from None
    except UnicodeEncodeError:
        raise PrunelibError(f"{where}: holds half a character (a lone surrogate), which is no text") from None
    except ValueError as error:
        raise PrunelibError(f"{where}: not JSON ({' '.join(str(error).split())[:120]})") from None
    if not isinstance(found, dict):
        raise PrunelibError(f"{where}: needs an object, got {type(found).__name__}")
    row = Row(found)
    row.where = where
    return row


def _no_number(name: str):
    raise ValueError(f"{name} is no JSON number")
