"""Two models on the same text: what ``prunelib kl`` does, from names to statistics."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prunelib.errors import PrunelibError, nearest, short
from prunelib.methods import Method, parse, registry
from prunelib.models import fetch
from prunelib.runs import environment
from prunelib.runs.options import DEFAULT_MODEL, check_seed
from prunelib.tasks import pieces

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = 3  # tokens that a refusal names


@dataclass(frozen=True)
class Request:
    """What to compare with what, and on which text. Raises PrunelibError for what cannot be right."""

    model: str = DEFAULT_MODEL
    against: str = ""
    """Another model, or a specification of what to do to ``model``."""
    text: str = pieces.DEFAULT
    window: int | None = None
    """Most tokens of a piece; None: :data:`prunelib.tasks.pieces.WINDOW`, or what both models read if that is less."""
    revision: str = ""
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"
    calibration: str = "self"
    sequences: int = 32
    length: int = 128

    def __post_init__(self):
        method_of(self.against)
        check_seed(self.seed)
        if self.window is not None and self.window < 2:
            raise PrunelibError(f"window must be at least 2 tokens, got {self.window}")


@dataclass(frozen=True)
class Comparison:
    """``statistics`` as :func:`prunelib.measure.token_summary.summarise` gives them, and what was compared."""

    dense: dict
    pruned: dict
    text: dict
    statistics: "pd.DataFrame"

    def rows(self) -> list[dict]:
        """The statistics; what is not defined, or infinite, is None."""
        rows = self.statistics.to_dict("records")
        for row in rows:
            row |= {end: row[end] if math.isfinite(row[end]) else None for end in ("value", "lo", "hi")}
        return rows

    def record(self) -> dict:
        """All of it, as JSON takes it."""
        return {
            "dense": self.dense,
            "pruned": self.pruned,
            "text": self.text,
            "statistics": self.rows(),
            "code": environment.code_version(),
            "packages": environment.packages(),
        }


def method_of(against: str) -> Method | None:
    """The method that ``against`` specifies, or None where it names a model.

    What exists on this disk or is an alias is a model; what begins with the name of a method, or has a colon, is a
    specification. Raises PrunelibError for a bad one, with the nearest name.
    """
    name = against.strip().partition(":")[0]
    if not name:
        raise PrunelibError("there is nothing to compare with: name a model or a specification such as wanda:0.5")
    if against in fetch.aliases() or Path(against).expanduser().exists():
        return None
    if name in registry():
        return parse(against)
    if ":" in against:
        known = [*registry(), *fetch.aliases()]
        raise PrunelibError(
            f"unknown method '{short(name)}'{nearest(name, known)}; use a model, or one of {', '.join(registry())}"
        )
    return None


def compare(request: Request, tell: Callable[[str], None] = lambda text: None) -> Comparison:
    """Load, compress where that is asked for, and measure; ``tell`` hears what is being done.

    Raises PrunelibError in one line for what a user can fix; the text is read before any model is.
    """
    method, texts = method_of(request.against), pieces.load_texts(request.text)
    from prunelib.measure.next_token import compare as measured
    from prunelib.measure.token_summary import summarise
    from prunelib.models.load import load

    tell(f"loading {request.model} …")
    lm = load(request.model, request.revision or None, request.dtype, request.device)
    if method is None:
        tell(f"loading {request.against} …")
        other, within = load(request.against, None, request.dtype, request.device), nullcontext
        refuse_other_vocabulary(lm, other)
        about = other.describe()
    else:
        other, within, about = _compressed(lm, method, request, tell)
    window = request.window or int(min(pieces.WINDOW, lm.positions, other.positions))
    other.check_length(window, "a window")
    some = pieces.cut(lm, texts, window)
    tokens = measured(
        lm, other, some, within, lambda done, total: tell(f"{about['name']}: {done:,} of {total:,} tokens")
    )
    tell("intervals …")
    text = {
        "source": request.text,
        "texts": len(texts),
        "pieces": len(some),
        "window": window,
        "ids_sha256": pieces.digest(some),
    }
    return Comparison(lm.describe(), about, text, summarise(tokens, request.seed))


def _compressed(lm, method: Method, request: Request, tell):
    """What ``prunelib compress`` would save, as (model, context in which it is that, description)."""
    from prunelib.methods.apply import compress
    from prunelib.models.dropped import refuse_dropped
    from prunelib.tasks.answered import calibration

    about = {"name": f"{method.label} of {lm.name}", "spec": method.spec, "source": lm.name}
    if method.kind == "dense":
        return lm, nullcontext, about
    refuse_dropped(lm)
    tokens = None
    if method.needs:
        tell(f"calibration: {request.sequences} × {request.length} tokens, {request.calibration} …")
        tokens = calibration(lm, request.calibration, request.sequences, request.length, request.seed)
        about["calibration"] = {
            "source": tokens.source,
            "sequences": request.sequences,
            "length": request.length,
            "seed": request.seed,
            "ids_sha256": tokens.ids_hash,
        }
    tell(f"{method.label} …")
    show = lambda done, total: tell(f"{method.label}: {done}/{total}")  # noqa: E731
    made = compress(lm, [method.spec], tokens.ids if tokens else None, progress=show)[method.spec]
    return lm, lambda: made.applied(lm), about | {"bits_per_weight": made.bits_per_weight}


def refuse_other_vocabulary(dense, pruned) -> None:
    """Raises PrunelibError, naming what differs, unless both models mean the same tokens by the same ids."""
    if dense.tokenizer is not None and pruned.tokenizer is not None:
        own, other = (lm.tokenizer.get_vocab() for lm in (dense, pruned))
        if own != other:
            apart = sorted(own.items() ^ other.items(), key=lambda pair: (pair[1], pair[0]))
            ids = list(dict.fromkeys(number for _, number in apart))
            mine, theirs = ({number: token for token, number in vocabulary.items()} for vocabulary in (own, other))
            some = ", ".join(f"{i} is {_quoted(mine, i)} and {_quoted(theirs, i)}" for i in ids[:_SHOWN])
            raise PrunelibError(
                f"{dense.name} and {pruned.name} have different vocabularies ({len(own)} and {len(other)} tokens): "
                f"{len(ids)} ids differ, {some}"
            )
    if dense.vocab_size != pruned.vocab_size:
        raise PrunelibError(
            f"{dense.name} has {dense.vocab_size} logits a token and {pruned.name} has {pruned.vocab_size}: "
            "their distributions cannot be compared"
        )


def _quoted(vocabulary: dict[int, str], number: int) -> str:
    return f"'{short(vocabulary[number], 20)}'" if number in vocabulary else "no token"
