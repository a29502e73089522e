"""Retrieval with sublayers dropped: an encoder made for it, and the run's own language model.

A unit of work is one plan of one embedder; what it gives is a row a query."""

import hashlib
from functools import cached_property

import pandas as pd

from prunelib.measure import stats
from prunelib.methods import parse
from prunelib.methods.drop import Drop
from prunelib.models import fetch
from prunelib.paths import slugify
from prunelib.runs.progress import report_progress
from prunelib.runs.run import Run
from prunelib.runs.zoo import scores
from prunelib.runs.zoo.models import compressed_model
from prunelib.tasks import retrieval, shares

ENCODER = "all-minilm-l6-v2"


RANKED_ON = 64
"""Documents whose tokens decide which sublayers of the encoder are dropped first."""


class Encoders:
    """The encoder of a chapter, loaded the first time something has to be computed."""

    def __init__(self, run: Run, name: str = ENCODER, corpus: str = "default"):
        self.run, self.name = run, name
        self.corpus = retrieval.load_corpus(corpus)
        self.key = {"encoder": fetch.identity(name), "corpus": _hash(self.corpus)}

    @cached_property
    def encoder(self):
        from prunelib.models.encoder import load_encoder

        return load_encoder(self.name, device=self.run.model["device"])

    def order(self) -> pd.DataFrame:
        """``layer, kind, cosine`` of every sublayer and block (models.encoder.importance)."""

        def compute():
            from prunelib.models.encoder import importance

            return importance(self.encoder, list(self.corpus.documents.values())[:RANKED_ON])

        return self.run.table(f"encoder_order_{slugify(self.name)}", self.key | {"ranked_on": RANKED_ON}, compute)

    def specs(self) -> list[str]:
        """The drops of this run's profile, scaled to the encoder's depth; always a quarter of the attentions."""
        layers = self.order()["layer"].nunique()
        wanted = {Drop("attn", -(-layers // 4))}
        for kind, counts in self.run.settings.encoder_drops.items():
            wanted |= {Drop(kind, -(-layers * count // 6)) for count in counts}
        return [drop.spec for drop in sorted(wanted, key=lambda drop: (drop.sublayers, drop.count))]


def encoder_search(run: Run, name: str = ENCODER, corpus: str = "default") -> pd.DataFrame:
    """Measures of the encoder, dense and with each drop: a row a query and plan.

    Columns ``query_id, cluster, spec, label``, those of :data:`prunelib.tasks.retrieval.MEASURES`,
    and of the whole: ``documents``, ``chance`` (nDCG@10 of a random ranking), ``layers``.
    """
    from prunelib.models.encoder import dropped

    encoders = Encoders(run, name, corpus)
    order, parts, specs = encoders.order(), [], ["dense", *encoders.specs()]
    for number, spec in enumerate(specs):
        sites = () if spec == "dense" else parse(spec).choose(order).sites

        def compute(sites=sites):
            with dropped(encoders.encoder, sites):
                return retrieval.evaluate(retrieval.search(encoders.encoder, encoders.corpus), encoders.corpus)

        key = encoders.key | {"sites": sorted(map(str, sites))}
        found = run.table(f"encoder_{slugify(name)}_{spec.replace(':', '-')}", key, compute)
        report_progress(f"searches of {name}", number + 1, len(specs))
        parts.append(_tagged(found, encoders.corpus, spec, parse(spec).label))
    return _about(parts, encoders.corpus, order["layer"].nunique())


def model_search(run: Run, pooling: str = "mean", instruction: str = "") -> pd.DataFrame:
    """The same measures of the run's language model as an embedder, dense and with the plans of the task chapters."""
    from prunelib.models.encoder import Embedder

    corpus = retrieval.own(run.settings.documents)
    specs, parts = ["dense", *scores.drop_specs(run)], []
    for number, spec in enumerate(specs):

        def compute(spec=spec):
            with compressed_model(run, spec, run.seed).applied(run.lm):
                return retrieval.evaluate(retrieval.search(Embedder(run.lm, pooling, instruction), corpus), corpus)

        key = {
            "corpus": _hash(corpus),
            "pooling": pooling,
            "instruction": instruction,
            "spec": spec,
            "calibration": run.settings.calibration_key,
        }
        found = run.table(f"retrieval_{spec.replace(':', '-')}", key, compute)
        report_progress(f"searches of {run.model['name']}", number + 1, len(specs))
        parts.append(_tagged(found, corpus, spec, parse(spec).label))
    return _about(parts, corpus, run.model["n_layers"])


def _tagged(found: pd.DataFrame, corpus: retrieval.Corpus, spec: str, label: str) -> pd.DataFrame:
    # Questions on one document are no independent evidence: they are one cluster.
    cluster = [next(iter(corpus.relevant[query])) for query in found["query_id"]]
    return found.assign(cluster=cluster, spec=spec, label=label)


def _about(parts: list[pd.DataFrame], corpus: retrieval.Corpus, layers: int) -> pd.DataFrame:
    about = {"documents": len(corpus.documents), "chance": retrieval.chance(corpus), "layers": layers}
    return pd.concat(parts, ignore_index=True).assign(**about)


def _hash(corpus: retrieval.Corpus) -> str:
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


def curves(run: Run, by_encoder: pd.DataFrame, by_model: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """Figure data: share kept (``kept, lo, hi``) by ``embedder``, ``kind``, ``x`` (% of layers) and ``readout``.

    ``chance`` is the share that a random ranking of the same corpus would keep.
    """
    layers = {"encoder": layers_of(by_encoder), "language model": layers_of(by_model)}
    generation = shares.kept(answers, (shares.WRITTEN,))
    parts = [
        ("encoder", "retrieval", kept(by_encoder)),
        ("language model", "retrieval", kept(by_model)),
        ("language model", "generation", generation),
    ]
    guess = {"encoder": _chance(by_encoder), "language model": _chance(by_model)}
    rows = []
    for embedder, readout, table in parts:
        for row in table.itertuples():
            kinds, count = ("attn", "mlp", "block"), 0
            if row.spec != "dense":
                method = parse(row.spec)
                kinds, count = (method.sublayers,), method.count
            x = 100 * count / layers[embedder]
            rows += [(embedder, kind, x, readout, row.kept, row.lo, row.hi, guess[embedder]) for kind in kinds]
    names = ["embedder", "kind", "x", "readout", "kept", "lo", "hi", "chance"]
    found = pd.DataFrame(rows, columns=names)
    drawn = found[found["x"] > 0].groupby(["embedder", "kind"]).size()
    return found[[(e, k) in drawn.index for e, k in zip(found["embedder"], found["kind"], strict=True)]]


def layers_of(found: pd.DataFrame) -> int:
    return int(found["layers"].iloc[0])


def _chance(found: pd.DataFrame) -> float:
    dense = found.loc[found["spec"] == "dense", "ndcg"].mean()
    return float(found["chance"].iloc[0] / dense) if dense > 0 else float("nan")


def answers(run: Run) -> pd.DataFrame:
    """The task items asked of the same language models, for comparison (zoo.scores)."""
    return scores.answers(run, scores.drop_specs(run))
