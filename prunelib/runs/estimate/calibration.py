"""How fast this machine is, in a few seconds: the project's own code on a piece of the model with random weights.

The piece has some blocks of the model's configuration and its whole head, in the run's type and on its device, so that
what is measured are its own shapes: products with one row are bound by memory, those with many by arithmetic, small
ones by the overhead of each call. Methods are timed on two small matrices and continued by their operations.
"""

import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from prunelib.engine.prefix import extend
from prunelib.measure import decode, one_step, removal, stats, theorem_checks, trace
from prunelib.measure.distances import kl
from prunelib.methods import parse
from prunelib.methods.inputs import InputStats
from prunelib.models import lm as models
from prunelib.runs.estimate.shape import Shape, build

TOKENS = (1, 4, 16, 64, 256)
"""Tokens of a pass that are timed; others lie between them, or go on in proportion."""

ROWS = (1, 4, 32)
"""Rows of logits that are timed."""

_BYTES = 2**27
"""Of the weights of the blocks that are timed: more than a cache holds, less than a moment to fill."""

_MOST_BLOCKS = 8
_VOCAB = 2**15
"""Tokens of the vocabulary on which measures are timed: they go through it a tile at a time."""

_MATRICES = ((256, 256), (768, 768), (64, 2048))
"""(d_out, d_in) of the matrices that methods are timed on: they tell apart what grows with numbers, with products, and
with factors."""

_ASCENT = 10
"""Of the 300 steps of a search for the worst case of a theorem."""


@dataclass(frozen=True)
class Rates:
    """Seconds on this machine."""

    blocks: tuple[tuple[float, float], ...]
    """(tokens, seconds) of one block."""
    heads: tuple[tuple[float, float], ...]
    """(rows, seconds) of the head."""
    gemm: float
    """Operations a second of large products in the run's type."""
    gemm_double: float
    bandwidth: float
    """Bytes a second of a copy, both ways together."""
    loading: float
    """Bytes a second of weights that are read, checked and fingerprinted."""
    backward: float
    """A step of gradients, in times of its forward pass."""
    compared: dict[str, tuple[float, float]]
    """Seconds of a pair of states by measure, and of each temperature after the first."""
    methods: dict[str, tuple[float, float, float]]
    """Of a method: seconds for each of :func:`terms`."""
    timed: dict[str, float]
    load: float
    """Wall time over processor time: above 1 where other work shares the machine."""
    seconds: float
    """What the calibration took."""
    threads: int

    def block(self, tokens: float) -> float:
        return between(self.blocks, tokens)

    def head(self, rows: float) -> float:
        return between(self.heads, rows)

    def solved(self, spec: str, d_out: int, d_in: int) -> float:
        return sum(rate * size for rate, size in zip(self.methods[spec], terms(d_out, d_in), strict=True))


def terms(d_out: int, d_in: int) -> tuple[float, float, float]:
    """What the time of a method grows with: numbers of the matrix, its product with a Gram matrix, a factor of that."""
    return d_out * d_in, d_out * d_in**2, d_in**3


def between(points: tuple[tuple[float, float], ...], x: float) -> float:
    """On the straight lines through logarithms of ``points``; in proportion beyond the last, constant before the first.

    >>> round(between(((1, 1.0), (4, 2.0)), 2), 3), between(((1, 1.0), (4, 2.0)), 8)
    (1.414, 4.0)
    """
    x = max(x, points[0][0])
    if x >= points[-1][0]:
        return points[-1][1] * x / points[-1][0]
    xs, ys = (np.log([point[i] for point in points]) for i in (0, 1))
    return float(np.exp(np.interp(math.log(x), xs, ys)))


def calibrate(
    config,
    shape: Shape,
    device: torch.device,
    dtype: torch.dtype,
    specs: Iterable[str],
    temperatures: int,
    effort: int,
    others: Mapping[str, Callable[[], float]],
    say: Callable[[str], None] = lambda text: None,
) -> Rates:
    """Time a piece of the model of ``config``.

    ``specs`` are the methods whose time is asked for, ``temperatures`` those of a trace, ``effort`` that of the theorem
    checks. ``others`` measure what is not of this room (drawing a figure), each in seconds.
    """
    began, used = time.perf_counter(), time.process_time()
    say("calibrating: blocks and head")
    lm = piece(config, shape, device, dtype)
    blocks, heads = _blocks(lm), _heads(lm)
    backward, loading = _backward(lm), _loading(lm)
    say("calibrating: measures")
    with torch.no_grad():
        compared = _compared(_cut(lm), temperatures, shape.vocab / min(shape.vocab, _VOCAB))
    del lm
    say("calibrating: methods")
    gemm, double = (_gemm(device, kind) for kind in (dtype, torch.float64))
    methods = {spec: _method(spec, device, dtype) for spec in dict.fromkeys(specs)}
    timed = {theorem: _ascent(theorem, effort) for theorem in ("T1", "T2", "T3")} | {"interval": _interval()}
    timed |= {name: measured() for name, measured in others.items()}
    threads, elapsed = torch.get_num_threads(), time.perf_counter() - began
    busy = (time.process_time() - used) / threads
    say("calibrating: a kernel's start")
    timed |= {"kernel": _kernel()}
    return Rates(
        blocks=blocks,
        heads=heads,
        gemm=gemm,
        gemm_double=double,
        bandwidth=_bandwidth(device),
        loading=loading,
        backward=backward,
        compared=compared,
        methods=methods,
        timed=timed,
        load=max(1.0, elapsed / busy) if device.type == "cpu" else 1.0,
        seconds=time.perf_counter() - began,
        threads=threads,
    )


