"""Forward passes over many sequences that begin alike: a shared beginning is computed once.

Positions and masks are given explicitly, so that padding and sharing change a
result by rounding only.
"""

import copy
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from prunelib.models.lm import LM, pad


class State(NamedTuple):
    """What a model has read so far, a row for each sequence."""

    cache: object
    mask: Tensor  # [rows, seen], 0 where padded
    lengths: Tensor  # [rows], real tokens

    def select(self, rows: Tensor) -> "State":
        """The state of some rows, repeated where an index is; the cache is changed in place.

        ``rows`` are on the CPU, where indices are right for a tensor on any device: layers of the cache may differ.
        """
        self.cache.batch_select_indices(rows)
        mask = self.mask[rows]
        return State(self.cache, mask, self.lengths[rows])


def shared_lengths(sequences: Sequence[Sequence[int]], groups: Sequence[Hashable], keep: Sequence[int]) -> list[int]:
    """How many leading tokens each sequence has in common with all of its group.

    At most ``len(sequence) − keep`` of them; 0 for a sequence that is alone.
    """
    members: dict[Hashable, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    found = [0] * len(sequences)
    for rows in members.values():
        if len(rows) == 1:
            continue
        # What the first and the last in order share, all between them share.
        ordered = sorted(tuple(sequences[i]) for i in rows)
        first, last = ordered[0], ordered[-1]
        limit = min(len(sequences[i]) - keep[i] for i in rows)
        differ = (n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
        common = next(differ, min(len(first), len(last)))
        for i in rows:
            found[i] = max(0, min(common, limit))
    return found


def can_share(lm: LM, longest: int) -> bool:
    """Whether a cache may hold padding between two parts: not once a window of attention moves."""
    window = getattr(lm.config, lm.arch.window, None)
    return not window or longest < window


def check_lengths(lm: LM, lengths: Sequence[int], what: str) -> None:
    """PrunelibError for a sequence with more tokens than the model has positions."""
    for i, length in enumerate(lengths):
        lm.check_length(length, f"{what} {i}")


def begin(lm: LM, prefixes: Sequence[Sequence[int]], memo: dict | None = None) -> State:
    """Read the beginnings [rows] and keep the state; equal ones are computed once.

    Two calls with one ``memo`` and the same set of beginnings read them once: the first
    leaves a copy there, the second takes it.
    """
    unique = tuple(sorted(set(map(tuple, prefixes))))
    place = {prefix: i for i, prefix in enumerate(unique)}
    state = memo.pop(unique, None) if memo is not None else None
    if state is None:
        state = _read(lm, unique)
        if memo is not None:
            memo[unique] = copy.deepcopy(state)
    return state.select(torch.tensor([place[tuple(p)] for p in prefixes]))


def _read(lm: LM, unique: Sequence[tuple[int, ...]]) -> State:
    state, common = None, shared_lengths(unique, [0] * len(unique), [1] * len(unique))[0]
    if common:  # a demonstration before all of them
        _, state = extend(lm, [unique[0][:common]])
        state = state.select(torch.zeros(len(unique), dtype=torch.long))
    return extend(lm, [prefix[common:] for prefix in unique], state)[1]


def extend(lm: LM, suffixes: Sequence[Sequence[int]], state: State | None = None, keep: bool = True):
    """Read further tokens of each row.

    Returns the normed last hidden state [rows, S, d], rows padded on the left, and
    the new state (None where it is not to be kept).
    """
    batch = pad([list(s) for s in suffixes], lm.pad_id, "left", lm.device)
    mask, positions, cache = batch["attention_mask"], batch["position_ids"], None
    lengths = mask.sum(1)
    if state is not None:
        positions = positions + state.lengths[:, None]
        mask = torch.cat([state.mask, mask], dim=1)
        lengths, cache = lengths + state.lengths, state.cache
    out = lm.body(
        input_ids=batch["input_ids"],
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=keep or cache is not None,
    )
    return out.last_hidden_state, State(out.past_key_values, mask, lengths) if keep else None


@dataclass
class Tree:
    """Sequences that begin alike, as one row in which every common token stands once.

    Node n holds token ``ids[n]`` at ``depths[n]``; its parent comes before it. A row
    of nodes is read in one pass when each attends to its ancestors alone.
    """

    ids: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    _children: dict[tuple[int, int], int] = field(default_factory=dict)

    def add(self, sequence: Sequence[int]) -> list[int]:
        """Insert a sequence; returns the nodes along it."""
        path, parent = [], -1
        for depth, token in enumerate(sequence):
            node = self._children.setdefault((parent, token), len(self.ids))
            if node == len(self.ids):
                self.ids.append(token)
                self.depths.append(depth)
                self.parents.append(parent)
            path.append(node)
            parent = node
        return path

    def ancestors(self) -> np.ndarray:
        """[nodes, nodes] bool: row n is true for n and everything before it on its path."""
        seen = np.eye(len(self.ids), dtype=bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                seen[node] |= seen[parent]
        return seen


def read_trees(lm: LM, trees: Sequence[Tree], before: State | None = None) -> Tensor:
    """Normed last hidden states [rows, nodes, d] of trees, each after its row of the state ``before``."""
    width, rows = max(len(tree.ids) for tree in trees), len(trees)
    past = before.mask.shape[1] if before else 0
    ids = torch.full((rows, width), lm.pad_id, dtype=torch.long)
    positions = torch.zeros(rows, width, dtype=torch.long)
    sees = torch.zeros(rows, 1, width, past + width, dtype=torch.bool)
    if before:
        positions += before.lengths.cpu()[:, None]
        sees[..., :past] = before.mask.bool().cpu()[:, None, None]
    # What pads see does not matter, but a row of attention that sees nothing is not a number.
    sees[..., past:] = torch.eye(width, dtype=torch.bool)
    for row, tree in enumerate(trees):
        n = len(tree.ids)
        ids[row, :n] = torch.tensor(tree.ids)
        positions[row, :n] += torch.tensor(tree.depths)
        sees[row, 0, :n, past : past + n] = torch.from_numpy(tree.ancestors())
    mask = torch.zeros(sees.shape, dtype=lm.dtype).masked_fill_(~sees, torch.finfo(lm.dtype).min)
    out = lm.body(
        input_ids=ids.to(lm.device),
        attention_mask=mask.to(lm.device),
        position_ids=positions.to(lm.device),
        past_key_values=before.cache if before else None,
        use_cache=before is not None,
    )
    return out.last_hidden_state
