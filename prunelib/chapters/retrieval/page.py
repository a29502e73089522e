"""What the page on retrieval records."""

import pandas as pd

from prunelib.chapters.chapter import Chapter
from prunelib.chapters.retrieval.measure import layers_of
from prunelib.measure import stats
from prunelib.methods import parse
from prunelib.report.sentences import Found, by_side, by_verdict
from prunelib.runs.zoo.searches import kept
from prunelib.tasks import retrieval


def record(ch: Chapter, by_encoder: pd.DataFrame, by_model: pd.DataFrame) -> pd.DataFrame:
    """Record the chapter's numbers and claim C10; returns all measures as a table for the page."""
    quarter = f"drop:attn:{-(-layers_of(by_encoder) // 4)}"
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
    over = {"documents": by_encoder["cluster"].nunique(), "queries": by_encoder["query_id"].nunique()}
    ch.claim("C10", row["kept"], row["lo"], row["hi"], over=over)
    ch.say(say(ch.found))
    both = pd.concat([by_encoder.assign(embedder="encoder"), by_model.assign(embedder="language model")])
    shown = both.groupby(["embedder", "label"], sort=False)[list(retrieval.MEASURES)].mean().round(3)
    return shown.rename(columns=retrieval.MEASURES).reset_index()


def say(found: Found) -> dict[str, str]:
    """What the page says of this run: does retrieval survive, and how much of it needs attention at all?"""
    quarter, kept_share = found.show("retrieval.quarter"), found.show("retrieval.kept")
    answer = by_verdict(
        found.verdict("C10"),
        f"The encoder survives: with {quarter} it keeps {kept_share} of its nDCG@10.",
        f"The encoder does not survive: with {quarter} it keeps {kept_share} of its nDCG@10.",
        f"Whether the encoder survives is not decided: with {quarter} it keeps {kept_share} of its nDCG@10.",
    )
    most, left = found.show("retrieval.encoder.attn.most"), found.show("retrieval.encoder.attn.kept")
    without = by_side(
        found.side("retrieval.encoder.attn.kept", 0.5),
        f"With {most} it still keeps {left}: more than half of its score does not need the dropped attention.",
        f"With {most} it keeps {left}: more than half of its score needs the dropped attention.",
        f"With {most} it keeps {left}.",
    )
    return {"answer": answer, "attention": without}
