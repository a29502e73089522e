"""What the chapters on dropping and sparsity draw and record, from task scores alone."""

import pandas as pd

from prunelib import committed, paper
from prunelib.experiments import tasks
from prunelib.experiments.chapter import Chapter
from prunelib.experiments.methods import kind_of

SHOWN = ("choice", "forced", "generation")
_PAPER = {
    "fig:pruning_non_generative:MMLU": ("choice", "paper: MMLU"),
    "fig:pruning_non_generative:HellaSwag": ("choice", "paper: HellaSwag"),
    "fig:pruning_generative:GSM8K": ("generation", "paper: GSM8K"),
}
_PAPER_KINDS = {"attn_drop": "attn", "mlp_drop": "mlp", "shortgpt_block_drop": "block"}
PAPER_LAYERS = 32
"""Layers of Mistral-7B, on which the paper draws its drop curves."""


def dropping(ch: Chapter, answers: pd.DataFrame) -> pd.DataFrame:
    """Figure data: share kept (``kept, lo, hi``) by ``kind``, ``x`` (percent of layers) and ``readout``.

    ``source`` is "this run", "reference" (the committed run) or "paper"; the paper's curves,
    by ``task``, are divided by their value at 0 dropped (their first point, where 0 is
    missing). ``chance`` is the share of the dense choice score that guessing would keep.
    """
    table = tasks.kept(answers, SHOWN, ch.seed)
    rows = []
    for row in table.itertuples():
        _, kind, count = (row.spec.split(":") + ["", ""])[:3]
        kinds = ("attn", "mlp", "block") if row.spec == "dense" else (kind,)
        x = 0.0 if row.spec == "dense" else 100 * int(count or 0) / ch.model["n_layers"]
        rows += [("this run", "", one, x, row.readout, row.kept, row.lo, row.hi) for one in kinds]
    for figure, (readout, name) in _PAPER.items():
        for series, kind in _PAPER_KINDS.items():
            curve = paper.series(figure, series)
            share = curve["y"] / curve["y"].iloc[0]
            rows += [("paper", name, kind, 100 * x / PAPER_LAYERS, readout, y, None, None)
                     for x, y in zip(curve["x"], share, strict=True)]  # fmt: skip
    found = pd.DataFrame(rows, columns=["source", "task", "kind", "x", "readout", "kept", "lo", "hi"])
    found = pd.concat([found, _reference(ch, "fig-dropping-kept", found)], ignore_index=True)
    # The paper drops further than our plans go; past the right edge of ours nothing is compared.
    most = found[found["source"] == "this run"].groupby("kind")["x"].max()
    found = found[found["x"] <= found["kind"].map(most) + 1e-9]
    return found.assign(chance=tasks.chance(ch) / _dense(table, "choice"))


def _reference(ch: Chapter, figure_id: str, own: pd.DataFrame) -> pd.DataFrame:
    """The committed reference run's own rows of a figure, as "reference"; none where it is this very run."""
    folder = committed.beside(ch.model["slug"], ch.run.part["profile"])
    found = committed.figure_data(folder, figure_id) if folder else None
    if found is None:
        return own[:0]
    return found[(found["source"] == "this run") & (found["x"] > 0)].assign(source="reference")[list(own)]


def _dense(table: pd.DataFrame, readout: str) -> float:
    return float(table.loc[(table["spec"] == "dense") & (table["readout"] == readout), "score"].iloc[0])


def sparsity(ch: Chapter, answers: pd.DataFrame) -> pd.DataFrame:
    """Figure data: share kept by ``method``, ``x`` (percent removed), ``pattern`` ("" or n:m) and ``readout``.

    ``source`` is "this run" or "reference", the committed run at the same methods and patterns.
    """
    from prunelib.figures.methods import method_of

    table = tasks.kept(answers, SHOWN, ch.seed)
    rows = []
    for row in table.itertuples():
        method, _, setting = row.spec.partition(":")
        pattern = setting if ":" in setting else ""
        keep, _, of = pattern.partition(":")
        removed = 0.0 if method == "dense" else 1 - int(keep) / int(of) if pattern else float(setting)
        name = "dense" if method == "dense" else method_of(row.label)
        rows.append((row.label, name, 100 * removed, pattern, row.readout, row.kept, row.lo, row.hi))
    own = pd.DataFrame(rows, columns=["label", "method", "x", "pattern", "readout", "kept", "lo", "hi"])
    own.insert(0, "source", "this run")
    other = _reference(ch, "fig-sparsity-kept", own)
    other = other.assign(pattern=other["pattern"].fillna(""))  # an empty field of the CSV
    drawn = set(zip(own["method"], own["pattern"], strict=True)) | {(name, "") for name in own["method"]}
    shown = [pair in drawn for pair in zip(other["method"], other["pattern"], strict=True)]
    found = pd.concat([own, other[shown]], ignore_index=True)
    return found.assign(chance=tasks.chance(ch) / _dense(table, "choice"))


