"""Scores by which sites are dropped: how little a sublayer turns the residual stream, or what its removal does.

A sublayer that hardly turns the stream is taken to be redundant: its importance is one minus the
cosine between the stream before and after it, averaged over calibration tokens, and the highest
cosines are dropped first (Attn Drop and MLP Drop, He et al. 2024; ShortGPT for whole blocks).

That is CASE-Lab-UMD/LLM-Drop's score (``prune/layer_drop.py``) with its option ``layer_drop_norm``: the stream
before the sublayer's norm against the same plus the sublayer's output. Without the option it compares the normed
input with the output alone, no residual; that is another ranking, and it is not offered here. It sums in
float32, this in float64.

At the output (:mod:`prunelib.measure.removal`) each site is removed in turn, and the next-token distributions are
compared with the dense model's: by their KL, by the variance of the logit change that Theorem 3 has for it, or by
their total variation. The least harm is dropped first. Shortened LLaMA (Kim et al. 2024) ranks blocks so by perplexity
and SLEB (Song et al. 2024) measures it again after each drop; here the dense model is the reference, not the text.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from prunelib.errors import PrunelibError
from prunelib.models.sublayers import LETTERS, Site

Measure = Callable[..., pd.DataFrame]
"""``measure(without, kinds, tick)``: scores, ``layer, kind`` and a column, with the sites ``without`` already gone.

Those of other kinds than ``kinds`` may be left out, and those that are gone. Those that were gone before, by the
model's checkpoint or by what was done to it, are left out: they cannot be dropped again. ``tick()`` is called for each
site that is removed to be measured.
"""


@dataclass(frozen=True)
class Criterion:
    """A score of every site, by which it is decided what is dropped first.

    ``begin(lm, tokens, batch_size, attention_mask)`` reads the tokens and gives a :data:`Measure`, which may be asked
    again and again; None for scores that come from no model. ``column`` is the score's name in tables.
    """

    name: str
    column: str
    begin: Callable[..., Measure] | None
    lowest_first: bool = False
    """Whether the lowest scores are dropped first; else the highest."""
    at_output: bool = False
    """Whether each site is removed and the output compared; else all scores come from one pass."""

    def scores(self, lm, tokens, batch_size: int = 8, without: Iterable[Site] = (), attention_mask=None):
        """A table ``layer, kind`` and :attr:`column` of all sites, with the sites ``without`` already gone."""
        return self.begin(lm, tokens, batch_size, attention_mask)(tuple(without), tuple(LETTERS))

    def ranked(self, scores: pd.DataFrame, ranking: str) -> dict[str, float]:
        """Score by site (``"attn:12"``), what goes first first, ties by layer; ``joint`` ranks attention with MLP.

        Raises PrunelibError for a score that is not a number.
        """
        kinds = kinds_of(ranking)
        table = scores[scores["kind"].isin(kinds)]
        if table[self.column].isna().any():
            raise PrunelibError(f"a score of {', '.join(kinds)} sites is not a number: the activations overflow")
        order = table.sort_values([self.column, "layer", "kind"], ascending=[self.lowest_first, True, True])
        return {str(Site(row.kind, int(row.layer))): float(getattr(row, self.column)) for row in order.itertuples()}


def kinds_of(ranking: str) -> tuple[str, ...]:
    """The kinds of sites that are ranked together."""
    return ("attn", "mlp") if ranking == "joint" else (ranking,)


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

    from prunelib.engine.rows import batches
    from prunelib.models import hooks

    if not 0 <= count <= lm.n_layers:
        raise PrunelibError(f"cannot drop {count} block sites: the model has {lm.n_layers} layers")
    rows = batches(lm, tokens, attention_mask, batch_size)
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
        for arguments, real in rows:
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

    from prunelib.engine.rows import batches
    from prunelib.models import hooks

    rows = batches(lm, tokens, attention_mask, batch_size)
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
        for arguments, real in rows:
            lm.model(**arguments, use_cache=False)
            count += int(real.sum())
    _check_finite(totals)
    rows = [
        (layer, kind, totals[layer, column].item() / count)
        for layer in range(lm.n_layers)
        for column, kind in enumerate(LETTERS)
    ]
    return pd.DataFrame(rows, columns=["layer", "kind", "cosine"])


def _check_finite(totals) -> None:
    if not totals.isfinite().all():
        raise PrunelibError("calibration gave NaN or Inf in the residual stream: the activations overflow")


def _float64(value):
    """Double precision, on the CPU where the device (Apple's) has none."""
    return value.cpu().double() if value.device.type == "mps" else value.double()


def _in_the_stream(lm, tokens, batch_size: int, attention_mask) -> Measure:
    from prunelib.models import hooks

    before = hooks.gone(lm)

    def measure(without: Sequence[Site], kinds: Sequence[str], tick=lambda: None) -> pd.DataFrame:
        return still_there(importance(lm, tokens, batch_size, without, attention_mask), before)

    return measure


def still_there(scores: pd.DataFrame, gone) -> pd.DataFrame:
    """Scores ``layer, kind, …`` without the sites ``gone``, pairs (kind, layer)."""
    kept = [(kind, int(layer)) not in gone for kind, layer in zip(scores["kind"], scores["layer"], strict=True)]
    return scores[kept].reset_index(drop=True)


def _at_output(column: str) -> Callable[..., Measure]:
    """A column of :data:`prunelib.measure.removal.COLUMNS`; the dense model reads the tokens once."""

    def begin(lm, tokens, batch_size: int, attention_mask) -> Measure:
        from prunelib.measure.removal import Removals
        from prunelib.models import hooks

        before = hooks.gone(lm)
        removals = Removals(lm, tokens, batch_size, attention_mask)

        def measure(without: Sequence[Site], kinds: Sequence[str], tick=lambda: None) -> pd.DataFrame:
            removals.rebase(without)
            left = (Site(k, layer) for layer in range(lm.n_layers) for k in kinds if (k, layer) not in before)
            found = removals.measured([site for site in left if site not in removals.sites], tick)
            return found.groupby(["layer", "kind"])[column].mean().reset_index()

        return measure

    return begin


def random_scores(layers: int, seed: int) -> pd.DataFrame:
    """Uniform random numbers in [0, 1), ``layer, kind, random``, for every site of a model of ``layers`` layers."""
    draws = np.random.default_rng(seed).random((layers, len(LETTERS)))
    rows = [(layer, kind, draws[layer, i]) for layer in range(layers) for i, kind in enumerate(LETTERS)]
    return pd.DataFrame(rows, columns=["layer", "kind", "random"])


COSINE = Criterion("cosine", "cosine", _in_the_stream)
KL = Criterion("kl", "kl_dense_pruned", _at_output("kl_dense_pruned"), lowest_first=True, at_output=True)
VAR_P = Criterion("varp", "var_p", _at_output("var_p"), lowest_first=True, at_output=True)
TV = Criterion("tv", "tv", _at_output("tv"), lowest_first=True, at_output=True)
RANDOM = Criterion("random", "random", None)

CRITERIA = {one.name: one for one in (COSINE, KL, VAR_P, TV, RANDOM)}
"""Criteria by the word that a specification has for them."""
