"""Scoring and greedy decoding: sharing, batching and compaction change nothing but rounding."""

import dataclasses

import pytest
import torch

from prunelib.engine.decode import generate
from prunelib.engine.prefix import shared_lengths
from prunelib.errors import PrunelibError
from prunelib.methods import parse
from prunelib.models import hooks
from prunelib.tasks.score import Request, loglikelihoods

CLOSE = 1e-4  # nats; float32 rounding of a few hundred operations


class Letters:
    """Token id i is the i-th letter from 'a' on; enough of a tokenizer to decode."""

    chat_template = None
    eos_token_id = None
    pad_token_id = 0

    def decode(self, ids, skip_special_tokens=True):
        return "".join(chr(97 + i) for i in ids)


def _ids(n, seed, low=3, high=97):
    return torch.randint(low, high, (n,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.fixture(scope="module")
def requests():
    """Three groups that share 9, 5 and 0 tokens, with continuations of one to four tokens."""
    made = []
    for group, common in ((0, 9), (1, 5), (2, 0)):
        start = _ids(common, 10 + group)
        for i in range(3):
            context = start + _ids(2 + i, 100 * group + i)
            made.append(Request(context, _ids(1 + (i + group) % 4, 200 + i), group))
    return made


def _naive(lm, request):
    """One sequence at a time, through the model's own forward."""
    ids = torch.tensor([[*request.context, *request.continuation]])
    with torch.no_grad():
        z = lm.model(ids).logits[0, len(request.context) - 1 : -1].float()
    wanted = torch.tensor(request.continuation)
    logp = torch.log_softmax(z.double(), -1)
    return float(logp.gather(1, wanted[:, None]).sum()), int((z.argmax(-1) == wanted).sum())


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_scores_equal_a_plain_forward(lm, requests, share, batch_size):
    found = loglikelihoods(lm, requests, batch_size=batch_size, share=share)
    for row, request in zip(found.itertuples(), requests, strict=True):
        logprob, matched = _naive(lm, request)
        assert row.logprob == pytest.approx(logprob, abs=CLOSE)
        assert (row.tokens, row.matched) == (len(request.continuation), matched)


SITES = ["sites:attn:0", "sites:attn:0+attn:1", "sites:attn:0+attn:1+attn:2+attn:3", "sites:block:1"]


@pytest.mark.parametrize("sites", SITES)
def test_sharing_is_right_with_dropped_sublayers(lm, requests, sites):
    with hooks.dropped(lm, parse(sites)):
        shared = loglikelihoods(lm, requests)
        alone = loglikelihoods(lm, requests, share=False, batch_size=1)
        assert shared["logprob"].to_numpy() == pytest.approx(alone["logprob"].to_numpy(), abs=CLOSE)


def test_order_of_requests_changes_nothing(tiny, requests):
    lm = tiny("llama")
    forward = loglikelihoods(lm, requests, batch_size=2)
    backward = loglikelihoods(lm, requests[::-1], batch_size=2)[::-1].reset_index(drop=True)
    assert forward["logprob"].to_numpy() == pytest.approx(backward["logprob"].to_numpy(), abs=CLOSE)


def test_one_token_options_are_read_once(tiny, monkeypatch):
    lm = tiny("llama")
    rows = []
    real = lm.body.forward

    def counting(*args, **kwargs):
        rows.append(kwargs["input_ids"].numel())
        return real(*args, **kwargs)

    monkeypatch.setattr(lm.body, "forward", counting)
    loglikelihoods(lm, [Request([5, 6, 7], [token]) for token in (8, 9, 10, 11)])
    assert sum(rows) == 3


def test_shared_lengths():
    rows = [[1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 9], [7, 8]]
    assert shared_lengths(rows, [0, 0, 0, 1], [1, 1, 1, 1]) == [2, 2, 2, 0]
    assert shared_lengths(rows, [0, 0, 1, 1], [1, 1, 1, 1]) == [3, 3, 0, 0]
    # Two equal sequences still need a token of their own to continue from.
    assert shared_lengths([[1, 2], [1, 2]], [0, 0], [1, 1]) == [1, 1]


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request([1, 2], []), "continuation without tokens"),
        (Request([], [1]), "context without tokens"),
        (Request([3] * 63, [4, 5]), "needs 65 positions, tiny-llama has 64"),
    ],
)
def test_what_cannot_be_scored_is_one_line(tiny, request_, words):
    with pytest.raises(PrunelibError, match=words):
        loglikelihoods(tiny("llama"), [Request([1], [2]), request_])


# ---------------------------------------------------------------- greedy decoding


@pytest.fixture(scope="module")
def prompts():
    start = _ids(6, 1)
    return [start + _ids(3, 2), start + _ids(1, 3), _ids(4, 4), _ids(7, 5), start + _ids(2, 6)]


GROUPS = [0, 0, 1, 2, 0]


def _plain(lm, prompt, steps):
    """No cache, one prompt: the whole sequence again for every token."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(steps):
            token = int(lm.model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
            if token in lm.eos_ids:
                break
            ids.append(token)
    return ids[len(prompt) :]


@pytest.mark.parametrize("groups", [None, GROUPS])
@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_greedy_equals_decoding_without_a_cache(lm, prompts, groups, batch_size):
    lm = dataclasses.replace(lm, tokenizer=Letters())
    found = generate(lm, prompts, 6, groups=groups, batch_size=batch_size)
    assert [g.ids for g in found] == [_plain(lm, p, 6) for p in prompts]
    assert [g.ended for g in found] == [len(g.ids) < 6 for g in found]


def test_greedy_with_dropped_first_attention(lm, prompts):
    lm = dataclasses.replace(lm, tokenizer=Letters())
    with hooks.dropped(lm, parse("sites:attn:0+mlp:2")):
        assert [g.ids for g in generate(lm, prompts, 5, groups=GROUPS)] == [_plain(lm, p, 5) for p in prompts]


def test_a_text_ends_at_its_stop_string_and_others_go_on(tiny, prompts):
    lm = dataclasses.replace(tiny("llama"), tokenizer=Letters())
    whole = generate(lm, prompts, 8)
    stop = whole[0].text[2:4]
    for text, found in zip(whole, generate(lm, prompts, 8, stop=[stop]), strict=True):
        assert found.text == text.text.partition(stop)[0]
        assert found.ended == (stop in text.text)
        assert text.ids[: len(found.ids)] == found.ids


def test_a_text_ends_at_its_end_token(tiny, prompts):
    class Ending(Letters):
        eos_token_id = 0

    lm = dataclasses.replace(tiny("llama"), tokenizer=Letters())
    whole = generate(lm, prompts, 8)
    Ending.eos_token_id = whole[1].ids[3]
    ending = dataclasses.replace(lm, tokenizer=Ending())
    for text, found in zip(whole, generate(ending, prompts, 8), strict=True):
        end = Ending.eos_token_id
        cut = text.ids.index(end) if end in text.ids else len(text.ids)
        assert found.ids == text.ids[:cut]
        assert found.ended == (end in text.ids)


def test_prompts_that_do_not_fit_are_one_line(tiny):
    lm = tiny("llama")
    with pytest.raises(PrunelibError, match="needs 70 positions"):
        generate(lm, [[3] * 60], 10)
    with pytest.raises(PrunelibError, match="max_new"):
        generate(lm, [[3]], 0)
    with pytest.raises(PrunelibError, match="prompt 0 has no tokens"):
        generate(lm, [[]], 1)
