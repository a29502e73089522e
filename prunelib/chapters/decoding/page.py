"""What the page on decoding shows and records."""

import math
from collections.abc import Sequence

import pandas as pd

from prunelib.chapters.chapter import Chapter
from prunelib.chapters.decoding.measure import pruned
from prunelib.measure import rollouts
from prunelib.report import comparison, facts, skills
from prunelib.report.sentences import Found, by_side, by_verdict, listed


def by_model(ch: Chapter, table: pd.DataFrame) -> pd.DataFrame:
    """All numbers, a row a model; means over sampled texts, with 95 % intervals over prompts."""
    sampled = table[table["draw"] > 0]
    rows = []
    for label, some in sampled.groupby("label", sort=False):
        a_token = rollouts.means(some)
        whole = rollouts.whole_texts(some)
        rows.append(
            {
                "model": label,
                "KL a token, on the dense text": _shown(a_token["direct"]),
                "the same on its own text": _shown(a_token["own"]),
                "own text, last quarter / first": _shown(rollouts.rise(some[some["pair"] == "own"])),
                "KL(dense ‖ pruned) of whole texts": _shown(whole["dense_pruned"]),
                "KL(pruned ‖ dense) of whole texts": _shown(whole["pruned_dense"]),
                "made by the history": _shown(rollouts.history_share(some), ".0%"),
            }
        )
    return pd.DataFrame(rows)


def _shown(interval, fmt: str = ".3g") -> str:
    return facts.show(dict(zip(("value", "lo", "hi"), interval, strict=True)) | {"exact": False, "fmt": fmt})


def agreement(ch: Chapter, table: pd.DataFrame) -> pd.DataFrame:
    """Tokens in common before free texts part: seen, and by the law, a row a model."""
    rows = []
    for label, some in table.groupby("label", sort=False):
        found = rollouts.agreed(some)
        rows.append(
            {
                "model": label,
                "greedy, median": rollouts.parted(some, "greedy"),
                "sampled, median": rollouts.parted(some, "sampled"),
                "sampled, mean": _shown(found["seen"]),
                "by the law": _shown(found["law"]),
                "difference": _shown(found["gap"], ".2f"),
            }
        )
    return pd.DataFrame(rows)


def record(ch: Chapter, table: pd.DataFrame, control: pd.DataFrame) -> None:
    """Record the values ``decoding.*`` and claim C12."""
    sampled = pruned(table[table["draw"] > 0])
    own, direct = (sampled[sampled["pair"] == pair] for pair in ("own", "direct"))
    rise, excess = rollouts.rise(own), rollouts.excess(sampled)
    ch.value("decoding.rise", *rise, fmt=".2f")
    ch.value("decoding.rise_direct", *rollouts.rise(direct), fmt=".2f")
    ch.value("decoding.excess", *excess, fmt=".0%")
    ch.value("decoding.history", *rollouts.history_share(_pooled(sampled)), fmt=".0%")
    changed = rollouts.late(control)
    ch.value("decoding.changed", *changed, fmt=".2f")
    ch.value("decoding.free_late", *rollouts.late(pruned(table).query("draw == 0 and pair == 'free'")), fmt=".2f")
    ch.value("decoding.prompts", table["prompt_id"].nunique(), exact=True, fmt="d")
    ch.value("decoding.draws", int(table["draw"].max()), exact=True, fmt="d")
    ch.value("decoding.tokens", int(table["step"].max()) + 1, exact=True, fmt="d")
    labels = list(dict.fromkeys(table["label"]))
    ch.value("decoding.models", listed(labels), exact=True, fmt="s")
    gaps = {label: rollouts.agreed(some)["gap"] for label, some in table.groupby("label", sort=False)}
    judged = {label: gap for label, gap in gaps.items() if math.isfinite(gap[1])}  # a single prompt has no interval
    outside = [label for label, (_, low, high) in judged.items() if low > 0 or high < 0]
    ch.value("decoding.outside", listed(outside) if outside else "none", exact=True, fmt="s")
    ch.value("decoding.law_models", len(judged), exact=True, fmt="d")
    ch.value("decoding.law_holds", len(judged) - len(outside), exact=True, fmt="d")
    over = {"prompts": own["prompt_id"].nunique(), "texts": own.groupby(["spec", "prompt_id", "draw"]).ngroups}
    ch.claim("C12", parts={"rise": rise, "excess": excess}, over=over)
    ch.say(say(ch.found))


def _pooled(table: pd.DataFrame) -> pd.DataFrame:
    """All models together: a text belongs to its prompt, its draw and its model."""
    return table.assign(draw=table["label"] + "/" + table["draw"].astype(str))


def one_token(ch: Chapter, table: pd.DataFrame) -> pd.DataFrame:
    """Record the values ``decoding.skills.*`` over the pruned models and what they say; all models as a table."""
    specs = list(dict.fromkeys(pruned(table[table["spec"] != "dense"])["spec"]))
    skills.record(ch, table, specs, "decoding.skills")
    ch.say({"skills": skills.say_alone(ch.found, "decoding.skills")})
    return skills.by_model(table, specs)


def say(found: Found) -> dict[str, str]:
    """What the page says of this run: do errors compound, and is the parting of texts foretold?"""
    rise, excess = found.show("decoding.rise"), found.show("decoding.excess")
    numbers = (
        f"along texts of their own the KL a token is {rise} times as large in the last quarter as in the first, and "
        f"{_more(found, 'decoding.excess')} than along the dense text ({excess})"
    )
    answer = by_verdict(
        found.verdict("C12"),
        f"Errors compound: {numbers}.",
        f"By the rule of claim C12 errors add up, but they do not compound: {numbers}.",
        f"Whether errors compound, and do not only add up, is not decided: {numbers}.",
    )
    holds, models = int(found.number("decoding.law_holds")), int(found.number("decoding.law_models"))
    outside = found.show("decoding.outside")
    law = "A single prompt has no interval in which the law of this chapter could hold or fail."
    if models:
        law = (
            f"How long free texts agree follows from forced one-step numbers: the law of this chapter holds within its "
            f"interval for all {models} models."
            if holds == models
            else f"The law of this chapter foretells how long free texts agree for {holds} of {models} models; it "
            f"fails for {outside}."
        )
    history = found.show("decoding.history")
    free = by_side(
        found.side("decoding.history", 0.5),
        f"A step-by-step comparison of free texts, as in the paper's figure, shows mostly that the texts differ: the "
        f"history makes {history} of it.",
        f"A step-by-step comparison of free texts, as in the paper's figure, shows mostly what the models differ in: "
        f"the history makes {history} of it.",
        f"A step-by-step comparison of free texts, as in the paper's figure, mixes both: the history makes {history} "
        "of it, neither clearly more nor clearly less than half.",
    )
    why = (
        "The first part alone may be an effect of position: on the dense text, where nothing can compound, the same "
        f"ratio is {found.show('decoding.rise_direct')}."
    )
    return {"answer": f"{answer} {law}", "law": law, "free": free, "why": why}


def _more(found: Found, key: str) -> str:
    return {1: "larger", -1: "smaller"}.get(found.side(key, 0.0), "not clearly other")


def against_dense(ch: Chapter, specs: Sequence[str]) -> pd.DataFrame:
    """Token by token on held-out text, a column a model (measure.token_summary)."""
    return comparison.against_dense(ch, specs)
