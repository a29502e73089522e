"""Memory of a whole model, tensor by tensor and by hand."""

import pytest

from prunelib.models.sublayers import Site
from prunelib.runs.zoo import memory

ATTN = 32 * 32 + 2 * 16 * 32 + 32 * 32  # q, k and v of two heads of 8, o
MLP = 3 * 32 * 48
NORM, LAYERS, EMBEDDING = 32, 4, 97 * 32
PLAIN = 2 * EMBEDDING + (2 * LAYERS + 1) * NORM
"""Numbers of the tiny Llama that no method compresses: embedding, head of its own, norms."""


@pytest.fixture(scope="module")
def llama(tiny):
    return memory.tensors(tiny("llama"))


def test_dense_takes_two_bytes_a_parameter_in_every_family(lm):
    stored = memory.tensors(lm)
    assert stored["name"].is_unique
    assert memory.whole_bytes(stored, "dense") == 2 * sum(p.numel() for p in lm.model.parameters())


@pytest.mark.parametrize(
    "spec, attn, mlp",
    [
        ("dense", 16 * ATTN, 16 * MLP),
        # Rows of 32 and 48 weights: 2 and 3 groups of 16, each a scale of 16 bits and a zero point of 4.
        ("rtn:4:g16", (4 + 20 / 16) * ATTN, (4 + 20 / 16) * MLP),
        # One group of 32 in a row of 32; two, the second shorter, in one of 48.
        ("rtn:4:g32", (4 + 20 / 32) * ATTN, (4 + 20 / 32) * 2 * 32 * 48 + (4 + 40 / 48) * 32 * 48),
        ("wanda:0.5", 9 * ATTN, 9 * MLP),
        ("magnitude:4:8", 9.5 * ATTN, 9.5 * MLP),
    ],
)
def test_block_matrices_take_their_bits_and_all_else_sixteen(llama, spec, attn, mlp):
    assert memory.whole_bytes(llama, spec) == (16 * PLAIN + LAYERS * (attn + mlp)) / 8


def test_what_is_dropped_is_not_stored(llama):
    dense = memory.whole_bytes(llama, "dense")
    attn, mlp = 2 * (ATTN + NORM), 2 * (MLP + NORM)
    for sites, gone in (
        ([Site("attn", 1)], attn),
        ([Site("mlp", 0), Site("mlp", 3)], 2 * mlp),
        ([Site("block", 2)], attn + mlp),
        ([Site("attn", 2), Site("mlp", 2)], attn + mlp),
    ):
        assert memory.whole_bytes(llama, "drop:attn:1", sites) == dense - gone
    both = memory.whole_bytes(llama, "wanda:0.5+drop:mlp:1", [Site("mlp", 0)])
    assert both == memory.whole_bytes(llama, "wanda:0.5") - (9 * MLP + 16 * NORM) / 8


def test_a_norm_of_both_sublayers_goes_with_both(make_model):
    from prunelib.models.lm import LM

    model = make_model("phi")  # parallel: one norm for attention and MLP, biases everywhere
    stored = memory.tensors(LM.from_model(model))
    block = model.model.layers[0]
    size = {name: sum(p.numel() for p in part.parameters()) for name, part in block.named_children()}
    dense = memory.whole_bytes(stored, "dense")
    assert dense - memory.whole_bytes(stored, "drop:attn:1", [Site("attn", 0)]) == 2 * size["self_attn"]
    assert dense - memory.whole_bytes(stored, "drop:block:1", [Site("block", 0)]) == 2 * sum(size.values())


def test_a_tied_head_is_stored_once(make_model):
    from prunelib.models.lm import LM

    tied, own = (memory.tensors(LM.from_model(make_model("llama", tie_word_embeddings=tied))) for tied in (True, False))
    sizes = [memory.whole_bytes(stored, "rtn:4:g16") for stored in (tied, own)]
    assert sizes[1] - sizes[0] == 2 * EMBEDDING


def test_the_same_memory_is_the_largest_sparsity_that_is_no_smaller(llama):
    spec = memory.largest_sparsity(llama, "sparsegpt", "rtn:4:g16")
    assert spec == "sparsegpt:0.73"  # 16 (1 − s) + 1 ≥ 5.25
    least = memory.whole_bytes(llama, "rtn:4:g16")
    assert memory.whole_bytes(llama, spec) >= least > memory.whole_bytes(llama, "sparsegpt:0.74")
