"""What the chapters on dropping and sparsity draw and record, from task scores alone."""

import math

import pandas as pd

from prunelib import claims, committed, paper
from prunelib.experiments import tasks
from prunelib.experiments.chapter import Chapter
from prunelib.experiments.zoo import plan_of
from prunelib.measure import stats
from prunelib.methods import parse
from prunelib.methods.plans import LETTERS

SHOWN = ("choice", "forced", "generation")
_PAPER = {
    "fig:pruning_non_generative:MMLU": ("choice", "paper: MMLU"),
    "fig:pruning_non_generative:HellaSwag": ("choice", "paper: HellaSwag"),
    "fig:pruning_generative:GSM8K": ("generation", "paper: GSM8K"),
}
_PAPER_KINDS = {"attn_drop": "attn", "mlp_drop": "mlp", "shortgpt_block_drop": "block"}


def dropping(ch: Chapter, answers: pd.DataFrame) -> pd.DataFrame:
    """Figure data: share kept (``kept, lo, hi``) by ``kind``, ``x`` (percent of layers) and ``readout``.

    ``source`` is "this run", "reference" (the committed run) or "paper", whose curves have a ``task``
    and percentages of the layers of their own model. Every score is taken above what guessing gives.
    """
    table = tasks.kept(answers, SHOWN)
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
    found = pd.concat([found, _reference(ch, "fig-dropping-kept", found)], ignore_index=True)
    # The paper drops further than our plans go; past the right edge of ours nothing is compared.
    most = found[found["source"] == "this run"].groupby("kind")["x"].max()
    return found[found["x"] <= found["kind"].map(most) + 1e-9].reset_index(drop=True)


def _dropped(spec: str) -> tuple[str, int]:
    """The panel a drop belongs to (attn, mlp, block, or joint for attention and MLP together), and how many sites."""
    if spec == "dense":
        return "", 0
    method = parse(spec)
    return method.sublayers, method.count


def _reference(ch: Chapter, figure_id: str, own: pd.DataFrame) -> pd.DataFrame:
    """The committed reference run's own rows of a figure, as "reference"; none where it is this very run."""
    folder = committed.beside(ch.model["slug"], ch.run.part["profile"])
    found = committed.figure_data(folder, figure_id) if folder else None
    if found is None or "chance" in found:  # an older edition's shares hold what guessing gives
        return own[:0]
    return found[(found["source"] == "this run") & (found["x"] > 0)].assign(source="reference")[list(own)]


def sparsity(ch: Chapter, answers: pd.DataFrame) -> pd.DataFrame:
    """Figure data: share kept by ``method``, ``x`` (percent removed), ``pattern`` ("" or n:m) and ``readout``.

    ``source`` is "this run" or "reference", the committed run at the same methods and patterns.
    """
    rows = []
    for row in tasks.kept(answers, SHOWN).itertuples():
        method = parse(row.spec)
        removed = method.pattern.sparsity if method.kind == "sparsify" else 0.0
        grouped = method.pattern.spec if removed and method.pattern.m else ""
        rows.append((row.label, method.full_title, 100 * removed, grouped, row.readout, row.kept, row.lo, row.hi))
    own = pd.DataFrame(rows, columns=["label", "method", "x", "pattern", "readout", "kept", "lo", "hi"])
    own.insert(0, "source", "this run")
    other = _reference(ch, "fig-sparsity-kept", own)
    other = other.assign(pattern=other["pattern"].fillna(""))  # an empty field of the CSV
    drawn = set(zip(own["method"], own["pattern"], strict=True)) | {(name, "") for name in own["method"]}
    shown = [pair in drawn for pair in zip(other["method"], other["pattern"], strict=True)]
    return pd.concat([own, other[shown]], ignore_index=True)


