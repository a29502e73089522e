"""Any number of runs side by side, and beside the paper: claims by run, and curves on the same axes.

Runs are folders that ``prunelib run`` made, or committed references; neither a model nor torch is needed to read them.
Models differ in depth, so layers are drawn as shares of the depth, and drops as shares of the layers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from prunelib.errors import PrunelibError
from prunelib.report import claims, facts, paper
from prunelib.runs import schema
from prunelib.runs.beside import Beside

SPACES = {"h": "embedding", "z": "logit", "p": "probability"}
"""Spaces, and what the paper's data calls them."""

SUBLAYERS = ("attn", "mlp")
DROPS = {"attn": "attn_drop", "mlp": "mlp_drop", "block": "shortgpt_block_drop"}
"""What is dropped, and what the paper's data calls it."""

READOUTS = {"choice": "fig:pruning_non_generative:MMLU", "generation": "fig:pruning_generative:GSM8K"}
"""Read-outs of the task items, and the paper's curve beside each."""

PAPER = "paper"
NOT_RUN = "not run"


@dataclass(frozen=True)
class Shown:
    """A run to compare: ``name`` tells it from the others, ``folder`` has its figures, ``manifest`` is checked."""

    name: str
    folder: Path
    manifest: Mapping

    @property
    def model(self) -> str:
        return str(self.manifest["model"]["name"])

    @property
    def layers(self) -> int | None:
        """Number of layers of its model, None where the run does not say."""
        found = self.manifest["model"].get("n_layers")
        return found if isinstance(found, int) and not isinstance(found, bool) and found > 0 else None


def read(folders: Sequence[Path]) -> list[Shown]:
    """The runs in these folders, each once, in their order.

    A run is called after its model and profile, and after its folder too where another has the same name. Raises
    PrunelibError for a folder that holds no run, and for a record that is none.
    """
    unique = list(dict.fromkeys(Path(folder).expanduser().resolve() for folder in folders))
    found = []
    for folder in unique:
        if not (folder / "manifest.json").is_file():
            raise PrunelibError(f"no run in {folder}: name run folders, or references in data/reference")
        found.append((folder, schema.read(folder / "manifest.json", "manifest")))
    names = [_plain(f"{about['model']['name']}, {about['profile']}") for _, about in found]
    return [
        Shown(name if names.count(name) == 1 else f"{name}, {_plain(folder.name)} ({number})", folder, about)
        for number, (name, (folder, about)) in enumerate(zip(names, found, strict=True), 1)
    ]


def _plain(name: str) -> str:
    """A name as figures can print it: formulas have no place in it."""
    return " ".join(str(name).replace("$", "").replace("\\", "").split())[:80]


# ---------------------------------------------------------------- claims


def by_claim(runs: Sequence[Shown]) -> pd.DataFrame:
    """A row a claim, part and run.

    ``claim, part, statement, rule, run, model, profile, verdict, value, lo, hi, exact``.

    Verdicts are judged here, by today's rules. Parts of a claim have verdicts of their own; a claim of several parts
    has a row without a number for the whole. A run that did not measure a claim has the verdict "not run".
    """
    rows = []
    for run in runs:
        about = {"run": run.name, "model": run.model, "profile": run.manifest["profile"]}
        for row in claims.ledger(run.manifest):
            for part in ({"name": ""} | row, *row["parts"]):
                numbers = {key: part[key] for key in ("rule", "value", "lo", "hi", "exact")}
                named = {"claim": row["id"], "part": part["name"], "statement": row["statement"]}
                rows.append(named | about | {"verdict": part["verdict"] or NOT_RUN} | numbers)
    names = ["claim", "part", "statement", "rule", "run", "model", "profile", "verdict", "value", "lo", "hi", "exact"]
    found = pd.DataFrame(rows, columns=names)
    return found.astype({"value": float, "lo": float, "hi": float})


def cell(row: Mapping) -> str:
    """A claim in a run, in words: ``"supported, 0.71 (0.62–0.83)"``."""
    if row["verdict"] == NOT_RUN or not math.isfinite(row["value"]):
        return row["verdict"]
    numbers = {key: row[key] if math.isfinite(row[key]) else None for key in ("value", "lo", "hi")}
    return f"{row['verdict']}, {facts.show(numbers | {'exact': bool(row['exact']), 'fmt': '.3g'})}"


