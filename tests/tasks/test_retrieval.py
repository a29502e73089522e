"""Corpora, exact search, measures."""

import json

import numpy as np
import pandas as pd
import pytest

from prunelib.errors import PrunelibError
from prunelib.tasks import retrieval
from prunelib.tasks.retrieval import Corpus


class Fixed:
    """An embedder that knows its vectors."""

    def __init__(self, vectors):
        self.vectors = vectors

    def embed(self, texts, query=False, batch_size=32):
        rows = np.array([self.vectors[text] for text in texts], dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


JUDGED = {"q": {"b": 1}, "r": {"c": 2, "a": 1}}
CORPUS = Corpus("tiny", {"a": "A", "b": "B", "c": "C"}, {"q": "Q", "r": "R", "s": "S"}, JUDGED)
FIXED = Fixed({"A": (1, 0), "B": (0.8, 0.6), "C": (0, 1), "Q": (1, 0.1), "R": (0.1, 1)})


def test_search_is_exact_and_leaves_unjudged_queries_out():
    found = retrieval.search(FIXED, CORPUS)
    assert found.groupby("query_id", sort=False)["doc_id"].apply(list).to_dict() == {
        "q": ["a", "b", "c"], "r": ["c", "b", "a"],
    }  # fmt: skip
    q = np.array((1, 0.1)) / np.hypot(1, 0.1)
    assert found["score"].iloc[1] == pytest.approx(float(q @ (0.8, 0.6)), abs=1e-6)


def test_measures_are_those_computed_by_hand():
    table = retrieval.evaluate(retrieval.search(FIXED, CORPUS), CORPUS).set_index("query_id")
    assert table.loc["q"].to_dict() == pytest.approx(
        {"ndcg": 1 / np.log2(3), "recall_1": 0.0, "recall_10": 1.0, "mrr": 0.5}
    )
    # grades 2 and 1 at places 1 and 3
    ndcg = (2 + 1 / np.log2(4)) / (2 + 1 / np.log2(3))
    assert table.loc["r"].to_dict() == pytest.approx({"ndcg": ndcg, "recall_1": 0.5, "recall_10": 1.0, "mrr": 1.0})


def test_equal_scores_keep_the_order_of_the_corpus():
    same = Fixed(dict.fromkeys("ABCQR", (1.0, 0.0)))
    found = retrieval.search(same, CORPUS)
    assert list(found["doc_id"]) == ["a", "b", "c"] * 2
    assert retrieval.evaluate(found, CORPUS).set_index("query_id").loc["q", "mrr"] == 0.5


def test_a_query_that_is_a_document_is_left_out_of_its_own_ranking():
    # As in ArguAna, where each query is a document of the corpus: "a" asks with its own text and seeks "b".
    corpus = Corpus("itself", {"a": "A", "b": "B", "c": "C"}, {"a": "A", "q": "Q"}, {"a": {"b": 1}, "q": {"a": 1}})
    found = retrieval.search(FIXED, corpus)
    assert found.groupby("query_id", sort=False)["doc_id"].apply(list).to_dict() == {
        "a": ["b", "c"], "q": ["a", "b", "c"],
    }  # fmt: skip
    assert retrieval.evaluate(found, corpus)["ndcg"].tolist() == [1.0, 1.0]  # 1/log2(3) with itself first
    # By chance "b" is first or second of two, for "q" the document sought is first, second or third of three.
    by_hand = ((1 + 1 / np.log2(3)) / 2 + (1 + 1 / np.log2(3) + 1 / 2) / 3) / 2
    assert retrieval.chance(corpus, repeats=4000) == pytest.approx(by_hand, abs=0.01)


def test_a_corpus_deeper_than_the_ranking_gives_such_a_query_its_full_depth(monkeypatch):
    monkeypatch.setattr(retrieval, "DEPTH", 2)
    corpus = Corpus("itself", {"a": "A", "b": "B", "c": "C"}, {"a": "A", "q": "Q"}, {"a": {"c": 1}, "q": {"a": 1}})
    assert list(retrieval.search(FIXED, corpus)["doc_id"]) == ["b", "c", "a", "b"]


def test_a_query_that_found_nothing_scores_zero():
    found = retrieval.search(FIXED, CORPUS)
    table = retrieval.evaluate(found[found["query_id"] == "q"], CORPUS).set_index("query_id")
    assert (table.loc["r"] == 0).all() and len(table) == 2


def test_a_random_ranking_scores_what_the_simulation_says():
    one = Corpus("one", {str(i): "" for i in range(20)}, {"q": ""}, {"q": {"3": 1}})
    exact = sum(1 / np.log2(place + 1) for place in range(1, 11)) / 20
    # standard error of 20,000 rankings is below 0.003
    assert retrieval.chance(one, repeats=20_000) == pytest.approx(exact, abs=0.01)


def test_own_corpus_is_one_passage_a_question():
    corpus = retrieval.own()
    assert len(corpus.documents) >= 80 and len(corpus.queries) >= 240
    assert all(len(wanted) == 1 for wanted in corpus.relevant.values())
    assert len(retrieval.own(5).documents) == 5


@pytest.fixture
def beir(tmp_path):
    (tmp_path / "qrels").mkdir()
    documents = [{"_id": "1", "title": "T", "text": "one"}, {"_id": "2", "text": "two"}]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in documents))
    (tmp_path / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "which?"}) + "\n")
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\t2\t1\nq\t1\t0\n")
    return tmp_path


