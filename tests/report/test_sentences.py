"""Sentences follow the numbers: every chapter is given a run and its reverse, and must not say the same of both."""

import pandas as pd
import pytest

from prunelib.chapters.case_study import page as case_study
from prunelib.chapters.choosing_what_to_prune import page as choosing
from prunelib.chapters.decoding import page as decoding
from prunelib.chapters.dropping_layers import readouts
from prunelib.chapters.guide import page as guide
from prunelib.chapters.layerwise import page as layerwise
from prunelib.chapters.lm_head import page as lm_head
from prunelib.chapters.methods import page as methods
from prunelib.chapters.option_subspace import page as options
from prunelib.chapters.predicting_collapse import page as collapse
from prunelib.chapters.quantization_against_pruning import page as quantization
from prunelib.chapters.recovery import page as recovery
from prunelib.chapters.retrieval import page as retrieval
from prunelib.chapters.sparsity import page as sparsity
from prunelib.chapters.temperature import page as temperature
from prunelib.chapters.theory_meets_measurement import page as middle
from prunelib.report import claims, scores, skills, theorems
from prunelib.report.sentences import Found, listed


def entry(numbers, fmt=".3g"):
    """A recorded value: a number alone is exact, three are an estimate with its interval."""
    if not isinstance(numbers, tuple):
        return {"value": numbers, "lo": None, "hi": None, "exact": True, "fmt": fmt}
    return dict(zip(("value", "lo", "hi"), numbers, strict=True)) | {"exact": False, "fmt": fmt}


def made(values: dict, **decided) -> Found:
    """What a chapter recorded; ``decided`` has the numbers of each claim, a tuple or the parts by name."""
    recorded = {}
    for name, numbers in decided.items():
        claim = claims.CLAIMS[name]
        if isinstance(numbers, dict):
            parts = {part.name: entry(numbers[part.name]) for part in claim.parts}
            verdict = claims.whole(claims.judge(part, *numbers[part.name]) for part in claim.parts)
            recorded[name] = {"parts": parts, "verdict": verdict}
        else:
            recorded[name] = entry(numbers) | {"verdict": claims.judge(claim, *numbers)}
    return Found(
        {key: entry(numbers, "s" if isinstance(numbers, str) else ".3g") for key, numbers in values.items()}, recorded
    )


def around(value, width=0.05):
    return (value, value - width, value + width)


# ---------------------------------------------------------------- each chapter and its reverse


def theorem(factor, later):
    found = made(
        {"t1.h.factor": around(factor), "t1.h.later_factor": around(later), "t1.h.inside": 1.0}, C1=around(factor)
    )
    return theorems.say(found, "T1")


def head(ratio, gain):
    values = {f"head.{kind}.{name}": number for kind in ("attn", "mlp") for name, number in (
        ("gain", around(gain)), ("sine", around(0.8)), ("layers_below_1", 3), ("layers", 4),
        ("profile_error", 0.1 if ratio < 1 else 0.3), ("isotropic_error", 0.2))}  # fmt: skip
    return lm_head.say(made(values, C5=around(ratio)))


def layers(gap, normed, raw, mean, worse):
    values = {f"layerwise.{kind}.raw.cos_{space}": around(0.9) for kind in ("attn", "mlp") for space in "hzp"}
    values |= {"amplification.normed.share": around(normed), "amplification.raw.share": around(raw),
               "temperature.low": 0.3, "temperature.low_ratio": around(mean),
               "temperature.low_share_worse": around(worse)}  # fmt: skip
    return layerwise.say(made(values, C4=around(gap)))


def at_one_layer(cosine, kl):
    values = {f"middle.{q}.normed.factor": around(n) for q, n in (("cosine", cosine), ("kl", kl))}
    values |= {f"middle.{q}.paper.factor": 1.2 for q in ("cosine", "kl")} | {"middle.layer": 2, "middle.prompts": 5}
    return middle.say(made(values))


def along_temperature(sure, kept, overtaken, mean, worse, gain, beyond, peak, inside, cold, split=0.9, part=0.9):
    values = {"heat.low": 0.1, "heat.one": 1.0, "heat.high": 4.0, "heat.kept.points": around(0.8)}
    values |= {"heat.normed.open.share": None, "heat.normed.split.share": around(split),
               "heat.normed.leaning.share": around(0.5), "heat.normed.sure.share": around(sure),
               "heat.kept.low_ratio": around(kept), "heat.overtaken.low_ratio": around(overtaken),
               "heat.all.low_ratio": around(mean), "heat.all.low_share": around(worse),
               "heat.overtaken.part_low": around(part), "heat.overtaken.part_one": around(0.4),
               "heat.lipschitz.beyond": beyond, "heat.range.beyond": 0, "heat.gain.most": gain,
               "heat.relative.one": around(worse), "heat.inside": inside}  # fmt: skip
    for key in ("cosine", "kl"):
        values |= {f"heat.peak.{key}": around(peak), f"heat.peak.{key}.kept_cold": around(0.1),
                   f"heat.peak.{key}.overtaken_cold": around(0.9), f"heat.factor.{key}.low": around(cold),
                   f"heat.factor.{key}.one": around(2), f"heat.factor.{key}.high": around(3)}  # fmt: skip
    return temperature.say(made(values))


