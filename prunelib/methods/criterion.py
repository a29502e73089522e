"""Scores by which sites are dropped: how little a sublayer turns the residual stream.

A sublayer that hardly turns the stream is taken to be redundant: its importance is one minus the
cosine between the stream before and after it, averaged over calibration tokens, and the highest
cosines are dropped first (Attn Drop and MLP Drop, He et al. 2024; ShortGPT for whole blocks).

That is CASE-Lab-UMD/LLM-Drop's score (``prune/layer_drop.py``) with its option ``layer_drop_norm``: the stream
before the sublayer's norm against the same plus the sublayer's output. Without the option it compares the normed
input with the output alone, no residual; that is another ranking, and it is not offered here. It sums in
float32, this in float64.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pandas as pd

from prunelib.errors import PrunelibError
from prunelib.models.sublayers import LETTERS, Site


@dataclass(frozen=True)
class Criterion:
    """A score of every site; the highest are dropped first.

    ``scores(lm, tokens, batch_size, without, attention_mask)`` gives a table ``layer, kind`` and a column
    ``name``, with the sites ``without`` already gone.
    """

    name: str
    scores: Callable[..., pd.DataFrame]

    def ranked(self, scores: pd.DataFrame, ranking: str) -> dict[str, float]:
        """Score by site (``"attn:12"``), the highest first, ties by layer; ``joint`` ranks attention with MLP.

        Raises PrunelibError for a score that is not a number.
        """
        kinds = ("attn", "mlp") if ranking == "joint" else (ranking,)
        table = scores[scores["kind"].isin(kinds)]
        if table[self.name].isna().any():
            raise PrunelibError(f"a score of {', '.join(kinds)} sites is not a number: the activations overflow")
        order = table.sort_values([self.name, "layer", "kind"], ascending=[False, True, True])
        return {str(Site(row.kind, int(row.layer))): float(getattr(row, self.name)) for row in order.itertuples()}


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

    from prunelib.models import hooks

    if not 0 <= count <= lm.n_layers:
        raise PrunelibError(f"cannot drop {count} block sites: the model has {lm.n_layers} layers")
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

    from prunelib.models import hooks

    batches = _batches(lm, tokens, attention_mask, batch_size)
    totals = torch.zeros(lm.n_layers, len(LETTERS), dtype=torch.float64)
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
        for column, kind in enumerate(LETTERS)
    ]
    return pd.DataFrame(rows, columns=["layer", "kind", "cosine"])


def _batches(lm, tokens, attention_mask, batch_size: int) -> list[tuple[dict, object]]:
    """Arguments of each forward pass, and which of its tokens [b, length] are real."""
    import torch

    if tokens.dim() != 2 or tokens.numel() == 0:
        raise PrunelibError(f"calibration needs token ids [n, length], not {list(tokens.shape)}")
    if batch_size < 1:
        raise PrunelibError(f"batch_size must be at least 1, not {batch_size}")
    lm.check_length(
        tokens.shape[1] if attention_mask is None else int(attention_mask.sum(-1).max()), "a calibration sequence"
    )
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


COSINE = Criterion("cosine", importance)
