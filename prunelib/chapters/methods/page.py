"""What the page of methods shows beside its figures, and what it records."""

import pandas as pd

from prunelib.chapters.chapter import Chapter
from prunelib.chapters.methods import perplexity
from prunelib.chapters.methods.measure import described, memory, perplexity_of, walks_of
from prunelib.measure.stats import smooth
from prunelib.report import comparison, facts
from prunelib.runs.options import DEFAULT_MODEL
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


ORIGIN = (
    "A word on the default model: its weights come from a 4-bit file, on a grid of blocks of 32 weights. Rounding "
    "them to 4 bits again, in groups of 64, is not the same grid and not free; for a model that was never quantized "
    "it may cost more."
)


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
        ch.value(f"methods.{name}.ratio", row.ratio, row.lo, row.hi, fmt=".3g")
        ch.value(f"methods.{name}.bits", row.bits, exact=True, fmt=".2f")
    for spec, some in stable.groupby("spec"):
        name = spec.replace(":", "-").replace(".", "")
        share = some["overlap"]
        ch.value(f"methods.{name}.overlap", share.mean(), share.min(), share.max(), fmt=".0%")
        low, high = some["perplexity_min"].iloc[0], some["perplexity_max"].iloc[0]
        ch.value(f"methods.{name}.seed_spread", high / low - 1, exact=True, fmt=".1%")
    ch.value("methods.best_under_5", *_best(found, 5), exact=True, fmt="s")
    ch.value("methods.best_under_10", *_best(found, 10), exact=True, fmt="s")
    shown = summary(tables)
    ch.say({"origin": ORIGIN if ch.model["slug"] == DEFAULT_MODEL else ""})
    ch.say(say(described(found.assign(output_error=shown["output_error"].to_numpy()))))
    return shown.rename(columns=HEADS)


HEADS = {
    "label": "model",
    "bits": "bits a weight",
    "zeros": "share of zeros",
    "output_error": "relative output error, median",
    "ratio": "perplexity, dense = 1",
}
"""What the page calls the columns of :func:`summary`."""


NEAR = 0.5
"""Bits a weight by which two methods may differ and still count as of the same memory."""


def say(found: pd.DataFrame) -> dict[str, str]:
    """What the page says of this run: which method disturbs least, and do memory and output error tell it?

    ``found`` are rows of :func:`~prunelib.chapters.methods.measure.memory` with ``method, setting, output_error``.
    """
    made = found[found["kind"] != "dense"].sort_values("ratio")
    best, worst = made.iloc[0], made.iloc[-1]
    answer = (
        f"{best['label']} keeps perplexity closest to dense, at {_ratio(best)} times and {best['bits']:.2f} bits a "
        f"weight; "
        f"{worst['label']} is furthest from it, at {_ratio(worst)} times and {worst['bits']:.2f} bits."
    )
    pairs = [(a, b) for i, a in made.iterrows() for j, b in made.iterrows() if i != j and a["hi"] < b["lo"]]
    near = [(a, b) for a, b in pairs if abs(a["bits"] - b["bits"]) <= NEAR]
    if near:
        a, b = max(near, key=lambda pair: pair[1]["lo"] / pair[0]["hi"])
        memory = (
            f"Memory alone does not say what a method costs: within {NEAR:g} bits a weight of each other, "
            f"{a['label']} has "
            f"{_ratio(a)} times the perplexity of dense and {b['label']} {_ratio(b)} times."
        )
    else:
        memory = (
            f"No two methods within {NEAR:g} bits a weight of each other differ in perplexity by more than their "
            f"intervals."
        )
    same = [(a, b) for a, b in pairs if a["setting"] == b["setting"] and a["kind"] == b["kind"]]
    against = [(a, b) for a, b in same if a["output_error"] > b["output_error"]]
    if against:
        a, b = against[0]
        error = (
            f"A smaller output error on the calibration tokens does not promise a lower perplexity: {b['label']} has "
            f"the smaller "
            "error "
            f"({b['output_error']:.2f} against {a['output_error']:.2f}) and a higher perplexity than {a['label']}."
        )
    elif same:
        error = (
            f"Where two methods of one setting differ in perplexity by more than their intervals ({len(same)} pairs), "
            f"the one "
            "with the smaller output error on the calibration tokens has the lower perplexity."
        )
    else:
        error = "No two methods of one setting differ in perplexity by more than their intervals."
    return {"answer": answer, "memory": memory, "error": error}


def _ratio(row: pd.Series) -> str:
    return facts.show({"value": row["ratio"], "lo": row["lo"], "hi": row["hi"], "exact": False, "fmt": ".3g"})


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


def against_dense(ch: Chapter, specs: str = "") -> pd.DataFrame:
    """Token by token on held-out text, a column a model of the run's own seed (measure.token_summary)."""
    walks = [walk for walk in walks_of(ch, specs) if walk.seed == ch.seed]
    return comparison.against_dense(ch, [spec for walk in walks for spec in walk.specs])
