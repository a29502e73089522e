"""What the page on sparsity shows and records."""

from collections.abc import Sequence

import pandas as pd

from prunelib.chapters.chapter import Chapter
from prunelib.methods import parse
from prunelib.report import comparison, scores
from prunelib.report.scores import SHOWN, beside_rows
from prunelib.report.sentences import Found, by_verdict
from prunelib.tasks import shares


def kept(ch: Chapter, answers: pd.DataFrame) -> pd.DataFrame:
    """Figure data: share kept by ``method``, ``x`` (percent removed), ``pattern`` ("" or n:m) and ``readout``.

    ``source`` is "this run" or the name of a run beside it, at the same methods and patterns.
    """
    rows = []
    for row in shares.kept(answers, SHOWN).itertuples():
        method = parse(row.spec)
        removed = method.pattern.sparsity if method.kind == "sparsify" else 0.0
        grouped = method.pattern.spec if removed and method.pattern.m else ""
        rows.append((row.label, method.full_title, 100 * removed, grouped, row.readout, row.kept, row.lo, row.hi))
    own = pd.DataFrame(rows, columns=["label", "method", "x", "pattern", "readout", "kept", "lo", "hi"])
    own.insert(0, "source", "this run")
    other = beside_rows(ch, "fig-sparsity-kept", own)
    other = other.assign(pattern=other["pattern"].fillna(""))  # an empty field of the CSV
    drawn = set(zip(own["method"], own["pattern"], strict=True)) | {(name, "") for name in own["method"]}
    shown = [pair in drawn for pair in zip(other["method"], other["pattern"], strict=True)]
    return pd.concat([own, other[shown]], ignore_index=True)


def proxy(ch: Chapter, answers: pd.DataFrame) -> pd.DataFrame:
    """Figure data: a row a compressed model, share kept in choice and in generation, each with its interval."""
    table = shares.kept(answers, (shares.CHOICE, shares.WRITTEN))
    table = table[table["spec"] != "dense"]
    wide = table.pivot(index=["spec", "label", "kind"], columns="readout", values=["kept", "lo", "hi"])
    wide = wide.loc[list(dict.fromkeys(zip(table["spec"], table["label"], table["kind"], strict=True)))]
    columns = {}
    for readout in (shares.CHOICE, shares.WRITTEN):
        columns |= {
            readout: wide["kept", readout],
            f"{readout}_lo": wide["lo", readout],
            f"{readout}_hi": wide["hi", readout],
        }
    return pd.DataFrame(columns).reset_index()


def record_proxy(ch: Chapter, answers: pd.DataFrame) -> None:
    """Record claim C16: what models lose in generation that keep 95 % of the choice score on other passages."""
    found, let_pass = shares.lost_where_choice_is_kept(answers)
    for name, labels in zip(("first", "second"), let_pass, strict=True):
        ch.value(f"proxy.{name}", ", ".join(labels) or "none", exact=True, fmt="s")
    ch.value("proxy.lost", *found, fmt=".0%")
    ch.claim("C16", *found, over=scores.sample(answers))
    ch.say(say(ch.found))


def say(found: Found) -> dict[str, str]:
    """What the page says of claim C16: can a multiple-choice score stand for writing?"""
    if not found.is_defined("proxy.lost"):
        return {"proxy": "No number decides this run: no model passes, or the dense scores leave nothing to lose."}
    lost = found.show("proxy.lost")
    return {
        "proxy": by_verdict(
            found.verdict("C16"),
            f"Multiple choice cannot stand for writing here: models that it lets pass lose {lost} of the generation "
            f"score.",
            f"Multiple choice lets no model pass here that has lost its writing: those that pass lose {lost} of the "
            f"generation "
            "score.",
            f"Whether multiple choice can stand for writing is not decided: models that it lets pass lose {lost} of "
            f"the "
            "generation score.",
        )
    }


def by_model(ch: Chapter, answers: pd.DataFrame) -> pd.DataFrame:
    """Shares kept in choice and generation, model by model, with what claim C9 says of each."""
    return scores.by_model(answers, "C9")


def record(ch: Chapter, answers: pd.DataFrame) -> pd.DataFrame:
    """Record the values ``sparsity.*`` and claim C9; returns all scores as a table."""
    return scores.record(ch, answers, "sparsity", "C9")


def against_dense(ch: Chapter, specs: Sequence[str]) -> pd.DataFrame:
    """Token by token on held-out text, a column a model (measure.token_summary)."""
    return comparison.against_dense(ch, specs)


def paired(ch: Chapter, answers: pd.DataFrame) -> pd.DataFrame:
    """Record ``sparsity.paired.*``; returns the paired tests of each setting against dense as a table."""
    return scores.record_paired(ch, answers, "sparsity")
