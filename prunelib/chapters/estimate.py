"""The estimate of a run: what each chosen notebook takes, priced at the rates of this machine."""

import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from prunelib.errors import PrunelibError
from prunelib.runs import sources
from prunelib.runs.options import RunOptions
from prunelib.runs.sources import Notebook

_FIGURE = "fig-layerwise-attn"
"""The figure whose drawing is timed, from the committed reference: lines with bands in two panels, as many are."""


def estimate(books: Sequence[Notebook], options: RunOptions, parameters: dict[str, dict],
             say: Callable[[str], None] = lambda text: None):  # fmt: skip
    """The :class:`prunelib.runs.estimate.price.Estimate` of notebooks with their parameters; no weights are read.

    Raises PrunelibError for a model that cannot be used, as a run does before its download.
    """
    say("importing")
    imports, own = _imports(("prunelib.chapters.chapter", "scipy.stats", "seaborn", "torch", "prunelib.engine.text"))
    imports += _figures(books)
    resident = _memory()
    more, fresh = _imports(("prunelib.models.load", "transformers.models.llama.modeling_llama"))
    from prunelib.models.load import resolve_device, resolve_dtype
    from prunelib.runs.estimate import calibration, price, work
    from prunelib.runs.estimate.shape import build, shape
    from prunelib.runs.estimate.source import source

    say("reading the configuration")
    device = resolve_device(options.device)
    found = source(options.model, options.revision or None)
    began = time.perf_counter()
    build(found.config, layers=1)  # imports the family's code
    more += time.perf_counter() - began
    base = max(_memory(), resident)
    dtype = resolve_dtype(options.dtype, device)
    dtype = getattr(found.config, "dtype", None) or import_module("torch").float32 if dtype == "auto" else dtype
    plan = work.Plan(options, shape(found.config, dtype.itemsize), found.dropped)
    for book in books:
        with plan.notebook(book.id, parameters[book.id]):
            work_of(book.chapter)(plan)
    specs = {p.spec for pieces in plan.pieces.values() for p in pieces if isinstance(p, work.Solved)}
    rates = calibration.calibrate(
        found.config, plan.shape, device, dtype, sorted(specs), len(plan.temperatures), plan.settings.synthetic,
        {"figure": _drawn, "imports": lambda: imports if own else _again("prunelib.chapters.chapter, torch"),
         "model imports": lambda: more if fresh else _again("transformers, prunelib.models.load")},
        say,
    )  # fmt: skip
    return price.price(plan, rates, found, base)


def work_of(chapter: str) -> Callable:
    """What counts the work of a chapter. Raises PrunelibError for one that has none."""
    name = f"prunelib.chapters.{chapter.replace('-', '_')}.work"
    try:
        return import_module(name).work
    except ModuleNotFoundError as error:
        if not name.startswith(error.name or name + "."):
            raise
        raise PrunelibError(f"the chapter {chapter} does not say what it takes: it has no work.py") from None


def _imports(modules: Sequence[str]) -> tuple[float, bool]:
    """Seconds of imports, and whether any of them was new here: later ones take no time."""
    fresh, began = modules[0] not in sys.modules, time.perf_counter()
    for module in modules:
        import_module(module)
    return time.perf_counter() - began, fresh


def _figures(books: Sequence[Notebook]) -> float:
    from prunelib.chapters import load_figures

    began = time.perf_counter()
    load_figures(books[0].chapter)
    return time.perf_counter() - began


def _again(modules: str) -> float:
    """Seconds of imports in a process of their own."""
    import subprocess

    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {modules}"], check=True, capture_output=True)
    return time.perf_counter() - began


def _memory() -> float:
    """Bytes that this process held at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 2**10)


def _drawn() -> float:
    """Seconds of drawing a figure in all its forms."""
    from prunelib.chapters import load_figures
    from prunelib.paths import data_dir
    from prunelib.report import figures
    from prunelib.runs.tables import read_csv

    load_figures("layerwise")
    table = next((data_dir() / "reference").glob(f"*/figures/{_FIGURE}.csv"))
    nothing = dict.fromkeys(("name", "revision", "fingerprint", "profile", "seed"), "")
    record = nothing | {"notebook": sources.of_chapter("layerwise").id, "model": nothing, "code": {}, "packages": {}}
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        figures.draw(_FIGURE, read_csv(table), Path(folder), record)
        return time.perf_counter() - began