def proxy(ch: Chapter, answers: pd.DataFrame) -> pd.DataFrame:
    """Figure data: a row a compressed model, share kept in choice and in generation, each with its interval."""
    table = tasks.kept(answers, (tasks.CHOICE, tasks.WRITTEN))
    table = table[table["spec"] != "dense"]
    wide = table.pivot(index=["spec", "label", "kind"], columns="readout", values=["kept", "lo", "hi"])
    wide = wide.loc[list(dict.fromkeys(zip(table["spec"], table["label"], table["kind"], strict=True)))]
    columns = {}
    for readout in (tasks.CHOICE, tasks.WRITTEN):
        columns |= {
            readout: wide["kept", readout],
            f"{readout}_lo": wide["lo", readout],
            f"{readout}_hi": wide["hi", readout],
        }
    return pd.DataFrame(columns).reset_index()


def record(ch: Chapter, answers: pd.DataFrame, chapter: str, claim: str) -> pd.DataFrame:
    """Record a chapter's numbers and its claim; returns all scores as a table for the page.

    ``chapter`` is the first word of the value keys. The claim has two parts, the shares kept in
    multiple choice and in generation, each a mean over the chapter's compressed models; beside
    them stand their difference, how many models show both by themselves, and the difference of
    shares of the plain scores, in which guessing counts as kept.
    """
    table = tasks.kept(answers)
    specs = [spec for spec in dict.fromkeys(table["spec"]) if spec != "dense"]
    ch.value(f"{chapter}.items", answers["item_id"].nunique(), exact=True, fmt="d")
    ch.value(f"{chapter}.passages", answers["passage_id"].nunique(), exact=True, fmt="d")
    ch.value(f"{chapter}.models", len(specs), exact=True, fmt="d")
    ch.value(f"{chapter}.undefined", tasks.undefined(answers), exact=True, fmt="s")
    dense = answers[answers["spec"] == "dense"]
    for readout in table["readout"].unique():
        ch.value(f"{chapter}.dense.{readout}", *stats.share(dense[readout], dense["passage_id"]), fmt=".2f")
    verdicts = []
    for spec in specs:
        parts = _parts(answers, [spec])
        for readout, part in zip((tasks.CHOICE, tasks.WRITTEN), parts.values(), strict=True):
            ch.value(f"{chapter}.{_name(spec)}.{readout}", *part, fmt=".0%")
        ch.value(f"{chapter}.{_name(spec)}.difference", *tasks.difference(answers, [spec]), fmt=".2f")
        verdicts.append(_verdict(claim, parts))
    for verdict in (claims.SUPPORTED, claims.NOT_SUPPORTED, claims.UNDECIDED):
        ch.value(f"{chapter}.{verdict.replace(' ', '_')}", verdicts.count(verdict), exact=True, fmt="d")
    parts = _parts(answers, specs)
    for readout, part in zip((tasks.CHOICE, tasks.WRITTEN), parts.values(), strict=True):
        ch.value(f"{chapter}.{readout}", *part, fmt=".0%")
    ch.value(f"{chapter}.difference", *tasks.difference(answers, specs), fmt=".2f")
    ch.value(f"{chapter}.difference_uncorrected", *tasks.difference(answers, specs, corrected=False), fmt=".2f")
    ch.claim(claim, parts=parts)
    shown = table.pivot(index=["spec", "label"], columns="readout", values="score").loc[
        list(dict.fromkeys(zip(table["spec"], table["label"], strict=True)))
    ]
    shown = shown[list(table["readout"].unique())].rename(columns=tasks.LABELS).round(2)
    return shown.reset_index(level="label").reset_index(drop=True).rename_axis(columns=None)


def _parts(answers: pd.DataFrame, specs: list[str]) -> dict[str, stats.Interval]:
    """The numbers of claims C8 and C9 by the names of their parts, mean over some models."""
    readouts = {"choice kept": tasks.CHOICE, "generation kept": tasks.WRITTEN}
    return {name: tasks.mean_kept(answers, specs, readout) for name, readout in readouts.items()}


