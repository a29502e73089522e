"""Negative log-likelihood against plain softmax, one text at a time."""

import pytest
import torch

from prunelib.errors import PrunelibError
from prunelib.measure.perplexity import text_nll

SEQUENCES = [[5, 9, 3, 44, 7], [8, 8], [60, 4, 31], [12, 90, 13, 14, 15, 16, 70]]


def test_against_plain_softmax(lm):
    """Batches and padding change nothing: each text is read alone here."""
    found = text_nll(lm, SEQUENCES)
    for ids, nll, tokens in zip(SEQUENCES, found["nll"], found["tokens"], strict=True):
        with torch.no_grad():
            p = lm.model(input_ids=torch.tensor([ids])).logits[0].double().softmax(-1)
        expected = -sum(p[i, ids[i + 1]].log().item() for i in range(len(ids) - 1))
        assert tokens == len(ids) - 1 and nll == pytest.approx(expected, rel=1e-5)


def test_order_is_kept(tiny):
    lm = tiny("llama")
    forward, back = text_nll(lm, SEQUENCES), text_nll(lm, SEQUENCES[::-1])
    assert back["nll"].tolist()[::-1] == pytest.approx(forward["nll"].tolist(), rel=1e-6)


def test_a_text_of_one_token(tiny):
    with pytest.raises(PrunelibError, match="text 1 has fewer than two tokens"):
        text_nll(tiny("llama"), [[1, 2], [3]])


def test_logits_are_held_a_few_positions_at_a_time(tiny, monkeypatch):
    from prunelib.measure import perplexity

    lm, asked = tiny("llama"), []
    whole = text_nll(lm, SEQUENCES)
    plain = type(lm).logits
    monkeypatch.setattr(type(lm), "logits", lambda self, h: asked.append(len(h)) or plain(self, h))
    monkeypatch.setattr(perplexity, "_MAX_LOGITS", {"cpu": 2 * lm.vocab_size})
    assert text_nll(lm, SEQUENCES)["nll"].tolist() == pytest.approx(whole["nll"].tolist(), rel=1e-6)
    assert max(asked) == 2 and sum(asked) >= whole["tokens"].sum()
