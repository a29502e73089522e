"""The options of a run: one list for the command line, the runner and the notebooks."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path

from prunelib import paths
from prunelib.errors import PrunelibError, short
from prunelib.runs import folders, profiles

DEFAULT_MODEL = "smollm2-135m-instruct"

SEEDS = 2**32
"""Seeds lie below this: what every random generator in use takes."""


def _option(default, about: str, metavar: str = "", flag: bool = False):
    """An option with its line of help; ``flag``: the command line has ``--name`` for it, besides ``-p name=``."""
    return field(default=default, metadata={"about": about, "metavar": metavar, "flag": flag})


@dataclass(frozen=True)
class RunOptions:
    """What every notebook of a run takes. Raises PrunelibError for a value that cannot be right."""

    model: str = _option(
        DEFAULT_MODEL, "alias (see `prunelib models`), hub id, local folder or .gguf file", "ID", flag=True
    )
    revision: str = _option("", "hub branch, tag or commit", "SHA", flag=True)
    profile: str = _option("quick", "smoke (does it run), quick (minutes) or full (hours)", flag=True)
    seed: int = _option(0, "seed of everything random (default 0)", "N", flag=True)
    device: str = _option(
        "auto", "auto (a GPU, or several and main memory for a model that is larger), cpu, cuda, cuda:1, mps", flag=True
    )
    dtype: str = _option(
        "auto", "auto (bfloat16 on a GPU, float32 on a CPU), float32, bfloat16, float16, float64", flag=True
    )
    out: str = _option("", "run folder (default runs/MODEL/PROFILE)", "DIR", flag=True)
    beside: str = _option(
        "",
        "run folders shown beside this run, separated by commas (default: the committed reference)",
        "DIR,…",
        flag=True,
    )
    prompts: str = _option("default", "the committed prompts, or a .txt or .jsonl file")
    limit: int = _option(0, "number of prompts; 0: the profile's")
    temperatures: str = _option("0.3,0.5,0.7,1,1.5,2", "temperatures of the trace; 1 is always measured")

    def __post_init__(self):
        profiles.profile(self.profile)
        if self.limit < 0:
            raise PrunelibError(f"limit must be 0 or a number of prompts, got {self.limit}")
        check_seed(self.seed)
        parse_temperatures(self.temperatures)

    @classmethod
    def of(cls, given: Mapping) -> "RunOptions":
        """From a mapping that may hold other names too, as the parameters of a notebook do."""
        return cls(**{name: given[name] for name in NAMES if name in given})

    @cached_property
    def settings(self) -> profiles.Profile:
        """The profile, with ``limit`` prompts where that is given."""
        found = profiles.profile(self.profile)
        return replace(found, prompts=self.limit) if self.limit else found

    @property
    def folder(self) -> Path:
        """``out`` if given, else ``runs/<model slug>/<profile>``, below :func:`prunelib.paths.work_dir`.

        An executed notebook that is opened where its run keeps it belongs to that run.
        """
        base = paths.work_dir()
        if base != Path() and folders.is_run(base) and not Path(self.out).is_absolute():
            return base
        return base / (self.out or Path("runs") / paths.slugify(self.model, self.revision) / self.profile)


NAMES = tuple(one.name for one in fields(RunOptions))
FLAGS = tuple(one.name for one in fields(RunOptions) if one.metadata["flag"])
"""Options that the command line has a name for."""


class Asked:
    """What whoever holds :class:`RunOptions` as ``options`` is asked for: a run, and one that is only counted."""

    options: RunOptions

    @property
    def settings(self) -> profiles.Profile:
        return self.options.settings

    @property
    def profile(self) -> str:
        return self.options.profile

    @property
    def seed(self) -> int:
        return self.options.seed

    @property
    def temperatures(self) -> tuple[float, ...]:
        return parse_temperatures(self.options.temperatures)


def parse_temperatures(text: str) -> tuple[float, ...]:
    """Numbers separated by commas, sorted and always with 1. Raises PrunelibError on T <= 0.

    >>> parse_temperatures("2,0.5")
    (0.5, 1.0, 2.0)
    """
    try:
        found = {float(x) for x in str(text).split(",") if x.strip()}
    except ValueError:
        raise PrunelibError(f"temperatures must be numbers separated by commas, got '{text}'") from None
    bad = [t for t in found if not 0 < t < math.inf]
    if bad:
        raise PrunelibError(f"temperature must be above 0, got {bad[0]:g}")
    return tuple(sorted(found | {1.0}))


def check_seed(seed: int) -> int:
    """The seed, or PrunelibError if a random generator would refuse it."""
    if not 0 <= seed < SEEDS:
        raise PrunelibError(f"seed must be a whole number from 0 to {SEEDS - 1}, got {short(str(seed))}")
    return seed
