"""Retrieval with sublayers dropped: an encoder made for it, and the run's own language model.

A unit of work is one plan of one embedder; what it gives is a row a query."""

from functools import cached_property

import pandas as pd

from prunelib.methods import parse
from prunelib.methods.drop import Drop
from prunelib.models import fetch
from prunelib.paths import slugify
from prunelib.runs.progress import report_progress
from prunelib.runs.run import Run
from prunelib.runs.zoo import scores, searches
from prunelib.tasks import retrieval, shares

ENCODER = "all-minilm-l6-v2"


RANKED_ON = 64
"""Documents whose tokens decide which sublayers of the encoder are dropped first."""


class Encoders:
    """The encoder of a chapter, loaded the first time something has to be computed."""

    def __init__(self, run: Run, name: str = ENCODER, corpus: str = "default"):
        self.run, self.name = run, name
        self.corpus = retrieval.load_corpus(corpus)
        self.key = {"encoder": fetch.identity(name), "corpus": searches.digest(self.corpus)}

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
        parts.append(searches.tagged(found, encoders.corpus, spec, parse(spec).label))
    return searches.about(parts, encoders.corpus, order["layer"].nunique())


def model_search(run: Run, pooling: str = "mean", instruction: str = "") -> pd.DataFrame:
    """The same measures of the run's language model as an embedder, with the plans of the task chapters."""
    return searches.searches(run, scores.drop_specs(run), pooling, instruction)


def curves(run: Run, by_encoder: pd.DataFrame, by_model: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """Figure data: share kept (``kept, lo, hi``) by ``embedder``, ``kind``, ``x`` (% of layers) and ``readout``.

    ``chance`` is the share that a random ranking of the same corpus would keep.
    """
    layers = {"encoder": layers_of(by_encoder), "language model": layers_of(by_model)}
    generation = shares.kept(answers, (shares.WRITTEN,))
    parts = [
        ("encoder", "retrieval", searches.kept(by_encoder)),
        ("language model", "retrieval", searches.kept(by_model)),
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
