"""The committed reference run: small enough for git, whole enough to be read again.

:func:`save` takes from a finished run folder what cannot be drawn again: manifest,
tables, executed notebooks without their pictures, figures as data. :func:`restore` makes a
run folder of it by drawing every figure from its data; no model is needed.
"""

import json
import shutil
from pathlib import Path

from prunelib import paths
from prunelib.errors import PrunelibError
from prunelib.files import new_folder, read_json, sha256, write_json
from prunelib.report import figures, publish
from prunelib.runs import folders, marks
from prunelib.runs.tables import read_csv

LIMIT = 10_000_000
"""Bytes of the whole folder: what a repository can carry."""

TABLE_LIMIT = 80_000
"""Bytes of one table; a longer one (states of single positions) is left out and listed with its hash."""

LEFT_OUT = "left_out.json"


def folder(model: str) -> Path:
    """Where the reference run of a model is committed, by its name or slug."""
    return paths.data_dir() / "reference" / paths.slugify(model)


def save(run: Path, target: Path | None = None, root: Path | None = None, add: bool = False) -> Path:
    """Copy a finished run into ``target`` (default: the model's own folder); returns it.

    With ``add`` the chapters of the run join those that ``target`` has, or take their places: each says in the
    manifest by which code it was made, and not all need be there. The folder is replaced as a whole, or left as it
    was. Raises PrunelibError for a run that is not publishable (the first reason), for one of another model, profile
    or seed than what it is added to, and for a result above :data:`LIMIT`.
    """
    run = Path(run)
    problems = publish.gate(run, root)
    if problems:
        raise PrunelibError(f"{run} is no finished run: {problems[0]}")
    manifest = publish.read_manifest(run)
    target = Path(target) if target else folder(manifest["model"]["slug"])
    if add:  # a reference grows by chapters; what it lacks stands in its book as not run
        manifest = _joined(target, manifest)
    elif absent := publish.missing(manifest, root):
        raise PrunelibError(f"{run} is no finished run: {absent[0]} was not run")
    if target.exists() and not (target.is_dir() and (marks.is_empty(target) or _is_older(target))):
        raise PrunelibError(f"{target} is not empty and no reference run: name another model, or move it")
    try:
        with new_folder(target) as fresh:
            _copy(run, fresh, manifest, target if add else None)
            _check_size(fresh)
    except OSError as error:
        raise PrunelibError(f"cannot write {target}: {error.strerror or error}") from error
    return target


def _joined(target: Path, manifest: dict) -> dict:
    """The manifest of the reference in ``target`` with the chapters of a run in it."""
    if not (target / "manifest.json").is_file():
        raise PrunelibError(f"no reference run in {target} to add to")
    old = publish.read_manifest(target)
    for name in ("profile", "seed"):
        if old[name] != manifest[name]:
            raise PrunelibError(f"{target} is of {name} {old[name]}, this run of {manifest[name]}")
    if old["model"].get("fingerprint") != manifest["model"].get("fingerprint"):
        raise PrunelibError(f"{target} is of another model than this run: their weights differ")
    both = ("parameters", "notebooks", "tables", "figures")
    found = manifest | {name: old.get(name, {}) | manifest.get(name, {}) for name in both}
    for name in ("values", "claims"):
        kept = {key: entry for key, entry in old[name].items() if entry["notebook"] not in manifest["notebooks"]}
        found[name] = kept | manifest[name]
    return found


def _check_size(folder: Path) -> None:
    sizes = {file: file.stat().st_size for file in folder.rglob("*") if file.is_file()}
    if sum(sizes.values()) > LIMIT:
        largest = max(sizes, key=sizes.get)
        total = f"{sum(sizes.values()) / 1e6:.1f} MB of {LIMIT / 1e6:.0f}"
        most = f"{largest.relative_to(folder)}, {sizes[largest] / 1e6:.1f} MB"
        raise PrunelibError(f"the reference would take {total}; its largest file is {most}")


