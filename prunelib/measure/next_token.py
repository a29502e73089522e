"""Two models' next-token distributions on the same tokens, position by position.

Of each position a few numbers are kept, never its logits: states [tokens, d] of a few thousand
tokens are read at a time, and projected some rows at a time, so that the memory used does not grow with
vocabulary × length of the text. Logits are those of the model in its own precision; all that follows is float64.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from prunelib.errors import PrunelibError
from prunelib.measure.token_summary import RANKS

Piece = tuple[int, list[int]]
"""Cluster that a piece of text belongs to, and its unpadded token ids; each piece is read alone."""

# Logits of one model at a time, in elements; some eight such arrays of float64 are in use together.
_ELEMENTS = {"cpu": 2**21, "cuda": 2**25}
_TOKENS = 4096  # read by one model before the other reads them: changing the weights costs as much as a short piece


def compare(
    dense,
    pruned,
    pieces: Sequence[Piece],
    within: Callable[[], AbstractContextManager] = nullcontext,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """What two models say about each next token of the same pieces of text.

    Parameters
    ----------
    dense, pruned : :class:`~prunelib.models.lm.LM` with one vocabulary; they may be the same object
    pieces : (cluster, token ids), at least two ids each; the first token is given, all others are predicted
    within : gives a context in which ``pruned`` is run, such as ``lambda: made.applied(lm)`` of a compressed
        model; it may change anything but the head
    progress : called with (predicted tokens done, all of them)

    Returns
    -------
    One row a predicted token, in the order of the text: ``cluster``; ``nll_dense, nll_pruned`` (nats), minus the
    logarithm of the probability of the token that stands in the text; ``kl_dense_pruned, kl_pruned_dense``
    (nats), :func:`statistics`; ``dp`` and ``dp_top``, pruned − dense probability of the token in the text and of
    the dense model's most likely token; ``right_dense, right_pruned``, whether the token in the text is the most
    likely one; ``agree``, how many of the :data:`~.token_summary.RANKS` most likely tokens are the same,
    counted from the first to the first that differs.

    Raises
    ------
    PrunelibError
        For vocabularies of different size, a piece that is too short or too long, and logits that are no numbers.
    """
    if dense.vocab_size != pruned.vocab_size:
        raise PrunelibError(
            f"{dense.name} has {dense.vocab_size} logits a token, {pruned.name} has {pruned.vocab_size}: "
            "their distributions cannot be compared"
        )
    for i, (_, ids) in enumerate(pieces):
        if len(ids) < 2:
            raise PrunelibError(f"piece {i} has fewer than two tokens: nothing to predict")
        for lm in (dense, pruned):
            lm.check_length(len(ids), f"piece {i}")
    clusters = np.repeat([cluster for cluster, _ in pieces], [len(ids) - 1 for _, ids in pieces])
    if not len(clusters):
        raise PrunelibError("there is no text to compare the models on")
    columns: dict[str, np.ndarray] = {}
    done = 0
    size = max(1, _ELEMENTS.get(dense.device.type, 2**23) // dense.vocab_size)
    with torch.no_grad():
        for group in _groups(pieces):
            before = _states(dense, group)
            with within():
                after = _states(pruned, group)
            targets = torch.tensor([i for _, ids in group for i in ids[1:]], device=dense.device)
            for start in range(0, len(targets), size):
                rows = slice(start, start + size)
                logits = _logits(dense, before[rows]), _logits(pruned, after[rows])
                found = statistics(*logits, targets[rows].to(logits[0].device))
                if not torch.isfinite(found["kl_dense_pruned"] + found["kl_pruned_dense"]).all():
                    raise PrunelibError(
                        f"{dense.name} or {pruned.name} gives logits that are NaN or infinite: "
                        "use another --dtype, or look for damaged weights"
                    )
                for name, value in found.items():
                    # Copied into one array: a small tensor that is kept would lie in the place of a freed large
                    # one, which then fits no more, so that every step would take new memory.
                    part = value.cpu().numpy()
                    if name not in columns:
                        columns[name] = np.empty(len(clusters), part.dtype)
                    columns[name][done : done + len(part)] = part
                done += len(part)
                if progress:
                    progress(done, len(clusters))
    return pd.DataFrame({"cluster": clusters} | columns)


def statistics(z_dense: Tensor, z_pruned: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """The columns of :func:`compare` but the cluster, each [N], from logits [N, V] and the next tokens [N].

    Computed in float64. Each KL is a sum of terms ≥ 0, as in :func:`prunelib.measure.distances.kl`: accurate
    relative to its own size, and exactly 0 for equal logits. Of equally likely tokens the one with the lowest
    id comes first, which is the one that greedy decoding writes.
    """
    log_p, log_q = (torch.log_softmax(z.double(), -1) for z in (z_dense, z_pruned))
    p, q, x = log_p.exp(), log_q.exp(), log_q - log_p
    # q − p, without cancellation where the two are close.
    gap = torch.where(x.abs() < 1, p * torch.expm1(x), q - p)
    forward, reverse = (gap - p * x).sum(-1).clamp(min=0), (q * x - gap).sum(-1).clamp(min=0)
    here, top = targets[:, None], log_p.argmax(-1, keepdim=True)

    def at(table: Tensor, tokens: Tensor) -> Tensor:
        return table.gather(-1, tokens).squeeze(-1)

    found = {
        "nll_dense": -at(log_p, here),
        "nll_pruned": -at(log_q, here),
        "kl_dense_pruned": forward,
        "kl_pruned_dense": reverse,
        "dp": at(gap, here),
        "dp_top": at(gap, top),
        "right_dense": at(top, torch.zeros_like(top)) == targets,
        "right_pruned": log_q.argmax(-1) == targets,
    }
    return found | {"agree": _agreement(log_p, log_q)}


def _agreement(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Leading ranks on which the same token stands, [N]; both [N, V] are overwritten."""
    same = torch.ones(len(log_p), dtype=torch.bool, device=log_p.device)
    agree = torch.zeros(len(log_p), dtype=torch.int64, device=log_p.device)
    for _ in range(min(RANKS, log_p.shape[-1])):  # topk orders ties as it likes, argmax takes the first
        first, second = (table.argmax(-1, keepdim=True) for table in (log_p, log_q))
        same &= (first == second).squeeze(-1)
        agree += same
        log_p.scatter_(-1, first, -torch.inf)
        log_q.scatter_(-1, second, -torch.inf)
    return agree


def _groups(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    """Pieces that are read one after the other by the same model."""
    group: list[Piece] = []
    for piece in pieces:
        if group and sum(len(ids) for _, ids in group) + len(piece[1]) > _TOKENS:
            yield group
            group = []
        group.append(piece)
    if group:
        yield group


def _states(lm, group: Sequence[Piece]) -> Tensor:
    """What the head reads at every token that is followed by another, [tokens, d]. No padding, no cache."""
    found = []
    for _, ids in group:
        batch = torch.tensor([ids], device=lm.device)
        found.append(lm.body(input_ids=batch, use_cache=False).last_hidden_state[0, :-1])
    return torch.cat(found)


def _logits(lm, states: Tensor) -> Tensor:
    """Logits [rows, V] as the model itself gives them: in its own precision (``lm.logits`` rounds to float32)."""
    z = lm.scale_logits(nn.functional.linear(states.to(lm.dtype), lm.W, lm.unembed_bias))
    return z.cpu() if z.device.type == "mps" else z  # which knows no float64
