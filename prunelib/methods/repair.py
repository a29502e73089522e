"""What methods that repair a compressed model share; each stands after another method, joined by ``+``.

A repair reads text (tokens [n, S]) with the dense and with the compressed model, and changes some parameters so that
the second gives the next-token distributions of the first again. Whatever it does folds into ordinary weights of
the same architecture.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from prunelib.errors import PrunelibError
from prunelib.methods.base import Method

if TYPE_CHECKING:
    from prunelib.methods.apply import Compressed, Repaired


@dataclass(frozen=True)
class Repair(Method):
    """A method that repairs what other methods left."""

    kind: ClassVar[str] = "recover"
    needs: ClassVar[frozenset[str]] = frozenset({"tokens"})
    trained: ClassVar[bool] = False
    """Whether it takes gradient steps, rather than one closed form or one convex problem."""
    moves_blocks: ClassVar[bool] = False
    """Whether it changes matrices of the blocks: those of a quantized model would leave their grid."""
    keeps_zeros: ClassVar[bool] = True
    """Whether zeros of a sparsified model stay zeros."""
    needs_drops: ClassVar[bool] = False
    """Whether there must be dropped sublayers to make up for."""

    def check_after(self, parts: Sequence[Method]) -> None:
        others = [part for part in parts if part.kind != "recover"]
        if not others:
            raise PrunelibError(f"{self.name} repairs a compressed model: write it after one, as in {self.example}")
        for part in others:
            if part.kind == "quantize" and self.moves_blocks:
                raise PrunelibError(
                    f"{self.spec} would take the weights of {part.spec} off their grid: a quantized model can be "
                    "repaired by temperature, norm or head"
                )
            if part.kind == "sparsify" and not self.keeps_zeros:
                raise PrunelibError(f"{self.spec} would fill the zeros of {part.spec} in: use lora or full")
        if self.needs_drops and not any(part.kind == "drop" for part in others):
            raise PrunelibError(f"{self.spec} makes up for dropped sublayers, and {others[0].spec} drops none")

    def check_model(self, lm) -> None:
        """Raises PrunelibError where it cannot be folded into weights of this model."""

    def repair(
        self, lm, made: "Compressed", input_ids, attention_mask=None, batch_size: int = 8, progress=None
    ) -> "Repaired":
        """What it changes in ``made`` of the dense model ``lm``, which is left as it is.

        ``input_ids`` [n, S] are tokens to learn from, ``attention_mask`` [n, S] is 0 at padding, ``batch_size`` rows
        are read together, ``progress`` is called with (done, total).
        """
        raise NotImplementedError


def check_norm(lm, name: str) -> None:
    """Raises PrunelibError for a model whose final norm has no weights to change (OLMo, nanochat)."""
    if next(lm.ln_final.parameters(), None) is None:
        raise PrunelibError(f"{name} cannot be folded into {lm.name}: its final norm has no weights")


@dataclass(frozen=True)
class Bare(Repair):
    """A repair without a setting."""

    bare: ClassVar[bool] = True

    @classmethod
    def parse(cls, setting: str) -> Self:
        if setting:
            raise PrunelibError(f"{cls.name} takes no setting, got '{cls.name}:{setting}'")
        return cls()

    @property
    def setting(self) -> str:
        return ""


@dataclass(frozen=True)
class Sized(Repair):
    """A repair whose setting is one whole number."""

    size: int
    what: ClassVar[str] = "rank"

    def __post_init__(self):
        if self.size < 1:
            raise PrunelibError(f"the {self.what} of {self.name} must be at least 1, got {self.size}")

    @classmethod
    def parse(cls, setting: str) -> Self:
        if not (setting.isascii() and setting.isdigit()):
            raise PrunelibError(f"{cls.name} is written as {cls.usage}, a whole number, not '{cls.name}:{setting}'")
        return cls(int(setting))

    @property
    def setting(self) -> str:
        return str(self.size)
