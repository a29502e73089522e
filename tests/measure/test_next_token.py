"""Two models' next-token distributions against plain softmax in float64, and what is kept of them."""

import copy
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from refusals import refused
from torch.utils._python_dispatch import TorchDispatchMode

from prunelib.measure import distances, next_token
from prunelib.measure.next_token import compare, statistics
from prunelib.measure.token_summary import RANKS, summarise
from prunelib.models.lm import LM

TEXTS = [[5, 9, 3, 44, 7, 61, 8], [8, 60, 4, 31, 2, 12, 90, 13, 14, 15, 16, 70, 5, 5]]
PIECES = list(enumerate(TEXTS))


def moved(lm, size: float = 0.02, dtype=None):
    """A copy of a model with other weights."""
    model = copy.deepcopy(lm.model)
    generator = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        weight.data += size * torch.randn(weight.shape, generator=generator)
    return LM.from_model(model.to(dtype) if dtype else model, name="moved")


def plain(dense, pruned, texts=TEXTS) -> dict[str, np.ndarray]:
    """The same from full logits of whole texts by textbook formulas, one token after the other."""
    found = []
    for ids in texts:
        with torch.no_grad():
            p, q = (lm.model(input_ids=torch.tensor([ids])).logits[0].double().softmax(-1) for lm in (dense, pruned))
        for i, token in enumerate(ids[1:]):
            first, second = p[i].sort(descending=True).indices, q[i].sort(descending=True).indices
            found.append(
                {
                    "nll_dense": -p[i, token].log(),
                    "nll_pruned": -q[i, token].log(),
                    "kl_dense_pruned": (p[i] * (p[i] / q[i]).log()).sum(),
                    "kl_pruned_dense": (q[i] * (q[i] / p[i]).log()).sum(),
                    "dp": q[i, token] - p[i, token],
                    "dp_top": q[i, first[0]] - p[i, first[0]],
                    "right_dense": first[0] == token,
                    "right_pruned": second[0] == token,
                    "agree": next((k for k in range(RANKS) if first[k] != second[k]), RANKS),
                }
            )
    return {name: np.array([float(row[name]) for row in found]) for name in found[0]}


def test_every_family_against_full_softmax(lm):
    """Two texts in float64: what the table holds, and means of it."""
    if lm.arch.family == "xglm":
        pytest.skip("transformers masks its attention with a float32 number")
    dense, pruned = LM.from_model(copy.deepcopy(lm.model).double()), moved(lm, dtype=torch.float64)
    found, expected = compare(dense, pruned, PIECES), plain(dense, pruned)
    assert list(found) == ["cluster", *expected] and found["cluster"].tolist() == [0] * 6 + [1] * 13
    for name, values in expected.items():
        np.testing.assert_allclose(found[name].to_numpy(float), values, rtol=1e-9, atol=1e-12, err_msg=name)


