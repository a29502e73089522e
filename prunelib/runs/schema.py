"""What the records of a run must look like: read from a folder that anybody may have made.

A run folder is data. Names in it are those of files below it, text is text, numbers are numbers;
whatever else is there ends in one line instead of in an error further on.
"""

import json
from functools import cache
from pathlib import Path

from prunelib.errors import PrunelibError

NAME = r"^[A-Za-z0-9][A-Za-z0-9._,+=-]{0,180}$"
"""A plain file name: no folder, not hidden, and nothing that markup or an address would read as more."""

_ID = {"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9._ +-]{0,120}$"}
_NAMES = {"pattern": NAME}
_TEXT = {"type": "string", "maxLength": 10_000}
_HASH = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_NUMBER = {"type": ["number", "string", "boolean", "null"], "minimum": -1.7e308, "maximum": 1.7e308,
           "maxLength": 10_000}  # fmt: skip
_SCALARS = {"type": "object", "additionalProperties": _NUMBER}
_ENTRY = {
    "type": "object",
    "properties": {
        "value": _NUMBER, "lo": _NUMBER, "hi": _NUMBER, "exact": {"type": "boolean"}, "notebook": _ID,
        "fmt": {"type": "string", "pattern": r"^#?,?(\.\d{1,2})?[a-z%]?$"},
        "verdict": {"enum": ["supported", "not supported", "undecided"]},
        "parts": {"type": "object", "additionalProperties": {"$ref": "#/$defs/entry"}},
        "sample": {"type": "array", "maxItems": 5, "items": {
            "type": "object", "required": ["count", "of"], "additionalProperties": False,
            "properties": {"count": {"type": "integer", "minimum": 0, "maximum": 10**12},
                           "of": {"type": "string", "pattern": "^[a-z][a-z -]{0,60}$"}},
        }},
    },
}  # fmt: skip
_CODE = {"type": "object", "properties": {"commit": {"type": ["string", "null"]}, "digest": _TEXT}}


def _of(entry: dict, names: dict = _ID) -> dict:
    return {"type": "object", "propertyNames": names, "additionalProperties": entry}


_MEASURED = {"type": ["number", "null"], "minimum": 0, "maximum": 1e12}
_COST = {"type": "object", "additionalProperties": False,
         "properties": dict.fromkeys(("seconds", "memory_gib", "computed"), _MEASURED)}  # fmt: skip
_NOTEBOOK = {
    "type": "object", "required": ["sha256"],
    "properties": {"sha256": _HASH, "source_sha256": _TEXT, "code": _CODE, "parameters": _SCALARS,
                   "wall_seconds": {"type": "number"}, "cost": _COST},
}  # fmt: skip
_TABLE = {"type": "object", "required": ["sha256"], "properties": {"sha256": _HASH, "rows": {"type": "integer"}}}
_FIGURE = {"type": "object", "required": ["files"], "properties": {"notebook": _ID, "files": _of(_HASH, _NAMES)}}
MANIFEST = {
    "$defs": {"entry": _ENTRY},
    "type": "object",
    "required": ["schema", "model", "profile", "notebooks", "tables", "figures", "values", "claims"],
    "properties": {
        "schema": {"const": 1}, "created": _TEXT, "profile": _ID, "seed": _NUMBER, "code": _CODE,
        "model": {"type": "object", "required": ["name"], "additionalProperties": _NUMBER,
                  "properties": {"name": _TEXT, "slug": {"type": "string", "pattern": NAME}}},
        "packages": _SCALARS, "hardware": _SCALARS, "parameters": _of(_SCALARS, _NAMES),
        "notebooks": _of(_NOTEBOOK, _NAMES), "tables": _of(_TABLE, _NAMES), "figures": _of(_FIGURE, _NAMES),
        "values": _of({"$ref": "#/$defs/entry"}), "claims": _of({"$ref": "#/$defs/entry"}),
    },
}  # fmt: skip
_SIZE = {
    "type": "array",
    "minItems": 2,
    "maxItems": 2,
    "items": {"type": "number", "exclusiveMinimum": 0, "maximum": 100},
}
_SHARE = {"type": "number", "minimum": -100, "maximum": 100}
_SHORT = {"type": "string", "maxLength": 300}
_READINGS = {
    "type": "array", "maxItems": 100,
    "items": {
        "type": "object", "required": ["title", "x", "box", "places"], "additionalProperties": False,
        "properties": {
            "title": _SHORT, "x": _SHORT, "box": {"type": "array", "minItems": 4, "maxItems": 4, "items": _SHARE},
            "places": {"type": "array", "maxItems": 1000, "items": {
                "type": "array", "minItems": 3, "maxItems": 3,
                "prefixItems": [_SHARE, _SHORT, {"type": "array", "maxItems": 100, "items": {
                    "type": "array", "minItems": 2, "maxItems": 2, "items": _SHORT}}],
            }},
        },
    },
}  # fmt: skip
CARD = {
    "type": "object",
    "required": ["id", "number", "title", "notebook", "caption", "alt", "size", "column_size", "readings",
                 "column_readings", "provenance"],
    "additionalProperties": False,
    "properties": {
        "id": {"type": "string", "pattern": NAME}, "notebook": {"type": "string", "pattern": NAME},
        "number": _ID, "title": _TEXT, "caption": _TEXT, "alt": {"type": "string", "maxLength": 100_000},
        "size": _SIZE, "column_size": _SIZE, "readings": _READINGS, "column_readings": _READINGS,
        "provenance": {"type": "object"},
    },
}  # fmt: skip
_KINDS = {"manifest": MANIFEST, "card": CARD}


def read(file: Path, kind: str) -> dict:
    """The JSON object in ``file``, which must look like a ``kind`` (manifest, card).

    Raises PrunelibError naming the file and the first thing that is wrong with it.
    """
    file = Path(file)
    if file.is_symlink():
        raise PrunelibError(f"{file} is a link: a run folder holds its files itself")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        json.dumps(found, ensure_ascii=False).encode()  # a lone surrogate is no text
        problem = next(_validator(kind).iter_errors(found), None)
    except RecursionError:
        raise PrunelibError(f"{file} is not a {kind} of a run: it is nested too deeply") from None
    except OSError as error:
        raise PrunelibError(f"cannot read {file}: {error.strerror}") from error
    except ValueError:  # of the decoders
        raise PrunelibError(f"{file} is not a {kind} of a run: it is no JSON text in UTF-8") from None
    if problem:
        place = "/".join(str(step)[:60] for step in problem.absolute_path)
        message = " ".join(problem.message.split())
        message = message if len(message) < 120 else f"{message[:60]} … {message[-50:]}"
        raise PrunelibError(f"{file} is not a {kind} of a run{f': {place}' if place else ''}: {message}")
    return found


@cache
def _validator(kind: str):
    from jsonschema import Draft202012Validator

    return Draft202012Validator(_KINDS[kind])


def plain_file(folder: Path, *names: str) -> Path:
    """The file ``folder/names…`` if it lies there itself.

    Raises PrunelibError for one that is missing, is reached through a link, or is no ordinary file.
    """
    path = Path(folder)
    for name in names:
        path = path / name
        if path.is_symlink():
            raise PrunelibError(f"{path} is a link: a run folder holds its files itself")
    if not path.is_file():
        raise PrunelibError(f"{path.relative_to(folder)} is in the manifest but missing")
    return path
