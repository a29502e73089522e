"""Which sublayers to drop: similarity of the stream before and after.

A sublayer that hardly turns the residual stream is taken to be redundant: its
importance is one minus the cosine between the stream before and after it,
averaged over calibration tokens, and the highest cosines are dropped first
(Attn Drop and MLP Drop, He et al. 2024; ShortGPT for whole blocks). Variants:
attention and MLP in one ranking, a new ranking after every drop, and consecutive
blocks by angular distance (Gromov et al. 2024).

That is CASE-Lab-UMD/LLM-Drop's score (``prune/layer_drop.py``) with its option ``layer_drop_norm``: the stream
before the sublayer's norm against the same plus the sublayer's output. Without the option it compares the normed
input with the output alone, no residual; that is another ranking, and it is not offered here. It sums in
float32, this in float64.
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
        if not (count.isascii() and count.isdigit()):
            raise PrunelibError(f"a drop is written as drop:attn:8 or drop:attn:8:iter, not 'drop:{text}'")
        if option not in ("", "iter"):
            raise PrunelibError(f"unknown option '{option}' of drop{nearest(option, ['iter'])}; the only one is iter")
        return cls(kind, int(count), option == "iter")

    @property
    def spec(self) -> str:
        return f"drop:{self.kind}:{self.count}" + (":iter" if self.iterative else "")

    @property
    def label(self) -> str:
        if self.kind == "angular":
            return f"Drop-{self.count}B angular"
        return f"Drop-{self.count}{RANKINGS[self.kind]}" + (" iter" if self.iterative else "")

    def plan(self, lm, tokens, batch_size: int = 8, attention_mask=None) -> DropPlan:
        """The sites, chosen on ``tokens`` [n, length]; its ``spec`` is this one's.

        ``attention_mask`` [n, length] is 0 where a token is padding. Raises
        PrunelibError for more sites than there are.
        """
        check_count(self.count, "block" if self.kind == "angular" else self.kind, lm.n_layers)
        if self.kind == "angular":
            return self._consecutive(lm, tokens, batch_size, attention_mask)
        if self.iterative:
            return self._one_by_one(lm, tokens, batch_size, attention_mask)
        return plan(importance(lm, tokens, batch_size, (), attention_mask), self.kind, self.count)

    def _one_by_one(self, lm, tokens, batch_size: int, attention_mask) -> DropPlan:
        sites: list[Site] = []
        scores: dict[str, float] = {}
        left: list[str] = []
        while len(sites) < self.count:
            if len(left) != 1:  # the last candidate wins unmeasured
                table = importance(lm, tokens, batch_size, sites, attention_mask)
                ranked = plan(table, self.kind, 0).scores
                left = [site for site in ranked if site not in map(str, sites)]
                # A site keeps the score it was chosen by; those left are scored anew.
                scores |= {site: ranked[site] for site in left}
            sites.append(Site.parse(left.pop(0)))
        return DropPlan(tuple(sites), self.kind, scores, self.label, self.spec)

    def _consecutive(self, lm, tokens, batch_size: int, attention_mask) -> DropPlan:
        distances = angular_distances(lm, tokens, self.count, batch_size, attention_mask)
        first = int(distances.loc[distances["distance"].idxmin(), "first"])
        sites = tuple(Site("block", layer) for layer in range(first, first + self.count))
        scores = {f"block:{row.first}": row.distance for row in distances.itertuples()}
        return DropPlan(sites, "block", scores, self.label, self.spec)


def angular_distances(lm, tokens, count: int, batch_size: int = 8, attention_mask=None) -> pd.DataFrame:
    """How far ``count`` consecutive blocks turn the last token of a sequence, for every first block.

    ``distance`` = arccos(cos(x_first, x_first+count))/π, 0 to 1, where x_l is the
    input of block l (x_L what leaves the last one), averaged over sequences: the
    layer-pruning algorithm of Gromov et al. 2024. ``tokens`` is [n, length];
    ``attention_mask`` of that shape is 0 at padding, and the last token is then the
    last real one. Columns ``first, count, distance``; ties in the choice go to the
    lower block.
    """
    import torch

    from prunelib import hooks

    check_count(count, "block", lm.n_layers)
    batches = _batches(lm, tokens, attention_mask, batch_size)
    total = torch.zeros(lm.n_layers - count + 1, dtype=torch.float64)
    inputs: list = []  # x_0 … x_L of the last tokens, [b, d]

    def visit(layer, values):
        for point in ("resid_pre", "resid_post") if layer == lm.n_layers - 1 else ("resid_pre",):
            inputs.append(_float64(values[point][torch.arange(len(last), device=last.device), last]))

    with (
        torch.no_grad(),
        hooks.stop_after(lm, lm.n_layers - 1),
        hooks.visited(lm, ("resid_pre", "resid_post"), visit, start=inputs.clear),
    ):
        for arguments, real in batches:
            positions = torch.arange(real.shape[1], device=real.device)
            last = (positions * real).amax(1)
            lm.model(**arguments, use_cache=False)
            for first in range(len(total)):
                cosine = torch.cosine_similarity(inputs[first], inputs[first + count], dim=-1).clamp(-1, 1)
                total[first] += cosine.arccos().sum().cpu() / torch.pi
    _check_finite(total)
    return pd.DataFrame({"first": range(len(total)), "count": count, "distance": (total / len(tokens)).tolist()})


def importance(lm, tokens, batch_size: int = 8, without: Iterable[Site] = (), attention_mask=None) -> pd.DataFrame:
    """Mean cosine between the residual stream before and after every site.

    ``tokens`` is a LongTensor [n, length] of calibration ids; ``attention_mask`` of
    that shape is 0 at padding, which is never counted. Returns columns ``layer``,
    ``kind`` (attn, mlp, block) and ``cosine``: the mean over all real tokens, in
    float64. In a parallel block each sublayer is judged by adding its own output
    alone to ``resid_pre``. ``without`` are sites that are already dropped (their
    own cosine is 1). One minus the cosine of a block is the block influence of
    ShortGPT (Men et al. 2024).
    """
    import torch

    from prunelib import hooks

    batches = _batches(lm, tokens, attention_mask, batch_size)
    totals = torch.zeros(lm.n_layers, len(KINDS), dtype=torch.float64)
    count = 0
    parallel = lm.arch.is_parallel
    between = ("attn_out", "mlp_out") if parallel else ("resid_mid",)

    def visit(layer, values):
        wide = {point: _float64(value) for point, value in values.items()}
        pre, post = wide["resid_pre"], wide["resid_post"]
        if parallel:
            steps = (pre, pre + wide["attn_out"]), (pre, pre + wide["mlp_out"]), (pre, post)
        else:
            steps = (pre, wide["resid_mid"]), (wide["resid_mid"], post), (pre, post)
        cosines = torch.stack([torch.cosine_similarity(a, b, dim=-1) for a, b in steps])
        totals[layer] += cosines.masked_fill(~real.to(cosines.device), 0).sum((1, 2)).cpu()

    with (
        torch.no_grad(),
        hooks.dropped(lm, tuple(without)),
        hooks.stop_after(lm, lm.n_layers - 1),
        hooks.visited(lm, ("resid_pre", *between, "resid_post"), visit),
    ):
        for arguments, real in batches:
            lm.model(**arguments, use_cache=False)
            count += int(real.sum())
    _check_finite(totals)
    rows = [
        (layer, kind, totals[layer, column].item() / count)
        for layer in range(lm.n_layers)
        for column, kind in enumerate(KINDS)
    ]
    return pd.DataFrame(rows, columns=["layer", "kind", "cosine"])


def _batches(lm, tokens, attention_mask, batch_size: int) -> list[tuple[dict, object]]:
    """Arguments of each forward pass, and which of its tokens [b, length] are real."""
    import torch

    if tokens.dim() != 2 or tokens.numel() == 0:
        raise PrunelibError(f"calibration needs token ids [n, length], not {list(tokens.shape)}")
    if batch_size < 1:
        raise PrunelibError(f"batch_size must be at least 1, not {batch_size}")
    lm.check_length(tokens.shape[1] if attention_mask is None else int(attention_mask.sum(-1).max()),
                    "a calibration sequence")  # fmt: skip
    if attention_mask is None:
        parts = [part.to(lm.device) for part in tokens.split(batch_size)]
        return [({"input_ids": part}, torch.ones_like(part, dtype=torch.bool)) for part in parts]
    if attention_mask.shape != tokens.shape:
        raise PrunelibError(f"attention_mask must be {list(tokens.shape)}, not {list(attention_mask.shape)}")
    if not attention_mask.bool().any(1).all():
        raise PrunelibError("a calibration sequence is empty: it has no token that is not padding")
    found = []
    for ids, mask in zip(tokens.split(batch_size), attention_mask.split(batch_size), strict=True):
        mask = mask.to(lm.device)
        # A bare forward would number the pads too.
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        arguments = {"input_ids": ids.to(lm.device), "attention_mask": mask, "position_ids": positions}
        found.append((arguments, mask.bool()))
    return found


def _check_finite(totals) -> None:
    if not totals.isfinite().all():
        raise PrunelibError("calibration gave NaN or Inf in the residual stream: the activations overflow")


def _float64(value):
    """Double precision, on the CPU where the device (Apple's) has none."""
    return value.cpu().double() if value.device.type == "mps" else value.double()
