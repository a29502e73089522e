"""Files of text that a user may have written, read with an error that names file and line."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from prunelib.errors import PrunelibError

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


def text(file: Path | str) -> str:
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


def lines(file: Path | str) -> Iterator[tuple[int, str]]:
    """(number, text) of the lines of a :func:`text` that are not blank, however they end."""
    for number, line in enumerate(text(file).split("\n"), 1):
        if line.strip():
            yield number, line.removesuffix("\r")


def read_jsonl(file: Path | str, fields: Mapping[str, type] | None = None) -> list[Row]:
    """The objects of a file, one a line; empty lines are skipped.

    Raises PrunelibError, naming file and line, for what is not a JSON object, is no text in UTF-8, or
    lacks one of ``fields`` (name: type), and for a file that cannot be read or is empty.
    """
    file = Path(file).expanduser()
    rows = []
    for number, line in lines(file):
        row = parse(line, f"{file}, line {number}")
        for name, kind in (fields or {}).items():
            row[name] = row.need(name, kind)
        rows.append(row)
    if not rows:
        raise PrunelibError(f"{file} holds no row")
    return rows


def parse(line: str, where: str) -> Row:
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
