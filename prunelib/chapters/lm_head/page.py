"""What the page on the LM head records."""

import numpy as np
import pandas as pd

from prunelib.chapters.chapter import Chapter
from prunelib.chapters.lm_head import measure
from prunelib.measure.stats import bootstrap, share, smooth
from prunelib.runs.zoo.traces import layerwise, middle_layers


def record(ch: Chapter) -> pd.DataFrame:
    """Record the values and claim C5 of the LM-head chapter; returns the claim as a table."""
    ratios = measure.ratios(ch)
    table = measure.attenuation(ch)
    ch.claim("C5", *bootstrap(ratios, lambda f: np.median(f["ratio"]), seed=ch.seed))
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
    return ch.claims_table()


def _record_offset(ch: Chapter) -> None:
    z = layerwise(ch).z
    z = z[z["layer"].isin(middle_layers(ch.model["n_layers"]))]
    for lens, part in z.groupby("lens"):
        energy = ch.model["vocab_size"] * part["mean_z"] ** 2 / part["norm_z"] ** 2
        ch.value(f"head.{lens}.offset_energy", *share(energy, part["prompt_id"]), fmt=".1%")

        def times(f: pd.DataFrame) -> float:
            return float(f["one_minus_cos_z_centred"].mean() / f["one_minus_cos_z"].mean())

        ch.value(f"head.{lens}.centred_times", *smooth(part, times), fmt=".2f")