def sorted_by_cooling():
    return along_temperature(0.1, 0.3, 3, 2, 0.2, 0.01, 0, 0.5, 1.0, 9)


def reversed_by_cooling():
    return along_temperature(0.9, 3, 0.3, 0.5, 0.8, 1.5, 7, 2, 0.9, 1.2, split=0.1, part=0.1)


def memory(ratios, errors):
    rows = [("dense", "dense", 16.0, *around(1.0, 0.0), float("nan")),
            ("Alpha 50%", "sparsify", 9.0, *around(ratios[0], 0.1), errors[0]),
            ("Beta 50%", "sparsify", 9.2, *around(ratios[1], 0.1), errors[1])]  # fmt: skip
    names = ["label", "kind", "bits", "ratio", "lo", "hi", "output_error"]
    return methods.say(pd.DataFrame(rows, columns=names).assign(setting="50%"))


def two_parts(choice, written):
    values = {"dropping.choice": around(choice), "dropping.generation": around(written),
              "dropping.difference": around(choice - written), "dropping.models": 4, "dropping.supported": 1,
              "dropping.difference_uncorrected": around(choice - written + 0.1),
              "dropping.undefined": "Nothing is missing."}  # fmt: skip
    parts = {"choice kept": around(choice), "generation kept": around(written)}
    return scores.say(made(values, C8=parts), "dropping", "C8")


def where(h_z, z_p, choice, written):
    values = {f"readouts.{space}": around(0.9) for space in "hzp"} | {"readouts.models": 4}
    values |= {"readouts.lost.h_z": around(h_z), "readouts.lost.z_p": around(z_p), "readouts.forced": around(0.5),
               "dropping.choice": around(choice), "dropping.generation": around(written),
               "dropping.difference": around(choice - written)}  # fmt: skip
    return {"where": readouts.say(made(values))}


def proxy(lost):
    return sparsity.say(made({"proxy.lost": around(lost, 0.02)}, C16=around(lost, 0.02)))


def embedding(quarter, without):
    values = {"retrieval.quarter": "Drop-2A", "retrieval.kept": around(quarter),
              "retrieval.encoder.attn.most": "Drop-6A", "retrieval.encoder.attn.kept": around(without)}  # fmt: skip
    return retrieval.say(made(values, C10=around(quarter)))


def among_options(ratio, mass, control, steadier, by_text, by_margin):
    values = {f"options.letter.{name}": around(number) for name, number in (
        ("ratio", ratio), ("mass", mass), ("control", control), ("steadier", steadier),
        ("close_minus_clear", by_margin), ("bound", 1 / mass), ("flips", 0.3), ("changed", 0.4),
        ("moved.top", 0.5), ("moved.options", 0.2))}  # fmt: skip
    values |= {"options.text.ratio": around(by_text), "options.text.flips": around(0.3)}
    return options.say(made(values, C11=around(ratio)))


STEADY, SHAKEN = (0.4, 0.2, 0.5, 0.3, 0.5, 0.3), (1.6, 0.8, 1.5, -0.3, 1.5, -0.3)


def texts(first, last):
    rows = [(label, "p", i, p) for label, ps in (("dense", [0.8] * 6), ("Drop-4M", [first] * 3 + [last] * 3))
            for i, p in enumerate(ps)]  # fmt: skip
    return case_study.say(pd.DataFrame(rows, columns=["label", "prompt_id", "position", "p_dense"]))


def steps(rise, excess, history, outside="none", judged=3):
    values = {"decoding.rise": around(rise), "decoding.excess": around(excess), "decoding.rise_direct": around(1.0),
              "decoding.history": around(history), "decoding.outside": outside, "decoding.law_models": judged,
              "decoding.law_holds": judged - (outside != "none")}  # fmt: skip
    return decoding.say(made(values, C12={"rise": around(rise), "excess": around(excess)}))


def one_token(arithmetic, brackets, generation, forced, prefix="skills"):
    values = {f"{prefix}.models": 3, f"{prefix}.choice": around(0.5), f"{prefix}.generation": around(generation),
              f"{prefix}.free": around((arithmetic + brackets) / 2), f"{prefix}.forced": around(forced)}  # fmt: skip
    for part, free in (("", (arithmetic + brackets) / 2), (".arithmetic", arithmetic), (".brackets", brackets)):
        values |= {f"{prefix}{part}.free": around(free), f"{prefix}{part}.dense.free": around(0.7),
                   f"{prefix}{part}.minus_generation": around(free - generation),
                   f"{prefix}{part}.minus_forced": around(free - forced)}  # fmt: skip
    return made(values)


def in_one_token(*shares):
    return {"skills": skills.say(one_token(*shares), "skills")}


def alone(arithmetic, brackets):
    return {"skills": skills.say_alone(one_token(arithmetic, brackets, 0.5, 0.5), "skills")}


def paired_of(items, passages, apart=1, few=2):
    counts = {"items": items, "passages": passages, "tests": 6, "apart": apart, "few": few}
    found = made({f"dropping.paired.{name}": number for name, number in counts.items()})
    return {"paired": scores.say_paired(found, "dropping")}


