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

from prunelib import fetch
from prunelib.errors import PrunelibError
from prunelib.paths import cache_dir, project_root

DEFAULT_MODEL = "smollm2-135m-instruct"
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


def models() -> list[dict]:
    """Rows of ``prunelib models``: alias, kind, licence, download, cached, path, source."""
    return fetch.models()


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    ok = sys.version_info >= (3, 12)
    return Check("python", ok, f"{version} ({sys.executable})", "" if ok else
                 "make the environment with Python 3.12 or newer")