def piece(config, shape: Shape, device: torch.device, dtype: torch.dtype) -> models.LM:
    """Some blocks of a model and its head, with random weights."""
    one = shape.body_bytes / shape.layers
    count = max(1, min(shape.layers, _MOST_BLOCKS, math.ceil(_BYTES / one)))
    lm = build(config, layers=count, device=device)
    # A million random numbers over and over: the time of a product does not hang on its numbers.
    some = torch.randn(2**20, generator=torch.Generator().manual_seed(0)).mul_(0.02).to(device)
    for module in lm.model.modules():
        scale = "norm" in type(module).__name__.lower()
        for name, parameter in list(module.named_parameters(recurse=False)):
            flat = torch.ones(1, device=device) if scale else some
            values = flat.repeat(-(-parameter.numel() // len(flat)))[: parameter.numel()].view(parameter.shape)
            setattr(module, name, torch.nn.Parameter(values.to(dtype), requires_grad=False))
    lm.model.tie_weights()
    return lm


def _time(function: Callable[[], object], least: float = 0.0) -> float:
    """Mean seconds of a call, after one that does not count; calls go on until ``least`` seconds are spent."""
    function()
    return _once(function, least)


def _once(function: Callable[[], object], least: float = 0.0) -> float:
    """The same, with every call counted."""
    _wait()
    started, calls = time.perf_counter(), 0
    while calls == 0 or time.perf_counter() - started < least:
        function()
        calls += 1
    _wait()
    return (time.perf_counter() - started) / calls


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _blocks(lm) -> tuple[tuple[float, float], ...]:
    found = []
    with torch.no_grad():
        for tokens in TOKENS:
            rows = min(4, tokens)
            ids = [[7] * (tokens // rows)] * rows
            found.append((tokens, _time(lambda ids=ids: extend(lm, ids), 0.08) / lm.n_layers))
    return tuple(found)


def _heads(lm) -> tuple[tuple[float, float], ...]:
    with torch.no_grad():
        states = [_states(lm, rows) for rows in ROWS]
        return tuple((len(h), _time(lambda h=h: lm.logits(h).argmax(-1), 0.05)) for h in states)


def _states(lm, rows: int) -> torch.Tensor:
    return torch.randn(rows, lm.d_model, generator=torch.Generator().manual_seed(rows)).to(lm.device, lm.dtype)


def _cut(lm: models.LM) -> models.LM:
    """The same piece with a smaller head of its own."""
    head = lm.model.get_submodule(lm.arch.unembed)
    head.weight = torch.nn.Parameter(head.weight.detach()[:_VOCAB].clone(), requires_grad=False)
    if getattr(head, "bias", None) is not None:
        head.bias = torch.nn.Parameter(head.bias.detach()[:_VOCAB].clone(), requires_grad=False)
    return lm


def _compared(lm, temperatures: int, times: float) -> dict[str, tuple[float, float]]:
    """Every measure on a few pairs of states, ``times`` what it takes."""
    n = 4
    h = _states(lm, n)
    other = h + 0.1 * h.flip(0)
    ids = torch.full((1, 4), 7, device=lm.device)
    chosen = torch.zeros_like(ids, dtype=torch.bool)
    chosen[:, -1] = True
    sites, grid = 2 * lm.n_layers, [0.5 + 0.25 * i for i in range(max(2, temperatures))]

    def traced(some) -> float:
        options = {"temperatures": {"raw": (1.0,), "normed": some}}
        return _once(lambda: trace.trace_layers(lm, ids, torch.ones_like(ids), chosen, **options)) / sites

    traced(grid[:1])  # the first call does not count
    first, all_of_them = traced(grid[:1]), traced(grid)
    written = [decode.States(state, np.zeros(n, int), np.arange(n)) for state in (h, other)]
    texts = decode.Texts([[7] * n], *written)
    target, z = torch.full((n,), 7), one_step.logits(lm, h)
    pairs = {
        "pair": lambda: trace.compare_states(lm, h, other, lenses=("normed",)),
        "one step": lambda: one_step.compare(lm, h, other, target),
        "step": lambda: decode.trajectories(lm, texts, texts),
        "removal": lambda: removal.compare(z, one_step.logits(lm, other)),
        "kl": lambda: kl(z, one_step.logits(lm, other)),
        "nll": lambda: torch.nn.functional.cross_entropy(z.float().clone(), target.to(z.device)),
    }
    extra = max(0.0, all_of_them - first) / (len(grid) - 1)
    found = {"trace": (first, extra)} | {name: (_time(one) / n, 0.0) for name, one in pairs.items()}
    return {name: (times * one, times * more) for name, (one, more) in found.items()}


def _method(spec: str, device, dtype) -> tuple[float, float, float]:
    """Seconds for each of :func:`terms`, by least squares that are never below 0, over a few random matrices."""
    from scipy.optimize import nnls

    method, draw = parse(spec), torch.Generator().manual_seed(0)
    method = getattr(method, "inner", method)  # what OWL spreads by layer
    whole = "gram" in method.needs
    sizes, times = _MATRICES if whole else _MATRICES[1:2], []
    for d_out, d_in in ((16, 16), *sizes):
        weight = torch.randn(d_out, d_in, generator=draw).to(device, dtype)
        inputs = InputStats.of(torch.randn(64, d_in, generator=draw).to(device, dtype), whole)
        times.append(_once(lambda w=weight, x=inputs: method.compress_readers([w], x, True)))
    times = times[1:]  # the first does not count
    if not whole:
        return times[0] / terms(*sizes[0])[0], 0.0, 0.0
    relative = np.array([terms(*size) for size in sizes]) / np.array(times)[:, None]
    scale = relative.max(0)
    return tuple((nnls(relative / scale, np.ones(len(times)))[0] / scale).tolist())


def _gemm(device, dtype) -> float:
    a, b = (torch.randn(512, 1024).to(device, dtype), torch.randn(1024, 1024).to(device, dtype))
    return 2 * 512 * 1024 * 1024 / _time(lambda: a @ b, 0.05)


def _bandwidth(device) -> float:
    x = torch.ones(2**24, device=device)
    y = torch.empty_like(x)
    return 2 * 4 * len(x) / _time(lambda: y.copy_(x), 0.05)


def _backward(lm) -> float:
    """Forward and backward through the blocks over forward alone, on 64 tokens."""
    ids = torch.full((1, 64), 7, device=lm.device)
    some = [p for layer in lm.layers for p in layer.parameters() if p.dim() == 2]

    def forward():
        with torch.no_grad():
            lm.body(input_ids=ids, use_cache=False)

    def both():
        for p in some:
            p.requires_grad_(True)
        lm.body(input_ids=ids, use_cache=False).last_hidden_state.sum().backward()
        for p in some:
            p.requires_grad_(False)
            p.grad = None

    return _time(both) / _time(forward)


def _loading(lm) -> float:
    """Bytes a second: read once, hashed once for the file and once for the fingerprint."""
    import hashlib

    data = np.ones(2**24, np.uint8)
    hashed = len(data) / _time(lambda: hashlib.sha256(data).digest())
    return 1 / (2 / hashed + 4 / _bandwidth(lm.device))


def _ascent(theorem: str, effort: int) -> float:
    """Seconds of a theorem's search for its worst cases: both ends of every quantity."""
    sizes, quantities = torch.as_tensor(theorem_checks.search_sizes(theorem)), theorem_checks.quantities(theorem)

    def some():
        theorem_checks._ascend(theorem, quantities[0], sizes, 1.0, 0, 4 * effort, 4, steps=_ASCENT)

    return _time(some) * 300 / _ASCENT * 2 * len(quantities)


def _interval() -> float:
    """Seconds of one interval over resampled clusters of a table of some hundred rows."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"prompt_id": np.repeat(np.arange(24), 20), "a": rng.random(480), "b": rng.random(480)})
    return _once(lambda: stats.bootstrap(frame, lambda f: float(np.median(f["a"] / f["b"]))))


def _kernel() -> float:
    """Seconds until a kernel runs, before it imports anything of this project."""
    command = [sys.executable, "-c", "import ipykernel.kernelapp, IPython"]
    return _once(lambda: subprocess.run(command, check=True, capture_output=True))
