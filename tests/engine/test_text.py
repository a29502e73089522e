"""Prompts, calibration tokens, trajectories."""

import json
import sys

import pytest
import tiny_files
import torch
from refusals import refused

import prunelib
from prunelib.engine import text
from prunelib.engine.decode import decode
from prunelib.engine.text import Prompt


@pytest.fixture(scope="module")
def spoken(tmp_path_factory, make_model):
    """A tiny model with a tokenizer that knows letters and has no pad token."""
    folder = tmp_path_factory.mktemp("spoken") / "m"
    return prunelib.load(str(tiny_files.write_folder(make_model("gpt2"), folder)), device="cpu")


# ---------------------------------------------------------------- prompts


def test_committed_prompts():
    prompts = text.load_prompts()
    assert len(prompts) >= 32 and len({p.kind for p in prompts}) >= 5
    assert text.load_prompts(limit=3) == prompts[:3]


def test_user_prompts(tmp_path):
    plain, rows = tmp_path / "p.txt", tmp_path / "p.jsonl"
    plain.write_text("first\n\n second \r\n")
    assert text.load_prompts(str(plain)) == [Prompt("line-1", "user", "first"), Prompt("line-3", "user", "second")]
    rows.write_text('{"text": "a"}\n{"id": 7, "kind": "code", "text": "b\\u2028c"}\n')
    assert text.load_prompts(str(rows)) == [Prompt("line-1", "user", "a"), Prompt("7", "code", "b\u2028c")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"text": "a"}\n{"text": \n', "line 2: not JSON"),
        (b'{"text": "a"}\n[]\n', "line 2: needs"),
        (b'{"txt": "a"}\n', 'line 1: no field "text"'),
        (b'{"text": "  "}\n', 'line 1: "text" is empty'),
        (b'{"text": "a"}\n\n\xff\n', "line 3: not UTF-8"),
        (b"\n", "no prompt"),
        (b'{"id": "x", "text": "a"}\n{"id": "x", "text": "b"}\n', "line 2: the id 'x'"),
    ],
)
def test_bad_prompt_file_names_the_line(tmp_path, content, words):
    file = tmp_path / "p.jsonl"
    file.write_bytes(content)
    with refused(str(file), words):
        text.load_prompts(str(file))


def test_no_such_prompt_file(tmp_path):
    with refused("cannot read", "nowhere.txt"):
        text.load_prompts(str(tmp_path / "nowhere.txt"))
    with refused(".txt or .jsonl"):
        text.load_prompts("prompts.csv")
    with refused("limit"):
        text.load_prompts(limit=0)


# ---------------------------------------------------------------- calibration


def test_self_calibration_is_seeded_and_batch_free(tiny):
    lm = tiny("llama")
    tokens = text.calibration(lm, n=40, length=12, seed=3)
    assert tokens.ids.shape == (40, 12) and tokens.ids.dtype == torch.long
    assert (tokens.ids[:, 0] == 1).all()
    again = text.calibration(lm, n=40, length=12, seed=3)
    assert torch.equal(again.ids, tokens.ids) and again.ids_hash == tokens.ids_hash
    assert text.calibration(lm, n=40, length=12, seed=4).ids_hash != tokens.ids_hash


def test_self_calibration_without_bos(make_model):
    from prunelib.models.lm import LM

    lm = LM.from_model(make_model("llama", bos_token_id=None))
    assert len(text.calibration(lm, n=16, length=4).ids[:, 0].unique()) > 1


def test_sampling_follows_the_model(tiny):
    """First sampled tokens of many sequences against the model's own distribution."""
    lm, n = tiny("llama"), 4000
    ids = text.calibration(lm, n=n, length=2).ids
    with torch.no_grad():
        p = lm.model(torch.tensor([[1]])).logits[0, -1].softmax(-1)
    counts = torch.bincount(ids[:, 1], minlength=lm.vocab_size)
    z = (counts - n * p) / (n * p * (1 - p)).sqrt()
    assert z.abs().max() < 5


def test_calibration_from_files(spoken, tmp_path):
    words = " ".join("abcdefgh"[i * i % 8] for i in range(100))
    plain, rows = tmp_path / "c.txt", tmp_path / "c.jsonl"
    plain.write_text(words)
    rows.write_text("".join(json.dumps({"text": w}) + "\n" for w in words.split()))
    tokens = text.calibration(spoken, str(plain), n=5, length=10, seed=1)
    assert tokens.ids.shape == (5, 10)
    assert torch.equal(tokens.ids, text.calibration(spoken, str(rows), n=5, length=10, seed=1).ids)
    everything = spoken.tokenizer(words)["input_ids"]
    joined = " ".join(map(str, everything))
    assert all(" ".join(map(str, row)) in joined for row in tokens.ids.tolist())
    with refused("gives 100 tokens", "need 110"):
        text.calibration(spoken, str(plain), n=11, length=10)