def _copy(run: Path, fresh: Path, manifest: dict, before: Path | None = None) -> None:
    """Files of a run, and of the reference ``before`` what the run does not have."""
    given = [entry.get("parameters", {}) for entry in manifest["notebooks"].values()]
    for parameters in (*given, *manifest.get("parameters", {}).values()):
        parameters.pop("out", None)  # a folder of the machine that made the run
    write_json(fresh / "manifest.json", manifest)
    if (run / "model.json").is_file():
        shutil.copyfile(run / "model.json", fresh / "model.json")
    for name in ("tables", "figures", "notebooks"):
        (fresh / name).mkdir()
    known = read_json(before / LEFT_OUT) if before else {}
    left_out = {}
    for name, entry in manifest["tables"].items():
        file = _of(f"tables/{name}.parquet", run, before)
        if file is None and name in known:
            left_out[name] = known[name]
        elif file.stat().st_size > TABLE_LIMIT:
            left_out[name] = {"bytes": file.stat().st_size, "rows": entry["rows"], "sha256": entry["sha256"]}
        else:
            shutil.copyfile(file, fresh / "tables" / file.name)
    write_json(fresh / LEFT_OUT, left_out)
    for figure_id in manifest["figures"]:
        data = _of(f"figures/{figure_id}.csv", run, before)
        shutil.copyfile(data, fresh / "figures" / data.name)
        card = read_json(data.with_suffix(".json"))
        # Where the curves lie is known again when they are drawn again.
        write_json(fresh / "figures" / f"{figure_id}.json", card | {"readings": [], "column_readings": []})
    for name in manifest["notebooks"]:
        notebook = read_json(_of(f"notebooks/{name}.ipynb", run, before))
        (fresh / "notebooks" / f"{name}.ipynb").write_text(json.dumps(portable(notebook), indent=1) + "\n")


def _of(name: str, run: Path, before: Path | None) -> Path | None:
    """The file of the run, or else of the reference before it; None where neither has one."""
    return next((folder / name for folder in (run, before) if folder and (folder / name).is_file()), None)


def portable(notebook: dict) -> dict:
    """An executed notebook without its PNG outputs (pages show the figure files instead), warnings and folders."""
    for cell in notebook["cells"]:
        if "outputs" in cell:
            cell["outputs"] = [one for one in cell["outputs"] if one.get("name") != "stderr"]
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("image/png", None)
        if "injected-parameters" in cell["metadata"].get("tags", []):
            lines = "".join(cell["source"]).splitlines(keepends=True)
            cell["source"] = ['out = ""\n' if line.startswith("out = ") else line for line in lines]
    about = notebook.get("metadata", {}).get("papermill", {})
    about.get("parameters", {}).pop("out", None)
    about |= {name: Path(about[name]).name for name in ("input_path", "output_path") if about.get(name)}
    return notebook


def restore(source: Path, run: Path) -> Path:
    """Make the run folder ``run`` of a committed reference, drawing its figures; returns it.

    Hashes in the manifest become those of the files that were made here: another
    version of the drawing library may write other bytes for the same data. Raises
    PrunelibError when there is no reference, or its data is not what was recorded.
    """
    source, run = Path(source), Path(run)
    if not (source / "manifest.json").is_file():
        raise PrunelibError(f"no reference run in {source}: it is made with `make reference`")
    manifest = publish.read_manifest(source)
    left_out = read_json(source / LEFT_OUT)
    if run.is_symlink() or not (marks.is_empty(run) or marks.is_marked(run, "run") or _is_older(run)):
        raise PrunelibError(f"{run} is not empty and not ours: move it, or name a site elsewhere with --site")
    shutil.rmtree(run, ignore_errors=True)
    marks.mark(run, "run")
    for name in ("tables", "notebooks"):
        shutil.copytree(source / name, run / name)
    for figure_id, entry in manifest["figures"].items():
        card = figures.load_card(source / "figures", figure_id)
        data = source / "figures" / f"{figure_id}.csv"
        if sha256(data) != entry["files"][data.name]:
            raise PrunelibError(f"{data} is not the data that the reference run recorded")
        figures.draw(figure_id, read_csv(data), run / "figures", card.provenance)
        entry["files"] = {file.name: sha256(file) for file in sorted((run / "figures").glob(f"{figure_id}.*"))}
    for name, entry in manifest["notebooks"].items():
        entry["sha256"] = sha256(run / "notebooks" / f"{name}.ipynb")
    manifest["tables"] = {name: entry for name, entry in manifest["tables"].items() if name not in left_out}
    write_json(run / "manifest.json", manifest)
    return run


def _is_older(folder: Path) -> bool:
    """Whether a folder without a mark holds what only a run or a reference does: its manifest and its notebooks."""
    found = read_json(folder / "manifest.json")
    return found.get("schema") == folders.SCHEMA and isinstance(found.get("notebooks"), dict) and "values" in found
