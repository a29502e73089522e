"""Which sublayers to drop: what ``prunelib select`` does, from options to a plan, and the file that holds one."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from prunelib.errors import PrunelibError, nearest
from prunelib.files import parse_row, read_text
from prunelib.methods.criterion import CRITERIA, RANDOM
from prunelib.methods.drop import Drop
from prunelib.methods.sites import Sites
from prunelib.models.sublayers import DropPlan, Site
from prunelib.runs import environment
from prunelib.runs.options import DEFAULT_MODEL, check_seed

SCHEMA = 1
SEQUENCES, LENGTH = 8, 48
"""Calibration of a selection: each removal reads all of it again, so that it is smaller than that of ``compress``."""

_KINDS = {"attn": "attn", "mlp": "mlp", "block": "block", "attn,mlp": "joint"}


@dataclass(frozen=True)
class Request:
    """What is to be chosen, by what, on which text. Raises PrunelibError for what cannot be right."""

    model: str = DEFAULT_MODEL
    criterion: str = "kl"
    budget: int = 8
    kinds: str = "attn,mlp"
    once: bool = False
    """Rank the sites of the dense model once, instead of measuring again after every drop."""
    revision: str = ""
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"
    calibration: str = "self"
    sequences: int = SEQUENCES
    length: int = LENGTH

    def __post_init__(self):
        if self.criterion not in CRITERIA:
            near = nearest(self.criterion, CRITERIA)
            raise PrunelibError(f"unknown criterion '{self.criterion}'{near}; use {', '.join(CRITERIA)}")
        check_seed(self.seed)
        if self.budget < 1:
            raise PrunelibError(f"budget must be at least 1 site, got {self.budget}")
        self.method  # noqa: B018  its kinds

    @property
    def method(self) -> Drop:
        """The drop that this asks for."""
        kinds = sorted({kind.strip() for kind in self.kinds.split(",")})
        if unknown := [kind for kind in kinds if kind not in _KINDS]:
            raise PrunelibError(f"unknown kind '{unknown[0]}'{nearest(unknown[0], _KINDS)}; use attn, mlp or block")
        ranking = _KINDS.get(",".join(kinds))
        if ranking is None:
            raise PrunelibError("a block is both of its sublayers: rank blocks alone, or attn,mlp")
        drawn = self.criterion == RANDOM.name
        return Drop(ranking, self.budget, not (self.once or drawn), self.criterion, self.seed if drawn else 0)


@dataclass(frozen=True)
class Selection:
    """A plan, how it was chosen, and of which model."""

    method: Drop
    plan: DropPlan
    source: dict
    calibration: dict | None

    @property
    def spec(self) -> str:
        """The chosen sites as a specification."""
        return Sites(self.plan.sites).spec

    def steps(self) -> list[tuple[str, float]]:
        """Site and the score that it was chosen by, first dropped first."""
        return [(str(site), self.plan.scores[str(site)]) for site in self.plan.sites]

    def record(self) -> dict:
        """All of it, as the file has it."""
        return {
            "schema": SCHEMA,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "spec": self.method.spec,
            "label": self.method.label,
            "criterion": self.method.criterion.column,
            "again_after_each": self.method.iterative,
            "sites": [site for site, _ in self.steps()],
            "scores": dict(self.plan.scores),
            "source": self.source,
            "calibration": self.calibration,
            "code": environment.code_version(),
            "packages": environment.packages(),
        }


def select(request: Request, tell: Callable[[str], None] = lambda text: None) -> Selection:
    """Load, calibrate, choose; ``tell`` hears what is being done.

    Raises PrunelibError in one line for what a user can fix.
    """
    from prunelib.models.dropped import refuse_dropped
    from prunelib.models.load import load
    from prunelib.tasks.answered import calibration

    method = request.method
    tell(f"loading {request.model} …")
    lm = load(request.model, request.revision or None, request.dtype, request.device)
    refuse_dropped(lm)
    method.check(lm.n_layers)
    tokens, about = None, None
    if method.needs:
        tell(f"calibration: {request.sequences} × {request.length} tokens, {request.calibration} …")
        tokens = calibration(lm, request.calibration, request.sequences, request.length, request.seed)
        about = {
            "source": tokens.source,
            "sequences": request.sequences,
            "length": request.length,
            "seed": request.seed,
            "ids_sha256": tokens.ids_hash,
        }
    tell(f"{method.label} …")
    what = "removals" if method.criterion.at_output else "rankings"
    show = lambda done, total: tell(f"{method.label}: {done} of {total} {what}")  # noqa: E731
    plan = method.plan(lm, tokens.ids if tokens else None, progress=show)
    return Selection(method, plan, lm.describe(), about)


def check_target(file: str | Path) -> Path:
    """The path of a plan that can be written: a new file, or an older plan. Raises PrunelibError, before any work."""
    path = Path(file).expanduser()
    if path.is_dir():
        raise PrunelibError(f"cannot write {file}: it is a folder")
    if path.exists():
        read(path)  # nothing but a plan is replaced
    return path


def read(file: str | Path) -> Sites:
    """The sites of a plan that :func:`select` wrote.

    Raises PrunelibError, naming the file, for one that cannot be read or is no plan.
    """
    row = parse_row(read_text(file), str(file))
    if row.need("schema", int) != SCHEMA:
        raise PrunelibError(f"{file}: a plan of schema {row['schema']}; this version reads {SCHEMA}")
    sites = row.need("sites", list)
    try:
        return Sites(tuple(map(Site.parse, map(str, sites))))
    except PrunelibError as error:
        raise PrunelibError(f"{file}: {error}") from None
