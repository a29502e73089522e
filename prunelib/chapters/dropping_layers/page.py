"""What the page on dropped layers shows: the paper's curves and other runs beside ours, and what it records."""

from collections.abc import Sequence

import pandas as pd

from prunelib.chapters.chapter import Chapter
from prunelib.chapters.dropping_layers import benchmarks, readouts
from prunelib.methods import parse
from prunelib.report import comparison, paper, scores, skills, tables
from prunelib.report.scores import SHOWN, beside_rows
from prunelib.report.sentences import listed
from prunelib.runs.zoo.scores import paper_drops
from prunelib.tasks import shares

_PAPER = {
    "fig:pruning_non_generative:MMLU": ("choice", "paper: MMLU"),
    "fig:pruning_non_generative:HellaSwag": ("choice", "paper: HellaSwag"),
    "fig:pruning_generative:GSM8K": ("generation", "paper: GSM8K"),
}


_PAPER_KINDS = {"attn_drop": "attn", "mlp_drop": "mlp", "shortgpt_block_drop": "block"}


def kept(ch: Chapter, answers: pd.DataFrame) -> pd.DataFrame:
    """Figure data: share kept (``kept, lo, hi``) by ``kind``, ``x`` (percent of layers) and ``readout``.

    ``source`` is "this run", the name of a run beside it, or "paper", whose curves have a ``task``
    and percentages of the layers of their own model. Every score is taken above what guessing gives.
    """
    table = shares.kept(answers, SHOWN)
    drawn = dict.fromkeys(["attn", "mlp", "block", *(_dropped(spec)[0] for spec in table["spec"] if spec != "dense")])
    rows = []
    for row in table.itertuples():
        kind, count = _dropped(row.spec)
        kinds = drawn if row.spec == "dense" else (kind,)
        x = 100 * count / ch.model["n_layers"]
        rows += [("this run", "", one, x, row.readout, row.kept, row.lo, row.hi) for one in kinds]
    for figure, (readout, name) in _PAPER.items():
        for series, kind in _PAPER_KINDS.items():
            curve = paper.kept_above_chance(figure, series)
            rows += [
                ("paper", name, kind, x, readout, y, None, None) for x, y in zip(curve["x"], curve["kept"], strict=True)
            ]
    found = pd.DataFrame(rows, columns=["source", "task", "kind", "x", "readout", "kept", "lo", "hi"])
    found = pd.concat([found, beside_rows(ch, "fig-dropping-kept", found)], ignore_index=True)
    # The paper drops further than our plans go; past the right edge of ours nothing is compared.
    most = found[found["source"] == "this run"].groupby("kind")["x"].max()
    return found[found["x"] <= found["kind"].map(most) + 1e-9].reset_index(drop=True)


def _dropped(spec: str) -> tuple[str, int]:
    """The panel a drop belongs to (attn, mlp, block, or joint for attention and MLP together), and how many sites."""
    if spec == "dense":
        return "", 0
    method = parse(spec)
    return method.sublayers, method.count


PAPER_DROPS = 8
"""Sublayers dropped in the point of the paper's curves that the page quotes, the largest of its task table."""


def record_paper(ch: Chapter) -> None:
    """Record what the paper's curves keep above guessing at :data:`PAPER_DROPS` sublayers, with model and depth."""
    (choice, written), drops = ("fig:pruning_non_generative:MMLU", "fig:pruning_generative:GSM8K"), PAPER_DROPS
    model, layers = paper.source(choice, "mlp_drop")
    ch.value("paper.model", model, exact=True, fmt="s")
    ch.value("paper.layers", layers, exact=True, fmt="d")
    ch.value("paper.dropped", drops, exact=True, fmt="d")
    for kind in ("attn", "mlp"):
        for readout, figure in ((shares.CHOICE, choice), (shares.WRITTEN, written)):
            at = paper.series(figure, f"{kind}_drop")["x"] == drops
            kept = paper.kept_above_chance(figure, f"{kind}_drop").loc[at, "kept"].iloc[0]
            ch.value(f"paper.{kind}.{readout}", float(kept), exact=True, fmt=".0%")


def record_texts(ch: Chapter, texts: pd.DataFrame) -> None:
    """Record how many longer texts there are, and how long they may be."""
    ch.value("dropping.prompts", texts["prompt_id"].nunique(), exact=True, fmt="d")
    ch.value("dropping.tokens", ch.settings.long_tokens, exact=True, fmt="d")


def texts_by_model(texts: pd.DataFrame) -> pd.DataFrame:
    """Figure data: collapse measures of the longer texts, mean and interval by model."""
    return shares.texts_by_model(texts)


