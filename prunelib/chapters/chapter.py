"""What a notebook holds: a run whose figures are drawn and whose claims are judged."""

import atexit

import pandas as pd

from prunelib.chapters import checks
from prunelib.files import sha256
from prunelib.report import claims, figures, sentences, tables
from prunelib.runs import environment, sources
from prunelib.runs.options import RunOptions
from prunelib.runs.run import Run, plain_numbers


class Chapter(Run):
    """A :class:`~prunelib.runs.run.Run` that draws figures and records claims. Made by :func:`start`."""

    def figure(self, figure_id: str, data: pd.DataFrame) -> figures.Card:
        """Draw a figure from its tidy data, save all its files, and return its card."""
        provenance = {
            "notebook": self.notebook,
            "model": {k: self.model[k] for k in ("name", "revision", "fingerprint")},
            "profile": self.profile,
            "seed": self.seed,
            "code": environment.code_version(),
            "packages": {k: v for k, v in environment.packages().items() if k in ("torch", "transformers")},
        }
        folder = self.record.place(f"figures/{figure_id}.json").parent
        card = figures.draw(figure_id, data, folder, provenance)
        files = {card.file(suffix).name: sha256(card.file(suffix)) for suffix in figures.SUFFIXES}
        self.record.note("figures", figure_id, {"files": files, "notebook": self.notebook})
        self.record.save()
        return card

    def claim(
        self, claim_id: str, value=None, lo=None, hi=None, exact: bool = False, parts=None, *, over: dict[str, int]
    ) -> str:
        """Record what this run says of a claim of the paper; returns the verdict.

        A claim of several parts takes ``parts``, the ``(value, lo, hi)`` of each by its name. ``over`` is the sample:
        first how many there are of what the interval varies, then what lies in them, such as
        ``{"passages": 12, "items": 36}``.
        """
        claim = claims.CLAIMS[claim_id]
        sample = [{"count": int(count), "of": unit} for unit, count in over.items()]
        if parts is not None:
            entry = {
                "exact": False,
                "parts": {part.name: {"exact": False} | plain_numbers(*parts[part.name]) for part in claim.parts},
            }
            verdict = claims.whole(claims.judge(part, *parts[part.name]) for part in claim.parts)
        else:
            if not exact and (lo is None or hi is None):
                raise ValueError(f"claim '{claim_id}' has neither an interval nor exact=True")
            entry = {"exact": exact} | plain_numbers(value, lo, hi)
            verdict = claims.judge(claim, value, value if lo is None else lo, value if hi is None else hi)
        self.record.note("claims", claim_id, entry | {"sample": sample, "verdict": verdict})
        return verdict

    @property
    def found(self) -> sentences.Found:
        """What this notebook recorded so far."""
        return sentences.Found(self.record.part["values"], self.record.part["claims"])

    def say(self, sentences: dict[str, str]) -> None:
        """Record sentences for the page, which shows them as ``said.<chapter>.<name>``; ``answer`` opens it."""
        chapter = self.notebook.partition("-")[2]
        for name, sentence in sentences.items():
            self.value(f"said.{chapter}.{name}", sentence, exact=True, fmt="m")


def start(chapter: str, parameters: dict) -> Chapter:
    """Open the run folder for the notebook of a chapter.

    ``parameters`` holds the notebook's parameters by name, and may hold anything else: a notebook hands
    over its ``globals()``. Those of :class:`~prunelib.runs.options.RunOptions` have their defaults; the others
    that the notebook's parameters cell declares are its own. Raises PrunelibError on a bad value.
    """
    from prunelib.chapters import load_figures

    book = sources.of_chapter(chapter)
    own = {name: parameters[name] for name in book.defaults if name in parameters}
    checks.check(chapter, {name: value for name, value in own.items() if value != book.defaults[name]})
    options = RunOptions.of(parameters)
    load_figures(chapter)
    opened = Chapter(book.id, options, {k: v for k, v in own.items() if k not in options.__dataclass_fields__})
    _save_after_each_cell(opened)
    tables.show_frames_so()
    return opened


def _save_after_each_cell(chapter: Chapter) -> None:
    """Values and claims recorded since the last table or figure are saved when a cell is done, or Python ends."""
    atexit.register(chapter.record.save_if_noted)
    try:
        from IPython import get_ipython
    except ImportError:
        return
    if shell := get_ipython():
        shell.events.register("post_run_cell", lambda *_: chapter.record.save_if_noted())
