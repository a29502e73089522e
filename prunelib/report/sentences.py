"""Sentences that follow the numbers: each is chosen by a rule from the values and verdicts of a run.

A page states no conclusion of its own. What it says of a run comes from a function ``say(found)`` of the chapter's
``page.py``, is recorded with the other values, and stands in the text through the ``{val}`` role. The tests give the
same functions a run in which everything is reversed.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from prunelib.report import claims, facts


@dataclass(frozen=True)
class Found:
    """What a chapter recorded: ``values`` and ``claims`` as in the manifest."""

    values: Mapping[str, Mapping]
    claims: Mapping[str, Mapping]

    def show(self, key: str, form: str = "") -> str:
        """A value as the text shows it: ``"2.31 (2.10–2.52)"``; ``form`` as in :func:`prunelib.report.facts.show`."""
        return facts.show(self.values[key], form)

    def bracketed(self, key: str) -> str:
        """The same for use inside brackets: ``"2.31, interval 2.10–2.52"``."""
        return self.show(key).replace(" (", ", interval ").rstrip(")")

    def number(self, key: str) -> float:
        """The value alone; NaN where it is not defined."""
        value = self.values[key]["value"]
        return math.nan if value is None else float(value)

    def ends(self, key: str) -> tuple[float, float]:
        """The ends of its interval; an exact value is both of them."""
        entry = self.values[key]
        if entry.get("exact"):
            return (self.number(key),) * 2
        return tuple(math.nan if entry.get(end) is None else float(entry[end]) for end in ("lo", "hi"))

    def side(self, key: str, threshold: float) -> int:
        """1 if the whole interval is above a threshold, -1 if it is below, 0 if neither or not defined."""
        low, high = self.ends(key)
        return int(low > threshold) - int(high < threshold)

    def verdict(self, claim: str) -> str:
        """The verdict of a claim; "undecided" where none was recorded."""
        return self.claims.get(claim, {}).get("verdict", claims.UNDECIDED)

    def is_defined(self, key: str) -> bool:
        """Whether the run could give this number and its interval."""
        return math.isfinite(self.number(key)) and all(map(math.isfinite, self.ends(key)))

    def claim(self, claim: str) -> str:
        """The number that decides a claim, with its interval."""
        return facts.show({"fmt": ".3g"} | dict(self.claims[claim]))


def by_verdict(verdict: str, supported: str, not_supported: str, undecided: str) -> str:
    """One of three sentences."""
    return {claims.SUPPORTED: supported, claims.NOT_SUPPORTED: not_supported}.get(verdict, undecided)


def by_side(side: int, above: str, below: str, neither: str) -> str:
    """One of three sentences, by :meth:`Found.side`."""
    return {1: above, -1: below}.get(side, neither)


def listed(names: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
