"""Items asked of models with weights removed; what is asked is shared with other chapters."""

from collections.abc import Sequence

import pandas as pd

from prunelib.methods import parse_list
from prunelib.runs.run import Run
from prunelib.runs.zoo import scores

KINDS = ("sparsify",)
"""Kinds of methods that this chapter compares."""


def chosen(run: Run, specs: str = "") -> list[str]:
    """The notebook's comma-separated ``specs``, or the profile's."""
    return [method.spec for method in parse_list(specs)] or list(run.settings.sparse)


def answers(run: Run, specs: Sequence[str]) -> pd.DataFrame:
    """Every item asked of the dense model and of each sparse one, in all read-outs (zoo.scores)."""
    return scores.answers(run, specs)


def all_answers(run: Run, specs: Sequence[str]) -> pd.DataFrame:
    """The same with the profile's drops too, for what is said over all compressed models."""
    return scores.answers(run, [*scores.drop_specs(run), *specs])
