"""The shape of the package: rooms, one direction of imports, no circle, light import, short files."""

import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import grimp
import pytest

from prunelib import paths
from prunelib.chapters import names
from prunelib.runs import environment, sources
from prunelib.runs.options import RunOptions

ROOT = Path(paths.__file__).parent
GROUND = ("errors", "paths", "files")
ROOMS = ("models", "engine", "measure", "methods", "tasks", "runs", "report", "chapters")
GRAPH = grimp.build_graph("prunelib", cache_dir=None)


def imports(module: str) -> set[str]:
    """Modules of the package that a module imports anywhere, relative imports resolved."""
    return GRAPH.find_modules_directly_imported_by(module)


def test_imports_go_one_way_and_not_in_a_circle():
    """The contracts in pyproject.toml, which ``make lint`` checks too."""
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=paths.project_root(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "3 kept, 0 broken" in done.stdout, done.stdout


def test_only_the_ground_files_and_the_command_lie_at_the_top():
    found = {p.stem for p in ROOT.iterdir() if p.suffix == ".py"}
    assert found == {"__init__", *GROUND, "cli"}
    assert {p.name for p in ROOT.iterdir() if p.is_dir()} - {"__pycache__", "_project"} == set(ROOMS)


# ---------------------------------------------------------------- chapters


def test_a_chapter_is_a_folder_named_like_its_notebook():
    assert names() == sorted(book.chapter.replace("-", "_") for book in sources.select([]))
    for name in names():
        files = {file.stem for file in (ROOT / "chapters" / name).glob("*.py")}
        assert files >= {"measure", "figures", "page", "work"}, name


def test_no_chapter_imports_another():
    for name in names():
        allowed = ("prunelib.chapters.chapter", f"prunelib.chapters.{name}")
        for module in GRAPH.find_descendants(f"prunelib.chapters.{name}"):
            others = {one for one in imports(module) if one.startswith("prunelib.chapters.")}
            assert all(one.startswith(allowed) for one in others), (module, others)


@pytest.mark.parametrize("name", names())
def test_only_what_can_change_a_number_enters_the_keys_of_a_chapter(name):
    files = {f.relative_to(ROOT).as_posix() for f in environment.sources_of(f"prunelib.chapters.{name}.measure")}
    assert f"chapters/{name}/measure.py" in files and "models/lm.py" in files
    strangers = [file for file in files if file.startswith(("report/", "runs/", "chapters/")) or "/" not in file]
    assert all(file.startswith(("runs/zoo/", f"chapters/{name}/")) for file in strangers), strangers
    assert not {f"chapters/{name}/{kind}.py" for kind in ("figures", "page", "work")} & files


def test_a_chapter_s_number_stands_in_no_code():
    ids = [book.id for book in sources.select([])]
    for file in ROOT.rglob("*.py"):
        text = file.read_text()
        assert not [i for i in ids if i in text], file
        assert not re.search(r"\bchapters? \d", text), file
    root = paths.project_root()
    for file in [*(root / "notebooks").glob("*.ipynb"), *(root / "book").glob("*.md"), root / "README.md"]:
        assert not re.search(r"\b[Cc]hapters? \d", file.read_text()), file


@pytest.mark.parametrize("book", sources.select([]), ids=lambda book: book.id)
def test_a_notebook_begins_with_its_parameters_and_one_start(book):
    cells = [cell for cell in json.loads(book.file.read_text())["cells"] if cell["cell_type"] == "code"]
    assert cells[0]["metadata"]["tags"] == ["parameters", "hide-input"]
    assert all("hide-input" in cell["metadata"]["tags"] for cell in cells)  # a page answers first
    lines = "".join(cells[1]["source"]).split("\n")
    folder = book.chapter.replace("-", "_")
    assert lines[0] == "from prunelib.chapters import start"
    assert re.fullmatch(rf"from prunelib\.chapters\.{folder} import (measure, )?page", lines[1])
    assert lines[2:] == ["", f'ch = start("{book.chapter}", globals())']
    defaults = {one.name: one.default for one in fields(RunOptions)}
    assert {name: value for name, value in book.defaults.items() if defaults.get(name, value) != value} == {}


# ---------------------------------------------------------------- size and weight


@pytest.mark.parametrize(
    "module",
    ["prunelib", "prunelib.cli", "prunelib.chapters", "prunelib.runs.record", "prunelib.report.claims",
     "prunelib.report.figures", "prunelib.runs.zoo.scores"],
)  # fmt: skip
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
