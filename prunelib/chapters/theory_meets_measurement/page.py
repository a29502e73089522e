"""What the page shows: the paper's series beside the measured one, and how well each agrees."""

import pandas as pd

from prunelib.chapters.chapter import Chapter
from prunelib.chapters.theory_meets_measurement.measure import agreement, closeness, points
from prunelib.measure.agreement import inside
from prunelib.report import paper
from prunelib.report.sentences import Found, by_side
from prunelib.runs.zoo.traces import LENSES

STATISTICS = {"cosine": "one_minus_cosine", "kl": "kl"}
"""What the paper's data calls the quantities that are measured."""


def beside_paper(ch: Chapter, quantity: str, layer: int = -1, temperature: float = 1.0) -> pd.DataFrame:
    """Measured and estimated deviation at every decoding position, and the paper's series.

    ``quantity`` is ``cosine`` (1 − cos p, Theorem 2) or ``kl`` (KL(dense‖pruned), Theorem 3).
    Columns: ``source, prompt_id, lens, step, measured, estimated, lower, upper, slack``.
    """
    figure = f"fig:theory_vs_measured:{STATISTICS[quantity]}"
    ours = points(ch, quantity, layer, temperature)
    measured, estimated = (paper.series(figure, name) for name in ("measured", "estimated"))
    both = measured.merge(estimated, on="x", suffixes=("_measured", "_estimated"))
    theirs = pd.DataFrame({"step": both["x"], "measured": both["y_measured"], "estimated": both["y_estimated"]})
    theirs = theirs.assign(source="paper", prompt_id="paper", lens="raw")
    return pd.concat([ours, theirs], ignore_index=True)


def record(ch: Chapter, tables: dict[str, pd.DataFrame], layer: int = -1) -> None:
    """Record agreement for both measures and lenses, and that of the paper's series."""
    for measure, table in tables.items():
        theirs = closeness(table[table["source"] == "paper"])
        for lens in LENSES:
            ours = table[(table["source"] == "this model") & (table["lens"] == lens)]
            found = agreement(ours, ch.seed)
            ch.values({f"middle.{measure}.{lens}.{k}": v for k, v in found.items()}, fmt=".3f")
            # The interval theorem is exact; the float32 rounding of the trace is allowed for.
            ch.value(f"middle.{measure}.{lens}.inside", inside(ours).mean(), exact=True, fmt=".1%")
        for name, value in theirs.items():
            ch.value(f"middle.{measure}.paper.{name}", value, exact=True, fmt=".3f")
    some = tables["kl"][tables["kl"]["source"] == "this model"]
    ch.value("middle.positions", len(some[some["lens"] == "raw"]), exact=True, fmt=",d")
    ch.value("middle.prompts", some["prompt_id"].nunique(), exact=True, fmt="d")
    ch.value("middle.layer", ch.model["n_layers"] // 2 if layer == -1 else layer, exact=True, fmt="d")
    ch.say(say(ch.found))


NEAR = 2.0
"""The factor that "tracks" may be off by, as in claims C1 to C3."""


def say(found: Found) -> dict[str, str]:
    """What the page says of this run: do the estimates track the measurement at this layer?"""
    said = []
    for quantity, name in (("cosine", "Theorem 2"), ("kl", "Theorem 3")):
        factor = found.bracketed(f"middle.{quantity}.normed.factor")
        within = by_side(
            -found.side(f"middle.{quantity}.normed.factor", NEAR),
            f"tracks the measurement within a factor of {NEAR:g}",
            f"does not track the measurement within a factor of {NEAR:g}",
            f"may or may not track the measurement within a factor of {NEAR:g}",
        )
        theirs = found.show(f"middle.{quantity}.paper.factor")
        said.append(f"the estimate of {name} {within} (typically off by {factor}; in the paper's series by {theirs})")
    layer, prompts = found.show("middle.layer"), found.show("middle.prompts")
    return {"answer": f"At the attention sublayer of layer {layer}, over {prompts} prompts, {said[0]}, and {said[1]}."}
