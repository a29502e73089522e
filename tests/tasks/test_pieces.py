"""Texts in pieces: what a user may write, and how they are cut."""

import json

import pytest
import tiny_files
from refusals import refused

from prunelib.files import read_jsonl
from prunelib.models.lm import LM
from prunelib.paths import data_dir
from prunelib.tasks.pieces import cut, digest, load_texts


@pytest.fixture(scope="module")
def lm(make_model):
    return LM.from_model(make_model("llama"), tiny_files.tokenizer(), name="tiny")


def test_the_default_is_the_project_s_passages():
    texts = load_texts()
    assert texts == [row["text"] for row in read_jsonl(data_dir() / "tasks" / "passages.jsonl")] and len(texts) > 80


def test_files(tmp_path):
    (tmp_path / "a.txt").write_text("a b\n\nc d\n")
    rows = [{"text": "a b"}, {"text": ""}, {"text": "c"}, {"text": " \n"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert load_texts(str(tmp_path / "a.txt")) == ["a b\n\nc d\n"]
    assert load_texts(str(tmp_path / "a.jsonl")) == ["a b", "c"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", " \n", "holds no text"),
        ("a.jsonl", "", "holds no text"),
        ("a.jsonl", '{"text": "a"}\n{"txt": "b"}', 'line 2: no field "text"'),
        ("a.jsonl", '{"text": "a"}\n{"text": ["b"]}', 'line 2: "text" must be text'),
        ("a.jsonl", "a b c", "line 1: not JSON"),
        ("a.csv", "a b c", "must end in .txt or .jsonl"),
    ],
)
def test_bad_files(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    with refused(message):
        load_texts(str(tmp_path / name))
    with refused("cannot read"):
        load_texts(str(tmp_path / "none.txt"))


def test_a_single_text_has_its_pieces_as_clusters(lm):
    """Nothing is read twice, and a last token that nothing follows is left out."""
    words = "a b c d e f g h i"
    ids = lm.encode_one(words, chat=False)
    assert len(ids) == 9
    assert cut(lm, [words], 4) == [(0, ids[:4]), (1, ids[4:8])]
    assert cut(lm, [words], 5) == [(0, ids[:5]), (1, ids[5:])]
    assert cut(lm, [words], 64) == [(0, ids)]


def test_of_several_texts_each_is_a_cluster(lm):
    found = cut(lm, ["a b c d e f", "x", "g h"], 4)
    assert [cluster for cluster, _ in found] == [0, 0, 1]
    assert [ids for _, ids in found] == [lm.encode_one(t, chat=False) for t in ("a b c d", "e f", "g h")]
    assert digest(found) != digest(cut(lm, ["a b c d e f", "g h"], 3))
    assert digest([(0, [1, 23])]) != digest([(0, [12, 3])])


def test_what_cannot_be_cut(lm):
    with refused("window must be at least 2"):
        cut(lm, ["a b"], 1)
    with refused("a window needs 65 positions, tiny has 64"):
        cut(lm, ["a b"], 65)
    with refused("a single token"):
        cut(lm, ["a"], 8)
