"""Inter-layer pruning: plans of attention, MLP or block sublayers to remove.

A plan is a list of sites, chosen by score (:mod:`prunelib.compress.importance`)
or written by hand. :func:`prunelib.hooks.dropped` carries it out.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import pandas as pd

from prunelib.errors import PrunelibError, nearest

KINDS = {"attn": "A", "mlp": "M", "block": "B"}
"""Kinds of sites, with their letter in labels such as ``Drop-8A``."""

RANKINGS = KINDS | {"joint": "AM"}
"""What can be ranked by cosine: a kind of sites, or attention and MLP sublayers together."""

EXPLICIT = "sites:"
"""Prefix of the specification of an explicit list of sites."""


@dataclass(frozen=True)
class Site:
    """One sublayer, or a whole block, of one layer: ``str(Site("attn", 12)) == "attn:12"``."""

    kind: str
    layer: int

    def __post_init__(self):
        _check_kind(self.kind)
        if self.layer < 0:
            raise PrunelibError(f"layers are counted from 0: {self}")

    def __str__(self) -> str:
        return f"{self.kind}:{self.layer}"

    @classmethod
    def parse(cls, text: str) -> "Site":
        """The site written as ``attn:12``."""
        kind, _, layer = text.strip().partition(":")
        _check_kind(kind)
        return cls(kind, _whole(layer, f"a site is written as attn:12, not '{text.strip()}'"))


@dataclass(frozen=True)
class DropPlan:
    """Sites to drop, in the order in which they were chosen.

    ``kind`` is that of all sites, or ``"joint"`` or ``"mixed"``. ``scores`` maps
    every candidate (``"attn:12"``) to what it was chosen by; it is ``None`` for an
    explicit list, and is no part of equality. ``chosen_by`` is the specification
    of a choice that kind and count do not say whole (``"drop:attn:8:iter"``).
    """

    sites: tuple[Site, ...]
    kind: str
    scores: Mapping[str, float] | None = field(default=None, compare=False, repr=False)
    label: str = ""
    chosen_by: str = ""
    needs: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self):
        if not self.sites and not self.ranked:
            raise PrunelibError("an explicit drop plan needs at least one site, such as attn:12")
        twice = [str(site) for site, times in Counter(self.sites).items() if times > 1]
        blocks = {site.layer for site in self.sites if site.kind == "block"}
        twice += [str(s) for s in self.sites if s.kind != "block" and s.layer in blocks]
        if twice:
            raise PrunelibError(f"dropped twice in one plan: {', '.join(twice)}")
        if not self.label:
            names = ", ".join(map(str, self.sites))
            short = f"Drop-{len(self.sites)}{RANKINGS.get(self.kind, '')}"
            object.__setattr__(self, "label", short if self.ranked else f"Drop {names}")

    @property
    def ranked(self) -> bool:
        """Chosen by score, so that kind and count say it all."""
        return self.scores is not None

    @property
    def spec(self) -> str:
        """``drop:attn:8`` for a ranked plan, ``sites:attn:3,attn:7`` for an explicit list."""
        if self.ranked:
            return self.chosen_by or f"drop:{self.kind}:{len(self.sites)}"
        return EXPLICIT + ",".join(map(str, self.sites))

    @classmethod
    def of(cls, sites: str | Iterable[Site]) -> "DropPlan":
        """An explicit list, as sites or as text: ``DropPlan.of("attn:3,attn:7")``."""
        if isinstance(sites, str):
            sites = [Site.parse(part) for part in sites.removeprefix(EXPLICIT).split(",")]
        sites = tuple(sites)
        kinds = {site.kind for site in sites}
        return cls(sites, kinds.pop() if len(kinds) == 1 else "mixed")


def from_spec(spec: str, scores: pd.DataFrame | None = None) -> DropPlan:
    """The plan of a specification: ``drop:attn:8`` (which needs scores) or ``sites:attn:3``.

    Raises :class:`PrunelibError` for anything else.
    """
    if spec.startswith(EXPLICIT):
        return DropPlan.of(spec)
    head, _, rest = spec.partition(":")
    kind, _, count = rest.partition(":")
    if head != "drop":
        raise PrunelibError(f"a drop is written as drop:attn:8 or sites:attn:3, not '{spec}'")
    _check_ranking(kind)
    number = _whole(count, f"a drop is written as drop:attn:8, not '{spec}'")
    if scores is None:
        raise PrunelibError(f"'{spec}' needs importance scores; an explicit list is sites:attn:3")
    return plan(scores, kind, number)


def plan(scores: pd.DataFrame, kind: str, count: int) -> DropPlan:
    """The ``count`` sites of a kind with the highest cosine; ties go to the lower layer.

    ``scores`` is a table of :func:`~prunelib.compress.importance.importance`; kind
    ``joint`` ranks attention and MLP sublayers in one list. A count of 0 gives the
    empty plan (the dense model). Raises :class:`PrunelibError` for a count that is
    negative or above the number of sites.
    """
    _check_ranking(kind)
    candidates = scores[scores["kind"].isin(("attn", "mlp") if kind == "joint" else (kind,))]
    check_count(count, kind, candidates["layer"].nunique())
    order = candidates.sort_values(["cosine", "layer", "kind"], ascending=[False, True, True])
    ranked = {
        str(Site(row.kind, int(row.layer))): float(row.cosine) for row in order.itertuples()
    }
    return DropPlan(tuple(map(Site.parse, list(ranked)[:count])), kind, ranked)


def check_count(count: int, kind: str, layers: int) -> None:
    """Raises PrunelibError for a negative count, or more sites than ``layers`` layers have."""
    sites = 2 * layers if kind == "joint" else layers
    if not 0 <= count <= sites:
        what = "attention and MLP" if kind == "joint" else kind
        raise PrunelibError(f"cannot drop {count} {what} sites: the model has {layers} layers")


def _check_ranking(kind: str) -> None:
    if kind not in RANKINGS:
        raise PrunelibError(f"unknown kind '{kind}'{nearest(kind, RANKINGS)}; use {', '.join(RANKINGS)}")


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise PrunelibError(f"unknown kind '{kind}'{nearest(kind, KINDS)}; use attn, mlp or block")


def _whole(text: str, problem: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise PrunelibError(problem)
    return int(text)
