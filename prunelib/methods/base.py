"""What a compression method is. One file is one method; defining its class registers it.

The parser of specifications, labels, ``--help``, the choices of the chapters, colours and
markers and the tests of every method are read from here, so that nothing else names methods one by one.

A specification is ``name:setting``; methods that act one after the other are joined by ``+``
(``wanda:0.5+drop:mlp:4``), and a list of specifications is separated by commas.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from prunelib.errors import PrunelibError, nearest

if TYPE_CHECKING:
    from torch import Tensor

    from prunelib.methods.inputs import Batch, InputStats

KINDS = {
    "dense": "dense",
    "sparsify": "weights removed",
    "quantize": "weights quantized",
    "drop": "sublayers dropped",
    "recover": "repaired",
    "joined": "several methods",
}
"""Kinds of methods, as figures call them."""

JOIN, LIST = "+", ","
PROFILES = ("smoke", "quick", "full")


@dataclass(frozen=True)
class Look:
    """How a method looks in every figure: a hue of :class:`prunelib.report.style.Palette`, a marker, a line style.

    ``line`` counts the line styles of :class:`prunelib.report.style.Style`.
    """

    colour: str
    marker: str
    line: int


@dataclass(frozen=True)
class Method:
    """A way to compress a model; its fields are its setting.

    A subclass with a ``name`` is registered under it. Those that change weights define
    :meth:`compress`, those that remove sublayers define :meth:`plan`; what repairs a model that others left is a
    :class:`~prunelib.methods.repair.Repair`.
    """

    name: ClassVar[str]
    """Its specification's first word."""
    title: ClassVar[str]
    """Its name in labels and figures."""
    kind: ClassVar[str]
    usage: ClassVar[str]
    """How it is written, for ``--help`` and messages."""
    example: ClassVar[str]
    bare: ClassVar[bool] = False
    """Whether it is written without a setting."""
    source: ClassVar[str] = ""
    """What it is from: keys of the book's bibliography, separated by commas."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """What it reads of the calibration tokens: ``norms`` or ``gram`` of each input, or the ``tokens`` themselves."""
    look: ClassVar[Look | None] = None
    defaults: ClassVar[Mapping[str, Sequence[str]]] = {}
    """Settings that the chapter of methods compares, by profile."""
    invariances: ClassVar[frozenset[str]] = frozenset()
    """Scales that do not change which weights it removes: of the ``weights`` or the ``inputs`` as a whole, of each
    ``row`` of weights, of a ``channel`` of the inputs undone in the weights."""

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        if isinstance(cls.__dict__.get("name"), str):
            other = _REGISTRY.get(cls.name)
            if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
                raise TypeError(f"two methods are called {cls.name}: {other.__qualname__}, {cls.__qualname__}")
            _REGISTRY[cls.name] = cls

    @classmethod
    def parse(cls, setting: str) -> Self:
        """The method of what follows ``name:`` in a specification. Raises PrunelibError."""
        raise NotImplementedError

    @property
    def setting(self) -> str:
        """What follows ``name:`` in the canonical specification."""
        raise NotImplementedError

    @property
    def spec(self) -> str:
        """The canonical specification: ``parse(m.spec) == m``."""
        return f"{self.name}:{self.setting}" if self.setting else self.name

    @property
    def label(self) -> str:
        """Its name in tables and figures."""
        return f"{self.title} {self.setting}".rstrip()

    @property
    def full_title(self) -> str:
        """Its name without its setting, where figures compare methods; the first word is :attr:`title`."""
        return self.title

    @property
    def shown_setting(self) -> str:
        """Its setting as figures say it, the same words for all methods of a kind."""
        return self.setting

    def check(self, layers: int) -> None:
        """Raises PrunelibError for a setting that no model of ``layers`` layers can have."""

    def check_after(self, parts: "Sequence[Method]") -> None:
        """Raises PrunelibError where it cannot follow ``parts`` (:class:`Joined`)."""

    def bits_per_weight(self, shape: tuple[int, int]) -> float:
        """Bits that a checkpoint stores for each weight of a matrix (d_out, d_in); 16 for a dense one."""
        return 16.0

    def compress(self, weight: "Tensor", stats: "InputStats | None" = None) -> "Tensor":
        """The new matrix [d_out, d_in]; ``weight`` stays as it is."""
        raise NotImplementedError

    def compress_readers(self, weights: "list[Tensor]", stats: "InputStats | None", absorbed: bool) -> "list[Tensor]":
        """The new matrices [d_out, d_in] of all that read one input.

        ``absorbed`` says whether what produces the input can take over a scale of each channel.
        """
        return [self.compress(weight, stats) for weight in weights]

    def by_layer(self, lm, rows: "Sequence[Batch]") -> "list[Method]":
        """The method of each layer, from calibration rows in front of block 0, which stay as they are."""
        return [self] * lm.n_layers


_REGISTRY: dict[str, type[Method]] = {}
_NO_METHODS = (
    *("apply", "base", "criterion", "cuts", "distil", "grid", "hessian", "inputs", "pattern", "repair", "save"),
    *("through", "walk", "weights"),
)
"""Modules beside the methods that hold none; a new method needs no entry anywhere."""


def registry() -> dict[str, type[Method]]:
    """Every method by its name, in the order of :data:`KINDS`, then of names' first definition."""
    for file in sorted(Path(__file__).parent.glob("*.py")):
        if not file.stem.startswith("_") and file.stem not in _NO_METHODS:
            import_module(f"{__package__}.{file.stem}")
    order = list(KINDS)
    ranked = sorted(_REGISTRY.values(), key=lambda m: (order.index(m.kind), m.look.line if m.look else 0, m.name))
    return {method.name: method for method in ranked}


