"""Perplexity of given texts: how surprised a model is by what comes next."""

from collections.abc import Sequence

import pandas as pd
import torch

from prunelib.errors import PrunelibError
from prunelib.models.lm import pad

# Logits that are held at once, in elements, whatever the length of a text. Up to 32 MiB the C library keeps memory
# for the next piece; beyond, the system clears new pages every time, which takes a CPU as long as the model itself.
_MAX_LOGITS = {"cpu": 2**23, "cuda": 2**28}


def text_nll(lm, sequences: Sequence[list[int]]) -> pd.DataFrame:
    """Negative log-likelihood of token sequences, each read alone from its first token.

    ``sequences`` are unpadded ids with at least two tokens; the first token is
    given, all others are predicted. Returns columns ``nll`` (nats, summed over
    the predicted tokens) and ``tokens`` (how many), in the given order; the
    perplexity of a set of texts is ``exp(Σ nll / Σ tokens)``. On windows of equal
    length that is the number of the papers' tables (:mod:`prunelib.tasks.corpora`); on
    texts of different lengths it is not the mean of the texts' perplexities. Raises
    PrunelibError for a sequence that is too short, or longer than the model reads.
    """
    short = [i for i, ids in enumerate(sequences) if len(ids) < 2]
    if short:
        raise PrunelibError(f"text {short[0]} has fewer than two tokens: nothing to predict")
    for i, ids in enumerate(sequences):
        lm.check_length(len(ids), f"text {i}")
    # Similar lengths together: little padding.
    limit = _MAX_LOGITS.get(lm.device.type, 2**26)
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    result = [(0.0, 0)] * len(sequences)
    while order:
        width = len(sequences[order[-1]])
        size = max(1, min(16, limit // (width * lm.vocab_size)))
        rows, order = order[-size:], order[:-size]
        batch = pad([sequences[i] for i in rows], lm.pad_id, "right", lm.device)
        ids, mask = batch["input_ids"][:, 1:], batch["attention_mask"][:, 1:].bool()
        piece = max(1, limit // lm.vocab_size)
        with torch.no_grad():
            h = lm.body(**batch, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
            nll = torch.cat(
                [
                    torch.nn.functional.cross_entropy(lm.logits(some), right.to(lm.device), reduction="none")
                    for some, right in zip(h.split(piece), ids.flatten().split(piece), strict=True)
                ]
            )
        sums = nll.view(ids.shape).masked_fill(~mask, 0).cpu().double().sum(1)
        for row, total, count in zip(rows, sums.tolist(), mask.sum(1).tolist(), strict=True):
            result[row] = (total, count)
    return pd.DataFrame(result, columns=["nll", "tokens"])
