"""Run folders: tables, parts of the manifest, fingerprints, atomic writes.

A run folder ``runs/<model>/<profile>/`` holds everything one run produced::

    tables/*.parquet      tidy results, each with the key it was computed under
    figures/<id>.*        the files of each figure
    notebooks/*.ipynb     executed notebooks
    parts/<notebook>.json what each notebook recorded (values, claims, hashes)
    manifest.json         the parts merged: the one file the book reads
    units/                finished pieces of a table that is not complete yet
    unfinished/<notebook>/ what a notebook that runs again will put in place of its finished results

Every write goes to a temporary name and is renamed, so a killed run leaves
only whole files. A table is computed again only when its key changed or its
file is not the one that was recorded.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from prunelib.errors import PrunelibError
from prunelib.versions import code_digest, code_version, hardware, packages

__all__ = ["code_digest", "code_version", "hardware", "packages"]  # recorded with every run, and found here

SCHEMA = 1


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


# ---------------------------------------------------------------- fingerprints


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_sha256(notebook: Path) -> str:
    """Hex SHA-256 of a source notebook: of the file, but for what an editor adds that is opened and saved.

    Outputs, counters and notes on the cells do not count, so that a notebook that was
    run in Jupyter is the same source as before.
    """
    content = read_json(notebook)
    try:
        cells = [
            [cell["cell_type"], "".join(cell["source"]), cell["metadata"].get("tags", [])] for cell in content["cells"]
        ]
    except (KeyError, TypeError, AttributeError):
        return sha256(notebook)
    return key_hash({"cells": cells})


def key_hash(key: dict) -> str:
    """Hex SHA-256 of a JSON-serialisable key, independent of the order of its fields."""
    return hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()


LONGEST = 140
"""Bytes of a table's name; with what is put around it, a file name stays below the 255 of most file systems."""


def short(name: str) -> str:
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


# ---------------------------------------------------------------- progress


def report_progress(what: str, done: int, total: int) -> None:
    """Tell whoever started this notebook how far it is.

    A notebook's own output must stay clean (a bar floods a page), so progress
    goes to the file named by ``PRUNELIB_PROGRESS``, which the command line
    reads, or to a terminal when there is one.
    """
    target = os.environ.get("PRUNELIB_PROGRESS")
    if target:
        with contextlib.suppress(OSError):
            Path(target).write_text(json.dumps({"what": what, "done": done, "total": total}))
    elif sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r{what}: {done}/{total}", end=end, file=sys.stderr, flush=True)


# ---------------------------------------------------------------- tables


def write_table(path: Path, frame: pd.DataFrame, key: dict) -> None:
    """Write a tidy table with the key it was computed under in its metadata."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    extra = {b"prunelib_key": key_hash(key).encode()}
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **extra})
    with writing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_table(path: Path, key: dict | None = None) -> pd.DataFrame | None:
    """The table at ``path``, or None if it is missing, damaged or of another key."""
    try:
        file = pq.ParquetFile(path)
        stored = (file.schema_arrow.metadata or {}).get(b"prunelib_key", b"").decode()
        if key is not None and stored != key_hash(key):
            return None
        return file.read().to_pandas()
    except (OSError, pa.ArrowException):
        return None


def has_key(path: Path) -> bool:
    """Whether the file is a table or an :class:`ArrayFile` of ours."""
    try:
        return b"prunelib_key" in (pq.read_schema(path).metadata or {})
    except (OSError, pa.ArrowException):
        return False


def read_csv(path: Path) -> pd.DataFrame:
    """A figure's data exactly as it was drawn: every float as written, an empty field is NaN."""
    return pd.read_csv(path, float_precision="round_trip", keep_default_na=False, na_values=[""])


class ArrayFile:
    """Many named arrays in one compressed file, written one after another and read by name.

    ``add`` takes raw bytes with the shape and type to make them an array again.
    Used as a context: the file appears only when the last array is in it.
    """

    _SCHEMA = pa.schema(
        [("name", pa.string()), ("shape", pa.list_(pa.int64())), ("dtype", pa.string()), ("data", pa.large_binary())]
    )

    def __init__(self, path: Path, key: dict):
        self._writing = writing(path)
        self._schema = self._SCHEMA.with_metadata({b"prunelib_key": key_hash(key).encode()})

    def __enter__(self) -> "ArrayFile":
        target = self._writing.__enter__()
        self._writer = pq.ParquetWriter(target, self._schema, compression="zstd", compression_level=1)
        return self

    def add(self, name: str, shape: Sequence[int], dtype: str, data) -> None:
        row = {"name": [name], "shape": [list(shape)], "dtype": [dtype], "data": [data]}
        self._writer.write_table(pa.table(row, schema=self._schema))

    def __exit__(self, *error) -> bool | None:
        self._writer.close()
        return self._writing.__exit__(*error)


