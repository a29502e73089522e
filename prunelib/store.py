"""Run folders: tables, parts of the manifest, fingerprints, atomic writes.

A run folder ``runs/<model>/<profile>/`` holds everything one run produced::

    tables/*.parquet      tidy results, each with the key it was computed under
    figures/<id>.*        the files of each figure
    notebooks/*.ipynb     executed notebooks
    parts/<notebook>.json what each notebook recorded (values, claims, hashes)
    manifest.json         the parts merged: the one file the book reads
    units/                finished pieces of a table that is not complete yet

Every write goes to a temporary name and is renamed, so a killed run leaves
only whole files. A table is computed again only when its key changed.
"""

import ast
import contextlib
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from prunelib import paths
from prunelib.errors import PrunelibError

SCHEMA = 1
PACKAGES = [
    *("prunelib", "torch", "transformers", "huggingface-hub", "tokenizers", "safetensors", "gguf"),
    *("numpy", "scipy", "pandas", "pyarrow", "matplotlib", "seaborn"),
    *("papermill", "nbclient", "ipykernel", "myst-nb", "jupyter-book", "sphinx"),
]
# Sources that can change a number in any table, and packages of which a table depends on what it
# imports; all others can only change how a table is shown.
_SHARED = ("arch.py", "checkpoint.py", "fetch.py", "lm.py", "hooks.py", "text.py", "paper.py", "compress", "measure")
_GROWN = ("tasks", "experiments")


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


def key_hash(key: dict) -> str:
    """Hex SHA-256 of a JSON-serialisable key, independent of the order of its fields."""
    return hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()


