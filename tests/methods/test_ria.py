"""RIA's scores against its formula, in plain Python numbers."""

import pytest
import torch

from prunelib.methods.inputs import InputStats
from prunelib.methods.pattern import Pattern
from prunelib.methods.ria import RIA


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


WEIGHT, INPUTS = normal(6, 8, seed=1), normal(20, 8, seed=2) * torch.logspace(0, -1, 8)


def by_hand(power):
    w = WEIGHT.tolist()
    rows, columns = [sum(map(abs, row)) for row in w], [sum(abs(row[j]) for row in w) for j in range(8)]
    norms = [sum(x * x for x in INPUTS[:, j].tolist()) ** 0.5 for j in range(8)]
    return [
        [(abs(v) / rows[i] + abs(v) / columns[j]) * norms[j] ** power for j, v in enumerate(row)]
        for i, row in enumerate(w)
    ]


@pytest.mark.parametrize("power", [0.5, 1.0, 0.0])
def test_scores_by_hand(power):
    found = RIA(Pattern(0.5), power).scores(WEIGHT, InputStats.of(INPUTS))
    torch.testing.assert_close(found, torch.tensor(by_hand(power), dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("text", ["0.5", "2:4"])
def test_mask_by_hand(text):
    pattern, scores = Pattern.parse(text), by_hand(0.5)
    places = [(i, j) for i in range(6) for j in range(8)]
    groups = [places] if not pattern.m else [places[k : k + 4] for k in range(0, 48, 4)]
    gone = {
        p for group in groups for p in sorted(group, key=lambda p: scores[p[0]][p[1]])[: pattern.removed(len(group))]
    }
    made = RIA(pattern).compress(WEIGHT, InputStats.of(INPUTS))
    assert {(i, j) for i, j in places if made[i, j] == 0} == gone


def test_rows_and_columns_of_zeros_score_nothing():
    weight = WEIGHT.clone()
    weight[2], weight[:, 3] = 0, 0
    scores = RIA(Pattern(0.5)).scores(weight, InputStats.of(INPUTS))
    assert torch.isfinite(scores).all() and not scores[2].any() and not scores[:, 3].any()
