"""Retrieval with sublayers dropped: an encoder made for it, and the run's own language model.

A unit of work is one plan of one embedder; what it gives is a row a query.
"""

import hashlib
from functools import cached_property

import pandas as pd

from prunelib import fetch, store
from prunelib.experiments import tasks
from prunelib.experiments.chapter import Chapter
from prunelib.experiments.zoo import compressed_model
from prunelib.measure import stats
from prunelib.methods import parse
from prunelib.paths import slugify
from prunelib.tasks import retrieval

ENCODER = "all-minilm-l6-v2"
DROPS = {
    "smoke": {"attn": (2,), "mlp": (2,)},
    "quick": {"attn": (2, 4, 6), "mlp": (4,), "block": (2,)},
    "full": dict.fromkeys(("attn", "mlp", "block"), (1, 2, 3, 4, 6)),
}
"""Sublayers dropped of an encoder of 6 layers; others get the same share, rounded up."""

DOCUMENTS = {"smoke": 8, "quick": 12, "full": 60}
"""Passages that the language model searches; the encoder, which is small, always searches all."""

RANKED_ON = 64
"""Documents whose tokens decide which sublayers of the encoder are dropped first."""


class Encoders:
    """The encoder of a chapter, loaded the first time something has to be computed."""

    def __init__(self, ch: Chapter, name: str = ENCODER, corpus: str = "default"):
        self.ch, self.name = ch, name
        self.corpus = retrieval.load_corpus(corpus)
        self.key = {"encoder": fetch.identity(name), "corpus": _hash(self.corpus)}

    @cached_property
    def encoder(self):
        from prunelib.tasks.encoder import load_encoder

        return load_encoder(self.name, device=self.ch.model["device"])

    def order(self) -> pd.DataFrame:
        """``layer, kind, cosine`` of every sublayer and block (tasks.encoder.importance)."""

        def compute():
            from prunelib.tasks.encoder import importance

            return importance(self.encoder, list(self.corpus.documents.values())[:RANKED_ON])

        return self.ch.table(f"encoder_order_{slugify(self.name)}", self.key | {"ranked_on": RANKED_ON}, compute)

    def specs(self) -> list[str]:
        """The drops of this run's profile, scaled to the encoder's depth; always a quarter of the attentions."""
        layers = self.order()["layer"].nunique()
        wanted = [f"drop:attn:{-(-layers // 4)}"]
        for kind, counts in DROPS[self.ch.run.part["profile"]].items():
            wanted += [f"drop:{kind}:{-(-layers * count // 6)}" for count in counts]
        return sorted(set(wanted), key=lambda spec: (spec.split(":")[1], int(spec.split(":")[2])))


def encoder_search(ch: Chapter, name: str = ENCODER, corpus: str = "default") -> pd.DataFrame:
    """Measures of the encoder, dense and with each drop: a row a query and plan.

    Columns ``query_id, cluster, spec, label``, those of :data:`prunelib.tasks.retrieval.MEASURES`,
    and of the whole: ``documents``, ``chance`` (nDCG@10 of a random ranking), ``layers``.
    """
    from prunelib.tasks.encoder import dropped

    encoders = Encoders(ch, name, corpus)
    order, parts, specs = encoders.order(), [], ["dense", *encoders.specs()]
    for number, spec in enumerate(specs):
        sites = () if spec == "dense" else parse(spec).choose(order).sites

        def compute(sites=sites):
            with dropped(encoders.encoder, sites):
                return retrieval.evaluate(retrieval.search(encoders.encoder, encoders.corpus), encoders.corpus)

        key = encoders.key | {"sites": sorted(map(str, sites))}
        found = ch.table(f"encoder_{slugify(name)}_{spec.replace(':', '-')}", key, compute)
        store.report_progress(f"searches of {name}", number + 1, len(specs))
        parts.append(_tagged(found, encoders.corpus, spec, parse(spec).label))
    return _about(parts, encoders.corpus, order["layer"].nunique())


