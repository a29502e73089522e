"""Inter-layer pruning: attention, MLP or block sublayers chosen by a criterion."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from prunelib.errors import PrunelibError, nearest
from prunelib.methods.base import Look, Method
from prunelib.methods.criterion import COSINE, Criterion, angular_distances
from prunelib.models.sublayers import LETTERS, DropPlan, Site

if TYPE_CHECKING:
    import pandas as pd

RANKINGS = LETTERS | {"joint": "AM", "angular": "B"}
"""What is ranked, with its letters in labels: sites of a kind, attention and MLP together, consecutive blocks."""


@dataclass(frozen=True)
class Drop(Method):
    """Drop the sublayers that turn the residual stream least.

    ``ranking`` is attn, mlp, block, joint (attention and MLP in one ranking: Attn Drop and MLP Drop,
    He et al. 2024; blocks: ShortGPT, Men et al. 2024) or angular (``count`` consecutive blocks by angular
    distance, Gromov et al. 2024). ``iterative`` measures the scores again after every drop,
    with the chosen sites already gone.
    """

    ranking: str
    count: int
    iterative: bool = False
    name: ClassVar[str] = "drop"
    title: ClassVar[str] = "Drop"
    kind: ClassVar[str] = "drop"
    usage: ClassVar[str] = "drop:attn|mlp|block|joint|angular:N"
    example: ClassVar[str] = "drop:attn:8"
    source: ClassVar[str] = "he2024matters,men2025shortgpt"
    needs: ClassVar[frozenset[str]] = frozenset({"tokens"})
    criterion: ClassVar[Criterion] = COSINE
    look: ClassVar[Look] = Look("blue", "v", 0)

    def __post_init__(self):
        if self.ranking not in RANKINGS:
            near = nearest(self.ranking, RANKINGS)
            raise PrunelibError(f"unknown kind '{self.ranking}'{near}; use {', '.join(RANKINGS)}")
        if self.iterative and self.ranking == "angular":
            raise PrunelibError("drop:angular chooses consecutive blocks at once: it has no iterative form")
        if self.count < 0:
            raise PrunelibError(f"cannot drop {self.count} sites")

    @classmethod
    def parse(cls, setting: str) -> Self:
        ranking, _, rest = setting.partition(":")
        count, _, option = rest.partition(":")
        if not (count.isascii() and count.isdigit()):
            raise PrunelibError(f"a drop is written as drop:attn:8 or drop:attn:8:iter, not 'drop:{setting}'")
        if option not in ("", "iter"):
            raise PrunelibError(f"unknown option '{option}' of drop{nearest(option, ['iter'])}; the only one is iter")
        return cls(ranking, int(count), option == "iter")

    @classmethod
    def continues(cls, text: str) -> bool:
        """Whether ``text`` after a ``+`` belongs to this specification."""
        return False

    @property
    def setting(self) -> str:
        return f"{self.ranking}:{self.count}" + (":iter" if self.iterative else "")

    @property
    def label(self) -> str:
        how = " angular" if self.ranking == "angular" else " iter" if self.iterative else ""
        return f"Drop-{self.count}{RANKINGS[self.ranking]}{how}"

    @property
    def sublayers(self) -> str:
        """Kind of the dropped sites: attn, mlp, block or joint."""
        return "block" if self.ranking == "angular" else self.ranking

    @property
    def chosen_at_once(self) -> bool:
        """Whether scores of the dense model (:meth:`choose`) say which sites go."""
        return not self.iterative and self.ranking != "angular"

    def check(self, layers: int) -> None:
        sites = 2 * layers if self.ranking == "joint" else layers
        if self.count > sites:
            what = "attention and MLP" if self.ranking == "joint" else self.sublayers
            raise PrunelibError(f"cannot drop {self.count} {what} sites: the model has {layers} layers")

    def choose(self, scores: "pd.DataFrame") -> DropPlan:
        """The sites of highest score in a table of :meth:`Criterion.scores`; ties go to the lower layer.

        Layers that the table does not have are not dropped. Raises PrunelibError for more sites than it has.
        """
        self.check(scores["layer"].nunique())
        ranked = self.criterion.ranked(scores, self.ranking)
        return DropPlan(tuple(map(Site.parse, list(ranked)[: self.count])), ranked)

    def plan(self, lm, tokens, batch_size: int = 8, attention_mask=None) -> DropPlan:
        """The sites, chosen on ``tokens`` [n, length]; ``attention_mask`` [n, length] is 0 at padding.

        Raises PrunelibError for more sites than there are.
        """
        self.check(lm.n_layers)
        if self.ranking == "angular":
            distances = angular_distances(lm, tokens, self.count, batch_size, attention_mask)
            first = int(distances.loc[distances["distance"].idxmin(), "first"])
            sites = tuple(Site("block", layer) for layer in range(first, first + self.count))
            return DropPlan(sites, {f"block:{row.first}": row.distance for row in distances.itertuples()})
        if not self.iterative:
            return self.choose(self.criterion.scores(lm, tokens, batch_size, (), attention_mask))
        sites: list[Site] = []
        scores: dict[str, float] = {}
        left: list[str] = []
        while len(sites) < self.count:
            if len(left) != 1:  # the last candidate wins unmeasured
                table = self.criterion.scores(lm, tokens, batch_size, sites, attention_mask)
                ranked = self.criterion.ranked(table, self.ranking)
                left = [site for site in ranked if site not in map(str, sites)]
                # A site keeps the score it was chosen by; those left are scored anew.
                scores |= {site: ranked[site] for site in left}
            sites.append(Site.parse(left.pop(0)))
        return DropPlan(tuple(sites), scores)
