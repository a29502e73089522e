"""What removing sublayers does at the output: next-token distributions of the dense model against those without them.

The streams in front of every block are kept for the tokens that are read, so that a removal is measured from the
changed block on: the blocks before it are not run again, and of what comes out only some positions reach the
vocabulary. The dense distributions stay the reference when sublayers are already gone (:meth:`Removals.rebase`),
so that a greedy selection sees what all of its drops do together.

With N tokens, P positions, L blocks of c operations a token and a head of 2·d·V, measuring all sites of a kind takes
``L·(N·c·L/2 + P·2·d·V)`` operations, half of as many full passes and a head of P rows instead of N. Memory beyond the
model: N·d·(L + 1) numbers of the stream, P·V of the dense logits, and a few positions of float64 work.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from prunelib.engine.rows import batches
from prunelib.errors import PrunelibError
from prunelib.measure.one_step import logits, positions
from prunelib.models import hooks
from prunelib.models.sublayers import Site

COLUMNS = ("kl_dense_pruned", "var_p", "tv", "one_minus_cos_p")
"""What a removal does to a distribution, at T = 1; see :func:`compare`."""

POSITIONS = 8
"""Positions of each sequence that are compared."""

_BLOCK_BYTES = 2**22
"""Of one float64 array over the vocabulary: small ones stay in the cache, which is what makes the comparison fast."""


def compare(z_dense: Tensor, z_pruned: Tensor) -> Tensor:
    """:data:`COLUMNS` of logits [..., V], in float64: [..., 4].

    KL(dense ‖ pruned) in nats; Var_p(Δz) in logit units squared, p the dense probabilities (Theorem 3: the KL is
    about half of it); total variation ½ Σ|q − p|, the share of tokens that no coupling can keep; 1 − cos(p, q).
    Equal logits, or logits that a constant sets apart, give 0 up to the rounding of float64.
    """
    log_p, log_q = (torch.log_softmax(z.double(), -1) for z in (z_dense, z_pruned))
    p, q = log_p.exp(), log_q.exp()
    x = log_q.sub_(log_p)  # Δz up to a constant, which no variance sees
    mean = (p * x).sum(-1, keepdim=True)
    variance = (p * (x - mean).square_()).sum(-1)
    lengths = torch.linalg.vector_norm(p, dim=-1) * torch.linalg.vector_norm(q, dim=-1)
    cosine = (p * q).sum(-1) / lengths
    tv = q.sub_(p).abs_().sum(-1) / 2
    return torch.stack([-mean[..., 0].clamp(max=0), variance, tv, 1 - cosine.clamp(max=1)], -1)


@dataclass(eq=False)
class _Batch:
    """Rows that are read together."""

    calls: list  # how each block is called on them
    before: list[Tensor]  # the stream [b, S, d] in front of every block, and what leaves the last
    places: tuple[Tensor, Tensor]  # row and place of each position that is compared
    dense: Tensor  # logits there [P, V]


class Removals:
    """The model ``lm`` without some sublayers, and what removing one more of them would do.

    ``tokens`` is [n, length], ``attention_mask`` of that shape is 0 at padding. Of each sequence ``positions`` evenly
    spaced real tokens are compared, or all where there are fewer. ``sites`` are gone already, at first none. Raises
    PrunelibError for tokens that cannot be read.
    """

    def __init__(self, lm, tokens: Tensor, batch_size: int = 8, attention_mask=None, positions: int = POSITIONS):
        if positions < 1:
            raise PrunelibError(f"positions must be at least 1, not {positions}")
        self.lm, self.sites = lm, ()
        self._batches: list[_Batch] = []
        for arguments, real in batches(lm, tokens, attention_mask, batch_size):
            first, calls = hooks.block_calls(lm, **arguments)
            one = _Batch(calls, [first, *[first] * lm.n_layers], _places(real, positions), first)
            with torch.inference_mode():
                self._run(one, 0, keep=True)
                one.dense = self._logits(one, one.before[-1])
            self._batches.append(one)

    def rebase(self, sites: Iterable[Site]) -> None:
        """Take exactly ``sites`` away; the streams are computed again from the first block that changes."""
        sites = tuple(sites)
        changed = set(sites) ^ set(self.sites)
        self.sites = sites
        if changed:
            with torch.inference_mode(), hooks.dropped(self.lm, sites):
                for batch in self._batches:
                    self._run(batch, min(site.layer for site in changed), keep=True)

    def without(self, site: Site | None = None) -> Tensor:
        """:data:`COLUMNS` by position, [positions, 4] on the CPU, with ``site`` gone besides :attr:`sites`."""
        more = () if site is None else (site,)
        found = []
        with torch.inference_mode(), hooks.dropped(self.lm, self.sites), hooks.dropped(self.lm, more):
            for batch in self._batches:
                last = self._run(batch, site.layer) if site else batch.before[-1]
                pruned = self._logits(batch, last)
                size = max(1, _BLOCK_BYTES // (8 * pruned.shape[-1]))
                parts = zip(batch.dense.split(size), pruned.split(size), strict=True)
                found.append(torch.cat([compare(*part) for part in parts]).cpu())
        table = torch.cat(found)
        if not table.isfinite().all():
            raise PrunelibError(f"without {site or 'these sublayers'} the output is not a number: activations overflow")
        return table

    def measured(self, sites: Iterable[Site], tick: Callable[[], None] = lambda: None) -> pd.DataFrame:
        """Each of ``sites`` removed alone besides those that are gone: a row a site and sequence.

        Columns ``layer, kind, sequence`` and :data:`COLUMNS`, means over the positions of a sequence. ``tick`` is
        called after each site.
        """
        parts = [pd.DataFrame(columns=["layer", "kind", "sequence", *COLUMNS])]
        sequences = self._sequences()
        for site in sites:
            rows = pd.DataFrame(self.without(site).numpy(), columns=list(COLUMNS))
            means = rows.groupby(sequences).mean().rename_axis("sequence").reset_index()
            parts.append(means.assign(layer=site.layer, kind=site.kind)[list(parts[0])])
            tick()
        return pd.concat(parts[1:] or parts, ignore_index=True)

    def _sequences(self) -> list[int]:
        """The sequence of each position."""
        found, first = [], 0
        for batch in self._batches:
            found += (batch.places[0].cpu() + first).tolist()
            first += len(batch.before[0])
        return found

    def _run(self, batch: _Batch, layer: int, keep: bool = False) -> Tensor:
        """What leaves the last block when everything from ``layer`` on is run."""
        states = batch.before[layer]
        for one in range(layer, self.lm.n_layers):
            states = hooks.replay(self.lm, one, states, batch.calls[one])
            if keep:
                batch.before[one + 1] = states
        return states

    def _logits(self, batch: _Batch, last: Tensor) -> Tensor:
        return logits(self.lm, last[batch.places])


def _places(real: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Row and place of evenly spaced real tokens [b, length] of each row."""
    rows, places = [], []
    for row, mask in enumerate(real.cpu()):
        own = mask.nonzero()[:, 0]
        own = own[torch.from_numpy(positions(len(own), most))]
        rows.append(torch.full_like(own, row))
        places.append(own)
    return torch.cat(rows).to(real.device), torch.cat(places).to(real.device)