def of_kind(*kinds: str) -> list[type[Method]]:
    """The methods of some kinds."""
    return [method for method in registry().values() if method.kind in kinds]


def default_specs(profile: str) -> list[str]:
    """Canonical specifications of what the registered methods show in a profile."""
    found = (f"{m.name}:{setting}" for m in registry().values() for setting in m.defaults.get(profile, ()))
    return [parse(spec).spec for spec in found]


@dataclass(frozen=True)
class Dense(Method):
    """The model as it is: 16 bits a weight."""

    name: ClassVar[str] = "dense"
    title: ClassVar[str] = "dense"
    kind: ClassVar[str] = "dense"
    usage: ClassVar[str] = "dense"
    example: ClassVar[str] = "dense"
    spec: ClassVar[str] = "dense"
    label: ClassVar[str] = "dense"
    setting: ClassVar[str] = ""
    bare: ClassVar[bool] = True

    @classmethod
    def parse(cls, setting: str) -> Self:
        if setting:
            raise PrunelibError(f"dense takes no setting, got 'dense:{setting}'")
        return cls()


@dataclass(frozen=True)
class Joined(Method):
    """Methods that act one after the other, each on the model that those before it left.

    At most one of them changes weights: what two such changes would take in storage is not defined.
    """

    parts: tuple[Method, ...]
    kind: ClassVar[str] = "joined"
    look: ClassVar[Look] = Look("purple", "P", 5)

    def __post_init__(self):
        changing = [part.spec for part in self.parts if part.kind in ("sparsify", "quantize")]
        if len(changing) > 1:
            raise PrunelibError(f"{' and '.join(changing)} change the same weights: join one of them with drops")
        if any(part.kind == "dense" for part in self.parts):
            raise PrunelibError("dense changes nothing: leave it out")
        for place, part in enumerate(self.parts):
            part.check_after(self.parts[:place])

    @property
    def name(self) -> str:
        return JOIN.join(part.name for part in self.parts)

    @property
    def title(self) -> str:
        return self.label

    @property
    def setting(self) -> str:
        return ""

    @property
    def spec(self) -> str:
        return JOIN.join(part.spec for part in self.parts)

    @property
    def label(self) -> str:
        return " + ".join(part.label for part in self.parts)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset().union(*(part.needs for part in self.parts))

    def check(self, layers: int) -> None:
        for part in self.parts:
            part.check(layers)


def parse(spec: str) -> Method:
    """The method of a specification; ``parse(s).spec`` is its canonical form.

    Raises PrunelibError, with the nearest name where there is one.

    Examples
    --------
    >>> parse("wanda:2:4").label
    'Wanda 2:4'
    >>> parse("rtn:4:g64").bits_per_weight((576, 576))
    4.3125
    >>> [part.spec for part in parse("wanda:0.50+drop:mlp:4").parts]
    ['wanda:0.5', 'drop:mlp:4']
    """
    texts: list[str] = []
    for text in map(str.strip, spec.strip().split(JOIN)):
        # The sites of an explicit list, and kinds that are ranked together, are joined by the same sign.
        more = texts and any(
            texts[-1].startswith(f"{m.name}:") and m.continues(texts[-1], text) for m in of_kind("drop")
        )
        texts = [*texts[:-1], f"{texts[-1]}{JOIN}{text}"] if more else [*texts, text]
    found = tuple(map(_parse_one, texts))
    if len(found) == 1:
        found[0].check_after(())
    return found[0] if len(found) == 1 else Joined(found)


def _parse_one(spec: str) -> Method:
    name, colon, setting = spec.partition(":")
    known = registry()
    if name not in known:
        raise PrunelibError(f"unknown method '{name}'{nearest(name, known)}; use one of {', '.join(known)}")
    method = known[name]
    if not setting and not method.bare:
        raise PrunelibError(f"{name} needs a setting, such as {method.example}")
    return method.parse(setting)


def parse_list(specs: str) -> list[Method]:
    """The methods of comma-separated specifications, without repetition, in their order."""
    found = {method.spec: method for method in map(parse, filter(None, map(str.strip, specs.split(LIST))))}
    return list(found.values())


def usage() -> Iterator[str]:
    """A line for each method: how it is written, and what it is."""
    for method in registry().values():
        yield f"{method.usage:<36} {(method.__doc__ or '').splitlines()[0]}"
