"""Run notebooks through papermill: validate parameters first, keep what is done.

A notebook is executed again only if its source, its parameters, the code, the
model's files or one of the files it produced changed.
"""

import contextlib
import logging
import math
import os
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from prunelib import paths
from prunelib.errors import NotebookFailed, PrunelibError, nearest, short
from prunelib.files import read_json, sha256, writing
from prunelib.runs import environment, folders
from prunelib.runs.beside import Beside, runs_beside
from prunelib.runs.options import FLAGS, RunOptions
from prunelib.runs.sources import Notebook, source_sha256


def convert(name: str, text: str, default):
    """A parameter given as text, in the type of its default. Strings stay strings."""
    kind = type(default)
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise PrunelibError(f"parameter {name} must be true or false, got '{text}'")
        return text.lower() == "true"
    if kind in (int, float):
        try:
            value = kind(text)
            if math.isfinite(value):
                return value
        except (ValueError, OverflowError):
            pass
        word = "a whole number" if kind is int else "a number"
        raise PrunelibError(f"parameter {name} must be {word}, got '{short(text)}'")
    return text


def parameters_of(notebooks: list[Notebook], options: RunOptions, given: list[str]) -> dict[str, dict]:
    """Parameters of each notebook, checked against what the notebooks declare.

    ``given`` are ``name=value`` texts, each of which at least one notebook must know; they add to those
    of ``options`` that the command line has a name for.
    """
    texts = {}
    for item in given:
        name, equals, text = item.partition("=")
        if not equals or not name:
            raise PrunelibError(f"a parameter is written name=value, got '{item}'")
        texts[name] = text
    known = {name: default for book in notebooks for name, default in book.defaults.items()}
    for name in texts:
        if name in FLAGS:
            raise PrunelibError(f"parameter {name} has its own option: --{name}")
        if name not in known:
            raise PrunelibError(
                f"unknown parameter '{name}'{nearest(name, known)}; "
                f"these notebooks take {', '.join(n for n in known if n not in FLAGS)}"
            )
    values = {name: convert(name, text, known[name]) for name, text in texts.items()}
    values = {name: getattr(options, name) for name in FLAGS} | values
    return {book.id: book.defaults | {k: v for k, v in values.items() if k in book.defaults} for book in notebooks}


def beside(options: RunOptions) -> list[Beside]:
    """The runs that stand beside a run with these options. Raises PrunelibError for a folder that holds none."""
    return runs_beside(options.beside, paths.slugify(options.model, options.revision), options.profile)


def identity(model: str, revision: str | None, beside: list[Beside]) -> dict:
    """What a notebook's pages depend on besides its source, parameters and code: the weights, and the runs beside."""
    from prunelib.models import fetch

    shown = [sha256(one.folder / "manifest.json") for one in beside]
    return fetch.identity(model, revision) | {"beside": shown}


