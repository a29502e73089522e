"""``prunelib doctor``: what is wrong with an environment, and how to fix it."""

import importlib.metadata as metadata
import importlib.util
import os
import shutil
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement

from prunelib.errors import PrunelibError
from prunelib.models import fetch
from prunelib.paths import cache_dir, project_root
from prunelib.runs.options import DEFAULT_MODEL

_INSTALL = "run `make` in the project folder, or `pip install -e .`"


class Check(NamedTuple):
    """One line of the report; ``fix`` is empty when all is well."""

    name: str
    ok: bool
    message: str
    fix: str


def report() -> list[Check]:
    """All checks, the cheap ones first. Needs no network and writes nothing that stays."""
    return [_python(), *_packages(), _pip(), _device(), _threads(), _cache(), _model(), _hub()]


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    ok = sys.version_info >= (3, 11)
    return Check(
        "python", ok, f"{version} ({sys.executable})", "" if ok else "make the environment with Python 3.11 or newer"
    )


def _requirements() -> list[str]:
    """The project's own ranges: from the clone, else from the installed metadata."""
    file = project_root() / "pyproject.toml"
    if file.is_file():
        return tomllib.loads(file.read_text())["project"]["dependencies"]
    return [line for line in metadata.requires("prunelib") or () if "extra ==" not in line]


def _packages() -> list[Check]:
    """One line when all requirements are met, else one for each that is not."""
    bad, versions = [], {}
    for requirement in map(Requirement, _requirements()):
        if requirement.marker and not requirement.marker.evaluate():
            continue
        try:
            version = versions[requirement.name] = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            bad.append(Check(f"package {requirement.name}", False, "not installed", _INSTALL))
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            message = f"{version}, needed {requirement.specifier}"
            bad.append(Check(f"package {requirement.name}", False, message, _INSTALL))
    shown = ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers", "numpy") if name in versions)
    return bad or [Check("packages", True, f"all {len(versions)} within range ({shown})", "")]


def _pip() -> Check:
    ok = importlib.util.find_spec("pip") is not None
    return Check(
        "pip",
        ok,
        "present" if ok else "not in this environment (model wheels need it)",
        "" if ok else f"run `{sys.executable} -m ensurepip`",
    )


def _device() -> Check:
    import torch

    if torch.cuda.is_available():
        name = torch.cuda.get_device_name(0)
        return Check("device", True, f"cuda: {name} ({torch.cuda.device_count()} in all)", "")
    if torch.backends.mps.is_available():
        return Check("device", True, "mps", "")
    return Check("device", True, "cpu (the default model needs no more)", "")


def _threads() -> Check:
    import torch

    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    ok = threads <= cores
    return Check(
        "threads",
        ok,
        f"torch uses {threads} of {cores} cores",
        "" if ok else f"set OMP_NUM_THREADS={cores}: more threads than cores are slower",
    )


def _cache() -> Check:
    folder, name = cache_dir(), "model cache"
    # The cache may not exist yet: what counts is the nearest folder that does.
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    fix = "set PRUNELIB_CACHE to a writable folder"
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        return Check(name, False, f"{folder} is not writable ({error.strerror})", fix)
    free = shutil.disk_usage(existing).free / 1e6
    needed = 0 if _is_cached(DEFAULT_MODEL) else fetch.aliases()[DEFAULT_MODEL].disk_mb
    ok = free >= needed
    return Check(name, ok, f"{folder} ({free / 1e3:.1f} GB free)", "" if ok else f"free {needed} MB there, or {fix}")


def _model() -> Check:
    name = f"model {DEFAULT_MODEL}"
    if not _is_cached(DEFAULT_MODEL):
        size = fetch.aliases()[DEFAULT_MODEL].download_mb
        return Check(
            name,
            True,
            f"not cached; {size} MB are downloaded on first use "
            f"(`prunelib models --fetch {DEFAULT_MODEL}` does it now)",
            "",
        )
    try:
        path = fetch.fetch(DEFAULT_MODEL, progress=False).path
    except PrunelibError as error:
        return Check(name, False, str(error), f"prunelib models --refetch {DEFAULT_MODEL}")
    return Check(name, True, f"cached and unchanged in {path}", "")


def _is_cached(alias: str) -> bool:
    return any(row["alias"] == alias and row["cached"] == "yes" for row in fetch.models())


def _hub() -> Check:
    """What huggingface_hub will do; a token is named, never shown."""
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    words = [f"HF_HOME {home}", "HF_TOKEN set" if os.environ.get("HF_TOKEN") else "no HF_TOKEN"]
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        words.append("HF_HUB_OFFLINE: cached hub models only")
    if home.exists() and not home.is_dir():
        return Check("hub", False, f"{home} is not a folder", "set HF_HOME to a folder")
    return Check("hub", True, ", ".join(words), "")
