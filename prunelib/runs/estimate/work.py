"""What a notebook does, as counted pieces of work, and the run for which they are counted.

A piece knows its operations, its time at the rates of a machine (:mod:`calibration`) and the memory that it takes
beside the model. A chapter says how many of which it takes in ``prunelib/chapters/<name>/work.py``; what chapters share
is in :mod:`dense`, :mod:`made` and :mod:`asked`, counted once, by the notebook that comes first, as a run computes it.
"""

import math
from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prunelib.runs.estimate.shape import Shape
from prunelib.runs.options import Asked, RunOptions

if TYPE_CHECKING:
    from prunelib.runs.estimate.calibration import Rates

DOUBLE = 8


@dataclass(frozen=True)
class Read:
    """One pass of ``rows`` sequences of ``tokens`` after ``past`` others through all blocks."""

    rows: int
    tokens: int
    past: int = 0

    def flops(self, shape: Shape) -> float:
        return shape.forward(self.rows, self.tokens, self.past)

    def seconds(self, shape: Shape, rates: "Rates") -> float:
        """A pass as it was timed, and what grows with the past: attention, and a cache that is copied when it grows."""
        copied = 3 * shape.layers * shape.cached * shape.itemsize * self.rows * self.past
        attention = shape.attended(self.rows, self.tokens, self.past) / rates.gemm
        return shape.layers * rates.block(self.rows * self.tokens) + attention + copied / rates.bandwidth

    def memory(self, shape: Shape) -> float:
        """The widest activations of a block, its scores of attention, and the keys and values of all."""
        n = self.rows * self.tokens
        scores = self.rows * shape.heads * self.tokens * (self.past + self.tokens)
        kept = shape.layers * shape.cached * self.rows * (self.past + self.tokens)
        return shape.itemsize * (n * (4 * shape.width + 3 * shape.widest) + scores + kept)


@dataclass(frozen=True)
class Learn:
    """One step of gradients through all blocks: forward, and twice as much backward; AdamW on ``share`` of them."""

    rows: int
    tokens: int
    share: float = 1.0

    def flops(self, shape: Shape) -> float:
        return 3 * shape.forward(self.rows, self.tokens, 0, self.rows * self.tokens)

    def seconds(self, shape: Shape, rates: "Rates") -> float:
        n = self.rows * self.tokens
        # Of AdamW: the gradient, the value and two moments are read and written.
        moved = 8 * 4 * shape.body * self.share
        return rates.backward * (shape.layers * rates.block(n) + rates.head(n)) + moved / rates.bandwidth

    def memory(self, shape: Shape) -> float:
        """Leaf, new value, gradient, two moments and the best values so far in float32; activations of all blocks."""
        n = self.rows * self.tokens
        activations = shape.itemsize * n * shape.layers * (8 * shape.width + 4 * shape.widest)
        return 6 * 4 * shape.body * self.share + activations + 4 * 4 * min(n * shape.vocab, 2**23)


@dataclass(frozen=True)
class Head:
    """Logits of ``rows`` states."""

    rows: int

    def flops(self, shape: Shape) -> float:
        return 2 * shape.head * self.rows

    def seconds(self, shape: Shape, rates: "Rates") -> float:
        return rates.head(self.rows)

    def memory(self, shape: Shape) -> float:
        return 2 * 4 * self.rows * shape.vocab


@dataclass(frozen=True)
class Compared:
    """One pair of states of a dense and a pruned model, from the states to all columns; ``how`` is a measure.

    ``extra`` counts temperatures beyond the first.
    """

    how: str
    extra: int = 0

    def flops(self, shape: Shape) -> float:
        return 2 * 2 * shape.head

    def seconds(self, shape: Shape, rates: "Rates") -> float:
        first, more = rates.compared[self.how]
        return first + more * self.extra

    def memory(self, shape: Shape) -> float:
        """Measures hold blocks of at most 256 MiB (measure.trace), others less."""
        return min(2**28, 10 * DOUBLE * shape.vocab * 32)


@dataclass(frozen=True)
class Solved:
    """All matrices of the model compressed by a method from statistics of their inputs, without reading tokens."""

    spec: str

    def flops(self, shape: Shape) -> float:
        from prunelib.methods import parse

        if "gram" not in parse(self.spec).needs:
            return 0.0
        return sum(d_in**2 * d_out + 4 / 3 * d_in**3 for d_out, d_in in shape.matrices)

    def seconds(self, shape: Shape, rates: "Rates") -> float:
        return sum(rates.solved(self.spec, *matrix) for matrix in shape.matrices)

    def memory(self, shape: Shape) -> float:
        """The new weights of all blocks, and of the widest input the Gram matrix, its factor and copies."""
        return shape.body_bytes + 4 * 4 * shape.widest**2


@dataclass(frozen=True)
class Gram:
    """Gram matrices of the inputs of all matrices over ``tokens``."""

    tokens: int

    def flops(self, shape: Shape) -> float:
        return sum(2 * self.tokens * d_in**2 for _, d_in in shape.matrices)

    def seconds(self, shape: Shape, rates: "Rates") -> float:
        return self.flops(shape) / rates.gemm

    def memory(self, shape: Shape) -> float:
        return 4 * 3 * shape.widest**2


