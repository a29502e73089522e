"""One step, far from any task: two models' next-token distributions at some positions of the same text, T = 1.

The statistics of :mod:`prunelib.measure.next_token`, and beside them how far the last state, the logits and the
probabilities turn, and the two variances of Theorems 2 and 3. Logits of a few positions are held at a time, so that
memory does not grow with vocabulary × positions.
"""

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from prunelib.measure import next_token
from prunelib.measure.distances import one_minus_cosine

COLUMNS = ("one_minus_cos_h", "one_minus_cos_z", "one_minus_cos_p", "rms_dz", "var_p", "var_r")
"""What stands beside the columns of :func:`prunelib.measure.next_token.statistics`."""

_BLOCK_BYTES = 2**24
"""Of the logits of one model, in float64, that are looked at together; some ten such arrays are in use."""


def positions(tokens: int, most: int) -> np.ndarray:
    """``most`` evenly spaced places in ``tokens`` of them, or all where there are no more: the middles of equal parts.

    >>> positions(10, 2).tolist(), positions(3, 8).tolist()
    ([2, 7], [0, 1, 2])
    """
    parts = min(tokens, most)
    return np.floor((np.arange(parts) + 0.5) * tokens / max(parts, 1)).astype(int)


def turned(h: Tensor, h_pruned: Tensor, z: Tensor, z_pruned: Tensor) -> dict[str, Tensor]:
    """:data:`COLUMNS`, each [N], from streams [N, d] after the last block and logits [N, V] of both models.

    ``rms_dz`` is in logit units; ``var_p`` and ``var_r`` (logit units squared) are the variances of Δz under the
    dense probabilities p and under r = p² / Σp².
    """
    z, z_pruned = z.double(), z_pruned.double()
    dz, p = z_pruned - z, torch.softmax(z, -1)
    r = p.square()
    columns = (
        one_minus_cosine(h, h_pruned),
        one_minus_cosine(z, z_pruned),
        one_minus_cosine(p, torch.softmax(z_pruned, -1)),
        dz.square().mean(-1).sqrt(),
        _variance(p, dz),
        _variance(r / r.sum(-1, keepdim=True), dz),
    )
    return dict(zip(COLUMNS, columns, strict=True))


def _variance(weight: Tensor, x: Tensor) -> Tensor:
    """Of ``x`` [N, V] under weights [N, V] that add up to 1; about the mean, so that a common shift is no variance."""
    mean = (weight * x).sum(-1, keepdim=True)
    return (weight * (x - mean).square()).sum(-1)


@torch.inference_mode()
def compare(lm, dense: Tensor, pruned: Tensor, targets: Tensor) -> pd.DataFrame:
    """A row a position: all statistics of streams [N, d] after the last block, read by the head of ``lm``.

    ``targets`` [N] are the tokens that stand in the text. Equal states give exactly 0.
    """
    size = max(1, _BLOCK_BYTES // (8 * lm.vocab_size))
    blocks = [torch.arange(start, min(start + size, len(dense))) for start in range(0, len(dense), size)]
    frames = [_block(lm, dense[rows], pruned[rows], targets[rows]) for rows in blocks]
    return pd.concat(frames, ignore_index=True)


def _block(lm, h: Tensor, h_pruned: Tensor, targets: Tensor) -> pd.DataFrame:
    z, z_pruned = (logits(lm, one) for one in (h, h_pruned))
    # Equal states may land in different places of a product and differ in the last bit.
    z_pruned = torch.where((h == h_pruned).all(-1, keepdim=True).to(z.device), z, z_pruned)
    found = next_token.statistics(z, z_pruned, targets.to(z.device)) | turned(h, h_pruned, z, z_pruned)
    return pd.DataFrame({name: value.cpu().numpy() for name, value in found.items()})


def logits(lm, h: Tensor) -> Tensor:
    """Of streams [..., d] after the last block, [..., V], on a device that knows float64."""
    z = lm.unembed(h)
    return z.cpu() if z.device.type == "mps" else z
