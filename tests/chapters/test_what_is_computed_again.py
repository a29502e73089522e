"""Only what can change a number makes a table be computed again: tried on a copy of the package."""

import os
import re
import shutil
import subprocess
import sys

import pytest
import tiny_files

from prunelib import paths


@pytest.fixture
def project(tmp_path, make_model):
    """A copy of the package beside the project's notebooks and data, and a tiny model."""
    root = tmp_path / "project"
    ignored = shutil.ignore_patterns("__pycache__", "_project")
    shutil.copytree(paths.project_root() / "prunelib", root / "prunelib", ignore=ignored)
    for name in ("notebooks", "data", "_toc.yml", "CITATION.cff"):
        (root / name).symlink_to(paths.project_root() / name)
    tiny_files.write_folder(make_model("llama"), tmp_path / "tiny")
    return root


def computed(root) -> int:
    """Units that a run of one chapter computes; it is executed again, or kept as a whole."""
    command = [sys.executable, "-m", "prunelib.cli", "run", "06", "--model", "tiny", "--profile", "smoke",
               "-p", "limit=2", "-p", "layer=1", "--device", "cpu", "--out", "run"]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=root.parent, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return int(re.search(r"\((\d+) units computed", done.stderr)[1])


def test_rewording_a_page_or_recolouring_a_figure_computes_nothing(project):
    own, shared = project / "prunelib/chapters/theory_meets_measurement", project / "prunelib"
    assert computed(project) > 0
    for file in (own / "page.py", own / "figures.py", shared / "report/style.py", shared / "runs/record.py",
                 shared / "chapters/layerwise/measure.py"):  # fmt: skip
        file.write_text(file.read_text() + "\n# another word\n")
    assert computed(project) == 0
    traces = shared / "runs/zoo/traces.py"
    traces.write_text(traces.read_text() + "\n# may change a number\n")
    assert computed(project) > 0
