"""Quantizers: grids by hand, the invariants that tie methods together, independent oracles."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunelib.errors import PrunelibError
from prunelib.methods.awq import AWQ
from prunelib.methods.gptq import GPTQ
from prunelib.methods.grid import Grid
from prunelib.methods.inputs import InputStats
from prunelib.methods.rtn import RTN
from prunelib.methods.weights import replaced

ROWS, WIDTH = 64, 96
GRIDS = [Grid(b, g, s) for b in (2, 3, 4, 8) for g in (None, 32, 40) for s in (False, True)]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def correlated(tokens=400, width=WIDTH, seed=1):
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


# ---------------------------------------------------------------- grids


@pytest.mark.parametrize("grid", GRIDS, ids=lambda g: g.suffix)
def test_rounding_group_by_group(grid, weight):
    """Half a step at most, no more levels than the bits allow, and what is on the grid stays there."""
    rounded = RTN(grid).compress(weight)
    for group in grid.groups(WIDTH):
        scale, _ = grid.fit(weight[:, group])
        assert ((rounded - weight)[:, group].abs() <= scale / 2 * (1 + 1e-9)).all()
        levels = 2**grid.bits - (1 if grid.symmetric else 0)
        assert max(len(row.unique()) for row in rounded[:, group]) <= levels
        # A shorter last group is a group like any other.
        alone = Grid(grid.bits, None, grid.symmetric).round(weight[:, group])
        torch.testing.assert_close(rounded[:, group], alone, rtol=0, atol=0)
    torch.testing.assert_close(RTN(grid).compress(rounded), rounded, rtol=0, atol=1e-12)


@pytest.mark.parametrize("bits", [2, 4])
def test_a_symmetric_grid_is_odd_and_an_asymmetric_one_keeps_zero(bits, weight):
    grid = Grid(bits, 32, True)
    assert torch.equal(grid.round(-weight), -grid.round(weight))
    sparse = weight.masked_fill(weight.abs() < 0.5, 0)
    assert (Grid(bits, 32).round(sparse)[sparse == 0] == 0).all()


def test_an_asymmetric_grid_by_hand():
    """Range -1 … 2 in 2 bits: step 1, codes 0 … 3, zero point 1."""
    row = torch.tensor([[-1.0, -0.4, 0.6, 2.0]])
    assert Grid(2).round(row).tolist() == [[-1.0, 0.0, 1.0, 2.0]]
    positive = torch.tensor([[1.0, 2.0, 3.0]])  # the range includes 0: step 1
    assert Grid(2).round(positive).tolist() == [[1.0, 2.0, 3.0]]


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=20), st.integers(2, 8), st.booleans())
@settings(max_examples=150, deadline=None)
def test_any_row_is_rounded_to_half_a_step(row, bits, symmetric):
    weight = torch.tensor([row], dtype=torch.float64)
    grid = Grid(bits, None, symmetric)
    scale, _ = grid.fit(weight)
    assert ((grid.round(weight) - weight).abs() <= scale / 2 * (1 + 1e-9) + 1e-12).all()


def test_ends_between_two_codes_are_rounded_once():
    """-1.5 … 1.5 in 2 bits has step 1 and both ends on a half, as weights from a 4-bit file have."""
    row = torch.tensor([[-1.5, 0.2, 1.5]])
    once = Grid(2).round(row)
    assert once.tolist() == [[-1.0, 0.0, 2.0]] and torch.equal(Grid(2).round(once), once)


def test_zeros_stay_zeros():
    zeros = torch.zeros(3, 10)
    for grid in (Grid(4, 4), Grid(4, 4, True)):
        assert torch.equal(grid.round(zeros), zeros)


@pytest.mark.parametrize(
    ("grid", "bits"),
    [
        (Grid(4, 32), 4 + 20 / 32),  # a 16-bit scale and a 4-bit zero point for 32 weights
        (Grid(4, 32, True), 4 + 16 / 32),
        (Grid(3, None), 3 + 19 / 96),
        (Grid(4, 64), 4 + 2 * 20 / 96),  # 64 and a last group of 32
    ],
)
def test_real_size(grid, bits):
    assert grid.bits_per_weight((ROWS, WIDTH)) == pytest.approx(bits)


@pytest.mark.parametrize("bits", [0, 1, 9, -4])
def test_bits_out_of_range(bits):
    with pytest.raises(PrunelibError, match=f"bits must be 2 to 8, got {bits}"):
        Grid(bits)


@pytest.mark.parametrize("group", [0, -1])
def test_groups_out_of_range(group):
    with pytest.raises(PrunelibError, match="a group must hold at least 1 weight"):
        Grid(4, group)


# ---------------------------------------------------------------- GPTQ


def oracle(weight, gram, grid, act_order=False, damping=0.01):
    """Optimal brain quantization, one column at a time, H⁻¹ of what is left inverted anew each time."""
    w, h = weight.clone(), gram + damping * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    order = gram.diagonal().argsort(descending=True).tolist() if act_order else list(range(WIDTH))
    group_of = {j: (g.start, g.stop) for g in grid.groups(WIDTH) for j in range(g.start, g.stop)}
    fitted = {(g.start, g.stop): grid.fit(weight[:, g]) for g in grid.groups(WIDTH)} if act_order else {}
    done = torch.zeros_like(w)
    for place, j in enumerate(order):
        left = order[place:]
        inverse = torch.linalg.inv(h[left][:, left])
        group = group_of[j]
        if group not in fitted:
            fitted[group] = grid.fit(w[:, group[0] : group[1]])
        done[:, j : j + 1] = grid.snap(w[:, j : j + 1], *fitted[group])
        error = (w[:, j] - done[:, j]) / inverse[0, 0]
        w[:, left] -= error[:, None] * inverse[0][None]
    return done


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("grid", [Grid(4), Grid(3, 32), Grid(4, 40, True), Grid(2, 32)], ids=lambda g: g.suffix)
def test_gptq_against_an_unblocked_oracle(grid, act_order, weight):
    x = correlated()
    gram = x.T @ x
    expected = oracle(weight, gram, grid, act_order)
    for block in (WIDTH, 32, 17):
        found = GPTQ(grid, act_order, block_size=block).compress(weight, InputStats.of(x))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("grid", [Grid(4), Grid(3, 32), Grid(4, 40, True)], ids=lambda g: g.suffix)
def test_gptq_without_correlations_is_rounding(grid, act_order, weight):
    """A diagonal H: no column can make up for another."""
    x = torch.diag(torch.linspace(1, 3, WIDTH, dtype=torch.float64))
    found = GPTQ(grid, act_order).compress(weight, InputStats.of(x))
    torch.testing.assert_close(found, RTN(grid).compress(weight), rtol=0, atol=1e-12)


@pytest.mark.parametrize("act_order", [False, True])
def test_gptq_does_not_depend_on_the_size_of_the_inputs(act_order, weight):
    method = GPTQ(Grid(3, 32), act_order)
    first, scaled = (method.compress(weight, InputStats.of(f * correlated())) for f in (1, 16))
    assert torch.equal(first, scaled)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_gptq_reconstructs_better_than_rounding(bits, weight):
    x = correlated()
    grid = Grid(bits, 32)
    rounded = energy(RTN(grid).compress(weight) - weight, x)
    for act_order in (False, True):
        assert energy(GPTQ(grid, act_order).compress(weight, InputStats.of(x)) - weight, x) < rounded


def test_dead_inputs_and_few_tokens(weight):
    x = correlated(10)
    x[:, ::3] = 0
    for method in (GPTQ(Grid(4, 32)), GPTQ(Grid(4, 32), True), AWQ(Grid(4, 32))):
        assert torch.isfinite(method.compress(weight, InputStats.of(x))).all()


@pytest.mark.parametrize("method", [GPTQ(Grid(4)), GPTQ(Grid(4), True)])
def test_a_broken_gram_matrix_is_one_line(method, weight):
    x = correlated()
    x[3, 3] = float("nan")
    with pytest.raises(PrunelibError, match="Gram matrix of the calibration inputs holds NaN"):
        method.compress(weight, InputStats.of(x))


def test_float32_is_close_to_float64(weight):
    x = correlated()
    exact = GPTQ(Grid(4, 32)).compress(weight, InputStats.of(x))
    single = GPTQ(Grid(4, 32)).compress(weight.float(), InputStats.of(x.float()))
    assert single.dtype == torch.float32
    # A rounding error flips a code now and then, and what follows makes up for it.
    assert energy(single.double() - weight, x) == pytest.approx(energy(exact - weight, x), rel=0.02)


# ---------------------------------------------------------------- AWQ


def test_awq_with_exponent_zero_is_rounding(weight, stats):
    method = AWQ(Grid(3, 32), grid_points=1)
    torch.testing.assert_close(method.scales(stats, 0.0), torch.ones(WIDTH, dtype=torch.float64))
    assert torch.equal(method.compress(weight, stats), RTN(Grid(3, 32)).compress(weight))


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_awq_is_never_worse_than_rounding_and_counts_all_readers(bits, weight):
    x = correlated()
    both = [weight, normal(20, WIDTH, seed=9)]
    made = AWQ(Grid(bits, 32)).compress_readers(both, InputStats.of(x), absorbed=True)
    plain = [RTN(Grid(bits, 32)).compress(w) for w in both]
    loss = sum(energy(m - w, x) for m, w in zip(made, both, strict=True))
    assert loss < sum(energy(m - w, x) for m, w in zip(plain, both, strict=True))


def test_awq_takes_the_best_exponent_by_the_error_on_the_tokens_themselves(weight):
    """The Gram matrix gives the same choice as multiplying every token."""
    x, method = correlated(), AWQ(Grid(3, 32))
    stats = InputStats.of(x)
    tried = []
    for i in range(20):
        scale = x.abs().mean(0) ** (i / 20)
        scale = scale / (scale.max() * scale.min()).sqrt()
        tried.append(method.grid.round(weight * scale) / scale)
    best = min(tried, key=lambda made: energy(made - weight, x))
    torch.testing.assert_close(method.compress(weight, stats), best, rtol=1e-9, atol=1e-12)


def test_scaled_weights_can_be_folded_into_what_comes_before(tiny):
    """s in the weights and 1/s in the norm or the up-projection leave a Llama as it was."""
    lm = tiny("llama")
    layer, ids = lm.layers[1], torch.randint(3, 97, (2, 9), generator=torch.Generator().manual_seed(4))
    dense = lm.model(input_ids=ids).logits
    readers = {
        "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
        "mlp.up_proj": ("mlp.down_proj",),
    }
    from prunelib.models import hooks
    from prunelib.models.slots import Slot

    for producer, names in readers.items():
        module = layer.get_submodule(producer)
        scale = torch.linspace(0.3, 3, module.weight.shape[0])
        new = {f"1.{n}": layer.get_submodule(n).weight * scale for n in names}
        folded = module.weight / (scale if module.weight.dim() == 1 else scale[:, None])
        with replaced(lm, new), hooks.replaced([(Slot(module, "weight"), folded)]):
            torch.testing.assert_close(lm.model(input_ids=ids).logits, dense, rtol=1e-4, atol=1e-4)


def test_specs_and_labels():
    made = [RTN(Grid(4, 64)), GPTQ(Grid(3, 128), True), AWQ(Grid(4, None, True)), GPTQ(Grid(4, 64, True), True)]
    assert [m.spec for m in made] == ["rtn:4:g64", "gptq:3:g128:act", "awq:4:sym", "gptq:4:g64:sym:act"]
    assert [m.label for m in made] == ["RTN-4 g64", "GPTQ-3 g128 act", "AWQ-4 sym", "GPTQ-4 g64 sym act"]


# ---------------------------------------------------------------- conventions, ours and the published code's


@pytest.mark.parametrize("bits, levels", [(2, [-1, 0, 1]), (3, [-3, -2, -1, 0, 1, 2, 3])])
def test_symmetric_levels_are_ours_and_not_gptq_s(bits, levels):
    """Ours reach the largest weight on both sides; IST-DASLab/gptq's are one more and end half a step before it."""
    top = levels[-1]
    row = torch.linspace(-top, top, 1001, dtype=torch.float64)[None]
    assert Grid(bits, None, True).round(row).unique().tolist() == levels
    step, zero = 2 * top / (2**bits - 1), 2 ** (bits - 1)  # their scale and zero point for the same row
    theirs = step * ((row / step).round().add(zero).clamp(0, 2**bits - 1) - zero)
    assert len(theirs.unique()) == 2**bits == len(levels) + 1
    assert theirs.max().item() == pytest.approx(top - step / 2)
    assert theirs.min().item() == pytest.approx(-top - step / 2)


def test_awq_minimises_the_error_of_the_matrices_and_not_of_what_follows(weight):
    """Another exponent may be better for a product of the outputs; ours is the best for the outputs themselves."""
    x, grid = correlated(), Grid(2, 32)
    pair = [weight[:32], weight[32:]]
    made = AWQ(grid).compress_readers(pair, InputStats.of(x), absorbed=True)
    dense = (x @ pair[0].T) * (x @ pair[1].T)
    tried = []
    for i in range(20):
        scale = x.abs().mean(0) ** (i / 20)
        scale = scale / (scale.max() * scale.min()).sqrt()
        a, b = (grid.round(w * scale) / scale for w in pair)
        outputs = energy(a - pair[0], x) + energy(b - pair[1], x)
        tried.append((outputs, ((x @ a.T) * (x @ b.T) - dense).square().sum().item()))
    ours = sum(energy(m - w, x) for m, w in zip(made, pair, strict=True))
    assert ours == pytest.approx(min(tried)[0])
    assert min(tried) != min(tried, key=lambda one: one[1])
