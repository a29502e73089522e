"""The all-layers trace: one sublayer dropped at a time along the dense model's own text.

The dense model continues every prompt greedily; the resulting sequences are
fed back teacher-forced, and at chosen decoding positions each sublayer is
removed alone (the paper's layerwise protocol). The tables are shared by
the theorem chapters, the LM-head chapter and the layer curves.

The base of every comparison is the dense state, the stream right after the sublayer; the pruned one is that stream
without the sublayer's output, with all earlier tokens in view. α and β are relative to the dense state.
The authors' scripts (CASE-Lab-UMD/Pruning-on-Representations, ``transition_layerwise_compare.py`` and
``transition_metrics_logging.py``) call the base ``residual``. For replaced weights it is the dense state too, but KL
and the weighted variances are those of the pruned p, KL(pruned ‖ dense), and the replaced attention runs without the
cache, so that it sees one token only. For dropped sublayers the base is the recorded ``residual``, by its name the
stream before the sublayer, which is the pruned state: α and β are relative to that, KL and variances to the dense p.
Cosines are the same either way."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from prunelib import paths
from prunelib.errors import PrunelibError
from prunelib.files import sha256
from prunelib.runs.run import Run

BATCH = 4  # prompts in one resumable unit


LENSES = ("raw", "normed")


INDEX = ["prompt_id", "kind", "position"]


@dataclass(frozen=True)
class Traces:
    """Trace tables with ``prompt_id`` and ``kind`` columns (columns: see measure.trace)."""

    h: pd.DataFrame
    z: pd.DataFrame
    p: pd.DataFrame

    @property
    def content(self) -> list[str]:
        """Fingerprint of the tables, for the key of a result that is computed from them."""
        return [str(pd.util.hash_pandas_object(frame, index=False).sum()) for frame in (self.h, self.z, self.p)]


def trajectories(run: Run) -> pd.DataFrame:
    """The dense model's greedy continuations: ``prompt_id, kind, n_prompt, input_ids, text``."""

    def compute(prompts) -> dict[str, pd.DataFrame]:
        from prunelib.engine import text

        found = text.trajectories(run.lm, prompts, run.settings.new_tokens, seed=run.seed)
        columns = ["prompt_id", "kind", "n_prompt", "input_ids", "text"]
        rows = [[getattr(t, c) for c in columns] for t in found]
        return {"trajectories": pd.DataFrame(rows, columns=columns)}

    from prunelib.engine.text import load_prompts

    prompts = load_prompts(run.options.prompts, run.settings.prompts)
    key = {
        "prompts": _hash_of(run.options.prompts),
        "limit": run.settings.prompts,
        "new_tokens": run.settings.new_tokens,
    }
    groups = [prompts[i : i + 16] for i in range(0, len(prompts), 16)]
    return run.tables(["trajectories"], key, groups, compute)["trajectories"]


def _hash_of(source: str) -> str:
    """Hash of the prompt set, for table keys. ``source`` as in ``start(prompts=...)``."""
    file = paths.data_dir() / "prompts.jsonl" if source == "default" else Path(source).expanduser()
    if not file.is_file():
        raise PrunelibError(f"no prompt file {file}")
    return sha256(file)


def trace_key(run: Run, paths: pd.DataFrame) -> dict:
    """Traces depend on the very token ids that are fed back."""
    ids = [list(map(int, x)) for x in paths["input_ids"]]
    return {"ids": ids, "n_prompt": paths["n_prompt"].tolist()}


def batch(run: Run, rows: pd.DataFrame):
    """Left-padded ids and mask of some trajectories, and where decoding starts in each row."""
    import torch

    longest = max(len(x) for x in rows["input_ids"])
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for i, x in enumerate(rows["input_ids"]):
        ids[i, longest - len(x) :] = torch.tensor(x)
        mask[i, longest - len(x) :] = 1
    # The state at the last prompt token decides the first written token.
    first = [longest - len(x) + n - 1 for x, n in zip(rows["input_ids"], rows["n_prompt"], strict=True)]
    return ids.to(run.lm.device), mask.to(run.lm.device), first


def decoding_positions(first: list[int], length: int, count: int):
    """``count`` evenly spaced decoding positions of each row, as a boolean mask [rows, length]."""
    import torch

    chosen = torch.zeros(len(first), length, dtype=torch.bool)
    for i, start in enumerate(first):
        steps = np.linspace(start, length - 2, min(count, length - 1 - start))
        chosen[i, np.unique(steps.round().astype(int))] = True
    return chosen


