"""A run as a notebook holds it: options, model (loaded only if needed), tables, what is recorded."""

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import pandas as pd

from prunelib.errors import PrunelibError
from prunelib.files import key_hash, read_json, write_json
from prunelib.runs import environment, folders
from prunelib.runs.beside import Beside, runs_beside
from prunelib.runs.options import Asked, RunOptions
from prunelib.runs.record import Record


class Run(Asked):
    """One notebook's view of a run; ``own`` are the notebook's own parameters, which are only recorded.

    Opens the run folder. Raises PrunelibError for a folder that is not ours, or holds another model or other options.
    """

    def __init__(self, notebook: str, options: RunOptions, own: dict | None = None):
        folder = options.folder
        folders.refuse_foreign(folder)
        self.options = options
        self._loader = _Loader(options.model, options.revision or None, options.dtype, options.device)
        self.model: dict = self._loader.card(folder / "model.json")
        """Name, fingerprint, family, sizes: enough to plan without weights."""
        parameters = {name: getattr(options, name) for name in options.__dataclass_fields__}
        folders.refuse_other(folder, {notebook: parameters}, self.model)
        folders.claim(folder)
        self._loader.keep(folder / "model.json")
        self.record = Record(
            folder,
            notebook,
            {
                "parameters": parameters | (own or {}),
                "model": self.model,
                "profile": options.profile,
                "seed": options.seed,
                "code": environment.code_version(),
                "packages": environment.packages(),
                "hardware": environment.hardware(),
            },
        )

    @property
    def folder(self) -> Path:
        return self.record.folder

    @property
    def notebook(self) -> str:
        return self.record.notebook

    @cached_property
    def beside(self) -> list[Beside]:
        """Other runs whose results are shown next to this one's."""
        return runs_beside(self.options.beside, self.model["slug"], self.profile)

    @cached_property
    def lm(self):
        """The dense model, loaded the first time something has to be computed."""
        return self._loader()

    def key(self, module: str, **extra) -> dict:
        """What every number that ``module`` computes in this run depends on, plus ``extra``."""
        versions = environment.packages()
        return {
            "model": self.model["fingerprint"],
            **{name: self.model[name] for name in ("date",) if name in self.model},  # printed by its chat template
            "dtype": self.model["dtype"],
            "device": self.model["device"],
            "code": environment.code_digest(module),
            "packages": {name: versions.get(name) for name in ("torch", "transformers", "numpy")},
            "seed": self.seed,
            **extra,
        }

    def table(self, name: str, key: dict, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """A table of this run: read back if ``key`` is unchanged, else computed and saved."""
        return self.record.table(name, self.key(compute.__module__, **key), compute)

    def tables(self, names: Sequence[str], key: dict, items: Sequence, compute: Callable) -> dict[str, pd.DataFrame]:
        """Several tables computed together, one resumable unit for each of ``items``."""
        return self.record.tables(names, self.key(compute.__module__, **key), items, compute)

    def value(self, key: str, value, lo=None, hi=None, exact: bool = False, fmt: str = ".3g") -> None:
        """Record a number for the prose (``{val}`` role).

        It needs an interval (``lo``, ``hi``) or ``exact=True``; counts and
        settings are exact.
        """
        if not exact and (lo is None or hi is None):
            raise ValueError(f"value '{key}' has neither an interval nor exact=True")
        self.record.note("values", key, {"exact": exact, "fmt": fmt} | plain_numbers(value, lo, hi))

    def values(self, entries: dict[str, tuple], fmt: str = ".3g") -> None:
        """Record several ``key: (value, lo, hi)`` at once."""
        for key, (value, lo, hi) in entries.items():
            self.value(key, value, lo, hi, fmt=fmt)


def plain_numbers(value, lo, hi) -> dict:
    """JSON-safe value and interval: non-finite numbers become None."""

    def clean(x):
        if x is None or isinstance(x, str | bool | int):
            return x
        return float(x) if math.isfinite(x) else None

    return {"value": clean(value), "lo": clean(lo), "hi": clean(hi)}


class _Loader:
    """Loads the model once, and knows its card without loading when nothing changed."""

    def __init__(self, *arguments):
        self.arguments = arguments
        self._lm = None
        self._known: dict = {}

    def __call__(self):
        if self._lm is None:
            from prunelib.models.load import load

            self._lm = load(*self.arguments)
            card = self._known.get("card", {})
            if card.get("fingerprint", self._lm.fingerprint) != self._lm.fingerprint:
                raise PrunelibError(
                    f"the weights of {self.arguments[0]} are not those that this run measured, though "
                    "their files have the same size and time: they are damaged, or were edited in "
                    "place; fetch them again, or start the run anew with --fresh"
                )
        return self._lm

    def card(self, file: Path) -> dict:
        """Name, fingerprint and sizes of the model; from ``file`` if the weights are the same files."""
        from prunelib.models import fetch
        from prunelib.models.slots import slots

        name, revision, dtype, device = self.arguments
        identity = key_hash({"asked": self.arguments, "files": fetch.identity(name, revision)})
        self._known = read_json(file)
        if self._known.get("identity") != identity:
            self._known = {}
            lm = self()
            parameters = sum(slot.parameter.numel() for _, slot in slots(lm.model))
            self._known = {"identity": identity, "card": lm.describe() | {"parameters": parameters}}
        return self._known["card"]

    def keep(self, file: Path) -> None:
        """Write what :meth:`card` found to ``file``, for the next notebook."""
        if read_json(file) != self._known:
            write_json(file, self._known)
