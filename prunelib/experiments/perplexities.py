"""Perplexity on WikiText-2 and C4, dense and compressed: the numbers that other papers' tables hold."""

from functools import cache

import numpy as np
import pandas as pd

from prunelib import store
from prunelib.experiments.chapter import Chapter
from prunelib.experiments.methods import plan_walks
from prunelib.experiments.zoo import compressed_model
from prunelib.measure.stats import smooth
from prunelib.tasks import corpora

COLUMNS = ["corpus", "split", "window", "stride", "windows", "tokens", "model", "perplexity", "ratio", "lo", "hi"]


def can_be_read(perplexity_on: str) -> None:
    """Raises PrunelibError for a corpus that is unknown, not to be had here, or malformed."""
    for name in corpora.names(perplexity_on):
        corpora.text(name, corpora.find(name))


def measure(ch: Chapter, perplexity_on: str, specs: str = "") -> pd.DataFrame:
    """Every window of every corpus, for the dense model and the chapter's specifications at the run's own seed.

    Columns ``corpus, spec, label, number, nll, tokens``: nats over the ``tokens`` predicted tokens of window
    ``number``, which is one token longer. Each (corpus, specification) is a table of the run.
    """
    from prunelib.methods import parse

    named = [spec for walk in plan_walks(ch, specs) if walk.seed == ch.seed for spec in walk.specs]
    wanted, parts = corpora.names(perplexity_on), []
    for name in wanted:
        file = corpora.find(name)
        whole = corpora.text(name, file)

        @cache
        def windows(name=name, whole=whole):
            return corpora.windows(ch.lm, name, whole)

        key = {"corpus": name, "file": store.sha256(file), "calibration": ch.calibration_key, "window": corpora.WINDOW}
        for spec in dict.fromkeys(named):

            def compute(spec=spec, windows=windows) -> pd.DataFrame:
                from prunelib.measure.perplexity import text_nll

                with compressed_model(ch, spec).applied(ch.lm):
                    found = text_nll(ch.lm, windows())
                return found.assign(number=range(len(found)))[["number", "nll", "tokens"]]

            table = ch.table(f"perplexity_{name}_{spec.replace(':', '-')}", key | {"spec": spec}, compute)
            parts.append(table.assign(corpus=name, spec=spec, label=parse(spec).label))
            store.report_progress("perplexity of models", len(parts), len(wanted) * len(dict.fromkeys(named)))
    return pd.concat(parts, ignore_index=True)


def table(found: pd.DataFrame) -> pd.DataFrame:
    """:data:`COLUMNS` of what :func:`measure` gives, a row a corpus and model.

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


def show(ch: Chapter, perplexity_on: str, specs: str = ""):
    """The table for the page, under a line that says what was read; how to ask, where nothing was asked for."""
    from IPython.display import Markdown, display

    if not corpora.names(perplexity_on):
        return Markdown(
            "None were asked for in this run: `-p perplexity_on=wikitext2,c4` does, with a network or with "
            "`PRUNELIB_DATASETS` set to a folder that holds "
            + " and ".join(f"`{corpus.file}`" for corpus in corpora.CORPORA.values()) + "."
        )  # fmt: skip
    found = table(measure(ch, perplexity_on, specs))
    display(Markdown(caption(found)))
    return found.round({"perplexity": 2, "ratio": 3, "lo": 3, "hi": 3})


def caption(found: pd.DataFrame) -> str:
    """What the perplexities of :func:`table` were read on, in one sentence a corpus."""
    lines = [
        f"{row.corpus}, {row.split} split: {row.windows} windows of {row.window} tokens, stride {row.stride}, "
        f"{row.tokens:,} predicted tokens."
        for row in found.drop_duplicates("corpus").itertuples()
    ]
    return " ".join(lines) + " Each window is read alone; its first token is given."