def model_search(ch: Chapter, pooling: str = "mean", instruction: str = "") -> pd.DataFrame:
    """The same measures of the run's language model as an embedder, dense and with the plans of the task chapters."""
    from prunelib.tasks.encoder import Embedder

    corpus = retrieval.own(DOCUMENTS[ch.run.part["profile"]])
    specs, parts = ["dense", *tasks.drop_specs(ch)], []
    for number, spec in enumerate(specs):

        def compute(spec=spec):
            with compressed_model(ch, spec, ch.seed).applied(ch.lm):
                return retrieval.evaluate(retrieval.search(Embedder(ch.lm, pooling, instruction), corpus), corpus)

        key = {"corpus": _hash(corpus), "pooling": pooling, "instruction": instruction, "spec": spec,
               "calibration": ch.calibration_key}  # fmt: skip
        found = ch.table(f"retrieval_{spec.replace(':', '-')}", key, compute)
        store.report_progress(f"searches of {ch.model['name']}", number + 1, len(specs))
        parts.append(_tagged(found, corpus, spec, parse(spec).label))
    return _about(parts, corpus, ch.model["n_layers"])


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


# ---------------------------------------------------------------- what the page shows


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


def curves(ch: Chapter, by_encoder: pd.DataFrame, by_model: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """Figure data: share kept (``kept, lo, hi``) by ``embedder``, ``kind``, ``x`` (% of layers) and ``readout``.

    ``chance`` is the share that a random ranking of the same corpus would keep.
    """
    layers = {"encoder": _layers(by_encoder), "language model": _layers(by_model)}
    generation = tasks.kept(answers, (tasks.WRITTEN,))
    parts = [("encoder", "retrieval", kept(by_encoder)),
             ("language model", "retrieval", kept(by_model)),
             ("language model", "generation", generation)]  # fmt: skip
    guess = {"encoder": _chance(by_encoder), "language model": _chance(by_model)}
    rows = []
    for embedder, readout, table in parts:
        for row in table.itertuples():
            kinds, count = ("attn", "mlp", "block"), 0
            if row.spec != "dense":
                kinds, count = (row.spec.split(":")[1],), int(row.spec.split(":")[2])
            x = 100 * count / layers[embedder]
            rows += [(embedder, kind, x, readout, row.kept, row.lo, row.hi, guess[embedder]) for kind in kinds]
    names = ["embedder", "kind", "x", "readout", "kept", "lo", "hi", "chance"]
    found = pd.DataFrame(rows, columns=names)
    drawn = found[found["x"] > 0].groupby(["embedder", "kind"]).size()
    return found[[(e, k) in drawn.index for e, k in zip(found["embedder"], found["kind"], strict=True)]]


def _layers(found: pd.DataFrame) -> int:
    return int(found["layers"].iloc[0])


def _chance(found: pd.DataFrame) -> float:
    dense = found.loc[found["spec"] == "dense", "ndcg"].mean()
    return float(found["chance"].iloc[0] / dense) if dense > 0 else float("nan")


def record(ch: Chapter, by_encoder: pd.DataFrame, by_model: pd.DataFrame) -> pd.DataFrame:
    """Record the chapter's numbers and claim C10; returns all measures as a table for the page."""
    quarter = f"drop:attn:{-(-_layers(by_encoder) // 4)}"
    shares = kept(by_encoder).set_index("spec")
    for name, found in (("encoder", by_encoder), ("model", by_model)):
        ch.value(f"retrieval.{name}.documents", int(found["documents"].iloc[0]), exact=True, fmt="d")
        ch.value(f"retrieval.{name}.queries", found["query_id"].nunique(), exact=True, fmt="d")
        dense = found[found["spec"] == "dense"]
        for measure in retrieval.MEASURES:
            ch.value(f"retrieval.{name}.{measure}", *stats.share(dense[measure], dense["cluster"]), fmt=".2f")
        dropped = [spec for spec in dict.fromkeys(found["spec"]) if getattr(parse(spec), "sublayers", "") == "attn"]
        most = dropped[-1]
        share = kept(found).set_index("spec").loc[most]
        ch.value(f"retrieval.{name}.attn.most", share["label"], exact=True, fmt="s")
        ch.value(f"retrieval.{name}.attn.kept", share["kept"], share["lo"], share["hi"], fmt=".0%")
    row = shares.loc[quarter]
    ch.value("retrieval.quarter", row["label"], exact=True, fmt="s")
    ch.value("retrieval.kept", row["kept"], row["lo"], row["hi"], fmt=".0%")
    ch.claim("C10", row["kept"], row["lo"], row["hi"])
    both = pd.concat([by_encoder.assign(embedder="encoder"), by_model.assign(embedder="language model")])
    shown = both.groupby(["embedder", "label"], sort=False)[list(retrieval.MEASURES)].mean().round(3)
    return shown.rename(columns=retrieval.MEASURES).reset_index()