def standard(ch: Chapter, tasks: str, items: int = 0):
    """The scores as tables for the page; of the runs beside, and how to ask, where none were asked for."""
    from IPython.display import Markdown, display

    if tasks.strip():
        return _show(benchmarks.scores(benchmarks.samples(ch, tasks, paper_drops(ch), items)))
    how = (
        "None were asked for in this run: `-p benchmarks=commonsense_qa,gsm8k` does, "
        "with a network or with `PRUNELIB_DATASETS` set to a folder of JSON lines."
    )
    known = {other: found for other in ch.beside if len(found := benchmarks.of_run(other))}
    if not known:
        return Markdown(how)
    for other, found in known.items():
        display(Markdown(f"{how} Below stand those of {other.said} of {other.manifest['model']['name']}."))
        _show(benchmarks.scores(found))
        how = ""
    return None


def _show(table: pd.DataFrame) -> None:
    from IPython.display import HTML, Markdown, display

    display(HTML(tables.shown(by_benchmark(table))))
    if said := without_shares(table):
        display(Markdown(said))
    if len(shares_kept := table[(table["model"] != "dense") & table["kept"].notna()]):
        display(HTML(tables.shown(shares_kept[["benchmark", "metric", "model", "kept", "lo", "hi"]].round(2))))


def by_benchmark(table: pd.DataFrame) -> pd.DataFrame:
    """Scores for the page: a row a benchmark and metric, a column a model."""
    about = ["benchmark", "metric", "items", "shots"]
    wide = table.round(2).pivot(index=about, columns="model", values="score")
    rows = table[about].drop_duplicates().itertuples(index=False, name=None)
    return wide.loc[list(rows), list(dict.fromkeys(table["model"]))].reset_index().rename_axis(columns=None)


def without_shares(table: pd.DataFrame) -> str:
    """On which benchmarks the dense model shows nothing that could be kept; all others have their shares below."""
    dense = table[table["model"] == "dense"]
    nothing = [f"{r.benchmark} ({r.metric}: {r.score:.2f})" for r in dense[dense["kept"].isna()].itertuples()]
    if not nothing:
        return ""
    return (
        f"The dense score cannot be told from guessing or from 0 on {listed(nothing)}: what a dropped model keeps of "
        "it is not defined."
    )


def by_model(ch: Chapter, answers: pd.DataFrame) -> pd.DataFrame:
    """Shares kept in choice and generation, model by model, with what claim C8 says of each."""
    return scores.by_model(answers, "C8")


def record(ch: Chapter, answers: pd.DataFrame) -> pd.DataFrame:
    """Record the values ``dropping.*`` and claim C8; returns all scores as a table."""
    return scores.record(ch, answers, "dropping", "C8")


def paired(ch: Chapter, answers: pd.DataFrame) -> pd.DataFrame:
    """Record ``dropping.paired.*``; returns the paired tests of each drop against dense as a table."""
    return scores.record_paired(ch, answers, "dropping")


def where_lost(ch: Chapter, spaces: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """Record the values ``readouts.*`` and what they say; returns the figure data (:func:`readouts.table`)."""
    readouts.record(ch, spaces, answers)
    return readouts.table(spaces, answers)


def one_token(ch: Chapter, table: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """Record the values ``skills.*`` and what they say; returns the figure data.

    That is :func:`report.skills.by_spec` by ``kind`` and ``x`` (percent of layers) as in :func:`kept`; the mean over
    models has the kind "mean".
    """
    specs = [spec for spec in dict.fromkeys(table["spec"]) if spec != "dense"]
    skills.record(ch, table, specs)
    skills.compare(ch, answers, specs)
    ch.say({"skills": skills.say(ch.found)})
    found, rows = skills.by_spec(table, answers), []
    kinds = list(dict.fromkeys(_dropped(spec)[0] for spec in specs))
    for row in found.to_dict("records"):
        spec = row.pop("spec")
        if spec == skills.MEAN:
            rows.append({"kind": "mean", "x": float("nan")} | row)
            continue
        kind, count = _dropped(spec)
        x = 100 * count / ch.model["n_layers"]
        rows += [{"kind": one, "x": x} | row for one in (kinds if spec == "dense" else [kind])]
    return pd.DataFrame(rows)


def skills_by_model(ch: Chapter, table: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """Shares kept in one token, skill by skill, beside those of the items."""
    return skills.by_model(table, [spec for spec in dict.fromkeys(table["spec"]) if spec != "dense"], answers)


def drop_lists(ch: Chapter, specs: Sequence[str]):
    """Which layers each plan drops."""
    return scores.drop_lists(ch, specs)


def against_dense(ch: Chapter, specs: Sequence[str]) -> pd.DataFrame:
    """Token by token on held-out text, a column a model (measure.token_summary)."""
    return comparison.against_dense(ch, specs)
