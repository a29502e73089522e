"""Retrieval by embedding: which document answers the question?

Corpora are in BEIR's layout (Thakur et al. 2021): the project's own passages and
questions, a user's folder, or a set of the hub by name. Metrics are those of
ir-measures; search is exact.
"""

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from prunelib.errors import PrunelibError
from prunelib.files import read_jsonl
from prunelib.files import text_lines as lines
from prunelib.tasks.items import load_items

MEASURES = {"ndcg": "nDCG@10", "recall_1": "R@1", "recall_10": "R@10", "mrr": "RR@10"}
"""Columns of :func:`evaluate` and their names in ir-measures; all between 0 and 1."""

DEPTH = 100
"""Documents kept for a query; the measures read the first ten."""


@dataclass(frozen=True)
class Corpus:
    """Documents and queries by id, and for each query the documents that answer it with their grade."""

    name: str
    documents: dict[str, str]
    queries: dict[str, str]
    relevant: dict[str, dict[str, int]]

    def __post_init__(self):
        for query, wanted in self.relevant.items():
            unknown = [doc for doc in wanted if doc not in self.documents]
            if query not in self.queries or unknown:
                what = f"document '{unknown[0]}'" if query in self.queries else f"query '{query}'"
                raise PrunelibError(f"{self.name}: the judgements name the {what}, which is not there")
        if not self.relevant:
            raise PrunelibError(f"{self.name} has no judged query")

    @property
    def asked(self) -> list[str]:
        """Ids of the queries that have a judgement, in order."""
        return [query for query in self.queries if query in self.relevant]


def own(passages: int | None = None) -> Corpus:
    """The project's items as a corpus: every question looks for its passage among the first ``passages``."""
    items = load_items(limit=passages)
    documents = {item.passage_id: item.passage for item in items}
    queries = {item.id: item.question for item in items}
    return Corpus("passages", documents, queries, {item.id: {item.passage_id: 1} for item in items})


def load_corpus(name: str, passages: int | None = None, split: str = "test") -> Corpus:
    """``default`` (:func:`own`), a folder in BEIR's layout, or a BEIR set of the hub by name (``scifact``).

    A folder holds ``corpus.jsonl`` (``_id``, ``text``, maybe ``title``), ``queries.jsonl`` and
    ``qrels/<split>.tsv`` with a header line. Raises PrunelibError for a missing or malformed
    file (with the line), judgements of what is not there, and a set that cannot be fetched.
    """
    if name == "default":
        return own(passages)
    folder = Path(name).expanduser()
    if folder.is_dir():
        documents, queries = (_texts(folder / file) for file in ("corpus.jsonl", "queries.jsonl"))
        return _corpus(name, documents, queries, _judgements(folder / "qrels" / f"{split}.tsv"))
    if name.startswith((".", "/", "~")):
        raise PrunelibError(f"no such corpus folder: {name}")
    return _from_hub(name, split)


def _corpus(name: str, documents, queries, judgements) -> Corpus:
    relevant: dict[str, dict[str, int]] = {}
    for query, document, grade in judgements:
        if grade > 0:
            relevant.setdefault(query, {})[document] = grade
    texts = {str(row["_id"]): f"{row.get('title') or ''} {row['text']}".strip() for row in documents}
    return Corpus(name, texts, {str(row["_id"]): row["text"] for row in queries}, relevant)


def _judgements(file: Path) -> list[tuple[str, str, int]]:
    if not file.is_file():
        raise PrunelibError(f"no judgements at {file}")
    found = {}
    for number, line in lines(file):
        if number == 1:
            continue
        fields = next(csv.reader([line], delimiter="\t"))
        if len(fields) < 3 or not re.fullmatch(r"-?\d{1,6}", fields[2].strip()):
            raise PrunelibError(f"{file}, line {number}: expected query, document and a whole grade")
        if found.setdefault(tuple(fields[:2]), int(fields[2])) != int(fields[2]):
            raise PrunelibError(f"{file}, line {number}: query '{fields[0]}', document '{fields[1]}' has two grades")
    return [(query, document, grade) for (query, document), grade in found.items()]


def _texts(file: Path) -> list[dict]:
    """Rows with ``_id`` and ``text``. A text may be empty where there is a title; an id is given once."""
    rows, seen = read_jsonl(file, {"_id": str}), set()
    for row in rows:
        row["text"] = row.need("text", filled=not row.get("title"))
        if not isinstance(row.get("title") or "", str):
            raise PrunelibError(f'{row.where}: "title" must be text')
        if row["_id"] in seen:
            raise PrunelibError(f"{row.where}: the id '{row['_id']}' is used twice")
        seen.add(row["_id"])
    return rows