def is_done(folder: Path, book: Notebook, parameters: dict, identity: dict) -> bool:
    """Whether this notebook's results are complete, unharmed, and from these very inputs."""
    part = next((part for part in folders.parts(folder) if part["notebook"] == book.id), {})
    executed = part.get("executed", {})
    if executed.get("source_sha256") != source_sha256(book.file):
        return False
    if executed.get("parameters") != parameters or executed.get("identity") != identity:
        return False
    if part.get("code", {}).get("digest") != environment.code_digest():
        return False
    files = {f"notebooks/{book.id}.ipynb": executed.get("sha256")} | folders.described(part)
    return all((folder / n).is_file() and sha256(folder / n) == digest for n, digest in files.items())


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder; refuse in one line if another run is writing to it."""
    folders.claim(folder)
    lock = FileLock(folder / ".lock")  # ends with the process, even a killed one
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise PrunelibError(f"another run is writing to {folder}; wait for it or use --out") from None
    except OSError as error:
        raise PrunelibError(f"cannot write to {folder}: {error.strerror}") from error
    with lock:
        folders.clean(folder)
        yield


def execute(folder: Path, book: Notebook, parameters: dict, identity: dict, progress) -> dict:
    """Execute one notebook into ``folder/notebooks`` and record it; returns its part.

    ``progress(text)`` is told what is being computed. A PrunelibError raised in
    the notebook is raised here, and one is made of a lack of memory; any other error
    becomes a :class:`NotebookFailed`. But for the first, the half-executed notebook is
    kept and named. Tables and units that were finished are kept in any case.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    # What it logs of a kernel that died is said in one line below.
    logging.getLogger("papermill").addHandler(logging.NullHandler())
    # Defaults are in the notebook already: only what differs is injected.
    changed = {k: v for k, v in parameters.items() if v != book.defaults[k]}
    target = folder / "notebooks" / f"{book.id}.ipynb"
    failed = target.with_suffix(".failed.ipynb")
    started = time.time()
    with writing(target) as temporary, _progress_file(progress):
        try:
            papermill.execute_notebook(
                _literal(book.file),
                _literal(temporary),
                changed,
                kernel_name="python3",
                progress_bar=False,
                log_output=False,
                cwd=os.getcwd(),
                # Warnings of the kernel's own start-up say nothing to a reader of the progress.
                extra_arguments=["--IPKernelApp.log_level=50"],
            )
        except PapermillExecutionError as error:
            if error.ename == "PrunelibError":
                raise PrunelibError(error.evalue) from None
            os.replace(temporary, failed)
            what = " ".join(f"{error.ename}: {error.evalue}".split())
            if _lacks_memory(error.ename, error.evalue):
                raise PrunelibError(f"{book.id} ran out of memory ({what}): {SMALLER} (see {failed})") from error
            raise NotebookFailed(f"{book.id} failed: {what} (see {failed})") from error
        except DeadKernelError as error:
            os.replace(temporary, failed)
            raise PrunelibError(f"{book.id}: its process ended by itself, {_why_it_died()} (see {failed})") from error
    failed.unlink(missing_ok=True)
    return folders.finish(
        folder,
        book.id,
        {
            "sha256": sha256(target),
            "source_sha256": source_sha256(book.file),
            "parameters": parameters,
            "identity": identity,
            "wall_seconds": round(time.time() - started, 1),
        },
    )


SMALLER = "take a smaller --profile, --dtype bfloat16, or fewer prompts with -p limit=N; what was finished is kept"


def _lacks_memory(name: str, text: str) -> bool:
    """Whether an error of Python, numpy or torch says that memory could not be had."""
    signs = ("out of memory", "can't allocate memory", "not enough memory", "Cannot allocate memory")
    return name in ("MemoryError", "OutOfMemoryError", "_ArrayMemoryError") or any(sign in text for sign in signs)


def _why_it_died() -> str:
    """What a process most likely died of that left no error: the most it used of what there is tells."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
    limit = memory_limit()
    of = f"it used up to {used:.1f} GiB" + (f" of {limit:.1f}" if limit else "")
    if limit and used < limit / 2:
        return f"killed from outside or crashed ({of}): run again to continue, what was finished is kept"
    return f"most likely killed for lack of memory ({of}): {SMALLER}"


def memory_limit() -> float | None:
    """GiB that a process here may use: the machine's, or the limit of its control group."""
    found = [environment.hardware()["memory_gib"]]
    for file in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # "max": no limit
            found.append(int((Path("/sys/fs/cgroup") / file).read_text()) / 2**30)
    return min((one for one in found if one), default=None)


def _literal(path: Path) -> str:
    """A path as papermill takes it, which fills in what stands in braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


@contextlib.contextmanager
def _progress_file(progress) -> Iterator[None]:
    """Pass on what the kernel reports through :func:`prunelib.runs.progress.report_progress`."""
    stop = threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "progress.json"
        os.environ["PRUNELIB_PROGRESS"] = str(file)

        def watch() -> None:
            while not stop.wait(0.3):
                state = read_json(file)
                if state:
                    progress(f"{state['what']} {state['done']}/{state['total']}")

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()
            del os.environ["PRUNELIB_PROGRESS"]
