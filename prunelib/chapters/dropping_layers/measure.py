"""Items and texts asked of models with sublayers dropped; what is asked is shared with other chapters."""

from collections.abc import Sequence

import pandas as pd

from prunelib.methods import parse_list
from prunelib.runs.run import Run
from prunelib.runs.zoo import scores
from prunelib.runs.zoo import skills as zoo_skills
from prunelib.runs.zoo import spaces as zoo_spaces

KINDS = ("drop",)
"""Kinds of methods that this chapter compares."""


def chosen(run: Run, specs: str = "") -> list[str]:
    """The notebook's comma-separated ``specs``, or the profile's drops."""
    return [method.spec for method in parse_list(specs)] or scores.drop_specs(run)


def answers(run: Run, specs: Sequence[str]) -> pd.DataFrame:
    """Every item asked of the dense model and of each drop, in all read-outs (zoo.scores)."""
    return scores.answers(run, specs)


def texts(run: Run, specs: Sequence[str]) -> pd.DataFrame:
    """Longer texts by the dense model and by each drop (zoo.scores)."""
    return scores.texts(run, specs)


def spaces(run: Run, specs: Sequence[str]) -> pd.DataFrame:
    """Last state, logits and probabilities of each drop beside the dense model's, on its text (zoo.spaces)."""
    return zoo_spaces.spaces(run, specs)


def skills(run: Run, specs: Sequence[str]) -> pd.DataFrame:
    """Answers of one token by the dense model and by each drop (zoo.skills)."""
    return zoo_skills.skills(run, specs)