def same_memory(gap, ratio=3.0, common=5.0, own=0.002, in_64=0.09, four="RTN-4 g64", similar="Wanda 50%", matched=True):
    """4-bit models keep ``gap`` more; the others are ``ratio`` times as far at the first token."""
    values = {"quant.difference": around(gap) if similar != "none" != four else (None, None, None),
              "quant.kept": around(0.5 + gap / 2), "quant.memory": 0.42, "quant.most": 0.68, "quant.four": four,
              "quant.similar": similar, "quant.chosen": similar, "quant.undefined": "Nothing is written.",
              "quant.kl_ratio": around(ratio), "quant.common_gap": around(common), "quant.tokens": 24,
              "quant.four.kl": around(0.1), "quant.similar.kl": around(0.1 * ratio),
              "quant.four.common": around(10), "quant.similar.common": around(10 - common),
              "quant.matched": "SparseGPT 79%" if matched else "none", "quant.matched.beside": "RTN-4 g64",
              "quant.matched.memory": 0.42, "quant.matched.beside_memory": 0.42,
              "quant.matched.kept": around(0.5 - gap / 2), "quant.matched.beside_kept": around(0.5 + gap / 2),
              "quant.matched.difference": around(gap), "quant.grid.dense": 0.47,
              "quant.grid.blocks.own": own, "quant.grid.blocks.mixed": 0.08, "quant.grid.beside.own": in_64,
              "quant.grid.beside.mixed": 0.09, "quant.grid.beside.label": "RTN-4 g64"}  # fmt: skip
    return quantization.say(made(values, C13=around(gap)))


BETTER = lambda: same_memory(0.6)  # noqa: E731
WORSE = lambda: same_memory(-0.6, 0.3, -5, own=0.075)  # noqa: E731


def predicted(rho, best, gap, choice_gap, wrong, holds, side, lost, methods=9, threshold=0.8):
    values = {f"collapse.rho.{name}": around(rho) for name in collapse.NAMES}
    values |= {"collapse.best": best, "collapse.best_gap": around(gap), "collapse.choice_gap": around(choice_gap),
               "collapse.threshold": threshold, "collapse.threshold_lowest": 0.7, "collapse.threshold_highest": 0.9,
               "collapse.wrong": around(wrong), "collapse.constant": around(0.4), "collapse.methods": methods,
               "collapse.additive": holds, "collapse.additive_side": side, "collapse.additive_most": 32,
               "collapse.additive_sure": "9 of 14",
               "collapse.choice_lost": around(lost, 0.02)}  # fmt: skip
    for end in ("least", "largest"):
        values |= {f"collapse.additive_{end}": around(1.0), f"collapse.additive_{end}_of": f"the {end}"}
    return collapse.say(made(values, C14=around(rho)))


def guided(kept, faster, plain_least=0.8, undefined=(), option="RTN-4 g64", twin=0.05):
    """Every task type keeps ``kept``; models that drop or remove something are ``faster`` times as fast as dense,
    which differs from itself by ``twin`` at most."""
    values = {"guide.floor": "90%", "guide.models": 6, "guide.plain": 1.0, "guide.plain_least": plain_least,
              "guide.plain_least_of": "Drop-4B" if plain_least < 1 else "dense"}  # fmt: skip
    for task in guide.TITLES:
        gone = task in undefined
        named = option if kept - 0.02 >= 0.9 and not gone else "none"
        values |= {f"guide.{task}.option": named, f"guide.{task}.nearest": "none" if gone else option,
                   f"guide.{task}.kept": (None,) * 3 if gone else around(kept, 0.02),
                   f"guide.{task}.share": 0.42, f"guide.{task}.plain_share": 1.0}  # fmt: skip
    values["guide.speed.twin"] = around(1.0, twin)
    for kind in guide.KINDS:
        values |= {f"guide.speed.{kind}.of": "Drop-4B", f"guide.speed.{kind}.faster": around(faster)}
    return guide.say(made(values))


FORETOLD = (0.9, "kl_dense_pruned", 0.3, -0.3, 0.1, 4, -1, 0.4)
UNFORETOLD = (0.3, "var_r", 0.3, 0.3, 0.6, 8, 1, 0.0)


def brought_back(trained, plain, gone, closed=None, gap=0.2, lost=0.6):
    """With and without training; ``gone``: of the KL by calibration and by the best; ``closed``: by the linear map."""
    closed = (gone[1], plain) if closed is None else closed
    values = {"recovery.bases": "Drop-2M", "recovery.first": "Drop-2M", "recovery.lost": around(lost),
              "recovery.with": around(trained), "recovery.without": around(plain),
              "recovery.with.chosen": "LoRA 8", "recovery.without.chosen": "linear map",
              "recovery.rungs": "temperature,linear,lora", "recovery.text.count": 1,
              "recovery.text.label.0": "Wanda 50%", "recovery.text.gap.0": around(gap)}  # fmt: skip
    shares = {"temperature": (gone[0], 0.0), "linear": closed, "lora": (gone[1], trained)}
    for name, (kl_gone, back) in shares.items():
        values |= {f"recovery.title.{name}": f"the {name}", f"recovery.kl_gone.{name}": around(kl_gone),
                   f"recovery.regained.{name}": around(back)}  # fmt: skip
    return recovery.say(made(values, C15={"with training": around(trained), "without training": around(plain)}))


