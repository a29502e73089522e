"""Log-likelihoods of given continuations, for multiple choice and teacher-forced accuracy."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from prunelib.engine.prefix import Tree, begin, can_share, check_lengths, extend, read_trees, shared_lengths
from prunelib.errors import PrunelibError
from prunelib.models.lm import LM

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
    memo: dict | None = None,
) -> pd.DataFrame:
    """Score every continuation; one row a request, in the given order.

    Columns: ``logprob`` (nats, summed over the continuation), ``tokens`` (its
    length), ``matched`` (how many of its tokens are the model's first choice after
    the true ones before them). ``share`` reads what members of a group have in common once;
    it and ``batch_size`` change results by rounding only. With ``memo`` the beginnings of
    groups are left for a next read-out of the same groups (tasks.prefix.begin). Raises PrunelibError for an
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
    result: list[tuple[float, int, int]] = [(0.0, 0, 0)] * len(requests)
    share = share and can_share(lm, max(map(len, whole), default=0))
    done = 0
    for batch in _batches(whole, groups if share else list(range(len(whole))), batch_size):
        members = [i for row in batch for i in row]
        states = _states(lm, whole, keep, batch, memo) if share else _plain_states(lm, whole, keep, members)
        wanted = torch.tensor([token for i in members for token in requests[i].continuation], device=lm.device)
        logprobs, matched = _token_scores(lm, states, wanted)
        start = 0
        for i in members:
            part = slice(start, start + keep[i])
            result[i] = (float(logprobs[part].sum()), keep[i], int(matched[part].sum()))
            start += keep[i]
        done += len(members)
        if progress:
            progress(done, len(requests))
    return pd.DataFrame(result, columns=["logprob", "tokens", "matched"])


def _batches(whole: list[list[int]], groups: Sequence[Hashable], size: int) -> Iterator[list[list[int]]]:
    """Batches of rows; a row lists the sequences of one group (at most ``size``), similar lengths together."""
    members: dict[Hashable, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    rows = [row[start : start + size] for row in members.values() for start in range(0, len(row), size)]
    rows.sort(key=lambda row: (max(len(whole[i]) for i in row), whole[row[0]]))
    batch: list[list[int]] = []
    for row in rows:
        if batch and sum(map(len, batch)) + len(row) > size:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _states(lm: LM, whole, keep, batch: list[list[int]], memo: dict | None) -> torch.Tensor:
    """States [n, d] that predict the continuations, every common token of a row read once."""
    members = [i for row in batch for i in row]
    groups = [number for number, row in enumerate(batch) for _ in row]
    sequences, least = [whole[i] for i in members], [keep[i] for i in members]
    # A demonstration before all of them is read once for the batch.
    common = shared_lengths(sequences, [0] * len(members), least)
    if memo is not None and min(own := shared_lengths(sequences, groups, least)):
        common = own
    starts = {number: sequence[:n] for number, sequence, n in zip(groups, sequences, common, strict=True)}
    before = begin(lm, list(starts.values()), memo) if min(common) and (len(batch) > 1 or memo is not None) else None
    trees, places = [Tree() for _ in batch], []
    for number, sequence, last in zip(groups, sequences, least, strict=True):
        rest = sequence[len(starts[number]) :] if before else sequence
        places.append((number, trees[number].add(rest)[-last:]))
    hidden = read_trees(lm, trees, before)
    return torch.cat([hidden[row, path] for row, path in places])


def _plain_states(lm: LM, whole, keep, members: list[int]) -> torch.Tensor:
    """The same, each sequence alone in a padded row."""
    hidden, _ = extend(lm, [whole[i] for i in members], keep=False)
    return torch.cat([hidden[row, -keep[i] :] for row, i in enumerate(members)])


def _token_scores(lm: LM, states: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability (float64) of each wanted token [n] after its state [n, d], and whether it is the first choice."""
    logprobs, matched, step = [], [], max(1, _MAX_LOGITS // lm.vocab_size)
    for some, ids in zip(states.split(step), wanted.split(step), strict=True):
        z = lm.logits(some)
        logprobs.append((z.gather(1, ids[:, None])[:, 0] - z.logsumexp(-1)).double().cpu())
        matched.append((z.argmax(-1) == ids).cpu())
    return torch.cat(logprobs), torch.cat(matched)
