"""Run folders: what lies where, which are ours, how a run is finished or thrown away.

A run folder ``runs/<model>/<profile>/`` holds everything one run produced::

    tables/*.parquet      tidy results, each with the key it was computed under
    figures/<id>.*        the files of each figure
    notebooks/*.ipynb     executed notebooks
    parts/<notebook>.json what each notebook recorded (values, claims, hashes)
    manifest.json         the parts merged: the one file the book reads
    units/                finished pieces of a table that is not complete yet
    unfinished/<notebook>/ what a notebook that runs again will put in place of its finished results
    shards/2-of-4/        run folders of shares of this run, whose tables it takes

A folder that holds anything is written to only if it is a run folder; only files
that we wrote are ever removed; one run folder holds one model and one set of options.
"""

import contextlib
import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path

from prunelib.errors import PrunelibError
from prunelib.files import is_plain, read_json, sha256, write_json, writing
from prunelib.runs import marks, sources
from prunelib.runs.tables import has_key

SCHEMA = 1

OPTIONS = ("profile", "seed", "device", "dtype", "prompts", "limit", "temperatures")
"""Parameters that are the same for all notebooks of a run folder, besides the model."""

FOLDERS = ("tables", "units", "parts", "figures", "notebooks", "weights")
INSTEAD = "name another folder with --out, or start this one anew with --fresh"


# ---------------------------------------------------------------- what the notebooks recorded


UNFINISHED, SHARDS = "unfinished", "shards"


def table_file(name: str) -> str:
    return f"tables/{name}.parquet"


def described(part: dict) -> dict[str, str]:
    """The files that a part vouches for, by their names below the run folder: their hashes."""
    found = {table_file(name): entry["sha256"] for name, entry in part["tables"].items()}
    for figure in part["figures"].values():
        found |= {f"figures/{name}": digest for name, digest in figure["files"].items()}
    return found


def parts(folder: Path) -> list[dict]:
    """The well-formed parts below ``folder``, in the order of their names; damaged ones are as good as none."""
    found = ((file.stem, read_json(file)) for file in sorted((Path(folder) / "parts").glob("*.json")))
    return [part for stem, part in found if _is_part(part, stem)]


def unfinished(folder: Path) -> list[tuple[Path, dict]]:
    """Parts of notebooks that began again and are not finished, each with the folder its files wait in."""
    top = Path(folder) / UNFINISHED
    homes = [home for home in sorted(top.glob("*/")) if not (home.is_symlink() or top.is_symlink())]
    return [(home, part) for home in homes for part in parts(home) if part["notebook"] == home.name]


def shards(folder: Path) -> list[tuple[Path, dict]]:
    """Parts of the shards of a run (:mod:`prunelib.runs.shards`), each with its shard's folder."""
    return [(home, part) for home in _real(Path(folder) / SHARDS) for part in parts(home)]


def _is_part(part: dict, stem: str) -> bool:
    """Whether what was read has the shape of a part, and names only files that lie below the run folder."""

    def of_dicts(entries) -> bool:
        return isinstance(entries, dict) and all(isinstance(entry, dict) for entry in entries.values())

    tables, figures = part.get("tables"), part.get("figures")
    return (
        part.get("notebook") == stem
        and isinstance(part.get("created"), str)
        and all(of_dicts(part.get(field)) for field in ("tables", "figures", "values", "claims"))
        and all(isinstance(part.get(field, {}), dict) for field in ("code", "parameters", "model", "executed", "units"))
        and of_dicts(part.get("earlier", {}))
        and all(is_plain(name) and isinstance(entry.get("sha256"), str) for name, entry in tables.items())
        and all(
            is_plain(name)
            for figure in figures.values()
            for name in (figure["files"] if isinstance(figure.get("files"), dict) else ["/"])
        )
    )


# ---------------------------------------------------------------- manifest


def merge(folder: Path) -> dict:
    """Merge ``parts/*.json`` into ``manifest.json`` and return it.

    What all notebooks share (model, profile, code, packages, hardware) is
    taken from the newest part; values and claims are tagged with the notebook
    that recorded them.
    """
    folder = Path(folder)
    known = parts(folder)
    if not known:
        raise PrunelibError(f"nothing was run in {folder}: start with `prunelib run`")
    newest = max(known, key=lambda part: part["created"])
    shared = ("model", "profile", "seed", "code", "packages", "hardware", "created")
    manifest = {"schema": SCHEMA, **{field: newest.get(field) for field in shared}}
    manifest |= {field: {} for field in ("parameters", "notebooks", "tables", "figures", "values", "claims")}
    for part in known:
        name = part["notebook"]
        manifest["parameters"][name] = part.get("parameters", {})
        if "executed" in part:
            about = {key: part.get(key, {}) for key in ("units", "code")}
            manifest["notebooks"][name] = part["executed"] | about | {"cost": cost_of(part)}
        manifest["tables"] |= part["tables"]
        manifest["figures"] |= part["figures"]
        for field in ("values", "claims"):
            manifest[field] |= {k: v | {"notebook": name} for k, v in part[field].items()}
    write_json(folder / "manifest.json", manifest)
    return manifest