@dataclass(frozen=True)
class Moved:
    """Memory that is read or written, ``times`` the weights of the blocks: weights that are put in place."""

    times: float
    held: int = 1
    """How many such models are in memory."""

    def flops(self, shape: Shape) -> float:
        return 0.0

    def seconds(self, shape: Shape, rates: "Rates") -> float:
        return self.times * shape.body_bytes / rates.bandwidth

    def memory(self, shape: Shape) -> float:
        return self.held * shape.body_bytes


@dataclass(frozen=True)
class Product:
    """A product of matrices [m, k]·[k, n] in float64 (``double``) or in the run's type."""

    m: int
    k: int
    n: int
    double: bool = False

    def flops(self, shape: Shape) -> float:
        return 2.0 * self.m * self.k * self.n

    def seconds(self, shape: Shape, rates: "Rates") -> float:
        return self.flops(shape) / (rates.gemm_double if self.double else rates.gemm)

    def memory(self, shape: Shape) -> float:
        return (DOUBLE if self.double else shape.itemsize) * (self.k * self.n + self.m * self.n)


@dataclass(frozen=True)
class Timed:
    """Something whose time does not hang on the model: ``kernel`` and ``imports`` of a notebook, a ``figure``, an
    ``interval`` over resampled clusters, the search for the worst cases of theorem ``T1``, ``T2`` or ``T3``."""

    what: str

    def flops(self, shape: Shape) -> float:
        return 0.0

    def seconds(self, shape: Shape, rates: "Rates") -> float:
        return rates.timed[self.what]

    def memory(self, shape: Shape) -> float:
        return 0.0


@dataclass(frozen=True)
class Loaded:
    """The model read from disk, checked and fingerprinted, once a notebook that computes anything with it."""

    def flops(self, shape: Shape) -> float:
        return 0.0

    def seconds(self, shape: Shape, rates: "Rates") -> float:
        return rates.timed["model imports"] + shape.bytes / rates.loading

    def memory(self, shape: Shape) -> float:
        return 0.0


Piece = Read | Learn | Head | Compared | Solved | Gram | Moved | Product | Timed | Loaded

CHARACTERS = 4.4
"""Of English text in one token: what the default model's tokenizer makes of this project's passages."""

FIGURE = 500_000
"""Bytes of a figure in all its forms: the mean of a run of the default model."""

CHAT = 30
"""Tokens that a chat template puts around a prompt, system prompt among them: the default model's."""


def tokens(text: str) -> int:
    """About how many tokens a text has; no tokenizer is there before the download."""
    return max(1, math.ceil(len(text) / CHARACTERS))


@dataclass(eq=False)
class Plan(Asked):
    """A run that is counted and not made: it has what functions that plan a run read of one."""

    options: RunOptions
    shape: Shape
    dropped: tuple[str, ...] = ()
    pieces: dict[str, Counter] = field(default_factory=dict)
    written: Counter = field(default_factory=Counter)
    """Bytes of the run folder, by notebook."""
    parameters: dict = field(default_factory=dict)
    """Of the notebook that is counted now."""
    _now: str = ""
    _done: set = field(default_factory=set)

    @property
    def model(self) -> dict:
        return {"n_layers": self.shape.layers, "vocab_size": self.shape.vocab, "dropped": list(self.dropped)}

    @contextmanager
    def notebook(self, name: str, parameters: dict) -> Iterator[None]:
        """Count for this notebook what is added inside."""
        self._now, self.parameters = name, parameters
        self.pieces[name] = Counter({Timed("kernel"): 1, Timed("imports"): 1})
        yield
        self._now = ""

    def once(self, *key: Hashable) -> bool:
        """True the first time that something is asked for in the run: later it is read from the run folder."""
        new = key not in self._done
        self._done.add(key)
        return new

    def add(self, piece: Piece, times: float = 1) -> None:
        if times > 0:
            self.pieces[self._now][piece] += times

    def keep(self, size: float) -> None:
        """Bytes that this notebook leaves in the run folder."""
        self.written[self._now] += size

    # What most work consists of.

    def figures(self, count: int, intervals: int = 0) -> None:
        """Figures that are drawn, and intervals by resampling behind what the page says."""
        self.add(Timed("figure"), count)
        self.add(Timed("interval"), intervals)
        self.keep(FIGURE * count)

    def load(self) -> None:
        """The model, once a notebook."""
        self.pieces[self._now][Loaded()] = 1

    def read(self, rows: int, tokens: int, past: int = 0, times: float = 1, head: int = 0) -> None:
        """Sequences are read, ``times`` over, each with ``head`` rows of logits."""
        self.load()
        if rows and tokens:
            self.add(Read(int(rows), int(tokens), int(past)), times)
        if head:
            self.add(Head(int(head)), times)

    def write(self, rows: int, prompt: int, new: int, times: float = 1) -> None:
        """``new`` tokens after each of ``rows`` prompts, decoded together."""
        self.read(rows, prompt, times=times, head=rows)
        if new > 1:
            self.read(rows, 1, prompt + new // 2, times=times * (new - 1), head=rows)
