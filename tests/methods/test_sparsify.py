"""Sparse methods: exact counts, the invariants that tie them together, independent oracles."""

import itertools

import pytest
import torch

from prunelib.errors import PrunelibError
from prunelib.methods.inputs import InputStats
from prunelib.methods.magnitude import Magnitude
from prunelib.methods.pattern import Pattern, smallest
from prunelib.methods.sparsegpt import SparseGPT
from prunelib.methods.wanda import Wanda

PATTERNS = ["0.3", "0.5", "0.7", "2:4", "4:8", "1:4"]
METHODS = [Magnitude, Wanda, SparseGPT]
ROWS, WIDTH = 64, 96


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def correlated(tokens=400, width=WIDTH, seed=1):
    """Inputs with channels of very different size that depend on each other."""
    mix = normal(width, width, seed=seed) * torch.logspace(0, -1.5, width, dtype=torch.float64)[:, None]
    return normal(tokens, width, seed=seed + 1) @ mix


def energy(change, x):
    return (x @ change.T).square().sum().item()


@pytest.fixture(scope="module")
def weight():
    return normal(ROWS, WIDTH, seed=5)


@pytest.fixture(scope="module")
def stats():
    return InputStats.of(correlated())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("text", PATTERNS)
def test_the_number_of_zeros_is_exact(method, text, weight, stats):
    pattern = Pattern.parse(text)
    pruned = method(pattern).compress(weight, stats)
    zeros = pruned == 0
    assert pruned.shape == weight.shape and pruned.dtype == weight.dtype
    if pattern.m:
        assert (zeros.view(ROWS, -1, pattern.m).sum(-1) == pattern.m - pattern.n).all()
    else:
        assert zeros.sum() == (
            ROWS * int(pattern.fraction * WIDTH + 1e-9)
            if method is Wanda
            else int(pattern.fraction * ROWS * WIDTH + 1e-9)
        )
    if method is Wanda:
        assert (zeros.sum(1) == pattern.removed(WIDTH)).all()


@pytest.mark.parametrize("method", METHODS)
def test_nothing_removed_changes_nothing(method, weight, stats):
    torch.testing.assert_close(method(Pattern(0.0)).compress(weight, stats), weight, rtol=0, atol=0)


@pytest.mark.parametrize("count", [1, 3, 8])
def test_ties_go_to_the_lower_index(count):
    mask = smallest(torch.ones(2, 8), count)
    assert mask.tolist() == [[True] * count + [False] * (8 - count)] * 2
    mixed = torch.tensor([[2.0, 1.0, 1.0, 0.0, 1.0]])
    assert smallest(mixed, 3).tolist() == [[False, True, True, True, False]]


@pytest.mark.parametrize("text", PATTERNS)
def test_wanda_by_brute_force(text, weight):
    """Every score and every comparison by hand, in plain Python numbers."""
    pattern, x = Pattern.parse(text), correlated(50)
    pruned = Wanda(pattern).compress(weight, InputStats.of(x))
    norms = [sum(v * v for v in x[:, j].tolist()) ** 0.5 for j in range(WIDTH)]
    size = pattern.m or WIDTH
    for row in range(0, ROWS, 7):
        values = weight[row].tolist()
        for start in range(0, WIDTH, size):
            group = range(start, start + size)
            score = {j: abs(values[j]) * norms[j] for j in group}
            gone = sorted(group, key=lambda j: (score[j], j))[: pattern.removed(size)]
            expected = [0.0 if j in gone else values[j] for j in group]
            assert pruned[row, start : start + size].tolist() == expected


@pytest.mark.parametrize("text", PATTERNS)
def test_wanda_with_equal_norms_is_magnitude(text, weight):
    pattern = Pattern.parse(text)
    equal = InputStats.of(torch.eye(WIDTH, dtype=torch.float64))
    expected = Magnitude(pattern, per_row=True).compress(weight)
    assert torch.equal(Wanda(pattern).compress(weight, equal), expected)


@pytest.mark.parametrize("text", PATTERNS)
@pytest.mark.parametrize("method", [Wanda, SparseGPT])
def test_scaling_the_inputs_changes_nothing(method, text, weight):
    """Powers of two scale without rounding, so even the bits agree."""
    x, pattern = correlated(), Pattern.parse(text)
    first, scaled = (method(pattern).compress(weight, InputStats.of(v)) for v in (x, 16 * x))
    assert torch.equal(first, scaled)


@pytest.mark.parametrize(("text", "block"), [("0.5", WIDTH), ("2:4", 32), ("4:8", 32), ("2:4", 128)])
def test_sparsegpt_with_uncorrelated_equal_inputs_is_magnitude(text, block, weight):
    """No column can make up for another. Unstructured masks are chosen by block: one block must hold all."""
    pattern = Pattern.parse(text)
    stats = InputStats.of(3 * torch.eye(WIDTH, dtype=torch.float64))
    expected = Magnitude(pattern).compress(weight)
    torch.testing.assert_close(SparseGPT(pattern, block_size=block).compress(weight, stats), expected)