# ---------------------------------------------------------------- which are ours


def is_run(folder: Path) -> bool:
    """Whether ``folder`` carries the mark of a run, or is one of an older version: a manifest of ours and its parts."""
    if marks.is_marked(folder, "run"):
        return True
    manifest = read_json(folder / "manifest.json")
    fields = ("parameters", "notebooks", "tables", "figures", "values", "claims")
    ours = manifest.get("schema") == SCHEMA and all(isinstance(manifest.get(field), dict) for field in fields)
    return ours and bool(parts(folder))


def refuse_foreign(folder: Path) -> None:
    """Raises PrunelibError for a folder that holds something and is no run folder, or that cannot be one."""
    if not marks.is_empty(folder) and not is_run(folder):
        raise PrunelibError(f"{folder} is not empty and no run folder of prunelib; name another one with --out")


def claim(folder: Path) -> None:
    """Make ``folder`` a run folder, if it is empty or one already."""
    refuse_foreign(folder)
    marks.mark(folder, "run")


# ---------------------------------------------------------------- one model, one set of options


def refuse_other(folder: Path, notebooks: dict[str, dict], model: dict) -> None:
    """Raises PrunelibError if ``folder`` holds results of another model or other options.

    ``notebooks`` maps those that are to run to their parameters; ``model`` has ``slug``
    and, where they are known already, ``fingerprint``, ``device`` and ``dtype``.
    """
    # An option counts where the notebook has it: the others were told nothing of it.
    declared = {book.id: set(book.defaults) for book in sources.select([])}
    asked = {
        name: value
        for book, given in notebooks.items()
        for name, value in given.items()
        if name in declared.get(book, given)
    }
    for part in [*parts(folder), *(part for _, part in unfinished(folder))]:
        given = part.get("parameters", {})
        there = {name: value for name, value in given.items() if name in declared.get(part["notebook"], given)}
        for old, new in _differences(there, part.get("model", {}), asked, model):
            raise PrunelibError(f"{folder} holds results of {old}, not of {new}: {INSTEAD}")


def _differences(there: dict, their_model: dict, asked: dict, model: dict) -> Iterator[tuple[str, str]]:
    """What results were computed with and what is asked for instead, in words."""
    names = f"model {their_model.get('name')}", f"model {asked.get('model')}"
    if their_model.get("slug", model["slug"]) != model["slug"]:
        yield names
    prints = their_model.get("fingerprint"), model.get("fingerprint")
    if None not in prints and prints[0] != prints[1]:
        yield f"{names[0]} with weights {str(prints[0])[:12]}", f"{names[1]} with weights {str(prints[1])[:12]}"
    for option in OPTIONS:
        old, new = there.get(option), asked.get(option)
        if option in ("device", "dtype"):  # what "auto" means is known once the model is loaded
            old, new = their_model.get(option, old), model.get(option, new)
        if None not in (old, new) and "auto" not in (old, new) and _plain(option, old) != _plain(option, new):
            yield f"{option} {old}", f"{option} {new}"


def _plain(option: str, value):
    """A value that is equal for options that mean the same."""
    if option == "temperatures":
        with contextlib.suppress(ValueError):
            return {1.0, *(float(x) for x in str(value).split(",") if x.strip())}
    if option == "prompts" and value != "default":
        return str(Path(value).expanduser().resolve())
    return str(value)


# ---------------------------------------------------------------- the end of a notebook


