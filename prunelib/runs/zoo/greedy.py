"""Greedy texts of dense and compressed models, both read by both: what runs/zoo/decoding does without its draws.

For chapters that compare many models and need no samples.
"""

from collections.abc import Sequence

import pandas as pd

from prunelib.runs.run import Run
from prunelib.runs.zoo.decoding import _Asked, _asked, _key, _named, _write, dense_texts, prompts_read
from prunelib.runs.zoo.scores import each_model


def greedy(run: Run, specs: Sequence[str]) -> pd.DataFrame:
    """The columns of :func:`prunelib.runs.zoo.decoding.decoding` for greedy texts alone (``draw`` 0)."""

    def ask(_spec: str):
        from prunelib.measure import decode

        (asked, dense), memo = _greedy(run), {}
        own = _write(run, asked, memo)
        return own, *decode.read(run.lm, asked.ids, dense, own, memo=memo)

    def after(found) -> pd.DataFrame:
        from prunelib.measure import decode

        asked, dense = _greedy(run)
        own, *pruned = found
        held = decode.read(run.lm, asked.ids, dense, own, memo=prompts_read(run, begun))
        a, b = (decode.Texts(*one) for one in zip((dense, own), held, pruned, strict=True))
        return _named(asked, decode.trajectories(run.lm, a, b), dense, own)

    begun: dict = {}
    dense_texts(run)  # before any model is compressed in place
    key = _key(run) | {"decode": [run.settings.decode_tokens]}  # how often texts are drawn does not matter here
    return each_model(run, "decoding_greedy", [(spec, run.seed) for spec in specs], lambda _spec: key, ask, after)


def _greedy(run: Run) -> tuple[_Asked, list[list[int]]]:
    """The prompts, one each, and what the dense model writes after them."""
    asked, texts = _asked(run), dense_texts(run)
    some = [i for i, draw in enumerate(asked.draw) if draw == 0]
    prompts = _Asked([asked.prompt_id[i] for i in some], [0] * len(some), [asked.ids[i] for i in some])
    return prompts, [texts[i] for i in some]
