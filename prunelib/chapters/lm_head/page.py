"""What the page on the LM head records."""

import numpy as np
import pandas as pd

from prunelib.chapters.chapter import Chapter
from prunelib.chapters.lm_head import measure
from prunelib.measure.stats import bootstrap, share, smooth
from prunelib.report.sentences import Found, by_side, by_verdict
from prunelib.runs.zoo.traces import layerwise, middle_layers

KINDS = {"attn": "attention", "mlp": "the MLP"}


def record(ch: Chapter) -> None:
    """Record the values and claim C5 of the LM-head chapter."""
    ratios = measure.ratios(ch)
    table = measure.attenuation(ch)
    over = {"prompts": ratios["prompt_id"].nunique(), "points": len(ratios)}
    ch.claim("C5", *bootstrap(ratios, lambda f: np.median(f["ratio"]), seed=ch.seed), over=over)
    for sublayer, part in ratios.groupby("sublayer"):
        ch.value(f"head.{sublayer}.ratio", *bootstrap(part, lambda f: np.median(f["ratio"]), seed=ch.seed))
        ch.value(f"head.{sublayer}.share_below_1", *share(part["ratio"] < 1, part["prompt_id"]), fmt=".1%")
        layers = part.groupby("layer")["ratio"].median()
        ch.value(f"head.{sublayer}.layers_below_1", int((layers < 1).sum()), exact=True, fmt="d")
        wide = table[table["sublayer"] == sublayer].pivot(index="layer", columns="kind", values="median")
        error = np.abs(np.log(wide["profile"] / wide["measured"]))
        ch.value(f"head.{sublayer}.profile_error", float(np.exp(error.median()) - 1), exact=True, fmt=".1%")
        error = np.abs(np.log(wide["isotropic"] / wide["measured"]))
        ch.value(f"head.{sublayer}.isotropic_error", float(np.exp(error.median()) - 1), exact=True, fmt=".1%")
        for factor in ("gain", "sine"):
            median = bootstrap(part, lambda f, factor=factor: np.median(f[factor]), seed=ch.seed)
            ch.value(f"head.{sublayer}.{factor}", *median, fmt=".2f")
        ch.value(f"head.{sublayer}.layers", len(layers), exact=True, fmt="d")
    head = measure.spectrum(ch)
    power = head["sigma"] ** 2
    ch.value("head.top_share", float(power[0] / power.sum()), exact=True, fmt=".1%")
    ch.value("head.top_offset_share", float(head["offset_share"][0]), exact=True, fmt=".1%")
    ch.value("head.top_over_rms", float(head["sigma"][0] / np.sqrt(power.mean())), exact=True, fmt=".2f")
    top = measure.energy_profiles(ch)
    top = top[top["index"] == 0]
    for vector in ("h", "dh"):
        mean = share(top[f"energy_{vector}"], top["prompt_id"])
        ch.value(f"head.top_energy_{vector}", *mean, fmt=".2%")
    _record_offset(ch)
    ch.say(say(ch.found))


def say(found: Found) -> dict[str, str]:
    """What the page says of this run: does the head attenuate, and is it by gain or by angle?"""
    ratio = found.claim("C5")
    shares = " and ".join(
        f"in {found.show(f'head.{kind}.layers_below_1')} of {found.show(f'head.{kind}.layers')} layers for {name}"
        for kind, name in KINDS.items()
    )
    answer = by_verdict(
        found.verdict("C5"),
        f"The head shrinks the relative orthogonal part of a perturbation: the median ratio is {ratio}.",
        f"The head does not shrink the relative orthogonal part of a perturbation: the median ratio is {ratio}.",
        f"Whether the head shrinks the relative orthogonal part of a perturbation is not decided: the median ratio is "
        f"{ratio}.",
    )
    made_of = []
    for kind, name in KINDS.items():
        gain, sine = (found.bracketed(f"head.{kind}.{factor}") for factor in ("gain", "sine"))
        side = found.side(f"head.{kind}.gain", 1.0)
        said = by_side(side, "lengthens the change more than the state", "lengthens the change less than the state",
                       "lengthens change and state alike, as far as these prompts tell")  # fmt: skip
        made_of.append(f"for {name} the head {said} (median gain ratio {gain}; median sine of the angle {sine})")
    profile = []
    for kind, name in KINDS.items():
        errors = [found.number(f"head.{kind}.{how}_error") for how in ("profile", "isotropic")]
        better = "better" if errors[0] < errors[1] else "no better"
        profile.append(f"{better} for {name}")
    spectrum = (
        f"The measured energy profile predicts the ratio {profile[0]}, and {profile[1]}, than a perturbation "
        f"of random direction does."
    )
    return {
        "answer": f"{answer} By the median over tokens it does so {shares}.",
        "why": f"By the median over tokens the head attenuates {shares}.",
        "parts": f"{made_of[0][0].upper()}{made_of[0][1:]}; {made_of[1]}.",
        "spectrum": spectrum,
    }


def _record_offset(ch: Chapter) -> None:
    z = layerwise(ch).z
    z = z[z["layer"].isin(middle_layers(ch.model["n_layers"]))]
    for lens, part in z.groupby("lens"):
        energy = ch.model["vocab_size"] * part["mean_z"] ** 2 / part["norm_z"] ** 2
        ch.value(f"head.{lens}.offset_energy", *share(energy, part["prompt_id"]), fmt=".1%")

        def times(f: pd.DataFrame) -> float:
            return float(f["one_minus_cos_z_centred"].mean() / f["one_minus_cos_z"].mean())

        ch.value(f"head.{lens}.centred_times", *smooth(part, times), fmt=".2f")