def finish(folder: Path, notebook: str, executed: dict) -> dict:
    """Make the results of a notebook that ran to its end those of the run; returns its part.

    Files that waited in ``unfinished/<notebook>/`` take their places, then the part does.
    ``executed`` says what was executed with which parameters.
    """
    waiting = folder / UNFINISHED / notebook
    known = next((part for part in parts(folder) if part["notebook"] == notebook), None)
    part = next((part for home, part in unfinished(folder) if home == waiting), known)
    if part is None:
        raise PrunelibError(f"{notebook} recorded nothing in {folder}: it must begin with prunelib.chapters.start")
    for name, digest in described(part).items():
        if (waiting / name).is_file() and sha256(waiting / name) == digest:
            with writing(folder / name) as temporary:
                os.replace(waiting / name, temporary)
    part.pop("earlier", None)
    elsewhere = [cost_of(other) for _, other in shards(folder) if other["notebook"] == notebook]
    part["cost"] = functools.reduce(_dearer, [cost_of(known), *elsewhere, cost_of(part)])
    part["executed"] = executed
    write_json(folder / "parts" / f"{notebook}.json", part)
    _remove(waiting, described(part))
    merge(folder)
    return part


# ---------------------------------------------------------------- what a notebook cost


def cost_of(part: dict | None) -> dict:
    """What it took to compute a notebook's results: ``seconds``, ``memory_gib`` (most main memory), ``computed`` units.

    ``{}`` where the part does not say, or only read what was there already. Parts of older versions know no memory.
    """
    found = (part or {}).get("cost")
    if isinstance(found, dict) and all(isinstance(found.get(name), int | float) for name in ("seconds", "computed")):
        return found
    seconds, computed = (part or {}).get("seconds"), (part or {}).get("units", {}).get("computed")
    if isinstance(seconds, int | float) and computed:
        return {"seconds": seconds, "memory_gib": None, "computed": computed}
    return {}


def added(earlier: dict, later: dict) -> dict:
    """The cost of an interrupted run and of the one that went on where it stopped."""
    memory = [one["memory_gib"] for one in (earlier, later) if one.get("memory_gib")]
    return {
        "seconds": round(earlier.get("seconds", 0) + later["seconds"], 1),
        "memory_gib": round(max(memory), 2) if memory else None,
        "computed": earlier.get("computed", 0) + later["computed"],
    }


def _dearer(known: dict, new: dict) -> dict:
    """The cost of the run that computed more: one that only read tables again says nothing of what they cost."""
    return known if known.get("computed", 0) > new.get("computed", 0) else new


# ---------------------------------------------------------------- what we wrote, and nothing else


def discard(folder: Path) -> None:
    """Forget every result of a run folder (``--fresh``); files that are not ours stay where they are."""
    known = [*parts(folder), *(part for _, part in unfinished(folder))]
    named = {name for part in known for name in described(part)}
    for home, _ in unfinished(folder):
        _remove(home, named)
    _remove(folder, named)
    for name in ("manifest.json", "model.json"):
        _unlink(folder / name)


def clean(folder: Path) -> None:
    """Remove half-written files that a killed run left; call it while nobody else writes here."""
    for home in (folder, *_real(folder / UNFINISHED)):
        for place in (home, *_places(home)):
            for file in _files(place):
                if re.fullmatch(r"\.tmp-\d+-.+", file.name):
                    _unlink(file)


def _remove(home: Path, named: set[str]) -> None:
    """Remove our files from the sub-folders of ``home``, and the folders that this empties."""
    for place in _places(home):
        for file in _files(place):
            if file.relative_to(home).as_posix() in named or _is_ours(file, place):
                _unlink(file)
    emptied = [*reversed(_places(home)), *((home, home.parent) if home.parent.name == UNFINISHED else ())]
    for place in emptied:
        with contextlib.suppress(OSError):  # not empty, or gone
            place.rmdir()


def _is_ours(file: Path, place: Path) -> bool:
    """Whether a file that no part names is one we wrote: by its content, or by a name that only we give."""
    kind = place.name if place.name in FOLDERS else "units"
    if re.fullmatch(r"\.tmp-\d+-.+", file.name):
        return True
    if file.name.endswith(".parquet.sha256"):
        return kind in ("units", "weights")
    if file.suffix == ".parquet":
        return kind in ("tables", "units", "weights") and has_key(file)
    if kind == "parts":
        return read_json(file).get("notebook") == file.stem
    if kind == "notebooks":
        return file.name.removesuffix(".ipynb").removesuffix(".failed") in sources.available()
    return False


def _places(home: Path) -> list[Path]:
    """The sub-folders in which we write; a link to a folder elsewhere is none of them."""
    found = [home / name for name in FOLDERS if (home / name).is_dir() and not (home / name).is_symlink()]
    return found + (_real(home / "units") if home / "units" in found else [])


def _real(folder: Path) -> list[Path]:
    if not folder.is_dir() or folder.is_symlink():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.is_symlink())


def _unlink(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        raise PrunelibError(f"cannot remove {file}: {error.strerror}") from error