RESTORED = lambda: brought_back(0.8, 0.2, (0.1, 0.8), (0.5, 0.3))  # noqa: E731
NOT_RESTORED = lambda: brought_back(0.3, 0.7, (0.7, 0.3), (-0.3, -0.2), gap=-0.2)  # noqa: E731


def chosen(gap, ratio=0.5, choice=0.2, random=0.3, rho=0.7, early=5, more=5, again=0.9, seeds=1, draws=3):
    """A choice by KL against one by the cosine, on page.say's keys."""
    values = {
        "select.pair.gap": around(gap),
        "select.pair.kl": around(0.5),
        "select.pair.cosine": around(0.1),
        "select.pair.kl_ratio": around(ratio),
        "select.pair.choice_gap": around(choice),
        "select.pair.shared": 1,
        "select.count": 4,
        "select.all": 6,
        "select.more": more,
        "select.less": 6 - more,
        "select.surely_more": more - 1,
        "select.surely_less": 5 - more,
        "select.kl_all": 6,
        "select.kl_lower": 4,
        "select.kl_higher": 1,
        "select.draws": draws,
        "select.random.kept": around(0.1),
        "select.random.gap": around(random),
        "select.seeds": seeds,
        "select.undefined": "Nothing is written.",
    }
    for kind in ("attn", "mlp"):
        values |= {
            f"select.rho.{kind}.kl_dense_pruned": around(rho),
            f"select.rho.{kind}.again": again,
            f"select.furthest.{kind}": 22,
            f"select.furthest.{kind}.early": early,
        }
    return choosing.say(made(values))  # fmt: skip


def at_the_output():
    return chosen(0.4)


def in_the_stream():
    return chosen(-0.4, 1.5, -0.2, -0.3, early=-5, more=1, seeds=3)