def test_a_folder_in_beir_layout(beir):
    corpus = retrieval.load_corpus(str(beir))
    assert corpus.documents == {"1": "T one", "2": "two"} and corpus.relevant == {"q": {"2": 1}}


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("qrels/test.tsv", "head\nq\t2\n", "test.tsv, line 2: expected query, document and a whole grade"),
        ("qrels/test.tsv", "head\nq\t9\t1\n", "the judgements name the document '9'"),
        ("qrels/test.tsv", "head\nz\t1\t1\n", "the judgements name the query 'z'"),
        ("qrels/test.tsv", "head\n", "no judged query"),
        ("corpus.jsonl", '{"_id": "1", "text": "x"}\n{"_id"\n', "corpus.jsonl.*line 2"),
        ("queries.jsonl", '{"_id": "1"}\n', "queries.jsonl.*text"),
    ],
)
def test_a_malformed_folder_is_one_line(beir, file, content, message):
    (beir / file).write_text(content)
    with pytest.raises(PrunelibError, match=message) as caught:
        retrieval.load_corpus(str(beir))
    assert "\n" not in str(caught.value)


def test_a_missing_folder_and_a_set_without_a_network_are_one_line(beir, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(PrunelibError, match="no such corpus folder"):
        retrieval.load_corpus("./nowhere")
    with pytest.raises(PrunelibError, match="BeIR/scifact cannot be fetched without a network"):
        retrieval.load_corpus("scifact")
    (beir / "qrels" / "test.tsv").unlink()
    with pytest.raises(PrunelibError, match="no judgements at"):
        retrieval.load_corpus(str(beir))


def test_a_set_of_the_hub_by_name(monkeypatch):
    """What BeIR's repositories hold, in their own column names."""
    import datasets

    asked = []

    def load(repo, part=None, split=None):
        asked.append((repo, part, split))
        if repo.endswith("-qrels"):
            return [{"query-id": 7, "corpus-id": 2, "score": 1}]
        return {"corpus": [{"_id": "2", "title": "", "text": "two"}], "queries": [{"_id": "7", "text": "which?"}]}[part]

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr("prunelib.models.hub.offline", lambda: False)
    corpus = retrieval.load_corpus("scifact")
    assert corpus.relevant == {"7": {"2": 1}} and corpus.documents == {"2": "two"}
    assert asked == [("BeIR/scifact", "corpus", "corpus"), ("BeIR/scifact", "queries", "queries"),
                     ("BeIR/scifact-qrels", None, "test")]  # fmt: skip


def test_shares_kept_are_paired_with_dense():
    from prunelib.runs.zoo import searches

    scores = {"dense": (1.0, 0.5, 0.5), "drop:attn:1": (0.5, 0.5, 0.0)}
    rows = [
        {"query_id": q, "cluster": q, "spec": spec, "label": spec, "ndcg": x}
        for spec, values in scores.items()
        for q, x in zip("abcdef", values * 2, strict=True)
    ]
    table = searches.kept(pd.DataFrame(rows)).set_index("spec")
    assert table.loc["drop:attn:1", "kept"] == pytest.approx(0.5)
    assert table.loc["dense", ["lo", "hi"]].tolist() == [1, 1]
    assert table.loc["drop:attn:1", "lo"] < 0.5 < table.loc["drop:attn:1", "hi"]
