"""The methods on real weights and real activations: a first, a middle and a last layer of the default model."""

import pytest
import torch

from prunelib.methods.awq import AWQ
from prunelib.methods.gptq import GPTQ
from prunelib.methods.grid import Grid
from prunelib.methods.inputs import output_energy
from prunelib.methods.magnitude import Magnitude
from prunelib.methods.pattern import Pattern
from prunelib.methods.rtn import RTN
from prunelib.methods.sparsegpt import SparseGPT
from prunelib.methods.walk import advance, batches, input_stats
from prunelib.methods.wanda import Wanda

pytestmark = pytest.mark.real_model

LAYERS = (0, 15, 29)
TEXT = (
    "The ferry at the old mill has no engine. A rope runs from bank to bank, and the current pushes the boat across. "
    "In spring the water is high and the trip takes seven minutes; in August it takes nearly twenty. Nobody hurries. "
)


@pytest.fixture(scope="module")
def inputs(default_lm):
    """Statistics of the inputs of three layers on 12 × 64 tokens of plain text, block by block."""
    ids = default_lm.encode_one(TEXT * 16, chat=False)[: 12 * 64]
    rows = batches(default_lm, torch.tensor(ids).view(12, 64))
    found = {}
    for layer in range(default_lm.n_layers):
        if layer in LAYERS:
            found[layer] = input_stats(default_lm, layer, rows)
        advance(default_lm, layer, rows)
    return found


def error(method, entry):
    """Σ ‖X(W′ − W)ᵀ‖² over all readers of an input; AWQ chooses one scale for all of them."""
    dense = [weight.get() for weight in entry.members]
    made = method.compress_readers(dense, entry.stats, absorbed=True)
    return sum(output_energy(new - w, entry.stats.gram) for new, w in zip(made, dense, strict=True))


@pytest.mark.parametrize("layer", LAYERS)
def test_reconstruction_gets_better_with_what_a_method_knows(inputs, layer):
    """SparseGPT knows correlations, Wanda norms, magnitude nothing; GPTQ and AWQ against rounding at 3 bits."""
    for entry in inputs[layer]:
        half = [error(m(Pattern(0.5)), entry) for m in (SparseGPT, Wanda, Magnitude)]
        assert half[0] < half[1], entry.members[0].name
        assert half[0] < half[2], entry.members[0].name
        grid = Grid(3, 64)
        gptq, awq, rtn = (error(m(grid), entry) for m in (GPTQ, AWQ, RTN))
        assert gptq < rtn and awq <= rtn, entry.members[0].name
    # Matrix by matrix Wanda can lose to a whole-matrix threshold; over the layer it must not.
    wanda, magnitude = (sum(error(m(Pattern(0.5)), e) for e in inputs[layer]) for m in (Wanda, Magnitude))
    assert wanda < magnitude


@pytest.mark.parametrize("text", ["0.5", "2:4", "4:8"])
def test_counts_on_a_real_layer_are_exact(inputs, text):
    """At least the wanted zeros: the stored weights hold a few exact zeros of their own."""
    pattern = Pattern.parse(text)
    for entry in inputs[15]:
        for weight in entry.members:
            dense = weight.get()
            for method in (Magnitude, Wanda, SparseGPT):
                zeros = int((method(pattern).compress(dense, entry.stats) == 0).sum())
                own = int((dense == 0).sum())
                assert dense.numel() // 2 <= zeros <= dense.numel() // 2 + own


def test_rounding_a_real_matrix(inputs):
    """Half a step at most, and nothing changes the second time."""
    weight = inputs[15][0].members[0].get()
    grid = Grid(4, 64)
    rounded = RTN(grid).compress(weight)
    for group in grid.groups(weight.shape[1]):
        scale, _ = grid.fit(weight[:, group])
        assert ((rounded - weight)[:, group].abs() <= 0.5001 * scale).all()
    torch.testing.assert_close(RTN(grid).compress(rounded), rounded, rtol=0, atol=1e-6)