def test_bad_calibration(spoken, monkeypatch):
    lm = spoken
    with refused("n ≥ 1"):
        text.calibration(lm, n=0)
    with refused("65 positions", "has 64"):
        text.calibration(lm, n=1, length=65)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with refused("hub:c4", "datasets"):
        text.calibration(lm, "hub:c4", n=1, length=8)


def test_hub_calibration(spoken, monkeypatch):
    class Datasets:
        @staticmethod
        def load_dataset(name, config, split, streaming):
            assert (name, config, split, streaming) == ("allenai/c4", "en", "train", True)
            return ({"text": "a b c d e"} for _ in range(10**9))

    monkeypatch.setitem(sys.modules, "datasets", Datasets)
    monkeypatch.setattr("prunelib.models.hub.offline", lambda: False)
    assert text.calibration(spoken, "hub:allenai/c4:en", n=3, length=8).ids.shape == (3, 8)
    monkeypatch.setattr("prunelib.models.hub.offline", lambda: True)
    with refused("without a network"):
        text.calibration(spoken, "hub:allenai/c4:en", n=3, length=8)
    monkeypatch.setattr("prunelib.models.hub.offline", lambda: False)
    monkeypatch.setattr(Datasets, "load_dataset", lambda *a, **k: iter([{"body": "a"}]))
    with refused("no text column"):
        text.calibration(spoken, "hub:allenai/c4:en", n=3, length=8)


# ---------------------------------------------------------------- trajectories

PROMPTS = [Prompt("x", "k", "a b c d e f g h"), Prompt("y", "k", "hello"), Prompt("z", "k", "q r")]


def reference(lm, ids: list[int], steps: int) -> list[int]:
    """Greedy continuation, one prompt, no cache, no padding."""
    for _ in range(steps):
        with torch.no_grad():
            z = lm.model(torch.tensor([ids])).logits[0, -1]
        z[sorted(lm.eos_ids)] = -torch.inf
        ids = [*ids, int(z.argmax())]
    return ids


def test_batched_decoding_is_single_decoding(spoken):
    """On GPT-2, whose learned positions punish a missing ``position_ids``."""
    found = text.trajectories(spoken, PROMPTS, 12)
    assert [t.prompt_id for t in found] == ["x", "y", "z"]
    for prompt, trajectory in zip(PROMPTS, found, strict=True):
        start = spoken.encode_one(prompt.text)
        assert trajectory.n_prompt == len(start)
        assert trajectory.input_ids == reference(spoken, start, 12)
    assert text.trajectories(spoken, PROMPTS, 12, batch_size=1) == found


def test_every_family_decodes_with_its_cache(lm):
    starts = [[5, 6, 7, 8, 9, 10], [11, 12]]
    new = [made.ids for made in decode(lm, starts, 14, suppress=sorted(lm.eos_ids))]
    assert [reference(lm, ids, 14)[len(ids) :] for ids in starts] == new


def test_end_of_text_is_suppressed(spoken):
    found = text.trajectories(spoken, PROMPTS, 20)
    assert all(len(t.input_ids) == t.n_prompt + 20 for t in found)
    assert not any(spoken.eos_ids & set(t.input_ids[t.n_prompt :]) for t in found)


def test_sampled_trajectories_are_seeded(spoken):
    first = text.trajectories(spoken, PROMPTS, 8, seed=1, temperature=1.0)
    assert first == text.trajectories(spoken, PROMPTS, 8, seed=1, temperature=1.0, batch_size=2)
    assert first != text.trajectories(spoken, PROMPTS, 8, seed=2, temperature=1.0)


def test_bad_trajectories(spoken):
    with refused("prompt 'x'", "has 64"):
        text.trajectories(spoken, PROMPTS, 60)
    with refused("new_tokens"):
        text.trajectories(spoken, PROMPTS, 0)
    with refused("temperature"):
        text.trajectories(spoken, PROMPTS, 1, temperature=-1.0)


@pytest.mark.real_model
def test_batching_on_the_default_model(default_lm):
    prompts = text.load_prompts(limit=4)
    batched = text.trajectories(default_lm, prompts, 16)
    single = text.trajectories(default_lm, prompts, 16, batch_size=1)
    same = [
        a == b
        for x, y in zip(batched, single, strict=True)
        for a, b in zip(x.input_ids[x.n_prompt :], y.input_ids[y.n_prompt :], strict=True)
    ]
    assert sum(same) >= 0.99 * len(same)
    assert all(t.text.strip() for t in batched)
