"""Where things live: the project's files, the user's cache, the run folders."""

import os
import re
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


def slugify(name: str, revision: str | None = None) -> str:
    """A folder name: ``org/model`` -> ``org--model``; a local path keeps its last part."""
    path = Path(name).expanduser()
    local = path.exists() or name.startswith((".", "/", "~"))
    text = path.resolve().name if local else name.replace("/", "--")
    if revision:
        text += f"--{revision}"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-") or "model"
