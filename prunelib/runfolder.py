"""Run folders as a whole: which are ours, what they may hold, how a run is finished or thrown away.

A folder that holds anything is written to only if it is a run folder; only files
that we wrote are ever removed; one run folder holds one model and one set of options.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from prunelib import marks, sources, store
from prunelib.errors import PrunelibError

OPTIONS = ("profile", "seed", "device", "dtype", "prompts", "limit", "temperatures")
"""Parameters that are the same for all notebooks of a run folder, besides the model."""

FOLDERS = ("tables", "units", "parts", "figures", "notebooks", "weights")
INSTEAD = "name another folder with --out, or start this one anew with --fresh"


# ---------------------------------------------------------------- which are ours


def is_run(folder: Path) -> bool:
    """Whether ``folder`` carries the mark of a run, or is one of an older version: a manifest of ours and its parts."""
    if marks.is_marked(folder, "run"):
        return True
    manifest = store.read_json(folder / "manifest.json")
    fields = ("parameters", "notebooks", "tables", "figures", "values", "claims")
    ours = manifest.get("schema") == store.SCHEMA and all(isinstance(manifest.get(field), dict) for field in fields)
    return ours and bool(store.parts(folder))


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
    for part in [*store.parts(folder), *(part for _, part in store.unfinished(folder))]:
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
    waiting = folder / store.UNFINISHED / notebook
    part = next((part for home, part in store.unfinished(folder) if home == waiting), None)
    if part is None:
        part = next((part for part in store.parts(folder) if part["notebook"] == notebook), None)
    if part is None:
        raise PrunelibError(f"{notebook} recorded nothing in {folder}: it must begin with experiments.start")
    for name, digest in store.described(part).items():
        if (waiting / name).is_file() and store.sha256(waiting / name) == digest:
            with store.writing(folder / name) as temporary:
                os.replace(waiting / name, temporary)
    part.pop("earlier", None)
    part["executed"] = executed
    store.write_json(folder / "parts" / f"{notebook}.json", part)
    _remove(waiting, store.described(part))
    store.merge(folder)
    return part


# ---------------------------------------------------------------- what we wrote, and nothing else


def discard(folder: Path) -> None:
    """Forget every result of a run folder (``--fresh``); files that are not ours stay where they are."""
    known = [*store.parts(folder), *(part for _, part in store.unfinished(folder))]
    named = {name for part in known for name in store.described(part)}
    for home, _ in store.unfinished(folder):
        _remove(home, named)
    _remove(folder, named)
    for name in ("manifest.json", "model.json"):
        _unlink(folder / name)


def clean(folder: Path) -> None:
    """Remove half-written files that a killed run left; call it while nobody else writes here."""
    for home in (folder, *_real(folder / store.UNFINISHED)):
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
    emptied = [*reversed(_places(home)), *((home, home.parent) if home.parent.name == store.UNFINISHED else ())]
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
        return kind in ("tables", "units", "weights") and store.has_key(file)
    if kind == "parts":
        return store.read_json(file).get("notebook") == file.stem
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
