"""What a notebook holds: its settings, its model (loaded only if needed), its record.

``start(...)`` opens the run folder; the chapter functions beside this file take
the resulting :class:`Chapter` and return tidy tables.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from prunelib import paths, runfolder, store
from prunelib.errors import PrunelibError, nearest, short

DEFAULT_MODEL = "smollm2-135m-instruct"
TEMPERATURES = "0.3,0.5,0.7,1,1.5,2"


@dataclass(frozen=True)
class Profile:
    """How much a run measures. Counts are numbers of prompts, tokens and positions."""

    prompts: int  # prompts traced, from the top of the prompt set
    new_tokens: int  # tokens the dense model writes after each prompt
    layer_positions: int  # decoding positions a prompt in the all-layers trace
    calibration: int  # calibration sequences (of calibration_tokens each)
    calibration_tokens: int
    synthetic: int  # effort of the synthetic theorem checks, 1 = smallest
    seeds: int  # calibration seeds, the run's own and those after it
    texts: int  # held-out texts whose perplexity is measured
    passages: int  # passages of the task items, three questions each
    long_prompts: int  # prompts of longer texts
    long_tokens: int  # tokens of each


PROFILES = {
    "smoke": Profile(4, 8, 2, 2, 64, 1, 2, 6, 4, 3, 24),
    "quick": Profile(32, 32, 8, 16, 64, 4, 2, 12, 12, 6, 48),
    "full": Profile(40, 64, 16, 64, 64, 8, 3, 40, 60, 40, 96),
}


class Chapter:
    """One notebook's view of a run. Made by :func:`start`."""

    def __init__(self, run: store.Run, card: dict, settings: Profile, options: dict):
        self.run = run
        self.model = card  # name, fingerprint, family, sizes: enough to plan without weights
        self.settings = settings
        self.seed: int = options["seed"]
        self.prompts_source: str = options["prompts"]
        self.temperatures: tuple[float, ...] = options["temperatures"]
        self._load = options["load"]

    @cached_property
    def lm(self):
        """The dense model, loaded the first time something has to be computed."""
        return self._load()

    def key(self, module: str, **extra) -> dict:
        """What every number that ``module`` computes in this run depends on, plus ``extra``."""
        versions = store.packages()
        return {
            "model": self.model["fingerprint"],
            **{name: self.model[name] for name in ("date",) if name in self.model},  # printed by its chat template
            "dtype": self.model["dtype"],
            "device": self.model["device"],
            "code": store.code_digest(module),
            "packages": {name: versions.get(name) for name in ("torch", "transformers", "numpy")},
            "seed": self.seed,
            **extra,
        }

    def calibration(self, seed: int | None = None):
        """Calibration token ids [n, length], sampled from the dense model; kept as a table of the run.

        ``seed`` is the run's own unless given. Sampling is slow, and every method
        of a run should see the same text.
        """
        seed = self.seed if seed is None else seed
        settings = self.settings
        n, length = settings.calibration, settings.calibration_tokens

        def compute() -> pd.DataFrame:
            from prunelib import text

            ids = text.calibration(self.lm, "self", n, length, seed).ids
            columns = {"sequence": np.repeat(np.arange(n), length), "position": np.tile(np.arange(length), n)}
            return pd.DataFrame(columns | {"token": ids.flatten().numpy()})

        import torch

        table = self.table(f"calibration_seed{seed}", {"calibration": self.calibration_key, "of_seed": seed}, compute)
        return torch.from_numpy(table["token"].to_numpy().copy()).view(n, length)

    @property
    def calibration_key(self) -> list:
        """What the calibration tokens depend on besides model and seed."""
        return ["self", self.settings.calibration, self.settings.calibration_tokens]

    def table(self, name: str, key: dict, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """A table of this run: read back if ``key`` is unchanged, else computed and saved."""
        return self.run.table(name, self.key(compute.__module__, **key), compute)

    def tables(self, names: Sequence[str], key: dict, items: Sequence, compute: Callable) -> dict[str, pd.DataFrame]:
        """Several tables computed together, one resumable unit for each of ``items``."""
        return self.run.tables(names, self.key(compute.__module__, **key), items, compute)

    def figure(self, figure_id: str, data: pd.DataFrame):
        """Draw a figure from its tidy data, save all its files, and return its card."""
        from prunelib import figures

        provenance = {
            "notebook": self.run.notebook,
            "model": {k: self.model[k] for k in ("name", "revision", "fingerprint")},
            "profile": self.run.part["profile"],
            "seed": self.seed,
            "code": store.code_version(),
            "packages": {k: v for k, v in store.packages().items() if k in ("torch", "transformers")},
        }
        folder = self.run.place(f"figures/{figure_id}.json").parent
        card = figures.draw(figure_id, data, folder, provenance)
        files = {card.file(suffix).name: store.sha256(card.file(suffix)) for suffix in figures.SUFFIXES}
        self.run.part["figures"][figure_id] = {"files": files, "notebook": self.run.notebook}
        self.run.save()
        return card

    def value(self, key: str, value, lo=None, hi=None, exact: bool = False, fmt: str = ".3g") -> None:
        """Record a number for the prose (``{val}`` role).

        It needs an interval (``lo``, ``hi``) or ``exact=True``; counts and
        settings are exact.
        """
        if not exact and (lo is None or hi is None):
            raise ValueError(f"value '{key}' has neither an interval nor exact=True")
        self.run.part["values"][key] = {"exact": exact, "fmt": fmt} | _numbers(value, lo, hi)
        self.run.save()

    def values(self, entries: dict[str, tuple], fmt: str = ".3g") -> None:
        """Record several ``key: (value, lo, hi)`` at once."""
        for key, (value, lo, hi) in entries.items():
            self.value(key, value, lo, hi, fmt=fmt)

    def claim(self, claim_id: str, value=None, lo=None, hi=None, exact: bool = False, parts=None) -> str:
        """Record what this run says of a claim of the paper; returns the verdict.

        A claim of several parts takes ``parts``, the ``(value, lo, hi)`` of each by its name.
        """
        from prunelib import claims

        claim = claims.CLAIMS[claim_id]
        if parts is not None:
            entry = {
                "exact": False,
                "parts": {part.name: {"exact": False} | _numbers(*parts[part.name]) for part in claim.parts},
            }
            verdict = claims.whole(claims.judge(part, *parts[part.name]) for part in claim.parts)
        else:
            if not exact and (lo is None or hi is None):
                raise ValueError(f"claim '{claim_id}' has neither an interval nor exact=True")
            entry = {"exact": exact} | _numbers(value, lo, hi)
            verdict = claims.judge(claim, value, value if lo is None else lo, value if hi is None else hi)
        self.run.part["claims"][claim_id] = entry | {"verdict": verdict}
        self.run.save()
        return verdict


def _numbers(value, lo, hi) -> dict:
    """JSON-safe value and interval: non-finite numbers become None."""

    def clean(x):
        if x is None or isinstance(x, str | bool | int):
            return x
        return float(x) if math.isfinite(x) else None

    return {"value": clean(value), "lo": clean(lo), "hi": clean(hi)}


def parse_temperatures(text: str) -> tuple[float, ...]:
    """``"0.5,1,2"`` -> ``(0.5, 1.0, 2.0)``, always with 1. Raises PrunelibError on T <= 0."""
    try:
        found = {float(x) for x in str(text).split(",") if x.strip()}
    except ValueError:
        raise PrunelibError(f"temperatures must be numbers separated by commas, got '{text}'") from None
    bad = [t for t in found if not 0 < t < math.inf]
    if bad:
        raise PrunelibError(f"temperature must be above 0, got {bad[0]:g}")
    return tuple(sorted(found | {1.0}))


SEEDS = 2**32
"""Seeds lie below this: what every random generator in use takes."""


def check_seed(seed: int) -> int:
    """The seed, or PrunelibError if a random generator would refuse it."""
    if not 0 <= seed < SEEDS:
        raise PrunelibError(f"seed must be a whole number from 0 to {SEEDS - 1}, got {short(str(seed))}")
    return seed


def check_options(given: dict) -> None:
    """Raises PrunelibError for a bad ``profile``, ``limit``, ``seed`` or ``temperatures``, where given."""
    profile, limit = given.get("profile", "quick"), given.get("limit", 0)
    if profile not in PROFILES:
        options = ", ".join(PROFILES)
        raise PrunelibError(f"unknown profile '{profile}'{nearest(profile, PROFILES)}; use one of {options}")
    if limit < 0:
        raise PrunelibError(f"limit must be 0 or a number of prompts, got {limit}")
    check_seed(given.get("seed", 0))
    parse_temperatures(given.get("temperatures", TEMPERATURES))


def run_folder(model: str, revision: str, profile: str, out: str = "") -> Path:
    """``out`` if given, else ``runs/<model slug>/<profile>``, below :func:`paths.work_dir`.

    An executed notebook that is opened where its run keeps it belongs to that run.
    """
    base = paths.work_dir()
    if base != Path() and runfolder.is_run(base) and not Path(out).is_absolute():
        return base
    return base / (out or Path("runs") / paths.slugify(model, revision) / profile)


def start(
    notebook: str,
    model: str = DEFAULT_MODEL,
    revision: str = "",
    profile: str = "quick",
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    out: str = "",
    prompts: str = "default",
    limit: int = 0,
    temperatures: str = TEMPERATURES,
    **own,
) -> Chapter:
    """Open the run folder for one notebook.

    ``model`` is an alias, a hub id, a local folder or a GGUF file; ``profile``
    one of smoke, quick, full; ``out`` a run folder other than the default;
    ``prompts`` the committed set or a user's file; ``limit`` a number of
    prompts other than the profile's (0: the profile's); ``own`` the notebook's
    own parameters, only recorded here. Raises PrunelibError on a bad value.
    """
    check_options({"profile": profile, "limit": limit, "seed": seed, "temperatures": temperatures})
    settings = PROFILES[profile]
    if limit:
        settings = Profile(**asdict(settings) | {"prompts": limit})
    folder = run_folder(model, revision, profile, out)
    runfolder.refuse_foreign(folder)
    about = {"seed": seed, "prompts": prompts, "temperatures": parse_temperatures(temperatures)}
    about["load"] = loader = _Loader(model, revision or None, dtype, device)
    card = loader.card(folder / "model.json")
    parameters = {
        "model": model, "revision": revision, "profile": profile, "seed": seed, "device": device,
        "dtype": dtype, "out": out, "prompts": prompts, "limit": limit, "temperatures": temperatures,
    }  # fmt: skip
    runfolder.refuse_other(folder, {notebook: parameters}, card)
    runfolder.claim(folder)
    loader.keep(folder / "model.json")
    common = {
        "parameters": parameters | own,
        "model": card,
        "profile": profile,
        "seed": seed,
        "code": store.code_version(),
        "packages": store.packages(),
        "hardware": store.hardware(),
    }
    return Chapter(store.Run(folder, notebook, common), card, settings, about)


class _Loader:
    """Loads the model once, and knows its card without loading when nothing changed."""

    def __init__(self, *arguments):
        self.arguments = arguments
        self._lm = None
        self._known: dict = {}

    def __call__(self):
        if self._lm is None:
            import prunelib

            self._lm = prunelib.load(*self.arguments)
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
        from prunelib import fetch

        name, revision, dtype, device = self.arguments
        identity = store.key_hash({"asked": self.arguments, "files": fetch.identity(name, revision)})
        self._known = store.read_json(file)
        if self._known.get("identity") != identity:
            self._known = {}
            lm = self()
            parameters = sum(p.numel() for p in lm.model.parameters())
            self._known = {"identity": identity, "card": lm.describe() | {"parameters": parameters}}
        return self._known["card"]

    def keep(self, file: Path) -> None:
        """Write what :meth:`card` found to ``file``, for the next notebook."""
        if store.read_json(file) != self._known:
            store.write_json(file, self._known)


def prompt_file(source: str) -> str:
    """Hash of the prompt set, for table keys. ``source`` as in ``start(prompts=...)``."""
    file = paths.data_dir() / "prompts.jsonl" if source == "default" else Path(source).expanduser()
    if not file.is_file():
        raise PrunelibError(f"no prompt file {file}")
    return store.sha256(file)
