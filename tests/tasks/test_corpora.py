"""WikiText-2 and C4 in the field's windows, against the loop of the papers' scripts."""

import gzip
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

from prunelib.errors import PrunelibError
from prunelib.measure.perplexity import text_nll
from prunelib.models import hub
from prunelib.models.lm import LM
from prunelib.tasks import corpora

TEXTS = ["", " = A title = \n", "", " One line of text , and more of it . \n", " Another <unk> line \n"] * 9


class Letters:
    """A tokenizer of characters that begins every text with id 1, as Llama's does, and may end it with 2."""

    eos_token_id, chat_template = 2, None

    def __init__(self, end=()):
        self.end = list(end)

    def __call__(self, text, add_special_tokens=True, **_):
        ids = [3 + ord(letter) % 90 for letter in text]
        return {"input_ids": [1, *ids, *self.end] if add_special_tokens else ids}


@pytest.fixture
def lm(make_model):
    return LM.from_model(make_model("llama"), Letters())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with both corpora, as ``PRUNELIB_DATASETS``."""
    for corpus in corpora.CORPORA.values():
        (tmp_path / corpus.file).write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    monkeypatch.setenv(corpora.FOLDER, str(tmp_path))
    return tmp_path


def scripts_loop(model, ids: list[int], seqlen: int, most: int | None = None) -> tuple[float, int]:
    """Perplexity as the papers' scripts take it, in float64: each window's mean loss times its length, summed,
    over windows times length. Also the number of windows."""
    n = len(ids) // seqlen if most is None else min(most, len(ids) // seqlen)
    total = 0.0
    for i in range(n):
        window = torch.tensor([ids[i * seqlen : (i + 1) * seqlen]])
        with torch.no_grad():
            p = model(input_ids=window).logits[0].double().softmax(-1)
        losses = [-math.log(p[t, window[0, t + 1]]) for t in range(seqlen - 1)]
        total += sum(losses) / len(losses) * seqlen
    return math.exp(total / (n * seqlen)), n


@pytest.mark.parametrize("name, glue", [("wikitext2", "\n\n"), ("c4", " ")])
def test_the_number_is_that_of_the_scripts(lm, folder, name, glue):
    found = corpora.windows(lm, name, corpora.text(name, corpora.find(name)))
    ids = lm.tokenizer(glue.join(TEXTS))["input_ids"]
    assert len(ids) % 64  # a ragged end, which is left out
    expected, n = scripts_loop(lm.model, ids, 64)
    nll = text_nll(lm, found)
    assert len(found) == n and {len(window) for window in found} == {64} and set(nll["tokens"]) == {63}
    assert np.exp(nll["nll"].sum() / nll["tokens"].sum()) == pytest.approx(expected, rel=1e-5)
    assert sum(found, []) == ids[: n * 64] and ids[0] == 1


def test_windows_are_the_model_s_length_or_2048(make_model):
    for positions, length in ((100, 100), (4096, 2048)):
        long = LM.from_model(make_model("llama", max_position_embeddings=positions), Letters())
        found = corpora.windows(long, "wikitext2", "x" * 5000)
        assert [len(window) for window in found] == [length] * (5001 // length)


def test_c4_is_its_first_documents_and_windows(lm, tmp_path):
    file = tmp_path / corpora.CORPORA["c4"].file
    file.write_text("".join(json.dumps({"text": f"document {n}"}) + "\n" for n in range(1200)))
    assert corpora.text("c4", file) == " ".join(f"document {n}" for n in range(1100))
    assert len(corpora.windows(lm, "c4", "x" * 64 * 300)) == 256
    assert len(corpora.windows(lm, "wikitext2", "x" * 64 * 300)) == 300


def test_what_a_tokenizer_appends_is_left_out(make_model):
    ended = LM.from_model(make_model("llama"), Letters(end=[2]))
    assert corpora.windows(ended, "wikitext2", "a" * 63)[0][-1] != 2


def test_the_hub_s_files_are_read_as_the_folder_s(tmp_path, folder, monkeypatch):
    """WikiText-2 is a Parquet file there, C4 gzipped JSON lines."""
    monkeypatch.delenv(corpora.FOLDER)
    monkeypatch.setattr(hub, "offline", lambda: False)
    asked = []

    def download(repo, path, **options):
        asked.append((repo, path, options["repo_type"]))
        return str(tmp_path / path.rpartition("/")[2])

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    pd.DataFrame({"text": TEXTS}).to_parquet(tmp_path / "test-00000-of-00001.parquet")
    with gzip.open(tmp_path / "c4-validation.00000-of-00008.json.gz", "wt") as stream:
        stream.writelines(json.dumps({"text": text, "url": "u"}) + "\n" for text in TEXTS)
    for name, corpus in corpora.CORPORA.items():
        assert corpora.text(name, corpora.find(name)) == corpora.text(name, folder / corpus.file)
    assert asked == [
        ("Salesforce/wikitext", "wikitext-2-raw-v1/test-00000-of-00001.parquet", "dataset"),
        ("allenai/c4", "en/c4-validation.00000-of-00008.json.gz", "dataset"),
    ]


def test_what_cannot_be_read_is_one_line(lm, folder, monkeypatch):
    from prunelib.chapters import checks

    def check(perplexity_on):
        checks.check("methods", {"perplexity_on": perplexity_on})

    check("wikitext2, c4")
    with pytest.raises(PrunelibError, match=r"unknown corpus 'wikitext' \(did you mean 'wikitext2'\?\); use"):
        check("wikitext")
    file = folder / "wikitext2_test.jsonl"
    for content, message in (
        ('{"text": "a"}\n{"text": \n', r"wikitext2_test.jsonl, line 2: not JSON"),
        ('{"text": "a"}\n{"page": "b"}\n', r'wikitext2_test.jsonl, line 2: no field "text"'),
        ('{"text": "a"}\n{"text": null}\n', r'wikitext2_test.jsonl, line 2: "text" must be text, not null'),
    ):
        file.write_text(content)
        with pytest.raises(PrunelibError, match=message):
            check("wikitext2")
    file.unlink()
    with pytest.raises(PrunelibError, match="cannot read .*wikitext2_test.jsonl: No such file") as caught:
        check("wikitext2")
    assert "\n" not in str(caught.value)
    monkeypatch.delenv(corpora.FOLDER)
    monkeypatch.setenv("HF_HUB_CACHE", str(folder))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(hub, "offline", lambda: True)
    with pytest.raises(PrunelibError, match="Salesforce/wikitext is not in the hub .*PRUNELIB_DATASETS") as caught:
        check("wikitext2")
    assert "\n" not in str(caught.value)
    with pytest.raises(PrunelibError, match="wikitext2 gives 4 tokens, one window needs 64"):
        corpora.windows(lm, "wikitext2", "abc")
