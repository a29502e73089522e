"""Perplexity on WikiText-2 and C4, dense and compressed: the numbers that other papers' tables hold."""

from functools import cache

import numpy as np
import pandas as pd

from prunelib.chapters.methods.measure import walks_of
from prunelib.files import sha256
from prunelib.measure.stats import smooth
from prunelib.runs.progress import report_progress
from prunelib.runs.run import Run
from prunelib.runs.zoo.models import compressed_model, learned_from
from prunelib.tasks import corpora

COLUMNS = ["corpus", "split", "window", "stride", "windows", "tokens", "model", "perplexity", "ratio", "lo", "hi"]


def measured(run: Run, perplexity_on: str, specs: str = "") -> pd.DataFrame:
    """Every window of every corpus, for the dense model and the chapter's specifications at the run's own seed.

    Columns ``corpus, spec, label, number, nll, tokens``: nats over the ``tokens`` predicted tokens of window
    ``number``, which is one token longer. Each (corpus, specification) is a table of the run.
    """
    from prunelib.methods import parse

    named = [spec for walk in walks_of(run, specs) if walk.seed == run.seed for spec in walk.specs]
    wanted, parts = corpora.names(perplexity_on), []
    for name in wanted:
        file = corpora.find(name)
        whole = corpora.text(name, file)

        @cache
        def windows(name=name, whole=whole):
            return corpora.windows(run.lm, name, whole)

        key = {
            "corpus": name,
            "file": sha256(file),
            "calibration": run.settings.calibration_key,
            "window": corpora.WINDOW,
        }
        for spec in dict.fromkeys(named):

            def compute(spec=spec, windows=windows) -> pd.DataFrame:
                from prunelib.measure.perplexity import text_nll

                with compressed_model(run, spec).applied(run.lm):
                    found = text_nll(run.lm, windows())
                return found.assign(number=range(len(found)))[["number", "nll", "tokens"]]

            own = key | {"spec": spec} | learned_from(run, [spec])
            table = run.table(f"perplexity_{name}_{spec.replace(':', '-')}", own, compute)
            parts.append(table.assign(corpus=name, spec=spec, label=parse(spec).label))
            report_progress("perplexity of models", len(parts), len(wanted) * len(dict.fromkeys(named)))
    return pd.concat(parts, ignore_index=True)


def table(found: pd.DataFrame) -> pd.DataFrame:
    """:data:`COLUMNS` of what :func:`measured` gives, a row a corpus and model.

    ``ratio`` is relative to the dense model on the same windows, with its 95 % interval over windows.
    ``tokens`` counts the predicted ones.
    """
    rows = []
    for name, of_corpus in found.groupby("corpus", sort=False):
        corpus = corpora.CORPORA[name]
        dense = of_corpus[of_corpus["spec"] == "dense"].set_index("number")["nll"]
        for spec, some in of_corpus.groupby("spec", sort=False):
            paired = some.assign(dense=dense.loc[some["number"]].to_numpy())
            ratio = (1.0, 1.0, 1.0) if spec == "dense" else smooth(paired, _ratio, by="number")
            length = int(some["tokens"].iloc[0]) + 1
            perplexity = float(np.exp(some["nll"].sum() / some["tokens"].sum()))
            rows.append(
                (
                    corpus.title,
                    corpus.split,
                    length,
                    length,
                    len(some),
                    int(some["tokens"].sum()),
                    some["label"].iloc[0],
                    perplexity,
                    *ratio,
                )
            )
    return pd.DataFrame(rows, columns=COLUMNS)


def _ratio(f: pd.DataFrame) -> float:
    return float(np.exp((f["nll"].sum() - f["dense"].sum()) / f["tokens"].sum()))
