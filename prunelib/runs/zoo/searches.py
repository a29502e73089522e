"""The run's language model as an embedder, dense and compressed: it searches passages (tasks.retrieval)."""

import hashlib
from collections.abc import Sequence

import pandas as pd

from prunelib.measure import stats
from prunelib.methods import parse
from prunelib.methods.base import JOIN
from prunelib.runs.progress import report_progress
from prunelib.runs.run import Run
from prunelib.runs.zoo.models import compressed_model
from prunelib.tasks import retrieval


def searches(run: Run, specs: Sequence[str], pooling: str = "mean", instruction: str = "") -> pd.DataFrame:
    """Measures of every query, a row a query and model: the dense one and each of ``specs``.

    Columns ``query_id, cluster, spec, label``, those of :data:`prunelib.tasks.retrieval.MEASURES`, and of the whole:
    ``documents``, ``chance`` (nDCG@10 of a random ranking), ``layers``.
    """
    from prunelib.models.encoder import Embedder

    corpus = retrieval.own(run.settings.documents)
    wanted, parts = list(dict.fromkeys(("dense", *specs))), []
    for number, spec in enumerate(wanted):

        def compute(spec=spec):
            with compressed_model(run, spec, run.seed).applied(run.lm):
                return retrieval.evaluate(retrieval.search(Embedder(run.lm, pooling, instruction), corpus), corpus)

        key = {
            "corpus": digest(corpus),
            "pooling": pooling,
            "instruction": instruction,
            "spec": spec,
            "calibration": run.settings.calibration_key,
        }
        found = run.table(f"retrieval_{spec.replace(':', '-').replace(JOIN, '_')}", key, compute)
        report_progress(f"searches of {run.model['name']}", number + 1, len(wanted))
        parts.append(tagged(found, corpus, spec, parse(spec).label))
    return about(parts, corpus, run.model["n_layers"])


def tagged(found: pd.DataFrame, corpus: retrieval.Corpus, spec: str, label: str) -> pd.DataFrame:
    """With ``cluster, spec, label``: questions on one document are no independent evidence, they are one cluster."""
    cluster = [next(iter(corpus.relevant[query])) for query in found["query_id"]]
    return found.assign(cluster=cluster, spec=spec, label=label)


def about(parts: list[pd.DataFrame], corpus: retrieval.Corpus, layers: int) -> pd.DataFrame:
    """All models' rows with what the whole corpus and the embedder are."""
    whole = {"documents": len(corpus.documents), "chance": retrieval.chance(corpus), "layers": layers}
    return pd.concat(parts, ignore_index=True).assign(**whole)


def digest(corpus: retrieval.Corpus) -> str:
    """Hex SHA-256 of documents, queries and what answers them."""
    content = repr((corpus.documents, corpus.queries, corpus.relevant))
    return hashlib.sha256(content.encode()).hexdigest()


def kept(found: pd.DataFrame, measure: str = "ndcg") -> pd.DataFrame:
    """Share of the dense measure kept, ``spec, label, score, kept, lo, hi``: 95 % intervals over documents, paired.

    NaN where the dense measure cannot be told from 0.
    """
    dense, rows = found[found["spec"] == "dense"].set_index("query_id")[measure], []
    for (spec, label), some in found.groupby(["spec", "label"], sort=False):
        share = stats.kept(some[measure], dense.loc[some["query_id"]], some["cluster"])
        share = (share[0],) * 3 if spec == "dense" else share
        rows.append((spec, label, some[measure].mean(), *share))
    return pd.DataFrame(rows, columns=["spec", "label", "score", "kept", "lo", "hi"])