CASES = {
    "restored": (RESTORED, NOT_RESTORED, "and training restores at least half of it", "does not hold here"),
    "calibration": (lambda: brought_back(0.8, 0.2, (0.1, 0.2)), lambda: brought_back(0.8, 0.2, (0.9, 0.95)),
                    "Most of the damage is none of calibration", "Most of the damage is one of calibration"),
    "needed": (RESTORED, NOT_RESTORED, "less than half comes back without", "more than half comes back without"),
    "linear": (RESTORED, NOT_RESTORED, "takes away 0.500 (0.450–0.550) of the KL and brings back",
               "makes the KL larger (share gone: −0.300 (−0.350 to −0.250)) and costs more"),
    "left": (RESTORED, lambda: brought_back(0.8, 0.2, (0.1, 0.3)), "Most of the KL can be taken away",
             "Most of the KL stays"),
    "follows": (RESTORED, lambda: brought_back(-0.3, 0.2, (0.1, 0.8), (0.5, 0.3)), "The generation score follows",
                "The generation score does not follow"),
    "calibration text": (RESTORED, NOT_RESTORED, "own samples keep more", "the other text keeps more"),
    "skill": (lambda: in_one_token(0.3, 0.2, 0.6, 0.6), lambda: in_one_token(1.0, 1.0, 0.6, 0.6),
              "Part of both skills is lost", "No loss of a skill is told apart"),
    "which skill": (lambda: in_one_token(0.3, 1.0, 0.6, 0.6), lambda: in_one_token(1.0, 0.3, 0.6, 0.6),
                    "one skill is lost, arithmetic", "one skill is lost, brackets"),
    "compounding needed": (lambda: in_one_token(0.3, 0.2, 0.6, 0.6), lambda: in_one_token(0.9, 0.9, 0.3, 0.6),
                           "compounding is not needed to explain", "The rest may be compounding"),
    "skill by skill": (lambda: in_one_token(0.3, 0.9, 0.6, 0.6), lambda: in_one_token(0.9, 0.3, 0.6, 0.6),
                       "less than generation in arithmetic and more than generation in brackets",
                       "more than generation in arithmetic and less than generation in brackets"),
    "next token": (lambda: in_one_token(0.3, 0.2, 0.6, 0.6), lambda: in_one_token(0.9, 0.8, 0.6, 0.1),
                   "more than one-token answers do", "less than one-token answers do"),
    "cannot compound": (lambda: alone(0.3, 1.0), lambda: alone(1.0, 1.0),
                        "cannot be compounding:", "nothing that could not be compounding"),
    "paired": (lambda: paired_of(36, 12), lambda: paired_of(12, 12), "trust the bootstrap", "trust it, as it is exact"),
    "same memory": (BETTER, WORSE, "buys more as 4-bit weights", "buys no more as 4-bit weights"),
    "matched": (BETTER, WORSE, "SparseGPT 79% keeps less than RTN-4", "SparseGPT 79% keeps more than RTN-4"),
    "first token": (BETTER, WORSE, "4-bit models are closer to", "4-bit models are further from"),
    "greedy": (BETTER, WORSE, "texts stay longer with", "texts leave the dense text earlier"),
    "grid": (BETTER, WORSE, "already lie on a 4-bit grid", "lie on no 4-bit grid"),
    "flattering": (lambda: same_memory(0.6, in_64=0.05), BETTER, "are flattering", "there the origin is no help"),
    "compounding": (lambda: steps(2, 0.5, 0.8), lambda: steps(0.8, -0.2, 0.2), "Errors compound", "do not compound"),
    "own text": (lambda: steps(2, 0.5, 0.8), lambda: steps(0.8, -0.2, 0.2), "larger than along", "smaller than along"),
    "free": (lambda: steps(2, 0.5, 0.8), lambda: steps(0.8, -0.2, 0.2), "that the texts differ", "models differ in"),
    "law": (lambda: steps(2, 0.5, 0.8), lambda: steps(2, 0.5, 0.8, "Drop-8A"), "for all 3 models", "fails for Drop-8A"),
    "foretold": (lambda: predicted(*FORETOLD), lambda: predicted(*UNFORETOLD),
                 "uses ranks compressed models", "does not rank compressed models"),
    "none better": (lambda: predicted(*FORETOLD), lambda: predicted(*UNFORETOLD),
                    "No other statistic", "Variance of Δz under p² has a higher one"),
    "choice ranks": (lambda: predicted(*FORETOLD), lambda: predicted(*UNFORETOLD),
                     "worse than KL does", "better than KL does"),
    "parted": (lambda: predicted(*FORETOLD), lambda: predicted(*UNFORETOLD),
               "fewer than without any measurement", "more than without any measurement"),
    "added": (lambda: predicted(*FORETOLD), lambda: predicted(*UNFORETOLD), "do more harm than", "do less harm than"),
    "passed": (lambda: predicted(*FORETOLD), lambda: predicted(*UNFORETOLD),
               "more than the claim's 5%", "less than the claim's 5%"),
    "named": (lambda: guided(0.97, 1.3), lambda: guided(0.5, 0.8), "one keeps 90% of the dense score or more for",
              "None does for retrieval, choosing"),
    "smallest": (lambda: guided(0.97, 1.3), lambda: guided(0.5, 0.8),
                 "For short generation the smallest model that keeps", "For short generation no model keeps"),
    "faster": (lambda: guided(0.97, 1.3), lambda: guided(0.5, 0.8), "dropped sublayers write faster",
               "dropped sublayers write slower"),
    "plain": (lambda: guided(0.97, 1.3), lambda: guided(0.97, 1.3, plain_least=1.0),
              "The smallest as plain floats is Drop-4B", "As plain floats no model is smaller"),
    "chosen": (at_the_output, in_the_stream, "the output leaves more of", "the output leaves less of"),
    "chosen elsewhere": (at_the_output, in_the_stream, "has a lower KL than", "has a higher KL than"),
    "chosen for choice": (at_the_output, in_the_stream, "choice it keeps more:", "choice it keeps less:"),
    "drawn": (at_the_output, in_the_stream, "less than those chosen by the KL", "more than those chosen by the KL"),
    "ranked": (at_the_output, in_the_stream, "5 places too early", "5 places too late"),
    "at all numbers": (at_the_output, in_the_stream, "keeps more at 5 of 6", "keeps more at 1 of 6"),
    "on which text": (at_the_output, in_the_stream, "on one calibration text", "on 3 calibration texts"),
    "theorem": (lambda: theorem(1.1, 1.1), lambda: theorem(3, 3), "predicts within", "does not predict"),
    "head": (lambda: head(0.6, 0.7), lambda: head(1.4, 1.3), "The head shrinks", "The head does not shrink"),
    "gain": (lambda: head(0.6, 0.7), lambda: head(1.4, 1.3), "less than the state", "more than the state"),
    "profile": (lambda: head(0.6, 0.7), lambda: head(1.4, 1.3), "ratio better for", "ratio no better for"),
    "tail": (lambda: layers(0.3, 0.8, 0.7, 2, 0.3), lambda: layers(-0.3, 0.2, 0.3, 0.5, 0.7),
             "lies below that of z:", "does not lie below that of z:"),
    "amplifies": (lambda: layers(0.3, 0.8, 0.7, 2, 0.3), lambda: layers(-0.3, 0.2, 0.3, 0.5, 0.7),
                  "at more than half of the points", "at less than half of the points"),
    "temperature": (lambda: layers(0.3, 0.8, 0.7, 2, 0.3), lambda: layers(-0.3, 0.2, 0.3, 0.5, 0.7),
                    "1 − cos p rises", "1 − cos p falls"),
    "confident": (sorted_by_cooling, reversed_by_cooling,
                  "at fewer than half where it is above 0.9", "at most points where the dense model's largest "
                  "probability is above 0.9"),
    "cooling": (sorted_by_cooling, reversed_by_cooling, "cooling sorts the points", "cooling does not sort"),
    "carried": (sorted_by_cooling, reversed_by_cooling, "Most of that mean belongs", "Less than half of that mean"),
    "colder": (sorted_by_cooling, reversed_by_cooling, "all tokens rises", "all tokens falls"),
    "counted": (sorted_by_cooling, reversed_by_cooling, "it is smaller at most points", "it is larger at most points"),
    "bounded": (sorted_by_cooling, reversed_by_cooling, "Both bounds hold", "Points above a bound"),
    "absolute": (sorted_by_cooling, reversed_by_cooling, "no perturbation is amplified", "some perturbations are"),
    "peak": (sorted_by_cooling, reversed_by_cooling, "below T = 1", "above T = 1"),
    "proven": (sorted_by_cooling, reversed_by_cooling, "hold at every point and every", "of the points or more at"),
    "cold": (sorted_by_cooling, reversed_by_cooling, "further off cold than hot", "further off hot than cold"),
    "tracks": (lambda: at_one_layer(1.2, 1.2), lambda: at_one_layer(4, 4),
               "Theorem 2 tracks", "Theorem 2 does not track"),
    "memory": (lambda: memory((1.2, 3), (0.1, 0.3)), lambda: memory((1.2, 1.25), (0.1, 0.3)),
               "Memory alone does not say", "No two methods within"),
    "error": (lambda: memory((1.2, 3), (0.3, 0.1)), lambda: memory((1.2, 3), (0.1, 0.3)),
              "does not promise a lower perplexity", "has the lower perplexity"),
    "best": (lambda: memory((1.2, 3), (0.1, 0.3)), lambda: memory((3, 1.2), (0.1, 0.3)),
               "Alpha 50% keeps", "Beta 50% keeps"),
    "choice": (lambda: two_parts(0.8, 0.2), lambda: two_parts(0.2, 0.8),
               "Multiple choice survives", "Multiple choice does not survive"),
    "generation": (lambda: two_parts(0.8, 0.2), lambda: two_parts(0.2, 0.8),
                   "generation collapses", "generation does not collapse"),
    "difference": (lambda: two_parts(0.8, 0.2), lambda: two_parts(0.2, 0.8), "keeps more than", "keeps less than"),
    "step": (lambda: where(0.1, 0.4, 0.8, 0.2), lambda: where(0.4, 0.1, 0.2, 0.8),
             "between the logits and the probabilities", "between the hidden state and the logits"),
    "asked": (lambda: where(0.1, 0.4, 0.8, 0.2), lambda: where(0.4, 0.1, 0.2, 0.8),
              "a choice keeps more than", "a choice keeps less than"),
    "proxy": (lambda: proxy(0.5), lambda: proxy(0.0), "cannot stand for writing", "lets no model pass here"),
    "retrieval": (lambda: embedding(0.97, 0.8), lambda: embedding(0.3, 0.1),
               "The encoder survives", "does not survive"),
    "attention": (lambda: embedding(0.97, 0.8), lambda: embedding(0.3, 0.1),
               "does not need the dropped", "needs the dropped"),
    "options": (lambda: among_options(*STEADY), lambda: among_options(*SHAKEN),
                "the options move less than everything", "the options do not move less than everything"),
    "no tail": (lambda: among_options(*STEADY), lambda: among_options(*SHAKEN),
                "The letters lie beside the bulk", "The letters are no tail"),
    "control": (lambda: among_options(*STEADY), lambda: among_options(*SHAKEN),
                "It is not the small number of tokens alone", "Options are not what makes it steady"),
    "decision": (lambda: among_options(*STEADY), lambda: among_options(*SHAKEN),
                "is steadier than the first token", "is less steady than the first token"),
    "option texts": (lambda: among_options(*STEADY), lambda: among_options(*SHAKEN),
                "As whole texts, too, the options move less", "As whole texts the options move more"),
    "margin": (lambda: among_options(*STEADY), lambda: among_options(*SHAKEN),
                "dense model was close to another choice", "choice was clear"),
    "strays": (lambda: texts(0.1, 0.1), lambda: texts(0.7, 0.7), "Less than half of that has", "No other model writes"),
    "loops": (lambda: texts(0.2, 0.9), lambda: texts(0.2, 0.2),
               "Drop-4M write what becomes likelier", "No text becomes"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_reversed_finding_is_not_claimed(name):
    run, reverse, claimed, denied = CASES[name]
    said, otherwise = (" ".join(make().values()) for make in (run, reverse))
    assert claimed in said and denied not in said, said
    assert denied in otherwise and claimed not in otherwise, otherwise


def test_what_a_run_does_not_decide_is_said_to_be_open():
    assert "is not decided" in theorem(2, 2)["answer"]
    assert "A single prompt has no interval" in steps(1, 0.0, 0.5, judged=0)["law"]
    assert "Whether errors compound" in steps(1, 0.0, 0.5)["answer"] and "mixes both" in steps(1, 0.0, 0.5)["free"]
    assert "the lenses disagree" in layers(0.0, 0.8, 0.5, 1, 0.5)["amplifies"]
    assert "is not told apart" in layers(0.0, 0.8, 0.5, 1, 0.5)["temperature"]
    assert "Whether multiple choice survives is not decided" in two_parts(0.5, 0.5)["answer"]
    assert "Whether multiple choice can stand" in proxy(0.05)["proxy"]
    assert "which loses more is not told apart" in where(0.10, 0.15, 0.5, 0.5)["where"]  # their intervals overlap
    assert "no step from one to the next" in where(0.0, -0.2, 0.5, 0.5)["where"]
    assert "whether a choice keeps more than a text is not decided" in where(0.0, 0.1, 0.5, 0.5)["where"]
    undefined = (None, None, None)
    gone = {"dropping.choice": around(0.8), "dropping.generation": undefined, "dropping.models": 4,
            "dropping.difference_uncorrected": undefined, "dropping.undefined": "Nothing is written."}  # fmt: skip
    said = scores.say(made(gone), "dropping", "C8")
    assert said["kept"].endswith("multiple choice keeps 0.800 (0.750–0.850) of what it has above guessing.")
    assert said["answer"] == "This run cannot tell. Nothing is written." and said["uncorrected"] == ""
    open_options = " ".join(among_options(1.0, 0.5, 1.0, 0.0, 1.0, 0.0).values())
    for said in (
        "Whether the letters move less",
        "Whether the letters are most of the",
        "are not told apart from as",
        "the first token are not told apart",
        "not told apart from the next token",
        "at small dense margins is not decided",
    ):
        assert said in open_options  # fmt: skip
    nothing = made({"proxy.lost": (None, None, None)})
    assert sparsity.say(nothing)["proxy"].startswith("No number decides this run")


def test_what_one_token_does_not_decide_is_said_to_be_open():
    said = in_one_token(0.5, 0.5, 0.5, 0.5)["skills"]
    assert "which is not told apart: these numbers do not ask for compounding" in said
    assert "not told apart from one-token answers" in said and "Skill by skill" not in said
    undefined, gone = (None, None, None), one_token(0.3, 0.3, 0.5, 0.5)
    gone.values["skills.free"] = entry(undefined)
    assert skills.say(gone) == skills.say_alone(gone, "skills")
    assert skills.say(gone).startswith("What is lost in one token this run cannot say")
    partly = one_token(0.3, 0.3, 0.5, 0.5)
    for key in ("skills.arithmetic.free", "skills.generation", "skills.minus_generation"):
        partly.values[key] = entry(undefined)
    said = skills.say(partly)
    assert "one skill is lost, brackets" in said and "arithmetic an undefined share" in said
    assert said.endswith("The dense model writes no answers that could be compared.") and "not defined" not in said
    partly.values["skills.models"] = entry(0)
    partly.values["skills.free"] = entry(undefined)
    assert skills.say(partly) == "This run has no pruned model to ask for one token."
    assert "no other test" in paired_of(3, 1)["paired"]
    assert "hold a flip" not in paired_of(36, 12, few=0)["paired"] and "hold a flip" in paired_of(36, 12)["paired"]


def test_memory_that_is_not_shared_decides_nothing():
    said = same_memory(0.6, similar="none")
    assert said["answer"].startswith("This run cannot tell. It has no pruned model of similar memory, 0.42 to 0.68")
    assert "4-bit weights" not in said["answer"]
    said = same_memory(0.6, four="none")
    assert said["answer"] == "This run cannot tell. It has no 4-bit model."
    said = same_memory(0.0, 1.0, 0.0, matched=False)
    assert "is not decided" in said["answer"] and said["matched"] == ""
    assert "not clearly closer" in said["steps"] and "about as early" in said["steps"]
    assert "cannot be told from" in same_memory(0.0)["matched"]


def test_what_a_run_does_not_foretell_is_said_to_be_open():
    said = predicted(0.8, "var_r", 0.0, 0.0, 0.4, 32, 0, 0.05)
    assert "is not decided: rank correlation" in said["answer"] and "not told apart from 0" in said["best"]
    assert "is not told apart from KL" in said["choice"] and "as many as without" in said["threshold"]
    assert (
        "the damage adds up. Its whole interval over texts lies within that factor for 9 of 14 drops."
        in said["additive"]
    )
    assert "not told apart from the claim's 5%" in said["proxy"]
    assert "is told apart from 0" in predicted(0.8, "var_r", 0.3, 0, 0.4, 1, -1, 0.05)["best"]
    assert "even for the smallest drops" in predicted(0.8, "var_r", 0.3, 0, 0.4, 0, -1, 0.05)["additive"]
    none = (None, None, None)
    few = {f"collapse.rho.{name}": (0.9, None, None) for name in collapse.NAMES}
    few |= {"collapse.best": "kl_dense_pruned", "collapse.best_gap": none, "collapse.choice_gap": none,
            "collapse.threshold": None, "collapse.methods": 2, "collapse.additive": 4, "collapse.additive_side": 0,
            "collapse.additive_most": 4, "collapse.additive_sure": "1 of 3",
            "collapse.additive_least": (0.9, None, None), "collapse.additive_largest": (1.1, None, None),
            "collapse.choice_lost": none}  # fmt: skip
    said = collapse.say(made(few, C14=(0.9, float("nan"), float("nan"))))
    assert "fewer than 3 give no interval" in said["why"] and "is not decided" in said["answer"]
    assert "There is no threshold" in said["threshold"] and "says nothing" in said["proxy"]
    gone = few | {f"collapse.rho.{name}": none for name in collapse.NAMES} | {"collapse.best": "none"}
    said = collapse.say(made(gone, C14=(float("nan"),) * 3))
    assert said["answer"].startswith("This run cannot tell") and said["best"] == ""


def test_what_the_guide_cannot_say_is_said_to_be_open():
    said = guided(0.97, 1.0, undefined=("choice", "short"))
    assert "are not told apart in speed" in said["speed"] and "write faster" not in said["answer"]
    assert "Nothing can be said of choosing among options and short generation." in said["answer"]
    assert said["short"].startswith("For short generation this run says nothing")
    assert "None does" not in said["answer"]
    found = made({f"guide.speed.{kind}.faster": (1.2, None, None) for kind in guide.KINDS} | {"guide.plain": None}
                 | {"guide.plain_least": 1.0, "guide.plain_least_of": "dense"})  # fmt: skip
    assert guide._speed(found) == "No speed has an interval in this run."
    assert guide._size(found).startswith("This run has no model with removed or quantized weights.")


@pytest.mark.parametrize("faster", [1.2, 0.8])
def test_a_speed_no_further_off_than_the_dense_models_from_itself_is_not_told_apart(faster):
    assert f"write {'faster' if faster > 1 else 'slower'}" in guided(0.97, faster, twin=0.15)["speed"]
    assert "write" not in guided(0.97, faster, twin=0.25)["speed"]


def test_a_choice_that_decides_nothing_is_said_to_be_open():
    said = chosen(0.0, 1.0, 0.0, 0.0, early=0)
    assert (
        said["answer"].startswith("Not decided: with 4 MLP sublayers dropped") and "is not told apart" in said["output"]
    )
    assert "the two are not told apart" in said["choice"] and "not told apart from those chosen" in said["random"]
    assert said["ranks"].count("both rankings are the same") == 2 and "places too" not in said["ranks"]
    none = (None, None, None)
    said = chosen(0.4, draws=0, again=None)
    assert said["random"] == "Random drops give no comparison in this run." and "one calibration text" in said["again"]
    values = {"select.pair.gap": none, "select.pair.kl_ratio": none, "select.pair.choice_gap": none, "select.all": 0,
              "select.more": 0, "select.less": 0, "select.surely_more": 0, "select.surely_less": 0, "select.draws": 2,
              "select.random.gap": none, "select.seeds": 1, "select.undefined": "Nothing is written.",
              "select.pair.shared": 1, "select.count": 4}  # fmt: skip
    for kind in ("attn", "mlp"):
        values |= {f"select.rho.{kind}.kl_dense_pruned": none, f"select.rho.{kind}.again": None}
        values |= {f"select.furthest.{kind}": None, f"select.furthest.{kind}.early": 0}
    said = choosing.say(made(values))
    assert said["answer"].startswith("This run cannot tell") and "Nothing is written." in said["answer"]
    assert "not defined" in said["choice"] and said["ranks"].count("is not defined") == 2
    assert said["all"].startswith("For no number of sublayers")


def test_the_first_layer_is_named_where_it_decides():
    assert (
        "That hangs on the first layer" in theorem(3, 1.2)["answer"] and "it would predict" in theorem(3, 1.2)["answer"]
    )
    assert "The first layer does not decide that" in theorem(3, 3)["answer"]


def test_what_a_sweep_of_temperatures_does_not_decide_is_said_to_be_open():
    said = along_temperature(0.5, 1, 1, 1, 0.5, 0.01, 0, 1, 1.0, 3)
    assert "at a share not told apart from half where it is 0.5 to 0.9" in said["answer"]
    assert "below 0.2" not in said["answer"]  # no such points in this run
    assert "is not told apart from what it was where the top token is kept" in said["answer"]
    assert "cooling does not sort" in said["answer"] and "cooling sorts" not in said["answer"]
    assert "not told apart from what it was at T = 1" in said["mean"] and "about as many" in said["mean"]
    assert "not told apart from 1" in said["peaks"] and "about as far as hot" in said["theorems"]
    assert ", but it is smaller at most points" in sorted_by_cooling()["mean"]


def test_groups_without_points_are_not_spoken_of():
    nothing = {f"heat.normed.{key}.share": None for key in temperature.KEYS.values()}
    nothing |= {f"heat.{top}.low_ratio": None for top in ("kept", "overtaken")} | {"heat.low": 0.1}
    found = made(nothing)
    assert "No group of points is large enough" in temperature._angle(found)
    assert temperature._sorts(found).count("is not defined where") == 2


def test_mean_and_share_may_disagree_about_temperature():
    said = layers(0.3, 0.8, 0.7, 1.9, 0.33)["temperature"]
    assert "rises" in said and "but at most points it is smaller" in said


def test_lists_read_as_lists():
    assert [listed(list(names)) for names in ("a", "ab", "abc")] == ["a", "a and b", "a, b and c"]


def test_what_repairs_do_not_decide_is_said_to_be_open():
    said = brought_back(0.5, 0.5, (0.5, 0.5), (0.0, 0.0), gap=0.0)
    assert "is not decided. The best repair with gradient steps brings back 0.500" in said["answer"]
    assert said["why"].count("is not decided") == 2 and "is not decided" in said["calibration"]
    assert "by nothing that can be told from 0" in said["closed"] and "is not told apart from nothing" in said["closed"]
    assert said["left"].count("is not decided") == 2 and said["text"].startswith("No difference between the texts")
    nothing = (None, None, None)
    values = {"recovery.bases": "Drop-2M", "recovery.lost": around(0.0), "recovery.rungs": "", "recovery.text.count": 0}
    gone = values | {"recovery.with": nothing, "recovery.without": nothing}
    said = recovery.say(made(gone))
    assert said["answer"].startswith("This run cannot tell. What Drop-2M lost of the generation score cannot be told")
    assert said["calibration"].startswith("No repair in this run") and said["closed"].startswith("No linear map")
    assert said["left"] == "No KL is there to be taken away." and "is not defined" in said["text"]