def read_arrays(path: Path, key: dict) -> Iterator[tuple[str, list[int], str, bytes]] | None:
    """``(name, shape, dtype, data)`` of an :class:`ArrayFile`, or None if missing, damaged or of another key."""
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException):
        return None
    if (file.schema_arrow.metadata or {}).get(b"prunelib_key", b"").decode() != key_hash(key):
        return None
    groups = (file.read_row_group(i).to_pylist()[0] for i in range(file.num_row_groups))
    return ((row["name"], row["shape"], row["dtype"], row["data"]) for row in groups)


class Run:
    """One run folder and what one notebook records in it.

    ``folder`` is ``runs/<model>/<profile>``; ``notebook`` names the part this
    object writes; ``common`` goes into the part as it is (model, parameters…).

    Files of finished notebooks are never touched: what would take their place
    waits in ``unfinished/<notebook>/`` until this notebook is finished too
    (:func:`prunelib.runfolder.finish`).
    """

    def __init__(self, folder: Path, notebook: str, common: dict):
        self.folder = Path(folder)
        self.notebook = notebook
        self.units_computed = self.units_reused = 0
        every = [*((self.folder, part) for part in parts(self.folder)), *unfinished(self.folder)]
        finished = [part for home, part in every if home == self.folder and "executed" in part]
        self._standing = {name for part in finished for name in described(part)}
        self._standing |= {f"parts/{part['notebook']}.json" for part in finished}
        self._recorded = [
            (name, entry, home)
            for home, part in every
            for name, entry in (part.get("earlier", {}) | part["tables"]).items()
        ]
        # An interrupted run of this notebook had tables too: their hashes stay known until this one is finished.
        mine = (self._home(f"parts/{notebook}.json"), notebook)
        before = next((part for home, part in every if (home, part["notebook"]) == mine), {})
        earlier = before.get("earlier", {}) | before.get("tables", {})
        self.part = common | {
            "notebook": notebook,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "earlier": earlier,
            **{field: {} for field in ("tables", "figures", "values", "claims")},
        }
        self._started = time.time()
        self.save()

    def place(self, name: str) -> Path:
        """Where to write the file ``name`` (``figures/fig-x.csv``): its place, or apart if a finished one is there."""
        return self._home(name) / name

    def _home(self, name: str) -> Path:
        return self.folder / UNFINISHED / self.notebook if name in self._standing else self.folder

    def tables(
        self,
        names: Sequence[str],
        key: dict,
        items: Sequence,
        compute: Callable[[object], dict[str, pd.DataFrame]],
    ) -> dict[str, pd.DataFrame]:
        """Compute a group of tables piece by piece, or read them back.

        ``compute(item)`` returns one frame for each of ``names``; the frames of
        all ``items`` are concatenated in order. A finished item is saved at
        once and not computed again after an interruption, as long as ``key``
        (everything the numbers depend on) is the same, and its files are the
        ones that were written.
        """
        files = {name: self._recorded_file(short(name), key) for name in names}
        found = {name: read_table(file, key) for name, file in files.items() if file}
        if len(found) == len(names) and all(frame is not None for frame in found.values()):
            self.units_reused += len(items)
            for name, file in files.items():
                self._record(short(name), file, len(found[name]), key)
            self.save()
            return found
        return self._compute(names, key, items, compute)

    def table(self, name: str, key: dict, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """One table computed in one piece, or read back when its key is the same."""
        return self.tables([name], key, [None], lambda _: {name: compute()})[name]

    def _compute(self, names, key, items, compute) -> dict[str, pd.DataFrame]:
        units = self.folder / "units" / f"{short(names[0])}-{key_hash(key)[:16]}"
        pieces: dict[str, list[pd.DataFrame]] = {name: [] for name in names}
        for number, item in enumerate(items):
            files = {name: units / f"{number:04d}.{short(name)}.parquet" for name in names}
            frames = {name: read_table(file, key) if is_sealed(file) else None for name, file in files.items()}
            if any(frame is None for frame in frames.values()):
                frames = compute(item)
                for name, file in files.items():
                    write_table(file, frames[name], key)
                    seal(file)
                self.units_computed += 1
            else:
                self.units_reused += 1
            for name in names:
                pieces[name].append(frames[name])
            report_progress(names[0], number + 1, len(items))
        found = {}
        for name in names:
            file = self.place(_table(short(name)))
            write_table(file, pd.concat(pieces[name], ignore_index=True), key)
            # Read back, so that a first run and a resumed one hand on the very same frames.
            found[name] = read_table(file, key)
            self._record(short(name), file, len(found[name]), key)
        # Only a table whose hash is on record can do without its units.
        self.save()
        shutil.rmtree(units, ignore_errors=True)
        return found

    def _recorded_file(self, name: str, key: dict) -> Path | None:
        """The table ``name`` of this key that some notebook recorded, if its file is still what it was."""
        wanted = key_hash(key)
        for other, entry, home in reversed(self._recorded):
            if other == name and entry.get("key") == wanted:
                for folder in dict.fromkeys((home, self.folder)):
                    file = folder / _table(name)
                    if file.is_file() and sha256(file) == entry.get("sha256"):
                        return file
        return None

    def _record(self, name: str, file: Path, rows: int, key: dict) -> None:
        """Name a table in this part; one that waits for another notebook's end is copied to where it belongs."""
        target = self.place(_table(name))
        if file not in (target, self.folder / _table(name)):
            with writing(target) as temporary:
                shutil.copyfile(file, temporary)
            file = target
        entry = {"sha256": sha256(file), "rows": rows, "key": key_hash(key)}
        self.part["tables"][name] = entry
        home = self.folder if file == self.folder / _table(name) else self._home(_table(name))
        self._recorded.append((name, entry, home))

    def save(self) -> None:
        """Write this notebook's part and merge all parts into ``manifest.json``."""
        self.part["units"] = {"computed": self.units_computed, "reused": self.units_reused}
        self.part["seconds"] = round(time.time() - self._started, 1)
        write_json(self.place(f"parts/{self.notebook}.json"), self.part)
        merge(self.folder)


UNFINISHED = "unfinished"


def _table(name: str) -> str:
    return f"tables/{name}.parquet"


def described(part: dict) -> dict[str, str]:
    """The files that a part vouches for, by their names below the run folder: their hashes."""
    found = {_table(name): entry["sha256"] for name, entry in part["tables"].items()}
    for figure in part["figures"].values():
        found |= {f"figures/{name}": digest for name, digest in figure["files"].items()}
    return found


def parts(folder: Path) -> list[dict]:
    """The well-formed parts below ``folder``, in the order of their names; damaged ones are as good as none."""
    found = ((file.stem, read_json(file)) for file in sorted((Path(folder) / "parts").glob("*.json")))
    return [part for stem, part in found if _is_part(part, stem)]


def unfinished(folder: Path) -> list[tuple[Path, dict]]:
    """Parts of notebooks that began again and are not finished, each with the folder its files wait in."""
    top = Path(folder) / UNFINISHED
    homes = [home for home in sorted(top.glob("*/")) if not (home.is_symlink() or top.is_symlink())]
    return [(home, part) for home in homes for part in parts(home) if part["notebook"] == home.name]


def _is_part(part: dict, stem: str) -> bool:
    """Whether what was read has the shape of a part, and names only files that lie below the run folder."""

    def of_dicts(entries) -> bool:
        return isinstance(entries, dict) and all(isinstance(entry, dict) for entry in entries.values())

    tables, figures = part.get("tables"), part.get("figures")
    return (
        part.get("notebook") == stem
        and isinstance(part.get("created"), str)
        and all(of_dicts(part.get(field)) for field in ("tables", "figures", "values", "claims"))
        and all(isinstance(part.get(field, {}), dict) for field in ("code", "parameters", "model", "executed", "units"))
        and of_dicts(part.get("earlier", {}))
        and all(is_plain(name) and isinstance(entry.get("sha256"), str) for name, entry in tables.items())
        and all(is_plain(name) for figure in figures.values()
                for name in (figure["files"] if isinstance(figure.get("files"), dict) else ["/"]))
    )  # fmt: skip


# ---------------------------------------------------------------- manifest


def merge(folder: Path) -> dict:
    """Merge ``parts/*.json`` into ``manifest.json`` and return it.

    What all notebooks share (model, profile, code, packages, hardware) is
    taken from the newest part; values and claims are tagged with the notebook
    that recorded them.
    """
    folder = Path(folder)
    known = parts(folder)
    if not known:
        raise PrunelibError(f"nothing was run in {folder}: start with `prunelib run`")
    newest = max(known, key=lambda part: part["created"])
    shared = ("model", "profile", "seed", "code", "packages", "hardware", "created")
    manifest = {"schema": SCHEMA, **{field: newest.get(field) for field in shared}}
    manifest |= {field: {} for field in ("parameters", "notebooks", "tables", "figures", "values", "claims")}
    for part in known:
        name = part["notebook"]
        manifest["parameters"][name] = part.get("parameters", {})
        if "executed" in part:
            manifest["notebooks"][name] = part["executed"] | {key: part.get(key, {}) for key in ("units", "code")}
        manifest["tables"] |= part["tables"]
        manifest["figures"] |= part["figures"]
        for field in ("values", "claims"):
            manifest[field] |= {k: v | {"notebook": name} for k, v in part[field].items()}
    write_json(folder / "manifest.json", manifest)
    return manifest
