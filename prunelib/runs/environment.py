"""What computed a result: the code, the installed packages, the machine."""

import ast
import contextlib
import hashlib
import os
import platform
import shutil
import subprocess
from fnmatch import fnmatch
from functools import cache
from importlib import metadata
from pathlib import Path

from prunelib import paths

PACKAGES = [
    *("prunelib", "torch", "transformers", "huggingface-hub", "tokenizers", "safetensors", "gguf"),
    *("numpy", "scipy", "pandas", "pyarrow", "matplotlib", "seaborn"),
    *("papermill", "nbclient", "ipykernel", "myst-nb", "jupyter-book", "sphinx"),
]
_ROOT = Path(paths.__file__).resolve().parent
# A model and what is done to it can change any number, and methods are found by their registry; of these rooms
# everything counts. How a table is shown, kept or found again (runs, report, figures and pages) changes none.
_ALWAYS = ("models", "methods")
_NEVER = ("report", "runs", "chapters.*.figures", "chapters.*.page", "models.cachefiles", "models.hub")
_YET = ("runs.zoo",)


@cache
def code_digest(of: str = "") -> str:
    """Hex SHA-256 over the package's sources, or over those that can change a table made by module ``of``.

    These are models and methods, and whatever ``of`` imports that can change a number: a new task does not
    make old theorem checks out of date, and nor does a page that is worded anew.
    """
    digest = hashlib.sha256()
    for file in sources_of(of) if of else sorted(_ROOT.rglob("*.py")):
        digest.update(file.relative_to(_ROOT).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def sources_of(module: str) -> list[Path]:
    """Files of the package whose code can change a table made by ``module``, sorted."""
    known = {_name(file): file for file in _ROOT.rglob("*.py")}
    always = tuple(f"prunelib.{room}." for room in _ALWAYS)
    found, waiting = set(), {module, *(name for name in known if name.startswith(always))}
    while waiting:
        name = waiting.pop()
        if name in known and name not in found and (name == module or _counts(name)):
            found.add(name)
            waiting |= _imported(known[name])
    return sorted(known[name] for name in found)


def _name(file: Path) -> str:
    return ".".join(["prunelib", *file.relative_to(_ROOT).with_suffix("").parts])


def _counts(name: str) -> bool:
    def among(patterns) -> bool:
        return any(fnmatch(name, f"prunelib.{p}") or fnmatch(name, f"prunelib.{p}.*") for p in patterns)

    inside = name.count(".") > 1  # the ground holds errors, paths and files
    return inside and (among(_YET) or not among(_NEVER))


def _imported(file: Path) -> set[str]:
    """Names of everything a source file imports, at its head or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = _name(file).split(".")[: -node.level] if node.level else []
            module = ".".join([*package, *([node.module] if node.module else [])])
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
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
    """Processor, core count, memory and system of this machine, and the compiler that ``torch.compile`` finds."""
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
        "compiler": _compiler(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _compiler() -> str | None:
    """What torch looks for on a CPU (``CXX``), or None where nothing is compiled (:mod:`prunelib.measure.compiled`)."""
    if os.environ.get("PRUNELIB_COMPILE") == "0":
        return None
    name = os.environ.get("CXX", "clang++" if platform.system() == "Darwin" else "g++")
    return name if shutil.which(name) else None
