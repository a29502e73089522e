"""Which sublayers to drop: similarity of the stream before and after.

A sublayer that hardly turns the residual stream is taken to be redundant: its
importance is one minus the cosine between the stream before and after it,
averaged over calibration tokens, and the highest cosines are dropped first
(Attn Drop and MLP Drop, He et al. 2024; ShortGPT for whole blocks). Variants:
attention and MLP in one ranking, a new ranking after every drop, and consecutive
blocks by angular distance (Gromov et al. 2024).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd

from prunelib.compress.drop import KINDS, RANKINGS, DropPlan, Site, check_count, plan
from prunelib.errors import PrunelibError, nearest

_CHOICES = (*RANKINGS, "angular")


@dataclass(frozen=True)
class DropSpec:
    """``count`` sites to be chosen on calibration tokens.

    ``kind`` is attn, mlp, block, joint (attention and MLP in one ranking) or
    angular (consecutive blocks). ``iterative`` measures importance again after
    every drop, with the chosen sites already gone.
    """

    kind: str
    count: int
    iterative: bool = False
    needs: ClassVar[frozenset[str]] = frozenset({"tokens"})

    def __post_init__(self):
        if self.kind not in _CHOICES:
            raise PrunelibError(f"unknown kind '{self.kind}'{nearest(self.kind, _CHOICES)}; use {', '.join(_CHOICES)}")
        if self.iterative and self.kind == "angular":
            raise PrunelibError("drop:angular chooses consecutive blocks at once: it has no iterative form")
        if self.count < 0:
            raise PrunelibError(f"cannot drop {self.count} sites")

    @classmethod
    def parse(cls, text: str) -> "DropSpec":
        """``attn:8``, ``attn:8:iter``, ``angular:8``: a specification without its ``drop:``."""
        kind, _, rest = text.partition(":")
        count, _, option = rest.partition(":")
        if not (count.isascii() and count.isdigit()) or option not in ("", "iter"):
            raise PrunelibError(f"a drop is written as drop:attn:8 or drop:attn:8:iter, not 'drop:{text}'")
        return cls(kind, int(count), option == "iter")

    @property
    def spec(self) -> str:
        return f"drop:{self.kind}:{self.count}" + (":iter" if self.iterative else "")

    @property
    def label(self) -> str:
        if self.kind == "angular":
            return f"Drop-{self.count}B angular"
        return f"Drop-{self.count}{RANKINGS[self.kind]}" + (" iter" if self.iterative else "")

    def plan(self, lm, tokens, batch_size: int = 8) -> DropPlan:
        """The sites, chosen on ``tokens`` [n, length]. Raises PrunelibError for more than there are."""
        check_count(self.count, "block" if self.kind == "angular" else self.kind, lm.n_layers)
        if self.kind == "angular":
            return self._consecutive(lm, tokens, batch_size)
        if not self.iterative:
            return plan(importance(lm, tokens, batch_size), self.kind, self.count)
        sites: list[Site] = []
        scores: dict[str, float] = {}
        while len(sites) < self.count:
            table = importance(lm, tokens, batch_size, without=sites)
            ranked = plan(table, self.kind, 0).scores
            left = {site: score for site, score in ranked.items() if site not in map(str, sites)}
            # A site keeps the score it was chosen by; those left are scored anew.
            scores |= left
            sites.append(Site.parse(next(iter(left))))
        return DropPlan(tuple(sites), self.kind, scores, self.label, self.spec)

    def _consecutive(self, lm, tokens, batch_size: int) -> DropPlan:
        if self.count == 0:
            return DropPlan((), "block", {}, self.label, self.spec)
        distances = angular_distances(lm, tokens, self.count, batch_size)
        first = int(distances.loc[distances["distance"].idxmin(), "first"])
        sites = tuple(Site("block", layer) for layer in range(first, first + self.count))
        scores = {f"block:{row.first}": row.distance for row in distances.itertuples()}
        return DropPlan(sites, "block", scores, self.label, self.spec)


def angular_distances(lm, tokens, count: int, batch_size: int = 8) -> pd.DataFrame:
    """How far ``count`` consecutive blocks turn the last token of a sequence, for every first block.

    ``distance`` = arccos(cos(x_first, x_first+count))/π, 0 to 1, where x_l is the
    input of block l, averaged over sequences (Gromov et al. 2024, eq. 5). ``tokens``
    is [n, length] without padding. Columns ``first, distance``.
    """
    import torch

    from prunelib import hooks

    check_count(count, "block", lm.n_layers)
    total = torch.zeros(lm.n_layers - count + 1, dtype=torch.float64)
    last = lm.n_layers - 1
    with torch.no_grad(), hooks.stop_after(lm, last), hooks.captured(lm, ("resid_pre", "resid_post")) as cap:
        for batch in tokens.split(batch_size):
            lm.model(input_ids=batch.to(lm.device), use_cache=False)
            states = [cap["resid_pre"][layer][:, -1] for layer in range(lm.n_layers)]
            wide = [_float64(x) for x in (*states, cap["resid_post"][last][:, -1])]
            for first in range(len(total)):
                cosine = torch.cosine_similarity(wide[first], wide[first + count], dim=-1).clamp(-1, 1)
                total[first] += cosine.arccos().sum().cpu() / torch.pi
    return pd.DataFrame({"first": range(len(total)), "distance": (total / len(tokens)).tolist()})


def importance(lm, tokens, batch_size: int = 8, without: Iterable[Site] = ()) -> pd.DataFrame:
    """Mean cosine between the residual stream before and after every site.

    ``tokens`` is a LongTensor [n, length] of calibration ids without padding.
    Returns columns ``layer``, ``kind`` (attn, mlp, block) and ``cosine``: the mean
    over all n·length tokens, in float64. In a parallel block each sublayer is
    judged by adding its own output alone to ``resid_pre``. ``without`` are sites
    that are already dropped (their own cosine is 1). One minus the cosine of a
    block is ShortGPT's block influence (Men et al. 2024, eq. 1).
    """
    import torch

    from prunelib import hooks

    without = tuple(without)
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
        hooks.dropped(lm, without),
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
