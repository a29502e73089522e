"""Texts longer than a model reads: one line, wherever they come in."""

import pytest
import tiny_files
import torch

from prunelib.engine.decode import generate
from prunelib.errors import PrunelibError
from prunelib.measure import perplexity, trace
from prunelib.measure.head import head_of
from prunelib.methods.apply import compress
from prunelib.methods.criterion import importance
from prunelib.models.lm import LM
from prunelib.tasks.score import Request, loglikelihoods

LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}


@pytest.fixture(params=["gpt2", "opt", "llama", "phi3-longrope"])
def short(request, make_model):
    """A model that reads 24 tokens: by its learned positions, its own word, or its first rotary table."""
    if request.param == "phi3-longrope":
        longer = {"max_position_embeddings": 64, "original_max_position_embeddings": 24}
        model = make_model("phi3", **longer, rope_parameters=LONGROPE | {"original_max_position_embeddings": 24})
    else:
        model = make_model(request.param, max_position_embeddings=24)
    return LM.from_model(model, tiny_files.tokenizer())


def calls(lm, n: int) -> dict:
    ids = torch.randint(3, 60, (2, n), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    return {
        "greedy": lambda: generate(lm, [ids[0, :-4].tolist()], 4),
        "score": lambda: loglikelihoods(lm, [Request(ids[0, :-4].tolist(), ids[0, -4:].tolist(), None)]),
        "perplexity": lambda: perplexity.text_nll(lm, ids.tolist()),
        "trace": lambda: trace.trace_layers(lm, ids, mask, mask.bool()),
        "compress": lambda: compress(lm, ["wanda:0.5"], ids),
        "importance": lambda: importance(lm, ids),
    }


@pytest.mark.parametrize("call", ["greedy", "score", "perplexity", "trace", "compress", "importance"])
def test_what_does_not_fit_is_refused_in_one_line(short, call):
    calls(short, 24)[call]()
    with pytest.raises(PrunelibError, match="needs 25 positions, tiny has 24"):
        calls(short, 25)[call]()


def test_padding_takes_no_position(short):
    ids = torch.randint(3, 60, (2, 30), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[:, :8] = 0
    trace.trace_layers(short, ids, mask, mask.bool())


# ---------------------------------------------------------------- caches that notice an edit


@pytest.mark.parametrize("edit", ["swapped", "in place", "through data"])
def test_the_gram_matrix_is_that_of_the_weights_there_are(make_model, edit):
    from prunelib.models import hooks
    from prunelib.models.slots import Slot

    lm = LM.from_model(make_model("llama"))
    before = head_of(lm)
    gram = before.gram[0].clone()
    assert head_of(lm) is before  # computed once
    if edit == "swapped":
        with hooks.replaced([(Slot(lm.head, "weight"), lm.W.detach() * 2)]):
            torch.testing.assert_close(head_of(lm).gram[0], 4 * gram)
        torch.testing.assert_close(head_of(lm).gram[0], gram)
        return
    with torch.no_grad():
        (lm.W if edit == "in place" else lm.W.data)[5] *= 3
    weight = lm.W.detach().double()
    torch.testing.assert_close(head_of(lm).gram[0], weight.T @ weight)
