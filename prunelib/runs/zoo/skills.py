"""Answers of one token by the models of a run: small sums and differences, closing brackets (tasks.skills)."""

import hashlib
from collections.abc import Sequence

import pandas as pd

from prunelib.runs.run import Run
from prunelib.runs.zoo.scores import each_model


def skills(run: Run, specs: Sequence[str]) -> pd.DataFrame:
    """Every item of both skills asked of the dense model and of each of ``specs``, a row an item and model.

    Columns of tasks.skills.answers with ``spec, label, seed``.
    """
    from prunelib.tasks.skills import answers, items

    asked = items(run.settings.skill_items, run.seed)
    key = {"skills": hashlib.sha256(repr(asked).encode()).hexdigest(), "skill_items": run.settings.skill_items}

    def ask(_spec: str) -> pd.DataFrame:
        return answers(run.lm, asked)

    wanted = [("dense", run.seed), *((spec, run.seed) for spec in dict.fromkeys(specs))]
    return each_model(run, "skills", wanted, lambda _spec: key, ask)
