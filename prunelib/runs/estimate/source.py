"""A model's configuration and the sizes of its files, without its weights."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prunelib.errors import PrunelibError, nearest
from prunelib.models import cachefiles, fetch, hub
from prunelib.models.checkpoint import check_config
from prunelib.models.supported import arch_for
from prunelib.paths import cache_dir, data_dir


@dataclass(frozen=True)
class Source:
    """A model that is not read yet."""

    config: object
    """Its transformers configuration, of a family that can be used."""
    download: int | None
    """Bytes that are still to be fetched, None where nothing says."""
    kept: int
    """Bytes that it takes on this disk once it is there, what is there already left out."""
    dropped: tuple[str, ...] = ()
    """Sublayers that its configuration lists as dropped."""


def source(name: str, revision: str | None = None) -> Source:
    """The configuration of an alias, a folder, a GGUF file or a hub id.

    Of a hub id only ``config.json`` and the listing of its files are asked for; of an alias that comes in a wheel
    nothing (``data/configs`` and ``data/models.toml`` know it). Raises PrunelibError as :func:`fetch.fetch` does, and
    for a GGUF file that was not converted yet: its configuration is inside.
    """
    alias, local = fetch.aliases().get(name), fetch._local(name)
    if revision and (local or (alias and alias.wheel)):
        raise PrunelibError(f"{name} takes no revision: only a hub id has revisions")
    if alias and alias.kind != "causal":
        raise PrunelibError(f"{name} is an {alias.kind}, not a causal language model")
    if alias and alias.wheel:
        there = cachefiles.read_marker(cache_dir() / "models" / name) is not None
        sizes = (0, 0) if there else (alias.download_mb * 10**6, alias.disk_mb * 10**6)
        with _known(name) as folder:
            return _of(folder, *sizes)
    if local and local.is_file():
        return _of(_converted(local), 0, 0)
    if local:
        return _of(local, 0, 0)
    return _of_hub(fetch._hub_id(name), revision, "" if alias else nearest(name, fetch.aliases()))


def _of(folder: Path, download: int | None, kept: int) -> Source:
    config = check_config(folder, arch_for)
    return Source(config, download, kept, tuple(getattr(config, "prunelib_drop", None) or ()))


@contextmanager
def _known(alias: str) -> Iterator[Path]:
    """A folder with the committed configuration of an alias."""
    with tempfile.TemporaryDirectory(prefix="prunelib-config-") as folder:
        shutil.copyfile(data_dir() / "configs" / f"{alias}.json", Path(folder) / "config.json")
        yield Path(folder)


def _converted(file: Path) -> Path:
    parts = fetch.gguf_parts(file)
    folder = cache_dir() / "models" / fetch._gguf_key(fetch._gguf_digest(parts))
    if cachefiles.read_marker(folder) is None:
        raise PrunelibError(
            f"{file} is not converted yet, and its configuration is inside: `prunelib run --profile smoke 02` does that"
        )
    return folder


def _of_hub(repo: str, revision: str | None, hint: str) -> Source:
    folder, sizes = hub.listed(repo, revision, hint)
    there = hub.cached(repo, revision) is not None
    total = sum(sizes.values()) if sizes is not None else None
    return _of(folder, 0 if there else total, 0 if there else total or 0)
