"""Inter-layer pruning: which attention, MLP or block to remove.

A sublayer that hardly turns the residual stream is taken to be redundant: its
importance is one minus the cosine between the stream before and after it,
averaged over calibration tokens, and the highest cosines are dropped first
(Attn Drop and MLP Drop; ShortGPT and Block Drop for whole blocks). This module
only decides; :func:`prunelib.hooks.dropped` carries a plan out.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pandas as pd

from prunelib.errors import PrunelibError, nearest

KINDS = {"attn": "A", "mlp": "M", "block": "B"}
"""Kinds of sites, with their letter in labels such as ``Drop-8A``."""

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

    ``kind`` is that of all sites, or ``"mixed"``. ``scores`` maps every
    candidate (``"attn:12"``) to its mean cosine; it is ``None`` for an explicit
    list, and is no part of equality.
    """

    sites: tuple[Site, ...]
    kind: str
    scores: Mapping[str, float] | None = field(default=None, compare=False, repr=False)
    label: str = ""

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
            short = f"Drop-{len(self.sites)}{KINDS.get(self.kind, '')}"
            object.__setattr__(self, "label", short if self.ranked else f"Drop {names}")

    @property
    def ranked(self) -> bool:
        """Chosen by score, so that kind and count say it all."""
        return self.scores is not None

    @property
    def spec(self) -> str:
        """``drop:attn:8`` for a ranked plan, ``sites:attn:3,attn:7`` for an explicit list."""
        if self.ranked:
            return f"drop:{self.kind}:{len(self.sites)}"
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
    _check_kind(kind)
    number = _whole(count, f"a drop is written as drop:attn:8, not '{spec}'")
    if scores is None:
        raise PrunelibError(f"'{spec}' needs importance scores; an explicit list is sites:attn:3")
    return plan(scores, kind, number)


def plan(scores: pd.DataFrame, kind: str, count: int) -> DropPlan:
    """The ``count`` sites of a kind with the highest cosine; ties go to the lower layer.

    ``scores`` is a table of :func:`importance`. A count of 0 gives the empty plan
    (the dense model). Raises :class:`PrunelibError` for a count that is negative
    or above the number of layers.
    """
    _check_kind(kind)
    candidates = scores[scores["kind"] == kind]
    if not 0 <= count <= len(candidates):
        raise PrunelibError(
            f"cannot drop {count} {kind} sites: the model has {len(candidates)} layers"
        )
    order = candidates.sort_values(["cosine", "layer"], ascending=[False, True])
    ranked = {
        str(Site(kind, int(layer))): float(cosine)
        for layer, cosine in zip(order["layer"], order["cosine"], strict=True)
    }
    return DropPlan(tuple(map(Site.parse, list(ranked)[:count])), kind, ranked)


def importance(lm, tokens, batch_size: int = 8) -> pd.DataFrame:
    """Mean cosine between the residual stream before and after every site.

    ``tokens`` is a LongTensor [n, length] of calibration ids without padding.
    Returns columns ``layer``, ``kind`` (attn, mlp, block) and ``cosine``: the mean
    over all n·length tokens, in float64. In a parallel block each sublayer is
    judged by adding its own output alone to ``resid_pre``.
    """
    import torch

    from prunelib import hooks

    if tokens.dim() != 2 or tokens.numel() == 0:
        raise PrunelibError(f"calibration needs token ids [n, length], not {list(tokens.shape)}")
    if batch_size < 1:
        raise PrunelibError(f"batch_size must be at least 1, not {batch_size}")
    totals = torch.zeros(lm.n_layers, len(KINDS), dtype=torch.float64)
    parallel = lm.arch.is_parallel
    between = ("attn_out", "mlp_out") if parallel else ("resid_mid",)

    def visit(layer, values):
        wide = {point: _float64(value) for point, value in values.items()}
        pre, post = wide["resid_pre"], wide["resid_post"]
        if parallel:
            steps = (pre, pre + wide["attn_out"]), (pre, pre + wide["mlp_out"]), (pre, post)
        else:
            steps = (pre, wide["resid_mid"]), (wide["resid_mid"], post), (pre, post)
        sums = [torch.cosine_similarity(a, b, dim=-1).sum() for a, b in steps]
        totals[layer] += torch.stack(sums).cpu()

    with (
        torch.no_grad(),
        hooks.stop_after(lm, lm.n_layers - 1),
        hooks.visited(lm, ("resid_pre", *between, "resid_post"), visit),
    ):
        for batch in tokens.split(batch_size):
            lm.model(input_ids=batch.to(lm.device), use_cache=False)
    rows = [
        (layer, kind, totals[layer, column].item() / tokens.numel())
        for layer in range(lm.n_layers)
        for column, kind in enumerate(KINDS)
    ]
    return pd.DataFrame(rows, columns=["layer", "kind", "cosine"])


def _float64(value):
    """Double precision, on the CPU where the device (Apple's) has none."""
    return value.cpu().double() if value.device.type == "mps" else value.double()


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise PrunelibError(f"unknown kind '{kind}'{nearest(kind, KINDS)}; use attn, mlp or block")


def _whole(text: str, problem: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise PrunelibError(problem)
    return int(text)
