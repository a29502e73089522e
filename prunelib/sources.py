"""The source notebooks and the parameters they declare."""

import ast
import json
import re
from dataclasses import dataclass
from pathlib import Path

from prunelib import paths
from prunelib.errors import PrunelibError, nearest


@dataclass(frozen=True)
class Notebook:
    """A source notebook: its id (``05-layerwise``), file, and default parameters."""

    id: str
    file: Path
    defaults: dict


def available() -> dict[str, Path]:
    """Source notebooks by id, in reading order; copies that Jupyter made (``…-Copy1``) are none."""
    files = sorted(paths.notebooks_dir().glob("[0-9]*-*.ipynb"))
    return {file.stem: file for file in files if not re.search(r"-Copy\d+$", file.stem)}


def select(names: list[str]) -> list[Notebook]:
    """The notebooks with these ids, numbers or paths (all of them for an empty list)."""
    known = available()
    chosen = []
    for name in names or list(known):
        stem = Path(name).stem
        found = [i for i in known if i == stem or i.split("-")[0] == stem.zfill(2)]
        if not found:
            raise PrunelibError(f"unknown notebook '{name}'{nearest(stem, known)}; there are {', '.join(known)}")
        chosen += [i for i in found if i not in chosen]
    return [Notebook(i, known[i], defaults(known[i])) for i in chosen]


def defaults(file: Path) -> dict:
    """Default parameters of a notebook, as Python values."""
    cells = json.loads(file.read_text())["cells"]
    source = "".join(line for c in cells if "parameters" in c["metadata"].get("tags", ()) for line in c["source"])
    tree = ast.parse(source)
    pairs = [(node.targets[0].id, node.value) for node in tree.body if isinstance(node, ast.Assign)]
    return {name: ast.literal_eval(value) for name, value in pairs}
