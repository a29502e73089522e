"""Runs shown beside a run: committed references, or any finished run folders.

Reading them needs neither torch nor a model. References are written by ``prunelib reference``.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from prunelib import paths
from prunelib.errors import PrunelibError
from prunelib.files import is_plain, read_json
from prunelib.runs.tables import read_csv, read_table

DEFAULT = "smollm2-135m-instruct"
"""The model whose reference run stands beside a run of a model that has none."""

REFERENCE = "reference"
"""What the committed reference run is called in figures."""


@dataclass(frozen=True)
class Beside:
    """A run to show beside another; ``name`` is what figures call it."""

    name: str
    folder: Path

    @property
    def said(self) -> str:
        """What sentences call it."""
        return "the committed reference run" if self.name == REFERENCE else f"the run {self.name}"

    @cached_property
    def manifest(self) -> dict:
        return read_json(self.folder / "manifest.json")

    def figure_data(self, figure_id: str) -> pd.DataFrame | None:
        """What one of its figures shows; None where it has no such figure."""
        file = self.folder / "figures" / f"{figure_id}.csv"
        return read_csv(file) if file.is_file() else None

    def tables(self, prefix: str) -> dict[str, pd.DataFrame]:
        """Its tables whose names begin with ``prefix``."""
        files = sorted((self.folder / "tables").glob(f"{prefix}*.parquet"))
        found = {file.stem: read_table(file) for file in files}
        return {name: table for name, table in found.items() if table is not None}


def reference_folder(slug: str, root: Path | None = None) -> Path:
    """The model's own reference run if it is committed, else the place of the default model's."""
    reference = (root or paths.project_root()) / "data" / "reference"
    slug = slug if is_plain(slug) else DEFAULT
    return reference / (slug if (reference / slug / "manifest.json").is_file() else DEFAULT)


def reference_manifest(slug: str, root: Path | None = None) -> dict:
    """The manifest of :func:`reference_folder`, ``{}`` where none is committed."""
    return read_json(reference_folder(slug, root) / "manifest.json")


def runs_beside(named: str, slug: str, profile: str) -> list[Beside]:
    """The runs that a run of model ``slug`` and ``profile`` is shown with.

    ``named`` are run folders separated by commas; empty: the committed reference, unless it is that run
    itself. Raises PrunelibError for a folder that holds no run.
    """
    found = []
    for text in dict.fromkeys(one.strip() for one in named.split(",") if one.strip()):
        folder = Path(text).expanduser()
        about = read_json(folder / "manifest.json")
        model = about.get("model") if isinstance(about.get("model"), dict) else {}
        if not model:
            raise PrunelibError(f"no run in {folder}: runs beside this one are run folders with a manifest.json")
        found.append(Beside(f"{model.get('name')}, {about.get('profile')}", folder))
    if found or named.strip():
        return found
    about = reference_manifest(slug)
    if not about or (about["model"]["slug"], about["profile"]) == (slug, profile):
        return []
    return [Beside(REFERENCE, reference_folder(slug))]
