"""Inter-layer pruning: attention, MLP or block sublayers chosen by a criterion."""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from prunelib.errors import PrunelibError, nearest
from prunelib.methods.base import Look, Method
from prunelib.methods.criterion import (
    COSINE,
    CRITERIA,
    RANDOM,
    Criterion,
    angular_distances,
    kinds_of,
    random_scores,
    still_there,
)
from prunelib.models.sublayers import LETTERS, DropPlan, Site

if TYPE_CHECKING:
    import pandas as pd

RANKINGS = LETTERS | {"joint": "AM", "angular": "B"}
"""What is ranked, with its letters in labels: sites of a kind, attention and MLP together, consecutive blocks."""

TOGETHER = "attn+mlp"
"""How a specification with a criterion writes the ranking ``joint``."""

NAMED = tuple(name for name in CRITERIA if name != COSINE.name)
"""Criteria that a specification names; without a name it is the cosine."""


@dataclass(frozen=True)
class Drop(Method):
    """Drop the sublayers that matter least: to the stream, or at the output.

    ``ranking`` is attn, mlp, block, joint (attention and MLP in one ranking) or angular (``count`` consecutive blocks
    by angular distance, Gromov et al. 2024). ``by`` is what decides (:data:`prunelib.methods.criterion.CRITERIA`):
    ``cosine``, how little a sublayer turns the residual stream (Attn Drop and MLP Drop, He et al. 2024; blocks:
    ShortGPT, Men et al. 2024); ``kl``, ``varp`` or ``tv``, how far its removal moves the next-token distributions;
    ``random``, a draw with ``seed``. ``iterative`` measures the scores again after every drop, with the chosen sites
    already gone; at the output that is the rule and ``:once`` the exception. Either way a plan begins with the plans of
    smaller counts.
    """

    ranking: str
    count: int
    iterative: bool = False
    by: str = COSINE.name
    seed: int = 0
    name: ClassVar[str] = "drop"
    title: ClassVar[str] = "Drop"
    kind: ClassVar[str] = "drop"
    usage: ClassVar[str] = "drop:[kl|varp|tv|random:]KINDS:N"
    example: ClassVar[str] = "drop:attn:8"
    source: ClassVar[str] = "he2024matters,men2025shortgpt,kim2024shortened,song2024sleb"
    look: ClassVar[Look] = Look("blue", "v", 0)

    def __post_init__(self):
        if self.ranking not in RANKINGS:
            near = nearest(self.ranking, [*RANKINGS, *NAMED])
            raise PrunelibError(f"unknown kind '{self.ranking}'{near}; use {', '.join(RANKINGS)}")
        if self.by not in CRITERIA:
            raise PrunelibError(f"unknown criterion '{self.by}'{nearest(self.by, CRITERIA)}; use {', '.join(CRITERIA)}")
        if self.ranking == "angular" and self.by != COSINE.name:
            raise PrunelibError(f"angular is a criterion itself: use drop:angular:{self.count}, or blocks by {self.by}")
        if self.iterative and self.ranking == "angular":
            raise PrunelibError("drop:angular chooses consecutive blocks at once: it has no iterative form")
        if self.by == RANDOM.name and self.iterative:
            raise PrunelibError("drop:random draws once: it has no iterative form")
        if self.seed and self.by != RANDOM.name:
            raise PrunelibError(f"only drop:random has a seed, not {self.by}")
        if self.count < 0:
            raise PrunelibError(f"cannot drop {self.count} sites")

    @classmethod
    def parse(cls, setting: str) -> Self:
        by, _, rest = setting.partition(":")
        named = by in NAMED
        ranking, _, rest = (rest if named else setting).partition(":")
        count, _, option = rest.partition(":")
        if not (count.isascii() and count.isdigit()):
            like = f"drop:{by}:{TOGETHER}:8" if named else "drop:attn:8 or drop:attn:8:iter"
            raise PrunelibError(f"a drop is written as {like}, not 'drop:{setting}'")
        if not named:
            return cls(ranking, int(count), cls._option(option, "iter"))
        joint = sorted(ranking.split("+")) == TOGETHER.split("+")
        if ranking == "joint":
            raise PrunelibError(f"attention and MLP in one ranking by {by} are written as drop:{by}:{TOGETHER}:{count}")
        ranking = "joint" if joint else ranking
        if by != RANDOM.name:
            return cls(ranking, int(count), not cls._option(option, "once"), by)
        seed = re.fullmatch(r"(?:seed(\d{1,9}))?", option, re.ASCII)
        if not seed:
            raise PrunelibError(f"unknown option '{option}' of drop:random; the only one is seedN, such as seed3")
        return cls(ranking, int(count), False, by, int(seed[1] or 0))

    @staticmethod
    def _option(given: str, known: str) -> bool:
        if given not in ("", known):
            raise PrunelibError(f"unknown option '{given}' of drop{nearest(given, [known])}; the only one is {known}")
        return bool(given)

    @classmethod
    def continues(cls, before: str, text: str) -> bool:
        """Whether ``text`` after a ``+`` belongs to the specification ``before``: kinds that are ranked together."""
        _, *words = before.split(":")
        kinds = ("attn", "mlp")
        return len(words) == 2 and words[0] in NAMED and words[1] in kinds and text.partition(":")[0] in kinds

    @property
    def criterion(self) -> Criterion:
        """What decides."""
        return CRITERIA[self.by]

    @property
    def needs(self) -> frozenset[str]:
        """Nothing of a model to draw sites at random; else the calibration tokens."""
        return frozenset() if self.by == RANDOM.name else frozenset({"tokens"})

    @property
    def setting(self) -> str:
        if self.by == COSINE.name:
            return f"{self.ranking}:{self.count}" + (":iter" if self.iterative else "")
        kinds = TOGETHER if self.ranking == "joint" else self.ranking
        once = ":once" if self.criterion.at_output and not self.iterative else ""
        return f"{self.by}:{kinds}:{self.count}" + once + (f":seed{self.seed}" if self.seed else "")

    @property
    def label(self) -> str:
        if self.by == COSINE.name:
            how = " angular" if self.ranking == "angular" else " iter" if self.iterative else ""
        else:
            once = " once" if self.criterion.at_output and not self.iterative else ""
            how = f" {self.by}{once}" + (f" {self.seed}" if self.seed else "")
        return f"Drop-{self.count}{RANKINGS[self.ranking]}{how}"

    @property
    def sublayers(self) -> str:
        """Kind of the dropped sites: attn, mlp, block or joint."""
        return "block" if self.ranking == "angular" else self.ranking

    @property
    def chosen_at_once(self) -> bool:
        """Whether the cosines of the dense model (:meth:`choose`) say which sites go."""
        return self.by == COSINE.name and not self.iterative and self.ranking != "angular"

    def sites_of(self, layers: int) -> int:
        """How many sites a model of ``layers`` layers has to choose from."""
        return len(kinds_of(self.ranking)) * layers

    def check(self, layers: int) -> None:
        if self.count > self.sites_of(layers):
            what = "attention and MLP" if self.ranking == "joint" else self.sublayers
            raise PrunelibError(f"cannot drop {self.count} {what} sites: the model has {layers} layers")

    def choose(self, scores: "pd.DataFrame", layers: int | None = None) -> DropPlan:
        """The sites that go first by a table of :meth:`Criterion.scores`; ties go to the lower layer.

        ``layers`` is how many the model has, as many as the table names unless given.

        Layers that the table does not have are not dropped. Raises PrunelibError for more sites than it has.
        """
        ranked = self.criterion.ranked(scores, self.ranking)
        layers = layers or scores["layer"].nunique()
        if len(ranked) == self.sites_of(layers):  # none is gone
            self.check(layers)
        self._check_left(len(ranked))
        return DropPlan(tuple(map(Site.parse, list(ranked)[: self.count])), ranked)

    def _check_left(self, left: int) -> None:
        if self.count > left:
            what = "attention and MLP" if self.ranking == "joint" else self.sublayers
            raise PrunelibError(f"cannot drop {self.count} {what} sites: the model has {left} that are not dropped yet")

    def given(self, layers: int, gone: Collection[tuple[str, int]] = ()) -> DropPlan:
        """The sites of a random draw in a model of ``layers`` layers, which is all it depends on beside its seed and
        ``gone``, pairs (kind, layer) of what is dropped already."""
        return self.choose(still_there(random_scores(layers, self.seed), gone))

    def plan(
        self,
        lm,
        tokens=None,
        batch_size: int = 8,
        attention_mask=None,
        progress: Callable[[int, int], None] | None = None,
    ) -> DropPlan:
        """The sites, chosen on ``tokens`` [n, length]; ``attention_mask`` [n, length] is 0 at padding.

        Its scores are what each chosen site was chosen by, and what those left had when the last one was chosen.
        ``progress`` is called with (removals measured, all of them), at the output only. Raises PrunelibError for more
        sites than there are.
        """
        from prunelib.models import hooks

        self.check(lm.n_layers)
        gone = hooks.gone(lm)
        if not self.needs:
            return self.given(lm.n_layers, gone)
        if self.ranking == "angular":
            distances = angular_distances(lm, tokens, self.count, batch_size, attention_mask)
            there = [not any(("block", n) in gone for n in range(f, f + self.count)) for f in distances["first"]]
            distances = distances[there]
            self._check_left(self.count if len(distances) else 0)
            first = int(distances.loc[distances["distance"].idxmin(), "first"])
            sites = tuple(Site("block", layer) for layer in range(first, first + self.count))
            return DropPlan(sites, {f"block:{row.first}": row.distance for row in distances.itertuples()})
        measure, kinds = self.criterion.begin(lm, tokens, batch_size, attention_mask), kinds_of(self.ranking)
        tick = self._counter(lm.n_layers, progress)
        if not self.iterative:
            return self.choose(measure((), kinds, tick), lm.n_layers)
        sites: list[Site] = []
        scores: dict[str, float] = {}
        left: list[str] = []
        while len(sites) < self.count:
            # At the output the score of the last candidate is that of the whole plan, which is worth having.
            if len(left) != 1 or self.criterion.at_output:
                ranked = self.criterion.ranked(measure(tuple(sites), kinds, tick), self.ranking)
                left = [site for site in ranked if site not in map(str, sites)]
                # A site keeps the score it was chosen by; those left are scored anew.
                scores |= {site: ranked[site] for site in left}
            self._check_left(len(sites) + len(left))
            sites.append(Site.parse(left.pop(0)))
        return DropPlan(tuple(sites), scores)

    def _counter(self, layers: int, progress) -> Callable[[], None]:
        """Counts the removals of a plan and tells ``progress`` of them."""
        sites, done = self.sites_of(layers), 0
        steps = self.count if self.iterative else 1
        total = sum(sites - step for step in range(steps))

        def tick() -> None:
            nonlocal done
            done += 1
            if progress:
                progress(done, total)

        return tick
