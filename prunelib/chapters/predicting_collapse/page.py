"""What the page on prediction shows and records."""

import math

import pandas as pd

from prunelib.chapters.chapter import Chapter
from prunelib.chapters.predicting_collapse.figures import NAMES
from prunelib.chapters.predicting_collapse.measure import CHOICE_LOST, KL, choice_lost
from prunelib.measure import predict
from prunelib.report import facts
from prunelib.report.sentences import Found, by_side, by_verdict

_SHOWN = ("kl_dense_pruned", "kl_pruned_dense", "var_p", "var_r", "one_minus_cos_h", "one_minus_cos_z",
          "one_minus_cos_p", "rms_dz", "top_changed", "flips", "nll_lost")  # fmt: skip


def by_model(ch: Chapter, models: pd.DataFrame) -> pd.DataFrame:
    """All models: shares of the scores kept, and means of their statistics; the least KL first."""
    table = models.sort_values(KL, kind="stable")
    shown = pd.DataFrame({"model": table["label"], "method": table["method"]})
    for readout, name in (("generation", "generation kept"), ("choice", "choice kept")):
        ends = zip(table[readout], table[f"{readout}_lo"], table[f"{readout}_hi"], strict=True)
        shown[name] = [_shown(one, ".0%") for one in ends]
    return shown.assign(**{NAMES[name]: table[name] for name in _SHOWN})


def thresholds(ch: Chapter, cuts: pd.DataFrame) -> pd.DataFrame:
    """The threshold of each statistic, the one that is wrong about fewest models first."""
    table = cuts.sort_values("wrong", kind="stable")
    return pd.DataFrame(
        {
            "statistic": [NAMES[name] for name in table["statistic"]],
            "collapsed above": table["cut"],
            "lowest": table["lowest"],
            "highest": table["highest"],
            "judged wrongly": [_shown(row, ".0%") for row in table[["wrong", "wrong_lo", "wrong_hi"]].to_numpy()],
            "as most others": [
                _shown(row, ".0%") for row in table[["constant", "constant_lo", "constant_hi"]].to_numpy()
            ],
        }
    )


def _shown(interval, fmt: str = ".2f") -> str:
    numbers = (float(number) if math.isfinite(number) else None for number in interval)
    return facts.show(dict(zip(("value", "lo", "hi"), numbers, strict=True)) | {"exact": False, "fmt": fmt})


def record(ch: Chapter, answers, models, correlations, cuts, additivity) -> None:
    """Record the values ``collapse.*`` and claim C14."""
    for name, number in (
        ("models", len(models)),
        ("methods", models["method"].nunique()),
        ("items", answers["item_id"].nunique()),
        ("passages", answers["passage_id"].nunique()),
    ):
        ch.value(f"collapse.{name}", number, exact=True, fmt="d")
    for row in correlations.itertuples():
        ch.value(f"collapse.rho.{row.statistic}", row.rho, row.lo, row.hi, fmt=".2f")
    best = correlations.dropna(subset=["rho"])
    best = best.iloc[0] if len(best) else None
    ch.value("collapse.best", best["statistic"] if best is not None else "none", exact=True, fmt="s")
    gap = (math.nan,) * 3 if best is None or best["statistic"] == KL else tuple(best[["gap", "gap_lo", "gap_hi"]])
    ch.value("collapse.best_gap", *gap, fmt=".2f")
    choice = correlations.set_index("statistic").loc[CHOICE_LOST]
    ch.value("collapse.choice_gap", *choice[["gap", "gap_lo", "gap_hi"]], fmt=".2f")
    cut = cuts[cuts["statistic"] == KL]
    known = len(cut) > 0
    cut = cut.iloc[0] if known else None
    ch.value("collapse.threshold", cut["cut"] if known else None, exact=True, fmt=".2g")
    for name in ("lowest", "highest"):
        ch.value(f"collapse.threshold_{name}", cut[name] if known else None, exact=True, fmt=".2g")
    for name in ("wrong", "constant"):
        numbers = cut[[name, f"{name}_lo", f"{name}_hi"]] if known else (math.nan,) * 3
        ch.value(f"collapse.{name}", *numbers, fmt=".0%")
    found, _ = choice_lost(answers)
    ch.value("collapse.choice_lost", *found, fmt=".0%")
    holds, side = predict.within(additivity)
    ch.value("collapse.additive", holds, exact=True, fmt="d")
    ch.value("collapse.additive_side", side, exact=True, fmt="d")
    sure = (additivity["lo"] >= 0.5) & (additivity["hi"] <= 2)
    ch.value("collapse.additive_sure", f"{int(sure.sum())} of {len(sure)}", exact=True, fmt="s")
    ch.value("collapse.additive_most", int(additivity["count"].max()), exact=True, fmt="d")
    for end, row in (("least", additivity["ratio"].idxmin()), ("largest", additivity["ratio"].idxmax())):
        row = additivity.loc[row]
        ch.value(f"collapse.additive_{end}", *row[["ratio", "lo", "hi"]], fmt=".2g")
        ch.value(f"collapse.additive_{end}_of", row["label"], exact=True, fmt="s")
    kl = correlations.set_index("statistic").loc[KL]
    over = {"methods": models["method"].nunique(), "compressed models": len(models)}
    ch.claim("C14", *kl[["rho", "lo", "hi"]], over=over)
    ch.say(say(ch.found))


def record_texts(ch: Chapter, steps: pd.DataFrame) -> None:
    """Record how much held-out text was read."""
    own = steps[["cluster", "position"]].drop_duplicates()
    ch.value("collapse.texts", own["cluster"].nunique(), exact=True, fmt="d")
    ch.value("collapse.positions", len(own), exact=True, fmt=",d")


