"""What the page of methods shows beside its figures, and what it records."""

import pandas as pd

from prunelib.chapters.chapter import Chapter
from prunelib.chapters.methods import perplexity
from prunelib.chapters.methods.measure import memory, perplexity_of
from prunelib.measure.stats import smooth
from prunelib.tasks import corpora


def summary(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """One row a method: bits, exact share of zeros, median output error, perplexity and its ratio to dense."""
    found = memory(tables).set_index("spec")
    weights = tables["method_weights"]
    weights = weights[weights["seed"] == weights["seed"].min()]
    grouped = weights.groupby("spec")
    found["zeros"] = grouped["zeros"].sum() / grouped["numel"].sum()
    found["output_error"] = grouped["relative_error"].median()
    columns = ["label", "bits", "zeros", "output_error", "perplexity", "ratio", "lo", "hi"]
    digits = {"bits": 2, "zeros": 3, "output_error": 3, "perplexity": 1, "ratio": 2, "lo": 2, "hi": 2}
    return found[columns].reset_index(drop=True).round(digits)


def record(ch: Chapter, tables: dict[str, pd.DataFrame], stable: pd.DataFrame) -> pd.DataFrame:
    """Record the chapter's numbers for its prose; returns :func:`summary`."""
    found = memory(tables)
    dense = tables["method_nll"].query("spec == 'dense'")
    ch.value("methods.dense.perplexity", *smooth(dense, perplexity_of, by="text_id"), fmt=".1f")
    ch.value("methods.texts", dense["text_id"].nunique(), exact=True, fmt="d")
    ch.value("methods.tokens", int(dense["tokens"].sum()), exact=True, fmt=",d")
    settings = ch.settings
    ch.value("methods.calibration", f"{settings.calibration} × {settings.calibration_tokens}", exact=True, fmt="s")
    ch.value("methods.seeds", settings.seeds, exact=True, fmt="d")
    for row in found[found["spec"] != "dense"].itertuples():
        name = row.spec.replace(":", "-").replace(".", "")
        ch.value(f"methods.{name}.ratio", row.ratio, row.lo, row.hi, fmt=".2f")
        ch.value(f"methods.{name}.bits", row.bits, exact=True, fmt=".2f")
    for spec, some in stable.groupby("spec"):
        name = spec.replace(":", "-").replace(".", "")
        share = some["overlap"]
        ch.value(f"methods.{name}.overlap", share.mean(), share.min(), share.max(), fmt=".0%")
        low, high = some["perplexity_min"].iloc[0], some["perplexity_max"].iloc[0]
        ch.value(f"methods.{name}.seed_spread", high / low - 1, exact=True, fmt=".1%")
    ch.value("methods.best_under_5", *_best(found, 5), exact=True, fmt="s")
    ch.value("methods.best_under_10", *_best(found, 10), exact=True, fmt="s")
    return summary(tables)


def _best(found: pd.DataFrame, bits: float) -> tuple[str]:
    """Label of the method with the lowest perplexity at no more than ``bits`` a weight."""
    some = found[(found["bits"] <= bits) & (found["spec"] != "dense")]
    return (some.loc[some["ratio"].idxmin(), "label"] if len(some) else "none",)


def public_corpora(ch: Chapter, perplexity_on: str, specs: str = ""):
    """The table for the page, under a line that says what was read; how to ask, where nothing was asked for."""
    from IPython.display import Markdown, display

    if not corpora.names(perplexity_on):
        return Markdown(
            "None were asked for in this run: `-p perplexity_on=wikitext2,c4` does, with a network or with "
            "`PRUNELIB_DATASETS` set to a folder that holds "
            + " and ".join(f"`{corpus.file}`" for corpus in corpora.CORPORA.values())
            + "."
        )
    found = perplexity.table(perplexity.measured(ch, perplexity_on, specs))
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