def wide(rows: pd.DataFrame) -> pd.DataFrame:
    """The same for readers: a row a claim and part, a column a run, each cell as :func:`cell` says it."""
    shown = rows.assign(shown=[cell(row) for row in rows.to_dict("records")])
    table = shown.pivot(index=["claim", "part"], columns="run", values="shown")
    order = list(dict.fromkeys(zip(rows["claim"], rows["part"], strict=True)))
    return table.loc[order, list(dict.fromkeys(rows["run"]))].reset_index().rename_axis(columns=None)


# ---------------------------------------------------------------- curves


def layer_curves(runs: Sequence[Shown]) -> pd.DataFrame:
    """Mean cosine of dense and pruned by relative depth: ``run, sublayer, space, depth, mean, lo, hi``.

    ``depth`` is 0 in the first layer and 1 in the last; raw lens, one sublayer dropped at a time. The paper's curves,
    means only, are the run "paper". Runs without that chapter have no rows.
    """
    parts = []
    for sublayer in SUBLAYERS:
        for run in runs:
            rows = _data(run, f"fig-layerwise-{sublayer}", ("mean", "mean_lo", "mean_hi", "layer"))
            if rows is None or not {"source", "part", "lens", "space"} <= set(rows):
                continue
            rows = rows[(rows["source"] == "this model") & (rows["part"] == "layer") & (rows["lens"] == "raw")]
            depth = rows["layer"] / max(1, (run.layers or int(rows["layer"].max()) + 1) - 1)
            found = pd.DataFrame({"run": run.name, "sublayer": sublayer, "space": rows["space"], "depth": depth})
            parts.append(found.assign(mean=rows["mean"], lo=rows["mean_lo"], hi=rows["mean_hi"]))
        for space, name in SPACES.items():
            figure = f"fig:pruning_hierarchies_{sublayer}"
            curve, layers = paper.series(figure, name), paper.source(figure, name)[1]
            theirs = pd.DataFrame(
                {"run": PAPER, "sublayer": sublayer, "space": space, "depth": curve["x"] / (layers - 1)}
            )
            parts.append(theirs.assign(mean=curve["y"]))
    return pd.concat(parts, ignore_index=True)[["run", "sublayer", "space", "depth", "mean", "lo", "hi"]]


def drop_curves(runs: Sequence[Shown]) -> pd.DataFrame:
    """Share of the dense score kept by the share of layers dropped: ``run, kind, readout, x, kept, lo, hi``.

    ``x`` is in percent of the model's layers, scores are taken above guessing. The paper's MMLU and GSM8K curves are
    the run "paper", as far as any run drops of that kind.
    """
    parts = []
    for run in runs:
        rows = _data(run, "fig-dropping-kept", ("x", "kept", "lo", "hi"))
        if rows is None or not {"source", "kind", "readout"} <= set(rows) or "chance" in rows:
            continue  # an older edition's shares hold what guessing gives
        own = (rows["source"] == "this run") & rows["kind"].isin(list(DROPS)) & rows["readout"].isin(list(READOUTS))
        parts.append(rows[own].assign(run=run.name))
    names = ["run", "kind", "readout", "x", "kept", "lo", "hi"]
    found = pd.concat(parts, ignore_index=True)[names] if parts else pd.DataFrame(columns=names)
    theirs = [
        paper.kept_above_chance(figure, series).assign(run=PAPER, kind=kind, readout=readout)
        for readout, figure in READOUTS.items()
        for kind, series in DROPS.items()
    ]
    curves = pd.concat(theirs, ignore_index=True)
    furthest = curves["kind"].map(found.groupby("kind")["x"].max()).fillna(math.inf)
    return pd.concat([found, curves[curves["x"] <= furthest + 1e-9]], ignore_index=True)[names].astype({"x": float})


def _data(run: Shown, figure: str, numbers: Sequence[str]) -> pd.DataFrame | None:
    """What a figure of a run shows, with these columns as numbers; None where it has no such figure or columns."""
    try:
        rows = Beside(run.name, run.folder).figure_data(figure)
    except (OSError, ValueError) as error:  # pandas' parser raises a kind of the latter
        raise PrunelibError(f"cannot read the data of {figure} in {run.folder}: {error}") from error
    if rows is None or not set(numbers) <= set(rows):
        return None
    return rows.assign(**{name: pd.to_numeric(rows[name], errors="coerce") for name in numbers})