def say(found: Found) -> dict[str, str]:
    """What the page says of this run: does KL foretell the collapse, does anything do better, do effects add up?"""
    said = {"best": _best(found), "choice": _choice(found), "threshold": _threshold(found)}
    said |= {"additive": _additive(found), "proxy": _proxy(found), "why": _why(found)}
    key = f"collapse.rho.{KL}"
    if not math.isfinite(found.number(key)):
        said["answer"] = "This run cannot tell: what is left of generation is not defined, or the same for all models."
        return said
    number = found.show(key)
    answer = by_verdict(
        found.verdict("C14"),
        f"KL(dense ‖ pruned) on text that no item uses ranks compressed models as their generation does: rank "
        f"correlation {number}.",
        f"KL(dense ‖ pruned) on text that no item uses does not rank compressed models as their generation does: rank "
        f"correlation {number}, and the claim asks for 0.8.",
        f"Whether KL(dense ‖ pruned) on text that no item uses predicts what is left of generation is not decided: "
        f"rank correlation {number}, and the claim asks for 0.8.",
    )
    said["answer"] = f"{answer} {said['best']}"
    return said


def _why(found: Found) -> str:
    methods = int(found.number("collapse.methods"))
    if methods < predict.FEWEST:
        kinds = "method" if methods == 1 else "methods"
        return (
            f"The models are of {methods} {kinds}; fewer than {predict.FEWEST} give no interval, so nothing is decided."
        )
    return f"The interval is over the {methods} methods; it says how much the number hangs on which of them were tried."


def _best(found: Found) -> str:
    best = found.show("collapse.best")
    if best == "none":
        return ""
    if best == KL:
        return "No other statistic here has a higher rank correlation."
    gap = found.side("collapse.best_gap", 0.0)
    name = NAMES[best][0].upper() + NAMES[best][1:]
    higher = f"{name} has a higher one, {found.show(f'collapse.rho.{best}')}"
    if gap > 0:
        return f"{higher}, and the difference from KL is told apart from 0."
    return f"{higher}, but the difference from KL is not told apart from 0."


def _choice(found: Found) -> str:
    key = f"collapse.rho.{CHOICE_LOST}"
    if not math.isfinite(found.number(key)):
        return "What multiple choice says of generation is not defined here."
    return by_side(
        found.side("collapse.choice_gap", 0.0),
        f"Multiple choice ({found.bracketed(key)}) ranks the models better than KL does on the same halves.",
        f"Multiple choice ({found.bracketed(key)}) ranks the models worse than KL does on the same halves, though it "
        "asks items.",
        f"Multiple choice ({found.bracketed(key)}) is not told apart from KL on the same halves.",
    )


def _threshold(found: Found) -> str:
    if not math.isfinite(found.number("collapse.threshold")):
        return (
            "There is no threshold to learn: all models lie on one side, are of one method, or have no defined score."
        )
    ends = f"{found.show('collapse.threshold_lowest')} to {found.show('collapse.threshold_highest')}"
    wrong, usual = found.number("collapse.wrong"), found.number("collapse.constant")
    than = "fewer than" if wrong < usual else "more than" if wrong > usual else "as many as"
    return (
        f"For KL(dense ‖ pruned) the threshold is {found.show('collapse.threshold')} nats a token ({ends} with one "
        f"method left out). It judges {found.show('collapse.wrong')} of the models wrongly, {than} without any "
        f"measurement ({found.show('collapse.constant')})."
    )


def _additive(found: Found) -> str:
    holds, side = int(found.number("collapse.additive")), int(found.number("collapse.additive_side"))
    most, sure = int(found.number("collapse.additive_most")), found.show("collapse.additive_sure")
    sure = f"Its whole interval over texts lies within that factor for {sure} drops."
    if not side:
        ends = [f"{found.show(f'collapse.additive_{end}')} times" for end in ("least", "largest")]
        return (
            f"The sum is within a factor 2 of the joint KL for every drop measured, up to {most} sublayers "
            f"({' to '.join(ends)}): here the damage adds up. {sure}"
        )
    of = "least" if side < 0 else "largest"
    where = f"furthest for {found.show(f'collapse.additive_{of}_of')}, {found.show(f'collapse.additive_{of}')} times"
    start = f"Up to {holds} sublayers the sum is within a factor 2 of the joint KL" if holds > 1 else (
        "The sum is not within a factor 2 of the joint KL even for the smallest drops"
    )  # fmt: skip
    if side < 0:
        return f"{start}; then it is first too small: together sublayers do more harm than one by one ({where}). {sure}"
    return f"{start}; then it is first too large: together sublayers do less harm than one by one ({where}). {sure}"


def _proxy(found: Found) -> str:
    if not found.is_defined("collapse.choice_lost"):
        return "Of claim C16 this larger set says nothing: no model passes, or the dense scores leave nothing to lose."
    lost = found.show("collapse.choice_lost")
    return by_side(
        found.side("collapse.choice_lost", 0.05),
        f"The number of claim C16 over this larger set: models that multiple choice lets pass lose {lost} of the "
        "generation score, more than the claim's 5%.",
        f"The number of claim C16 over this larger set: models that multiple choice lets pass lose {lost} of the "
        "generation score, less than the claim's 5%.",
        f"The number of claim C16 over this larger set: models that multiple choice lets pass lose {lost} of the "
        "generation score, which is not told apart from the claim's 5%.",
    )
