"""Sites of a model, and lists of those that are dropped. :func:`prunelib.models.hooks.dropped` carries a list out."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from prunelib.errors import PrunelibError, nearest

LETTERS = {"attn": "A", "mlp": "M", "block": "B"}
"""Kinds of sites, with their letter in labels such as ``Drop-8A``."""


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

    @property
    def sublayers(self) -> tuple["Site", ...]:
        """Itself, or both sublayers of a block."""
        return tuple(Site(kind, self.layer) for kind in ("attn", "mlp")) if self.kind == "block" else (self,)

    @classmethod
    def parse(cls, text: str) -> "Site":
        """The site written as ``attn:12``.

        >>> Site.parse("mlp:3")
        Site(kind='mlp', layer=3)
        """
        kind, _, layer = text.strip().partition(":")
        _check_kind(kind)
        if not (layer.isascii() and layer.isdigit()):
            raise PrunelibError(f"a site is written as attn:12, not '{text.strip()}'")
        return cls(kind, int(layer))


@dataclass(frozen=True)
class DropPlan:
    """Sites to drop, in the order in which they were chosen.

    ``scores`` maps every candidate (``"attn:12"``) to what it was chosen by; it is ``None`` for an
    explicit list, and is no part of equality. Raises PrunelibError for a site that is dropped twice.
    """

    sites: tuple[Site, ...]
    scores: Mapping[str, float] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self):
        twice = [str(site) for site, times in Counter(self.sites).items() if times > 1]
        blocks = {site.layer for site in self.sites if site.kind == "block"}
        twice += [str(s) for s in self.sites if s.kind != "block" and s.layer in blocks]
        if twice:
            raise PrunelibError(f"dropped twice in one plan: {', '.join(twice)}")


def _check_kind(kind: str) -> None:
    if kind not in LETTERS:
        raise PrunelibError(f"unknown kind '{kind}'{nearest(kind, LETTERS)}; use attn, mlp or block")
