"""Where things live: the project's files, the user's cache, the run folders."""

import hashlib
import os
import re
import tomllib
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def project_root() -> Path:
    """The folder that holds ``data/``, ``notebooks/`` and ``book/``.

    In a clone it is the repository; in an installed wheel the same folders are
    packed below ``prunelib/_project``.
    """
    packed = _PACKAGE / "_project"
    return packed if packed.is_dir() else _PACKAGE.parent


def data_dir() -> Path:
    """Committed facts: reported numbers, prompts, model aliases."""
    return project_root() / "data"


def notebooks_dir() -> Path:
    """The source notebooks (parameters cell tagged, no outputs)."""
    return project_root() / "notebooks"


def cache_dir() -> Path:
    """Model cache: ``$PRUNELIB_CACHE``, else ``prunelib`` below the XDG cache."""
    chosen = os.environ.get("PRUNELIB_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).expanduser() / "prunelib"


def work_dir() -> Path:
    """The folder that ``runs/`` lies in: the current one, or the one above it in a folder of notebooks.

    Jupyter starts a notebook in the folder that the notebook lies in; there it finds the same
    runs as the command line one folder above.
    """
    here = Path.cwd()
    notebooks = here.name == "notebooks" and any(here.glob("[0-9]*-*.ipynb"))
    return Path("..") if notebooks else Path()


@cache
def _aliases() -> frozenset[str]:
    return frozenset(tomllib.loads((data_dir() / "models.toml").read_text()))


def slugify(name: str, revision: str | None = None) -> str:
    """A folder name: ``org/model`` -> ``org--model``; a local path has its last two parts and a hash of the whole.

    The same path gives the same name, from wherever it is meant; two paths never do.
    """
    text = name.replace("/", "--")[:120]
    if name not in _aliases():
        path = Path(os.path.expanduser(name))
        if os.path.exists(path) or name.startswith((".", "/", "~")):
            path = Path(os.path.realpath(path))
            text = f"{path.parent.name}-{path.name}".strip("-")[-80:]
            text += f"-{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"
    if revision:
        text += f"--{revision}"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-") or "model"