def proxy(ch: Chapter, answers: pd.DataFrame) -> pd.DataFrame:
    """Figure data: a row a compressed model, share kept in choice and in generation, each with its interval."""
    table = tasks.kept(answers, (tasks.CHOICE, tasks.WRITTEN), ch.seed)
    table = table[table["spec"] != "dense"]
    wide = table.pivot(index=["spec", "label", "kind"], columns="readout", values=["kept", "lo", "hi"])
    wide = wide.loc[list(dict.fromkeys(zip(table["spec"], table["label"], table["kind"], strict=True)))]
    columns = {}
    for readout in (tasks.CHOICE, tasks.WRITTEN):
        columns |= {readout: wide["kept", readout], f"{readout}_lo": wide["lo", readout],
                    f"{readout}_hi": wide["hi", readout]}  # fmt: skip
    return pd.DataFrame(columns).reset_index()


def record(ch: Chapter, answers: pd.DataFrame, chapter: str, claim: str) -> pd.DataFrame:
    """Record a chapter's numbers and its claim; returns all scores as a table for the page.

    ``chapter`` is the first word of the value keys. The claim compares the shares kept
    in multiple choice and in generation, mean over the chapter's compressed models.
    """
    table = tasks.kept(answers, seed=ch.seed)
    specs = [spec for spec in dict.fromkeys(table["spec"]) if spec != "dense"]
    ch.value(f"{chapter}.items", answers["item_id"].nunique(), exact=True, fmt="d")
    ch.value(f"{chapter}.passages", answers["passage_id"].nunique(), exact=True, fmt="d")
    ch.value(f"{chapter}.models", len(specs), exact=True, fmt="d")
    dense = answers[answers["spec"] == "dense"]
    for readout in table["readout"].unique():
        ch.value(f"{chapter}.dense.{readout}", *_mean(dense, readout, ch.seed), fmt=".2f")
    for row in table[(table["spec"] != "dense") & table["readout"].isin((tasks.CHOICE, tasks.WRITTEN))].itertuples():
        ch.value(f"{chapter}.{_name(row.spec)}.{row.readout}", row.kept, row.lo, row.hi, fmt=".0%")
    for spec in specs:
        ch.value(f"{chapter}.{_name(spec)}.difference", *tasks.difference(answers, [spec], seed=ch.seed), fmt=".2f")
    whole = tasks.difference(answers, specs, seed=ch.seed)
    ch.value(f"{chapter}.difference", *whole, fmt=".2f")
    ch.claim(claim, *whole)
    shown = table.pivot(index=["spec", "label"], columns="readout", values="score").loc[
        list(dict.fromkeys(zip(table["spec"], table["label"], strict=True)))]  # fmt: skip
    shown = shown[list(table["readout"].unique())].rename(columns=tasks.LABELS).round(2)
    return shown.reset_index(level="label").reset_index(drop=True).rename_axis(columns=None)


def shares(ch: Chapter, answers: pd.DataFrame) -> pd.DataFrame:
    """For the page, a row a compressed model: shares kept in choice and generation, their difference, its interval.

    The last column has the smallest and largest generation share over calibration seeds, where there are several.
    """
    table = tasks.kept(answers, (tasks.CHOICE, tasks.WRITTEN), ch.seed)
    table = table[table["spec"] != "dense"]
    seeds, rows = answers.groupby("spec")["seed"].nunique(), []
    for (spec, label), some in table.groupby(["spec", "label"], sort=False):
        choice, written = (some.set_index("readout").loc[name] for name in (tasks.CHOICE, tasks.WRITTEN))
        found = tasks.difference(answers, [spec], seed=ch.seed)
        spread = f"{written['seed_lo']:.2f} to {written['seed_hi']:.2f} ({seeds[spec]})" if seeds[spec] > 1 else ""
        rows.append((label, choice["kept"], written["kept"], *found, spread))
    names = ["model", "choice kept", "generation kept", "difference", "95 % from", "to", "generation over seeds"]
    return pd.DataFrame(rows, columns=names).round(2)


def record_texts(ch: Chapter, texts: pd.DataFrame) -> None:
    """Record how many longer texts there are, and how long they may be."""
    ch.value("dropping.prompts", texts["prompt_id"].nunique(), exact=True, fmt="d")
    ch.value("dropping.tokens", ch.settings.long_tokens, exact=True, fmt="d")


def record_proxy(ch: Chapter, answers: pd.DataFrame) -> None:
    """Record claim C16: what models lose in generation that keep 95 % of the multiple-choice score."""
    found, labels = tasks.lost_where_choice_is_kept(answers, seed=ch.seed)
    ch.value("proxy.models", ", ".join(labels) or "none", exact=True, fmt="s")
    ch.value("proxy.lost", *found, fmt=".0%")
    ch.claim("C16", *found)


def drop_lists(ch: Chapter, specs):
    """Which layers each plan drops, by the run's own calibration text; for the page, no list cut short."""
    from IPython.display import HTML

    from prunelib.compress import drop
    from prunelib.experiments.layerwise import drop_order

    plans = [drop.from_spec(spec, drop_order(ch)) for spec in specs if kind_of(spec) == "drop"]
    found = pd.DataFrame([(p.label, ", ".join(str(s.layer) for s in p.sites)) for p in plans],
                         columns=["plan", "layers, first dropped first"])  # fmt: skip
    with pd.option_context("display.max_colwidth", None):
        return HTML(found.to_html(index=False))


def _mean(rows: pd.DataFrame, readout: str, seed: int):
    from prunelib.measure.stats import cluster_mean

    return cluster_mean(rows[readout], rows["passage_id"], seed=seed)


def _name(spec: str) -> str:
    return spec.replace(":", "-").replace(".", "")