def _verdict(claim: str, parts: dict[str, stats.Interval]) -> str:
    return claims.whole(claims.judge(part, *parts[part.name]) for part in claims.CLAIMS[claim].parts)


def shares(ch: Chapter, answers: pd.DataFrame, claim: str) -> pd.DataFrame:
    """For the page, a row a compressed model and one for their mean: shares kept in choice and generation.

    Each with its interval, beside them their difference, what the rule of ``claim`` says of that model
    alone, and the smallest and largest generation share over calibration seeds, where there are several.
    """
    table = tasks.kept(answers, (tasks.CHOICE, tasks.WRITTEN))
    table = table[table["spec"] != "dense"]
    seeds, rows = answers.groupby("spec")["seed"].nunique(), []
    models = list(dict.fromkeys(zip(table["spec"], table["label"], strict=True)))
    groups = [([spec], label) for spec, label in models] + [([spec for spec, _ in models], "mean of all")]
    for specs, label in groups:
        parts = _parts(answers, specs)
        numbers = [*parts.values(), tasks.difference(answers, specs)]
        shown = [text for value, lo, hi in numbers for text in (_shown(value), f"{_shown(lo)} to {_shown(hi)}")]
        spread = ""
        if len(specs) == 1 and seeds[specs[0]] > 1:
            over = table.set_index(["spec", "readout"]).loc[(specs[0], tasks.WRITTEN)]
            spread = f"{_shown(over['seed_lo'])} to {_shown(over['seed_hi'])} ({seeds[specs[0]]})"
        rows.append((label, *shown, _verdict(claim, parts), spread))
    return pd.DataFrame(
        rows,
        columns=[
            "model",
            "choice kept",
            "choice 95 %",
            "generation kept",
            "generation 95 %",
            "difference",
            "difference 95 %",
            claim,
            "generation over seeds",
        ],
    )


def _shown(number: float) -> str:
    return f"{number:.2f}".replace("-", "−") if math.isfinite(number) else "not defined"


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
        for readout, figure in ((tasks.CHOICE, choice), (tasks.WRITTEN, written)):
            at = paper.series(figure, f"{kind}_drop")["x"] == drops
            kept = paper.kept_above_chance(figure, f"{kind}_drop").loc[at, "kept"].iloc[0]
            ch.value(f"paper.{kind}.{readout}", float(kept), exact=True, fmt=".0%")


def record_texts(ch: Chapter, texts: pd.DataFrame) -> None:
    """Record how many longer texts there are, and how long they may be."""
    ch.value("dropping.prompts", texts["prompt_id"].nunique(), exact=True, fmt="d")
    ch.value("dropping.tokens", ch.settings.long_tokens, exact=True, fmt="d")


def record_proxy(ch: Chapter, answers: pd.DataFrame) -> None:
    """Record claim C16: what models lose in generation that keep 95 % of the choice score on other passages."""
    found, let_pass = tasks.lost_where_choice_is_kept(answers)
    for name, labels in zip(("first", "second"), let_pass, strict=True):
        ch.value(f"proxy.{name}", ", ".join(labels) or "none", exact=True, fmt="s")
    ch.value("proxy.lost", *found, fmt=".0%")
    ch.claim("C16", *found)


def drop_lists(ch: Chapter, specs):
    """Which layers each plan drops, by the run's own calibration text; for the page, no list cut short."""
    from IPython.display import HTML

    rows = []
    for method in (method for method in map(parse, specs) if method.kind == "drop"):
        sites = plan_of(ch, method.spec).sites
        named = (str(site.layer if method.sublayers in LETTERS else site) for site in sites)
        rows.append((method.label, ", ".join(named)))
    found = pd.DataFrame(rows, columns=["plan", "layers, first dropped first"])
    with pd.option_context("display.max_colwidth", None):
        return HTML(found.to_html(index=False))


def _name(spec: str) -> str:
    return spec.replace(":", "-").replace(".", "")
