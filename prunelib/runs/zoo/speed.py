"""How fast the models of a run write: each in turns with the dense one (measure.speed), a table a model."""

from collections.abc import Sequence

import pandas as pd

from prunelib.files import sha256
from prunelib.methods import parse
from prunelib.methods.base import JOIN
from prunelib.paths import data_dir
from prunelib.runs.progress import report_progress
from prunelib.runs.run import Run
from prunelib.runs.zoo.models import compressed_model

PROMPTS = 4
"""Prompts of the batch, from the top of the project's own."""


def speed(run: Run, specs: Sequence[str]) -> pd.DataFrame:
    """A row a repeat and model: the columns of measure.speed.alternating, ``spec`` and ``label``.

    The first model is the dense one in turns with itself: how far from 1 a ratio can be by chance. Unlike all other
    tables of a run these hold times, which no other run gives again to the bit.
    """
    settings, parts = run.settings, []
    sizes = [PROMPTS, settings.speed_tokens, settings.speed_repeats]
    key = {"prompts": sha256(data_dir() / "prompts.jsonl"), "sizes": sizes, "of_seed": run.seed}
    wanted = list(dict.fromkeys(("dense", *specs)))
    for number, spec in enumerate(wanted):

        def compute(spec=spec) -> pd.DataFrame:
            from prunelib.engine.text import load_prompts
            from prunelib.measure.speed import alternating

            prompts = [run.lm.encode_one(prompt.text) for prompt in load_prompts(limit=PROMPTS)]
            made = compressed_model(run, spec)
            return alternating(run.lm, lambda: made.applied(run.lm), prompts, sizes[1], sizes[2])

        about = {"spec": spec, "calibration": run.settings.calibration_key}
        found = run.table(f"speed_{spec.replace(':', '-').replace(JOIN, '_')}", key | about, compute)
        report_progress(f"speed of {len(wanted)} models", number + 1, len(wanted))
        parts.append(found.assign(spec=spec, label=parse(spec).label))
    return pd.concat(parts, ignore_index=True)
