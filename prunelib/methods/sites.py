"""Inter-layer pruning by a list that the user gives."""

from dataclasses import dataclass
from typing import ClassVar, Self

from prunelib.errors import PrunelibError
from prunelib.methods.base import JOIN, Look, Method
from prunelib.models.sublayers import LETTERS, DropPlan, Site


@dataclass(frozen=True)
class Sites(Method):
    """Drop exactly these sublayers or blocks."""

    sites: tuple[Site, ...]
    name: ClassVar[str] = "sites"
    title: ClassVar[str] = "Drop"
    kind: ClassVar[str] = "drop"
    usage: ClassVar[str] = "sites:attn:3+mlp:7"
    example: ClassVar[str] = "sites:attn:3+mlp:7"
    look: ClassVar[Look] = Look("blue", "<", 1)

    def __post_init__(self):
        if not self.sites:
            raise PrunelibError("an explicit drop plan needs at least one site, such as attn:12")
        DropPlan(self.sites)

    @classmethod
    def parse(cls, setting: str) -> Self:
        if "," in setting:
            raise PrunelibError(f"sites are joined by +, as in {cls.example}, not 'sites:{setting}'")
        return cls(tuple(map(Site.parse, setting.split(JOIN))))

    @classmethod
    def continues(cls, before: str, text: str) -> bool:
        """Whether ``text`` after a ``+`` is one more site of the list ``before``."""
        return text.partition(":")[0] in LETTERS

    @property
    def setting(self) -> str:
        return JOIN.join(map(str, self.sites))

    @property
    def label(self) -> str:
        return f"Drop {', '.join(map(str, self.sites))}"

    @property
    def sublayers(self) -> str:
        """Kind of the dropped sites: attn, mlp, block, or joint for several."""
        kinds = {site.kind for site in self.sites}
        return kinds.pop() if len(kinds) == 1 else "joint"

    @property
    def count(self) -> int:
        return len(self.sites)

    def check(self, layers: int) -> None:
        if beyond := [str(site) for site in self.sites if site.layer >= layers]:
            raise PrunelibError(f"there is no {beyond[0]} to drop: the model has {layers} layers, counted from 0")

    def given(self, layers: int, gone=()) -> DropPlan:
        """The sites as they are, in a model of ``layers`` layers, whatever is ``gone`` already."""
        self.check(layers)
        return DropPlan(self.sites)

    def plan(self, lm, tokens=None, batch_size: int = 8, attention_mask=None, progress=None) -> DropPlan:
        """The sites as they are; nothing is measured."""
        return self.given(lm.n_layers)
