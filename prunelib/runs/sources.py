"""The source notebooks and the parameters they declare."""

import ast
import json
import re
from dataclasses import dataclass
from pathlib import Path

from prunelib import paths
from prunelib.errors import PrunelibError, nearest
from prunelib.files import key_hash, read_json, sha256


@dataclass(frozen=True)
class Notebook:
    """A source notebook: its id (number and name), file, and default parameters."""

    id: str
    file: Path
    defaults: dict

    @property
    def chapter(self) -> str:
        """Its id without the number: ``layerwise``; the folder of its code has underscores for dashes."""
        return self.id.partition("-")[2]


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


def of_chapter(name: str) -> Notebook:
    """The notebook of a chapter, by its name without a number. Raises PrunelibError where there is none."""
    wanted = name.replace("_", "-")
    known = {i.partition("-")[2]: i for i in available()}
    if wanted not in known:
        raise PrunelibError(f"no notebook of a chapter '{name}'{nearest(wanted, known)}")
    return select([known[wanted]])[0]


def defaults(file: Path) -> dict:
    """Default parameters of a notebook, as Python values."""
    cells = json.loads(file.read_text())["cells"]
    source = "".join(line for c in cells if "parameters" in c["metadata"].get("tags", ()) for line in c["source"])
    tree = ast.parse(source)
    pairs = [(node.targets[0].id, node.value) for node in tree.body if isinstance(node, ast.Assign)]
    return {name: ast.literal_eval(value) for name, value in pairs}


def source_sha256(notebook: Path) -> str:
    """Hex SHA-256 of a source notebook: of the file, but for what an editor adds that is opened and saved.

    Outputs, counters and notes on the cells do not count, so that a notebook that was
    run in Jupyter is the same source as before.
    """
    content = read_json(notebook)
    try:
        cells = [
            [cell["cell_type"], "".join(cell["source"]), cell["metadata"].get("tags", [])] for cell in content["cells"]
        ]
    except (KeyError, TypeError, AttributeError):
        return sha256(notebook)
    return key_hash({"cells": cells})
