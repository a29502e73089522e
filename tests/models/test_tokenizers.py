"""Tokenizers as they come: end tokens after every text, a space lost at the start, dates, ids without an embedding."""

import json
from datetime import date

import numpy as np
import pytest
import torch
from opened import open_chapter
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from prunelib.engine import decode
from prunelib.errors import PrunelibError
from prunelib.models import fetch
from prunelib.models.lm import LM
from prunelib.tasks import humaneval, readouts

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
PIECES = ["<s>", "</s>", *(chr(i) for i in range(32, 127)), "\n", "\u2581"]


def tokenizer(template: str | None = None, sentencepiece: bool = False, chat: str | None = None):
    """One character a token. ``sentencepiece`` writes spaces as LlamaTokenizer does and decodes the first one away."""
    inside = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(PIECES)}, unk_token="?"))
    inside.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    if sentencepiece:
        inside.normalizer = normalizers.Replace(" ", "\u2581")
        steps = [decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        inside.decoder = decoders.Sequence(steps)
    else:
        inside.decoder = decoders.Fuse()
    inside.add_special_tokens(["<s>", "</s>"])
    if template:
        inside.post_processor = processors.TemplateProcessing(template, special_tokens=[("<s>", 0), ("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=inside, chat_template=chat, **SPECIAL)


def tiny(tok, vocab: int = len(PIECES)) -> LM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocab, eos_token_id=1, bos_token_id=0, **sizes))
    return LM.from_model(model, tok)


def ids(text: str) -> list[int]:
    return [PIECES.index(one) for one in text]


@pytest.mark.parametrize(("template", "start"), [("$A </s>", []), ("<s> $A </s>", [0]), ("<s> $A", [0]), (None, [])])
def test_a_context_never_ends_in_what_the_tokenizer_appends(template, start):
    lm = tiny(tokenizer(template))
    assert lm.encode_one("a b", chat=False) == start + ids("a b")
    context = lm.encode_one("a b", chat=False)
    assert readouts.continuation_ids(lm, "a b", " c", context) == ids(" c")
    # An embedder was trained to read the end token.
    assert lm.encode_one("a b", chat=False, end=True) == lm.tokenizer("a b")["input_ids"]


def test_an_appended_end_token_changes_no_answer():
    plain, ending = tiny(tokenizer()), tiny(tokenizer("$A </s>"))
    prompts = ["def f(", "x = 1"]
    assert humaneval.complete(ending, prompts, max_new=6) == humaneval.complete(plain, prompts, max_new=6)


def test_the_harness_reads_no_appended_end_token():
    harness = pytest.importorskip("prunelib.tasks.harness")
    pytest.importorskip("lm_eval")
    plain, ending = (harness.wrapped(tiny(tok)) for tok in (tokenizer(), tokenizer("$A </s>")))
    assert ending.tok_encode("a b") == plain.tok_encode("a b") == ids("a b")
    assert ending._encode_pair("a b", " c") == plain._encode_pair("a b", " c")


def test_what_is_written_keeps_the_space_before_it(monkeypatch):
    lm = tiny(tokenizer("<s> $A", sentencepiece=True))
    context, new = lm.encode_one("def f():\n", chat=False), lm.tokenizer("    return 1", add_special_tokens=False)
    new = new["input_ids"]
    assert lm.decode(new) == "   return 1"  # alone, one space is lost: a Python program is wrong
    assert lm.decode(new, context) == "    return 1"
    assert lm.decode(new, lm.encode_one("x" * 100, chat=False)) == "    return 1"  # only the end of a context is read
    assert lm.decode([], context) == "" and lm.decode(new, []) == lm.decode(new)
    assert lm.decode(np.array(new), np.array(context)) == "    return 1"
    assert lm.decode(new, np.array([])) == lm.decode(new)
    # and so it is where texts are written
    monkeypatch.setattr(decode, "decode", lambda *_, **__: [decode.Decoded(new, True)])
    assert decode.generate(lm, [context], len(new))[0].text == "    return 1"


def test_a_character_that_begins_in_the_context_is_not_taken_twice():
    class Bytes:
        def decode(self, some, skip_special_tokens):
            return bytes(some).decode(errors="replace")

    lm = tiny(tokenizer())
    lm.tokenizer = Bytes()
    first, *rest = "é!".encode()
    assert lm.decode(rest, [97, first]) == "\ufffd!"
    assert lm.decode(list(b"b"), [97]) == "b"


def test_an_id_without_an_embedding_is_refused_by_name():
    lm = tiny(tokenizer(), vocab=60)
    assert lm.encode_one("AB", chat=False) == ids("AB")
    with pytest.raises(PrunelibError, match=rf"gives id {ids('z')[0]} \('z'\) and the model has 60 embeddings"):
        lm.encode_one("xyz", chat=False)


DATED = "{{ strftime_now('%d %b %Y') }}: {{ messages[0]['content'] }}>"


def test_a_chat_template_prints_one_date(monkeypatch):
    monkeypatch.delenv("PRUNELIB_DATE", raising=False)
    lm = tiny(tokenizer(chat=DATED))
    assert lm.encode_one("hi") == ids("26 Jul 2024: hi>")
    assert "strftime_now" in lm.tokenizer.chat_template  # the tokenizer is as it was
    assert lm.describe()["date"] == fetch.DATE == "2024-07-26"
    default = fetch.identity("smollm2-135m-instruct")
    monkeypatch.setenv("PRUNELIB_DATE", "2025-01-02")
    assert lm.encode_one("hi") == ids("02 Jan 2025: hi>")
    assert lm.describe()["date"] == "2025-01-02"
    assert fetch.identity("smollm2-135m-instruct") == default | {"date": "2025-01-02"}
    assert fetch.prompt_date() == date(2025, 1, 2)


def test_the_date_is_part_of_a_key_only_where_a_template_prints_it(tmp_path):
    card = {"fingerprint": "f", "dtype": "float32", "device": "cpu"}
    plain, dated = (
        open_chapter(tmp_path, "05-layerwise", card=one).key("prunelib.runs.zoo.scores")
        for one in (card, card | {"date": "2024-07-26"})
    )
    assert dated == plain | {"date": "2024-07-26"}
    assert "date" not in tiny(tokenizer(chat="{{ messages[0]['content'] }}")).describe()


def test_a_date_whose_form_is_computed_is_refused():
    lm = tiny(tokenizer(chat="{% set form = '%Y' %}{{ strftime_now(form) }}"))
    with pytest.raises(PrunelibError, match="in a form that cannot be fixed"):
        lm.encode_one("hi")


def test_the_harness_is_told_the_same_date(monkeypatch):
    pytest.importorskip("lm_eval")
    from prunelib.tasks import harness

    monkeypatch.setenv("PRUNELIB_DATE", "2025-01-02")
    model = harness.wrapped(tiny(tokenizer(chat=DATED)))
    assert model.apply_chat_template([{"role": "user", "content": "hi"}]) == "02 Jan 2025: hi>"


@pytest.mark.parametrize("text", ["yesterday", "2024-13-01", "26 Jul 2024"])
def test_a_date_that_is_none_is_refused(monkeypatch, text):
    monkeypatch.setenv("PRUNELIB_DATE", text)
    with pytest.raises(PrunelibError, match="PRUNELIB_DATE must be a date such as 2024-07-26"):
        fetch.prompt_date()


@pytest.mark.real_model
def test_the_default_model_reads_and_writes_as_before(default_lm):
    """Neither an end token nor a lost space: the rules above change no id and no text of it."""
    from prunelib.paths import data_dir

    lines = (data_dir() / "tasks" / "passages.jsonl").read_text().splitlines()[:20]
    for text in (json.loads(line)["text"] for line in lines):
        whole = default_lm.tokenizer(text)["input_ids"]
        assert default_lm.encode_one(text, chat=False) == whole
        for cut in range(1, len(whole), 7):
            assert default_lm.decode(whole[cut:], whole[:cut]) == default_lm.decode(whole[cut:])
