"""Log-likelihoods of given continuations, for multiple choice and teacher-forced accuracy."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from prunelib.errors import PrunelibError
from prunelib.lm import LM
from prunelib.tasks.prefix import begin, can_share, check_lengths, extend, shared_lengths

# Logits computed at a time, in elements: up to 32 MiB the C library reuses the memory.
_MAX_LOGITS = 2**23


@dataclass(frozen=True)
class Request:
    """How likely is ``continuation`` after ``context`` (token ids)?

    Requests of one ``group`` begin alike (the options of an item, the questions on
    a passage); by default those with the same context are one group.
    """

    context: Sequence[int]
    continuation: Sequence[int]
    group: Hashable = None


@torch.inference_mode()
def loglikelihoods(
    lm: LM,
    requests: Sequence[Request],
    batch_size: int = 32,
    share: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Score every continuation; one row a request, in the given order.

    Columns: ``logprob`` (nats, summed over the continuation), ``tokens`` (its
    length), ``matched`` (how many of its tokens are the model's first choice after
    the true ones before them). ``share`` computes what a group has in common once;
    it and ``batch_size`` change results by rounding only. Raises PrunelibError for an
    empty context or continuation, and for one that does not fit the model.
    """
    for i, request in enumerate(requests):
        if not len(request.continuation):
            raise PrunelibError(f"request {i} has a continuation without tokens: there is nothing to score")
        if not len(request.context):
            raise PrunelibError(f"request {i} has a context without tokens: give it at least one")
    # The last token is only predicted, never read.
    whole = [[*r.context, *r.continuation][:-1] for r in requests]
    check_lengths(lm, [len(ids) + 1 for ids in whole], "request")
    keep = [len(r.continuation) for r in requests]
    groups = [tuple(r.context) if r.group is None else r.group for r in requests]
    # Equal rows, such as those of one-token options, are read once; a row scores all its requests.
    rows: dict[tuple, list[int]] = {}
    for i, (group, ids) in enumerate(zip(groups, whole, strict=True)):
        rows.setdefault((group, tuple(ids)), []).append(i)
    prefix = dict.fromkeys(rows, 0)
    if share and can_share(lm, max(map(len, whole), default=0)):
        longest = [max(keep[i] for i in members) for members in rows.values()]
        prefix = dict(zip(rows, shared_lengths([ids for _, ids in rows], [g for g, _ in rows], longest), strict=True))
    result: list[tuple[float, int, int]] = [(0.0, 0, 0)] * len(requests)
    done = 0
    for batch in _batches(prefix, batch_size):
        state = begin(lm, [key[1][: prefix[key]] for key in batch]) if prefix[batch[0]] else None
        hidden, _ = extend(lm, [key[1][prefix[key] :] for key in batch], state, keep=False)
        scored = [(row, i) for row, key in enumerate(batch) for i in rows[key]]
        # Rows are padded on the left: the last states predict the continuation.
        states = torch.cat([hidden[row, -keep[i] :] for row, i in scored])
        wanted = torch.tensor([token for _, i in scored for token in requests[i].continuation], device=lm.device)
        logprobs, matched = _token_scores(lm, states, wanted)
        start = 0
        for _, i in scored:
            part = slice(start, start + keep[i])
            result[i] = (float(logprobs[part].sum()), keep[i], int(matched[part].sum()))
            start += keep[i]
        done += len(scored)
        if progress:
            progress(done, len(requests))
    return pd.DataFrame(result, columns=["logprob", "tokens", "matched"])


def _batches(prefix: dict[tuple, int], size: int) -> Iterator[list[tuple]]:
    """Rows of similar length together; those that share a beginning side by side, never with those that do not."""
    rows = sorted(prefix, key=lambda row: (prefix[row] > 0, prefix[row], row[1][: prefix[row]], len(row[1])))
    start = 0
    for i in range(1, len(rows) + 1):
        if i == len(rows) or i - start == size or (prefix[rows[i]] > 0) != (prefix[rows[start]] > 0):
            yield rows[start:i]
            start = i


def _token_scores(lm: LM, states: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability (float64) of each wanted token [n] after its state [n, d], and whether it is the first choice."""
    logprobs, matched, step = [], [], max(1, _MAX_LOGITS // lm.vocab_size)
    for some, ids in zip(states.split(step), wanted.split(step), strict=True):
        z = lm.unembed(some, "raw")  # the body's output has passed the final norm
        logprobs.append((z.gather(1, ids[:, None])[:, 0] - z.logsumexp(-1)).double().cpu())
        matched.append((z.argmax(-1) == ids).cpu())
    return torch.cat(logprobs), torch.cat(matched)