def _from_hub(name: str, split: str) -> Corpus:
    from prunelib.models import hub
    from prunelib.models.checkpoint import quiet

    repo = name if "/" in name else f"BeIR/{name}"
    if hub.offline():
        raise PrunelibError(f"{repo} cannot be fetched without a network: give a folder in BEIR's layout")
    import datasets

    with quiet():
        try:
            documents, queries = (datasets.load_dataset(repo, part, split=part) for part in ("corpus", "queries"))
            rows = datasets.load_dataset(f"{repo}-qrels", split=split)
        except Exception as error:
            raise PrunelibError(hub.explain(error, repo, None, "", False)) from error
    judgements = [(str(row["query-id"]), str(row["corpus-id"]), int(row["score"])) for row in rows]
    return _corpus(name, documents, queries, judgements)


def search(embedder, corpus: Corpus, batch_size: int = 32) -> pd.DataFrame:
    """The :data:`DEPTH` nearest documents of every judged query by cosine: ``query_id, doc_id, score``.

    ``embedder`` has ``embed(texts, query)`` returning unit vectors. Equal scores keep the corpus's order.
    A query that is itself a document (ArguAna, Quora: the two have one id) is left out of its own ranking,
    as BEIR's ``evaluate`` does with ``ignore_identical_ids``: it would always be the nearest.
    """
    ids = np.array(list(corpus.documents))
    vectors = embedder.embed(list(corpus.documents.values()), batch_size=batch_size)
    asked = corpus.asked
    queries = embedder.embed([corpus.queries[q] for q in asked], query=True, batch_size=batch_size)
    depth, parts = min(DEPTH + 1, len(ids)), []
    for start in range(0, len(asked), 256):
        some = np.array(asked[start : start + 256])
        scores = queries[start : start + 256] @ vectors.T
        best = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
        parts.append(
            pd.DataFrame(
                {
                    "query_id": np.repeat(some, depth),
                    "doc_id": ids[best].ravel(),
                    "score": np.take_along_axis(scores, best, 1).ravel().astype(float),
                }
            )
        )
    found = pd.concat(parts, ignore_index=True)
    found = found[found["query_id"] != found["doc_id"]]
    return found.groupby("query_id", sort=False).head(DEPTH).reset_index(drop=True)


def evaluate(found: pd.DataFrame, corpus: Corpus) -> pd.DataFrame:
    """Measures of a search, a row a query in the order asked: ``query_id`` and :data:`MEASURES`.

    A query whose documents were not found scores 0.
    """
    import ir_measures

    measures = {ir_measures.parse_measure(text): name for name, text in MEASURES.items()}
    judged = [ir_measures.Qrel(q, d, grade) for q, some in corpus.relevant.items() for d, grade in some.items()]
    # Places instead of scores: the measuring library would order equal scores its own way.
    place = found.groupby("query_id", sort=False).cumcount()
    rows = zip(found["query_id"], found["doc_id"], place, strict=True)
    run = [ir_measures.ScoredDoc(query, document, -float(n)) for query, document, n in rows]
    table = pd.DataFrame(0.0, index=corpus.asked, columns=list(MEASURES))
    for one in ir_measures.iter_calc(list(measures), judged, run):
        table.loc[one.query_id, measures[one.measure]] = one.value
    return table.rename_axis("query_id").reset_index()


def chance(corpus: Corpus, repeats: int = 200, seed: int = 0) -> float:
    """Mean nDCG@10 of ranking the corpus at random, simulated ``repeats`` times a query.

    A query that is itself a document ranks the others (:func:`search`).
    """
    rng, n = np.random.default_rng(seed), len(corpus.documents)
    discount = 1 / np.log2(np.arange(2, 12))
    scores = []
    for query, wanted in corpus.relevant.items():
        grades = np.zeros(max(n, 10))
        grades[: len(wanted)] = list(wanted.values())
        ideal = np.sort(grades)[::-1][:10] @ discount
        ranked = grades[:n]
        if query in corpus.documents:
            own = list(wanted).index(query) if query in wanted else n - 1
            ranked = np.delete(ranked, own)
        shuffled = rng.permuted(np.tile(ranked, (repeats, 1)), axis=1)[:, :10]
        scores.append((shuffled @ discount[: shuffled.shape[1]]).mean() / ideal)
    return float(np.mean(scores))
