"""Calibration rows as the arguments of plain forward passes, padding told apart."""

import torch
from torch import Tensor

from prunelib.errors import PrunelibError


def batches(lm, tokens: Tensor, attention_mask: Tensor | None = None, batch_size: int = 8) -> list[tuple[dict, Tensor]]:
    """Arguments of each forward pass over token ids [n, length], and which of its tokens [b, length] are real.

    ``attention_mask`` [n, length] is 0 at padding. Raises PrunelibError for a shape that is not [n, length], no
    tokens, a row of only padding, and more tokens than the model reads.
    """
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
