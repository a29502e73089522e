"""The shape of the package: one direction of imports, light import, short files."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from prunelib import paths

ROOT = Path(paths.__file__).parent
# Each may import only those before it (and itself).
ORDER = [
    "errors", "paths", "jsonl", "paper", "cachefiles", "arch", "checkpoint", "hub", "fetch", "lm", "hooks", "text",
    "methods", "measure", "sources", "versions", "store", "schema", "marks", "runfolder", "committed", "tasks",
    "experiments", "figures", "claims", "facts", "sitecheck", "pages", "stubs", "publish", "reference", "runner",
    "doctor", "cli",
]  # fmt: skip
# The chapter records figures and claims through these; a checkpoint with dropped sublayers is loaded as it was
# saved. Nothing flows back.
ALLOWED = {("experiments", "figures"), ("experiments", "claims"), ("lm", "text"), ("lm", "methods")}


def imports(file):
    """Modules of prunelib that a file imports anywhere, with the package's own name resolved."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("prunelib."))
        if not isinstance(node, ast.ImportFrom):
            continue
        package = ["prunelib", *file.relative_to(ROOT).parts[:-1]]
        base = package[: len(package) + 1 - node.level] if node.level else []
        parts = base + (node.module.split(".") if node.module else [])
        if parts[:1] == ["prunelib"]:
            yield from ([parts[1]] if len(parts) > 1 else [alias.name for alias in node.names])


@pytest.mark.parametrize("file", sorted(ROOT.rglob("*.py")), ids=lambda f: f.relative_to(ROOT).as_posix())
def test_imports_go_one_way(file):
    own = file.relative_to(ROOT).parts[0].removesuffix(".py")
    if own in ("__init__", "__main__", "_project"):
        return
    for other in imports(file):
        if other in ORDER and other != own and (own, other) not in ALLOWED:
            assert ORDER.index(other) < ORDER.index(own), f"{own} imports {other}"


def test_relative_imports_are_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "tasks").mkdir()
    file = tmp_path / "tasks" / "x.py"
    file.write_text("from . import score\nfrom ..errors import A\nfrom .. import lm\nimport prunelib.store\n")
    assert list(imports(file)) == ["tasks", "errors", "lm", "store"]


# What chapters share lies in these; no chapter imports another, but for what is listed.
SHARED = {"chapter", "checks", "comparison", "zoo", "__init__"}
NOT_YET = {
    ("head", "layerwise"), ("middle", "layerwise"), ("middle", "theorems"), ("theorems", "layerwise"),
    ("theorems", "theorem_checks"), ("case", "tasks"), ("retrieval", "tasks"), ("task_tables", "tasks"),
    ("perplexities", "methods"),
}  # fmt: skip


def test_chapters_do_not_import_each_other():
    found = set()
    for file in (ROOT / "experiments").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            module = getattr(node, "module", None) or ""
            if isinstance(node, ast.ImportFrom) and module.startswith("prunelib.experiments"):
                names = [module.split(".")[2]] if module.count(".") > 1 else [alias.name for alias in node.names]
                found |= {(file.stem, name) for name in names}
    modules = {file.stem for file in (ROOT / "experiments").glob("*.py")}
    pairs = {(own, other) for own, other in found if other in modules and not {own, other} & SHARED}
    assert pairs == NOT_YET


def test_every_module_has_its_place_in_the_order():
    found = {p.stem for p in ROOT.iterdir() if (p.suffix == ".py" or (p / "__init__.py").is_file())}
    assert found - {"__init__", "__main__"} == set(ORDER)


MODULES = ["prunelib", "prunelib.figures", "prunelib.store", "prunelib.cli", "prunelib.claims"]


@pytest.mark.parametrize("module", MODULES)
def test_import_is_light(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_files_stay_short():
    long = {f.name: n for f in ROOT.rglob("*.py") if (n := len(f.read_text().splitlines())) > 450}
    assert not long


def test_only_hooks_registers_hooks():
    users = [f.name for f in ROOT.rglob("*.py") if "register_forward" in f.read_text() and f.name != "hooks.py"]
    assert users == []


def test_public_names_are_exported_and_documented():
    import prunelib

    assert set(prunelib.__all__) == {"LM", "__version__", "compress", "load", "methods", "theory", "trace_layers"}
    for name in prunelib.__all__:
        assert name == "__version__" or getattr(prunelib, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'prune'"):
        prunelib.prune  # noqa: B018
