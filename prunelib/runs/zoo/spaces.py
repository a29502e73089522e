"""How far compressed models move the last hidden state, the logits and the probabilities, on the dense model's text.

Dense and compressed model read the same tokens: the dense model's own continuations, with the true history at every
step, so that nothing compounds. What the tables of :mod:`prunelib.runs.zoo.scores` ask of the same models comes after.
"""

from collections.abc import Sequence

import pandas as pd

from prunelib.runs.run import Run
from prunelib.runs.zoo import traces
from prunelib.runs.zoo.scores import each_model


def spaces(run: Run, specs: Sequence[str]) -> pd.DataFrame:
    """Last state, logits and probabilities of each of ``specs`` against the dense model's, T = 1.

    A row a model and decoding position: ``prompt_id, one_minus_cos_h`` (the stream after the last block),
    ``one_minus_cos_z``, ``one_minus_cos_p``, ``kl_dense_pruned`` (nats), ``top1_same`` (both models have the same
    most likely token), ``spec, label, seed``.
    """
    paths = traces.trajectories(run)
    key = traces.trace_key(run, paths) | {"positions": run.settings.layer_positions}
    groups = [paths.iloc[i : i + traces.BATCH] for i in range(0, len(paths), traces.BATCH)]
    dense: list = []

    def states(_spec: str) -> list:
        return [_last_states(run, rows) for rows in groups]

    def compared(pruned: list) -> pd.DataFrame:
        if not dense:
            dense.extend(states("dense"))
        pairs = zip(groups, dense, pruned, strict=True)
        return pd.concat([_compared(run, *pair) for pair in pairs], ignore_index=True)

    return each_model(run, "spaces", [(spec, run.seed) for spec in specs], lambda _spec: key, states, compared)


def _last_states(run: Run, rows: pd.DataFrame):
    """The stream after the last block at the decoding positions of some trajectories, [N, d], and the row of each."""
    import torch

    from prunelib.models import hooks

    lm = run.lm
    ids, mask, first = traces.batch(run, rows)
    lm.check_length(int(mask.sum(-1).max()), "a sequence")
    chosen = traces.decoding_positions(first, ids.shape[1], run.settings.layer_positions).to(ids.device)
    last = lm.n_layers - 1
    with torch.no_grad(), hooks.stop_after(lm, last), hooks.captured(lm, ("resid_post",), [last]) as cap:
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        lm.model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
        found = cap["resid_post"][last]
    return found[chosen.to(found.device)], chosen.nonzero()[:, 0].cpu().numpy()


def _compared(run: Run, rows: pd.DataFrame, dense, pruned) -> pd.DataFrame:
    from prunelib.measure.trace import compare_states

    found = compare_states(run.lm, dense[0], pruned[0], lenses=("normed",))
    columns = [
        found.h["one_minus_cos_h"],
        found.z["one_minus_cos_z"],
        *(found.p[name] for name in ("one_minus_cos_p", "kl_dense_pruned", "top1_same")),
    ]
    table = pd.concat(columns, axis=1)
    table.insert(0, "prompt_id", rows["prompt_id"].to_numpy()[dense[1]])
    return table
