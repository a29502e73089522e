"""What computed a result: the code, the installed packages, the machine."""

import ast
import contextlib
import hashlib
import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

from prunelib import paths

PACKAGES = [
    *("prunelib", "torch", "transformers", "huggingface-hub", "tokenizers", "safetensors", "gguf"),
    *("numpy", "scipy", "pandas", "pyarrow", "matplotlib", "seaborn"),
    *("papermill", "nbclient", "ipykernel", "myst-nb", "jupyter-book", "sphinx"),
]
# Sources that can change a number in any table, and packages of which a table depends on what it
# imports; all others can only change how a table is shown.
_FILES = ("arch.py", "checkpoint.py", "fetch.py", "hooks.py", "jsonl.py", "lm.py", "paper.py", "text.py")
_SHARED = (*_FILES, "measure", "methods")
_GROWN = ("tasks", "experiments")


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
    grown = {
        f"prunelib.{file.relative_to(root).with_suffix('').as_posix().replace('/', '.')}": file
        for folder in _GROWN
        for file in (root / folder).rglob("*.py")
    }
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
