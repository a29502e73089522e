"""The committed reference run, to be shown beside another run: its manifest, its tables, its figures' data.

Reading it needs neither torch nor a model. It is written by ``prunelib reference``.
"""

from pathlib import Path

import pandas as pd

from prunelib import paths, store

DEFAULT = "smollm2-135m-instruct"
"""The model whose reference run stands beside a run of a model that has none."""


def folder(slug: str, root: Path | None = None) -> Path:
    """The model's own reference run if it is committed, else the place of the default model's."""
    reference = (root or paths.project_root()) / "data" / "reference"
    slug = slug if store.is_plain(slug) else DEFAULT
    return reference / (slug if (reference / slug / "manifest.json").is_file() else DEFAULT)


def manifest(slug: str, root: Path | None = None) -> dict:
    """Its manifest, ``{}`` where none is committed."""
    return store.read_json(folder(slug, root) / "manifest.json")


def beside(slug: str, profile: str) -> Path | None:
    """The folder to show beside a run of this model and profile; None for that run itself or where there is none."""
    found = manifest(slug)
    same = found and (found["model"]["slug"], found["profile"]) == (slug, profile)
    return None if same or not found else folder(slug)


def figure_data(folder: Path, figure_id: str) -> pd.DataFrame | None:
    """What one of its figures shows; None where it has no such figure."""
    file = folder / "figures" / f"{figure_id}.csv"
    return store.read_csv(file) if file.is_file() else None


def tables(folder: Path, prefix: str) -> dict[str, pd.DataFrame]:
    """Its tables whose names begin with ``prefix``."""
    files = sorted((folder / "tables").glob(f"{prefix}*.parquet"))
    found = {file.stem: store.read_table(file) for file in files}
    return {name: table for name, table in found.items() if table is not None}