def test_float32_to_a_millionth(tiny):
    """Logits are those of the model itself; what follows is float64."""
    dense, pruned = tiny("llama"), moved(tiny("llama"))
    found, expected = compare(dense, pruned, PIECES), plain(dense, pruned)
    for name in ("kl_dense_pruned", "kl_pruned_dense", "nll_dense", "nll_pruned"):
        assert found[name].mean() == pytest.approx(expected[name].mean(), rel=1e-6)
    numbers = summarise(found).set_index("name")["value"]
    assert numbers["perplexity_ratio"] == pytest.approx(
        np.exp(expected["nll_pruned"].mean() - expected["nll_dense"].mean()), rel=1e-6
    )
    assert numbers["dp_rms"] == pytest.approx((expected["dp"] ** 2).mean() ** 0.5, rel=1e-5)
    assert numbers["kl_dense_pruned_median"] == pytest.approx(np.median(expected["kl_dense_pruned"]), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_model_against_itself(tiny, dtype):
    """Exactly, also where bfloat16 makes many tokens equally likely."""
    dense, twin = (LM.from_model(copy.deepcopy(tiny("llama").model).to(dtype)) for _ in range(2))
    for other in (dense, twin):
        found = compare(dense, other, PIECES)
        assert (found[["kl_dense_pruned", "kl_pruned_dense", "dp", "dp_top"]] == 0).all(None)
        assert (found["agree"] == RANKS).all() and (found["nll_dense"] == found["nll_pruned"]).all()


def test_a_small_deviation_keeps_its_digits():
    """The plain formula would leave nothing of a KL of 1e-18."""
    z = torch.randn(3, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    dz = torch.randn(3, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for size in (1e-9, 1e-6, 1e-3, 1.0, 30.0, 900.0):
        found = statistics(z, z + size * dz, torch.zeros(3, dtype=torch.long))
        for name, ends in (("kl_dense_pruned", (z, z + size * dz)), ("kl_pruned_dense", (z + size * dz, z))):
            np.testing.assert_allclose(found[name], distances.kl(*ends), rtol=1e-6)
    p = z.softmax(-1)
    mean = (p * dz).sum(-1, keepdim=True)
    small = statistics(z, z + 1e-9 * dz, torch.zeros(3, dtype=torch.long))["kl_dense_pruned"]
    np.testing.assert_allclose(small, 1e-18 * (p * (dz - mean) ** 2).sum(-1) / 2, rtol=1e-5)  # ½ Var_p(Δz)


def test_of_equally_likely_tokens_the_first_counts():
    """As in greedy decoding: tokens 2 and 4 tie, then 0, 1 and 3."""
    z = torch.tensor([[1.0, 1, 2, 1, 2], [1.0, 1, 2, 1, 2]])
    other = torch.tensor([[1.0, 1, 2, 1, 2], [1.0, 1, 2, 0, 3]])
    found = statistics(z, other, torch.tensor([2, 4]))
    assert found["agree"].tolist() == [5, 0]
    assert found["right_dense"].tolist() == [True, False] and found["right_pruned"].tolist() == [True, True]


def test_a_compressed_model_is_the_dense_one_in_a_context(tiny):
    from prunelib.methods.apply import compress

    lm = LM.from_model(copy.deepcopy(tiny("llama").model))
    made = compress(lm, ["magnitude:0.5"])["magnitude:0.5"]
    found = compare(lm, lm, PIECES, lambda: made.applied(lm))
    other = LM.from_model(copy.deepcopy(lm.model))
    with made.applied(other):
        expected = compare(lm, other, PIECES)
    assert found.equals(expected) and (found["kl_dense_pruned"] > 0).all()


# ---------------------------------------------------------------- memory


class Largest(TorchDispatchMode):
    """The largest tensor that any operation makes, in elements."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else [made]:
            if isinstance(one, torch.Tensor):
                self.elements = max(self.elements, one.numel())
        return made


def test_memory_does_not_grow_with_the_text(tiny, monkeypatch):
    """No tensor of V × length: rows are projected a few at a time, states read a few thousand tokens at a time."""
    lm, other = tiny("llama"), moved(tiny("llama"))
    monkeypatch.setattr(next_token, "_ELEMENTS", {"cpu": 3 * lm.vocab_size})
    monkeypatch.setattr(next_token, "_TOKENS", 64)
    sizes = {}
    for count in (2, 64):
        with Largest() as seen:
            found = compare(lm, other, [(i, [1 + (i * j) % 90 for j in range(33)]) for i in range(count)])
        assert len(found) == 32 * count
        sizes[count] = seen.elements
    assert sizes[2] == sizes[64] < 64 * lm.vocab_size
    assert found.memory_usage(index=False).sum() <= 72 * len(found)  # what is kept of a token: a few numbers


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks Linux how much memory is used")
def test_the_process_does_not_grow_with_the_text(make_model, monkeypatch):
    """What is kept of a step must not lie where the next step's large arrays would."""
    lm = LM.from_model(make_model("llama", vocab_size=50_000))
    monkeypatch.setattr(next_token, "_ELEMENTS", {"cpu": 2**20})  # 20 rows a step, arrays of 8 MB

    def used(count: int) -> float:
        compare(lm, lm, [(i, list(range(i, i + 21))) for i in range(count)])
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

    before = used(4)
    assert used(30) - before < 100  # MB; two arrays a step would be 480


def test_cutting_changes_nothing(tiny, monkeypatch):
    dense, pruned = tiny("qwen2"), moved(tiny("qwen2"))
    whole, told = compare(dense, pruned, PIECES), []
    monkeypatch.setattr(next_token, "_ELEMENTS", {"cpu": 1})
    monkeypatch.setattr(next_token, "_TOKENS", 1)
    row_by_row = compare(dense, pruned, PIECES, nullcontext, lambda done, total: told.append((done, total)))
    np.testing.assert_allclose(row_by_row.to_numpy(float), whole.to_numpy(float), rtol=1e-4, atol=1e-6)
    assert told == [(i, 19) for i in range(1, 20)]


# ---------------------------------------------------------------- refusals


def test_what_cannot_be_compared(tiny, make_model):
    lm = tiny("llama")
    small = LM.from_model(make_model("llama", vocab_size=50), name="small")
    with refused("tiny-llama has 97 logits a token, small has 50"):
        compare(lm, small, PIECES)
    with refused("piece 1 has fewer than two tokens"):
        compare(lm, lm, [(0, [1, 2]), (0, [3])])
    with refused("piece 0 needs 65 positions, tiny-llama has 64"):
        compare(lm, lm, [(0, [1] * 65)])
    with refused("there is no text"):
        compare(lm, lm, [])
    broken = moved(lm)
    broken.W.data[3] = float("nan")
    with refused("gives logits that are NaN or infinite"):
        compare(lm, broken, PIECES)