def oracle(weight, gram, pattern, damping=0.01, block=None):
    """Optimal brain surgeon, one column at a time, with the inverse of what is left recomputed each time.

    No Cholesky factor, no lazy update: after column j is fixed, H⁻¹ of the remaining
    columns is inverted anew from H (Hassibi & Stork 1993, which SparseGPT speeds up).
    """
    w, h = weight.clone(), gram + damping * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    rows, width = w.shape
    mask = torch.zeros_like(w, dtype=torch.bool)
    taken = 0
    step = block or width

    def inverse(start):
        return torch.linalg.inv(h[start:, start:])

    for j in range(width):
        if pattern.m and j % pattern.m == 0:
            group = range(j, j + pattern.m)
            saliency = torch.stack([w[:, c] ** 2 / inverse(c)[0, 0] for c in group], 1)
            order = saliency.argsort(dim=1, stable=True)[:, : pattern.m - pattern.n]
            mask[:, j : j + pattern.m].scatter_(1, order, True)
        if not pattern.m and j % step == 0:
            end = min(j + step, width)
            saliency = torch.stack([w[:, c] ** 2 / inverse(c)[0, 0] for c in range(j, end)], 1)
            count = int(pattern.fraction * rows * end + 1e-9) - taken
            taken += count
            chosen = saliency.flatten().argsort(stable=True)[:count]
            mask[:, j:end] = torch.zeros(saliency.numel(), dtype=torch.bool).index_fill_(0, chosen, True).view(rows, -1)
        left = inverse(j)
        error = torch.where(mask[:, j], w[:, j], 0.0) / left[0, 0]
        w[:, j:] -= error[:, None] * left[0][None]
        w[mask[:, j], j] = 0
    return w.masked_fill(mask, 0)


@pytest.mark.parametrize("text", ["0.5", "0.7", "2:4", "4:8"])
@pytest.mark.parametrize("block", [WIDTH, 32, 40])
def test_sparsegpt_against_an_unblocked_oracle(text, block, weight):
    pattern = Pattern.parse(text)
    gram = correlated().T @ correlated()
    stats = InputStats(400, gram.diagonal(), gram.diagonal(), gram)
    found = SparseGPT(pattern, block_size=block).compress(weight, stats)
    expected = oracle(weight, gram, pattern, block=block)
    assert torch.equal(found == 0, expected == 0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("text", ["0.5", "2:4", "4:8"])
def test_each_method_reconstructs_better_than_the_simpler_one(text, weight):
    pattern, x = Pattern.parse(text), correlated()
    stats = InputStats.of(x)
    errors = [
        energy(m.compress(weight, stats) - weight, x)
        for m in (SparseGPT(pattern), Wanda(pattern), Magnitude(pattern, per_row=True))
    ]
    assert errors[0] < errors[1] < errors[2]


def test_a_dead_input_costs_nothing_and_is_removed_first(weight):
    x = correlated()
    x[:, ::2] = 0
    stats = InputStats.of(x)
    for method in (Wanda(Pattern(0.5)), SparseGPT(Pattern(0.5), block_size=WIDTH)):
        pruned = method.compress(weight, stats)
        assert (pruned[:, ::2] == 0).all() and torch.isfinite(pruned).all()


def test_a_singular_gram_matrix_is_damped(weight):
    """Ten tokens for 96 inputs: the Gram matrix has rank 10."""
    x = correlated(10)
    pruned = SparseGPT(Pattern(0.5)).compress(weight, InputStats.of(x))
    assert torch.isfinite(pruned).all()
    assert energy(pruned - weight, x) < energy(Magnitude(Pattern(0.5)).compress(weight) - weight, x)


@pytest.mark.parametrize("text", ["1", "1.5", "-0.1", "nan"])
def test_sparsity_outside_its_range(text):
    with pytest.raises(PrunelibError, match="sparsity must be at least 0 and below 1"):
        Pattern.parse(text)


@pytest.mark.parametrize("text", ["5:4", "0:4", "-1:4"])
def test_impossible_groups(text):
    with pytest.raises(PrunelibError, match="impossible, use 2:4"):
        Pattern.parse(text)


@pytest.mark.parametrize("text", ["", "half", "2:4:8", "2:x", "2:0"])
def test_a_pattern_that_cannot_be_read(text):
    with pytest.raises(PrunelibError, match="written as 0.5 or 2:4|empty groups"):
        Pattern.parse(text)


def test_rows_that_groups_do_not_divide(stats):
    for method in METHODS:
        with pytest.raises(PrunelibError, match="multiple of 4, got 6 weights"):
            method(Pattern.keep(2, 4)).compress(torch.ones(3, 6), InputStats.of(torch.ones(2, 6)))


def test_real_size():
    shape = (64, 96)
    assert Pattern(0.5).bits_per_weight(shape) == 9  # half of 16, and a mask bit
    assert Pattern.keep(2, 4).bits_per_weight(shape) == 9  # 2 × (16 + 2) bits for 4 weights
    assert Pattern.keep(4, 8).bits_per_weight(shape) == 9.5
    assert Pattern(0.0).bits_per_weight(shape) == 17


def test_labels():
    made = {
        f"{m(Pattern.parse(p)).spec} {m(Pattern.parse(p)).label}" for m, p in itertools.product(METHODS, ("0.5", "2:4"))
    }
    assert made == {
        "magnitude:0.5 Magnitude 50%",
        "magnitude:2:4 Magnitude 2:4",
        "wanda:0.5 Wanda 50%",
        "wanda:2:4 Wanda 2:4",
        "sparsegpt:0.5 SparseGPT 50%",
        "sparsegpt:2:4 SparseGPT 2:4",
    }