def _trace(run: Run, rows: pd.DataFrame, count: int, **options) -> dict[str, pd.DataFrame]:
    from prunelib.measure.trace import trace_layers

    ids, mask, first = batch(run, rows)
    chosen = decoding_positions(first, ids.shape[1], count).to(ids.device)
    traced = trace_layers(run.lm, ids, mask, chosen, lenses=LENSES, **options)
    names = pd.DataFrame({"row": range(len(rows)), "prompt_id": rows["prompt_id"].to_numpy()})
    names["kind"], names["first"] = rows["kind"].to_numpy(), first
    frames = {}
    for space in ("h", "z", "p"):
        frame = getattr(traced, space).merge(names, on="row", how="left", validate="many_to_one")
        frame["position"] -= frame["first"]  # 0 = the step that writes the first token
        rest = [c for c in frame if c not in (*INDEX, "row", "first")]
        frames[space] = frame[INDEX + rest]
    return frames


def layerwise(run: Run) -> Traces:
    """Every sublayer of every layer, at the profile's number of decoding positions a prompt.

    The raw lens is traced at T = 1 (the paper's code), the normed lens at every
    temperature of the run.
    """
    paths = trajectories(run)
    key = trace_key(run, paths) | {"positions": run.settings.layer_positions, "temperatures": run.temperatures}
    temperatures = {"raw": (1.0,), "normed": run.temperatures}
    names = ["layerwise_h", "layerwise_z", "layerwise_p"]

    def compute(rows) -> dict[str, pd.DataFrame]:
        frames = _trace(run, rows, run.settings.layer_positions, temperatures=temperatures)
        return {f"layerwise_{space}": frame for space, frame in frames.items()}

    groups = [paths.iloc[i : i + BATCH] for i in range(0, len(paths), BATCH)]
    found = run.tables(names, key, groups, compute)
    return Traces(*(found[name] for name in names))


def middle_layer(run: Run, layer: int = -1, temperature: float = 1.0) -> Traces:
    """One attention sublayer at every decoding position (paper, Fig. 6). ``layer`` -1: the middle one.

    Raises PrunelibError when the model has no such layer or T <= 0.
    """
    n = run.model["n_layers"]
    layer = n // 2 if layer == -1 else layer
    if not 0 <= layer < n:
        raise PrunelibError(f"layer must be -1 or 0 to {n - 1} for this model, got {layer}")
    if not temperature > 0:
        raise PrunelibError(f"temperature must be above 0, got {temperature:g}")
    paths = trajectories(run)
    names = ["middle_h", "middle_z", "middle_p"]

    def compute(rows) -> dict[str, pd.DataFrame]:
        options = {"layers": [layer], "sublayers": ("attn",), "temperatures": (temperature,)}
        frames = _trace(run, rows, run.settings.new_tokens, **options)
        return {f"middle_{space}": frame for space, frame in frames.items()}

    key = trace_key(run, paths) | {"layer": layer, "temperature": temperature}
    groups = [paths.iloc[i : i + 2 * BATCH] for i in range(0, len(paths), 2 * BATCH)]
    found = run.tables(names, key, groups, compute)
    return Traces(*(found[name] for name in names))


def by_temperature(run: Run, temperatures: tuple[float, ...]) -> Traces:
    """The sublayers of :func:`three_layers` at many temperatures with the normed lens, and at T = 1 with the raw one.

    Positions are those of :func:`layerwise`, whose temperatures are the run's.
    """
    paths = trajectories(run)
    layers = three_layers(run.model["n_layers"])
    key = trace_key(run, paths) | {"positions": run.settings.layer_positions, "layers": layers}
    key["temperatures"] = temperatures
    names = ["temperature_h", "temperature_z", "temperature_p"]

    def compute(rows) -> dict[str, pd.DataFrame]:
        options = {"layers": layers, "temperatures": {"raw": (1.0,), "normed": temperatures}}
        frames = _trace(run, rows, run.settings.layer_positions, **options)
        return {f"temperature_{space}": frame for space, frame in frames.items()}

    groups = [paths.iloc[i : i + 2 * BATCH] for i in range(0, len(paths), 2 * BATCH)]
    found = run.tables(names, key, groups, compute)
    return Traces(*(found[name] for name in names))


def three_layers(n_layers: int) -> list[int]:
    """First, middle and last of the :func:`middle_layers`; fewer where those are fewer."""
    middle = middle_layers(n_layers)
    return sorted({middle[0], middle[len(middle) // 2], middle[-1]})


def middle_layers(n_layers: int) -> range:
    """The middle half of the layers, where the paper reads its layer curves."""
    return range(n_layers // 4, max(n_layers // 4 + 1, n_layers - n_layers // 4))