@cache
def code_digest(of: str = "") -> str:
    """Hex SHA-256 over the package's sources, or over those that can change a table made by module ``of``.

    These are the shared ones, and of the packages that are grown chapter by chapter only
    what ``of`` imports: a new task does not make old theorem checks out of date.
    """
    root = Path(__file__).resolve().parent
    digest = hashlib.sha256()
    for file in _sources_of(of, root) if of else sorted(root.rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _sources_of(module: str, root: Path) -> list[Path]:
    grown = {f"prunelib.{file.relative_to(root).with_suffix('').as_posix().replace('/', '.')}": file
             for folder in _GROWN for file in (root / folder).rglob("*.py")}  # fmt: skip
    found, waiting = set(), {module}
    while waiting:
        name = waiting.pop()
        if name in grown and name not in found:
            found.add(name)
            waiting |= _imported(grown[name])
    shared = [file for name in _SHARED for file in [root / name, *(root / name).rglob("*.py")] if file.is_file()]
    return sorted([*shared, *(grown[name] for name in found)])


def _imported(file: Path) -> set[str]:
    """Names of everything a source file imports, at its head or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@cache
def code_version() -> dict:
    """``{commit, dirty, digest}`` of the running code; commit is None outside a git checkout."""
    root = paths.project_root()

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(root), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD") if (root / ".git").exists() else None
    dirty = bool(git("status", "--porcelain", "--", "prunelib", "notebooks", "data", "book"))
    return {"commit": commit, "dirty": dirty if commit else None, "digest": code_digest()}


@cache
def packages() -> dict[str, str]:
    """Installed versions of the packages that matter to a result, and of Python."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


@cache
def hardware() -> dict:
    """Processor, core count, memory and system of this machine."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), model)
    memory = None
    with contextlib.suppress(ValueError, OSError, AttributeError):
        memory = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gib": memory,
        "system": f"{platform.system()} {platform.machine()}",
    }


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


def read_csv(path: Path) -> pd.DataFrame:
    """A figure's data exactly as it was drawn: every float as written, an empty field is NaN."""
    return pd.read_csv(path, float_precision="round_trip", keep_default_na=False, na_values=[""])


class ArrayFile:
    """Many named arrays in one compressed file, written one after another and read by name.

    ``add`` takes raw bytes with the shape and type to make them an array again.
    Used as a context: the file appears only when the last array is in it.
    """

    _SCHEMA = pa.schema([("name", pa.string()), ("shape", pa.list_(pa.int64())), ("dtype", pa.string()),
                         ("data", pa.large_binary())])  # fmt: skip

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
    """

    def __init__(self, folder: Path, notebook: str, common: dict):
        self.folder = Path(folder)
        self.notebook = notebook
        self.units_computed = self.units_reused = 0
        self.part = common | {
            "notebook": notebook,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            **{field: {} for field in ("tables", "figures", "values", "claims")},
        }
        self._started = time.time()
        self.save()

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
        (everything the numbers depend on) is the same.
        """
        found = {name: read_table(self._table(name), key) for name in names}
        if all(frame is not None for frame in found.values()):
            self.units_reused += len(items)
        else:
            found = self._compute(names, key, items, compute)
        for name in names:
            entry = {"sha256": sha256(self._table(name)), "rows": len(found[name])}
            self.part["tables"][name] = entry | {"key": key_hash(key)}
        self.save()
        return found

    def table(self, name: str, key: dict, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """One table computed in one piece, or read back when its key is the same."""
        return self.tables([name], key, [None], lambda _: {name: compute()})[name]

    def _compute(self, names, key, items, compute) -> dict[str, pd.DataFrame]:
        units = self.folder / "units" / f"{names[0]}-{key_hash(key)[:16]}"
        pieces: dict[str, list[pd.DataFrame]] = {name: [] for name in names}
        for number, item in enumerate(items):
            files = {name: units / f"{number:04d}.{name}.parquet" for name in names}
            frames = {name: read_table(file, key) for name, file in files.items()}
            if any(frame is None for frame in frames.values()):
                frames = compute(item)
                for name, file in files.items():
                    write_table(file, frames[name], key)
                self.units_computed += 1
            else:
                self.units_reused += 1
            for name in names:
                pieces[name].append(frames[name])
            report_progress(names[0], number + 1, len(items))
        whole = {name: pd.concat(pieces[name], ignore_index=True) for name in names}
        for name in names:
            write_table(self._table(name), whole[name], key)
        shutil.rmtree(units, ignore_errors=True)
        # Read back, so that a first run and a resumed one hand on the very same frames.
        return {name: read_table(self._table(name), key) for name in names}

    def _table(self, name: str) -> Path:
        return self.folder / "tables" / f"{name}.parquet"

    def save(self) -> None:
        """Write this notebook's part and merge all parts into ``manifest.json``."""
        self.part["units"] = {"computed": self.units_computed, "reused": self.units_reused}
        self.part["seconds"] = round(time.time() - self._started, 1)
        write_json(self.folder / "parts" / f"{self.notebook}.json", self.part)
        merge(self.folder)


# ---------------------------------------------------------------- manifest


def merge(folder: Path) -> dict:
    """Merge ``parts/*.json`` into ``manifest.json`` and return it.

    What all notebooks share (model, profile, code, packages, hardware) is
    taken from the newest part; values and claims are tagged with the notebook
    that recorded them.
    """
    folder = Path(folder)
    parts = [part for file in sorted((folder / "parts").glob("*.json")) if (part := read_json(file))]
    if not parts:
        raise PrunelibError(f"nothing was run in {folder}: start with `prunelib run`")
    newest = max(parts, key=lambda part: part["created"])
    shared = ("model", "profile", "seed", "code", "packages", "hardware", "created")
    manifest = {"schema": SCHEMA, **{field: newest.get(field) for field in shared}}
    manifest |= {field: {} for field in ("parameters", "notebooks", "tables", "figures", "values", "claims")}
    for part in parts:
        name = part["notebook"]
        manifest["parameters"][name] = part.get("parameters", {})
        if "executed" in part:
            manifest["notebooks"][name] = part["executed"] | {"units": part["units"], "code": part["code"]}
        manifest["tables"] |= part["tables"]
        manifest["figures"] |= part["figures"]
        for field in ("values", "claims"):
            manifest[field] |= {k: v | {"notebook": name} for k, v in part[field].items()}
    write_json(folder / "manifest.json", manifest)
    return manifest
