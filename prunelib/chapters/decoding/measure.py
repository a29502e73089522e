"""Texts of dense and compressed models, read by both, step by step; what chapters share is in the zoo."""

from collections.abc import Sequence

import pandas as pd

from prunelib.measure import rollouts
from prunelib.methods import parse, parse_list
from prunelib.runs.run import Run
from prunelib.runs.zoo import decoding
from prunelib.runs.zoo import skills as zoo_skills

PRUNED = ("drop", "sparsify")
"""Kinds of methods that claim C12 is about."""


def chosen(run: Run, specs: str = "") -> list[str]:
    """The notebook's comma-separated ``specs``, or the profile's."""
    return [method.spec for method in parse_list(specs)] or decoding.decoded_specs(run)


def steps(run: Run, specs: Sequence[str]) -> pd.DataFrame:
    """Three trajectories of every model (runs/zoo/decoding.py)."""
    return decoding.decoding(run, specs)


def control(run: Run) -> pd.DataFrame:
    """The dense model beside itself after one other token."""
    return decoding.changed(run)


def skills(run: Run, specs: Sequence[str]) -> pd.DataFrame:
    """Answers of one token by the dense model and by each of ``specs`` (zoo.skills)."""
    return zoo_skills.skills(run, specs)


def divergence(table: pd.DataFrame) -> pd.DataFrame:
    """Figure data: KL(dense ‖ pruned) of sampled texts at each step: ``label, pair, step, mean, lo, hi``."""
    return rollouts.by_step(table[table["draw"] > 0])


def survival(table: pd.DataFrame) -> pd.DataFrame:
    """Figure data: share of texts that still agree, seen and by the law (measure.rollouts), with ``label``."""
    parts = [rollouts.survival(some).assign(label=label) for label, some in table.groupby("label", sort=False)]
    return pd.concat(parts, ignore_index=True)


def causes(table: pd.DataFrame, control: pd.DataFrame) -> pd.DataFrame:
    """Figure data: parts of the free divergence of greedy texts: ``label, step, cause, mean, lo, hi``.

    The dense model after one other token has the label ``one token changed``; all of it is history.
    """
    greedy = table[table["draw"] == 0]
    parts = [rollouts.causes(some).assign(label=label) for label, some in greedy.groupby("label", sort=False)]
    changed = rollouts.by_step(control.assign(label="one token changed"))
    parts.append(changed[["label", "step", "mean", "lo", "hi"]].assign(cause="history"))
    return pd.concat(parts, ignore_index=True)


def pruned(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of models that have lost sublayers or weights; the others are quantized."""
    return table[table["spec"].map(lambda spec: parse(spec).kind in PRUNED)]
