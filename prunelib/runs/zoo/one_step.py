"""One-step statistics of compressed models along dense text that no task item uses.

The texts are those passages of ``data/tasks/passages.jsonl`` that come after the ones whose questions are asked in
any profile, so that what a chapter predicts from them it has not seen.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import pandas as pd

from prunelib.paths import data_dir
from prunelib.runs.run import Run
from prunelib.runs.zoo.scores import each_model


def held_out(run: Run) -> list[tuple[str, list[int]]]:
    """(id, token ids) of the texts: at most ``settings.texts`` of those that are left."""
    return [(name, run.lm.encode_one(text, chat=False)) for name, text in passages()[: run.settings.texts]]


@cache
def passages() -> list[tuple[str, str]]:
    """(id, text) of those that no profile asks an item of."""
    from prunelib.engine.text import load_prompts
    from prunelib.tasks.answered import ASKED

    return [(one.id, one.text) for one in load_prompts(str(data_dir() / "tasks" / "passages.jsonl"))[ASKED:]]


def one_step(run: Run, specs: Sequence[str]) -> pd.DataFrame:
    """Next-token statistics of each of ``specs`` against the dense model, at T = 1.

    A row a model and position, ``settings.step_positions`` evenly spaced ones a text: ``cluster`` (the text's id),
    ``position`` (how many tokens were read), the columns of :func:`prunelib.measure.next_token.statistics` and of
    :func:`prunelib.measure.one_step.turned`; ``spec, label, seed``. ``measure.token_summary.summarise`` takes the rows
    of one model. A spec may come with a seed of its own, as ``(spec, seed)``.
    """
    dense: list = []

    def states(_spec: str) -> list:
        import torch

        most = run.settings.step_positions
        return [last_states(run, torch.tensor([ids[:-1]]), most)[0] for _, ids in held_out(run)]

    def compared(pruned: list) -> pd.DataFrame:
        if not dense:
            dense.extend(states("dense"))
        return _compared(run, dense, pruned)

    wanted = [(spec, run.seed) if isinstance(spec, str) else spec for spec in specs]
    key = {"texts": [list(one) for one in passages()[: run.settings.texts]], "positions": run.settings.step_positions}
    return each_model(run, "one_step", wanted, lambda _spec: key, states, compared)


def last_states(run: Run, ids, positions: int):
    """The stream after the last block at some places of texts of one length, [texts, positions, d]; no padding.

    ``ids`` is [texts, tokens]; the places are :func:`prunelib.measure.one_step.positions`.
    """
    import torch

    from prunelib.measure import one_step
    from prunelib.models import hooks

    lm, last = run.lm, run.lm.n_layers - 1
    lm.check_length(ids.shape[1], "a held-out text")
    chosen = torch.from_numpy(one_step.positions(ids.shape[1], positions))
    with torch.inference_mode(), hooks.stop_after(lm, last), hooks.captured(lm, ("resid_post",), [last]) as seen:
        lm.model(input_ids=ids.to(lm.device), use_cache=False)
        return seen["resid_post"][last][:, chosen]


def _compared(run: Run, dense: list, pruned: list) -> pd.DataFrame:
    import torch

    from prunelib.measure import one_step

    texts = held_out(run)
    places = [one_step.positions(len(ids) - 1, run.settings.step_positions) for _, ids in texts]
    targets = [np.asarray(ids)[where + 1] for (_, ids), where in zip(texts, places, strict=True)]
    found = one_step.compare(run.lm, torch.cat(dense), torch.cat(pruned), torch.from_numpy(np.concatenate(targets)))
    found.insert(0, "position", np.concatenate(places) + 1)
    found.insert(0, "cluster", np.repeat([name for name, _ in texts], [len(where) for where in places]))
    return found
