"""Texts of the dense model and of compressed ones, and both read by both, step by step (measure.decode).

Every prompt is answered once greedily (``draw`` 0) and several times with Gumbel noise at T = 1. The noise belongs to
the prompt and the draw, so all models of a run share it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from prunelib.runs.run import Run
from prunelib.runs.zoo.models import scaled
from prunelib.runs.zoo.scores import each_model


class _Asked(NamedTuple):
    """Prompts by id, one a text: the greedy texts first, then the draws of each prompt."""

    prompt_id: list[str]
    draw: list[int]
    ids: list[list[int]]


def decoded_specs(run: Run) -> list[str]:
    """The profile's models of the decoding chapter; drops scaled to the depth of the run's model."""
    return scaled(run, run.settings.decoded)


def decoding(run: Run, specs: Sequence[str]) -> pd.DataFrame:
    """Three trajectories of each of ``specs`` against the dense model.

    A row a text, step and pair: ``prompt_id, draw, step, pair`` and the columns of measure.decode (``direct``, ``own``,
    ``free``, ``history``), ``parted`` (the first step at which the two free texts differ, their common length if none)
    and ``ended`` (that length); ``spec, label, seed``.
    """

    def ask(_spec: str):
        from prunelib.measure import decode

        asked, dense, memo = _asked(run), dense_texts(run), {}
        own = _write(run, asked, memo)
        return own, *decode.read(run.lm, asked.ids, dense, own, memo=memo)

    def after(found) -> pd.DataFrame:
        from prunelib.measure import decode

        asked, dense = _asked(run), dense_texts(run)
        own, pruned_on_dense, pruned_on_own = found
        dense_on_dense, dense_on_own = decode.read(run.lm, asked.ids, dense, own, memo=prompts_read(run, begun))
        a = decode.Texts(dense, dense_on_dense, pruned_on_dense)
        b = decode.Texts(own, dense_on_own, pruned_on_own)
        return _named(asked, decode.trajectories(run.lm, a, b), dense, own)

    begun: dict = {}
    dense_texts(run)  # before any model is compressed in place
    return each_model(run, "decoding", [(spec, run.seed) for spec in specs], lambda _spec: _key(run), ask, after)


def changed(run: Run) -> pd.DataFrame:
    """The dense model beside itself after one other token: its second choice first, then greedy again.

    The columns of :func:`decoding` for the pair ``history`` of the greedy texts: what a single token does.
    """

    def compute() -> pd.DataFrame:
        from prunelib.engine.decode import most_likely
        from prunelib.measure import decode

        asked = _asked(run)
        greedy = [i for i, draw in enumerate(asked.draw) if draw == 0]
        prompts, own = [asked.ids[i] for i in greedy], [dense_texts(run)[i] for i in greedy]

        def second_first(z, rows, step):
            return z.topk(2, -1).indices[:, 1] if step == 0 else most_likely(z, rows, step)

        other = decode.write(run.lm, prompts, run.settings.decode_tokens, second_first)
        on = decode.read(run.lm, prompts, own, other)
        found = decode.trajectories(
            run.lm, *(decode.Texts(ids, at, at) for ids, at in zip((own, other), on, strict=True))
        )
        some = _Asked([asked.prompt_id[i] for i in greedy], [0] * len(greedy), prompts)
        return _named(some, found[found["pair"] == "history"], own, other)

    return run.table("decoding_changed", _key(run), compute)


def dense_texts(run: Run) -> list[list[int]]:
    """The dense model's tokens, in the order of the prompts that are asked."""

    def compute() -> pd.DataFrame:
        asked = _asked(run)
        return pd.DataFrame({"prompt_id": asked.prompt_id, "draw": asked.draw, "ids": _write(run, asked)})

    return [list(map(int, ids)) for ids in run.table("decoding_dense", _key(run), compute)["ids"]]


def _key(run: Run) -> dict:
    settings = run.settings
    sizes = [settings.decode_tokens, settings.decode_draws]
    return {"prompts": [[prompt.id, prompt.text] for prompt in _prompts(run)], "decode": sizes}


def _prompts(run: Run) -> list:
    from prunelib.engine.text import load_prompts

    return load_prompts(run.options.prompts, run.settings.decode_prompts)


def _asked(run: Run) -> _Asked:
    prompts = _prompts(run)
    encoded = {prompt.id: run.lm.encode_one(prompt.text) for prompt in prompts}
    draws = range(1, run.settings.decode_draws + 1)
    texts = [(prompt.id, 0) for prompt in prompts] + [(prompt.id, draw) for prompt in prompts for draw in draws]
    names, draw = (list(side) for side in zip(*texts, strict=True))
    return _Asked(names, draw, [encoded[name] for name in names])


def prompts_read(run: Run, begun: dict) -> dict:
    """``begun`` with what the dense model has read of the prompts: once for all models that it is compared with.

    As :func:`_write` reads them for a compressed model, so that a twin differs in nothing.
    """
    if not begun:
        from prunelib.engine.decode import most_likely
        from prunelib.measure import decode

        asked = _asked(run)
        decode.write(run.lm, asked.ids[: asked.draw.count(0)], 1, most_likely, memo=begun)
    return begun


def _write(run: Run, asked: _Asked, memo: dict | None = None) -> list[list[int]]:
    """What the model as it is now writes; the prompts of one draw after the other are read once.

    ``memo`` is filled with what it has read of them (measure.decode).
    """
    from prunelib.engine.decode import Gumbel, most_likely
    from prunelib.measure import decode

    found: list[list[int]] = []
    for greedy, choose in ((True, most_likely), (False, Gumbel(run.seed))):
        some = [i for i, draw in enumerate(asked.draw) if (draw == 0) is greedy]
        prompts, groups = [asked.ids[i] for i in some], [asked.prompt_id[i] for i in some]
        kept = memo if greedy else None
        new = run.settings.decode_tokens
        found += decode.write(run.lm, prompts, new, choose, groups=groups, memo=kept) if some else []
    return found


def _named(asked: _Asked, found: pd.DataFrame, dense, own) -> pd.DataFrame:
    from prunelib.measure.decode import first_difference

    parted = [first_difference(a, b) for a, b in zip(dense, own, strict=True)]
    ended = [min(len(a), len(b)) for a, b in zip(dense, own, strict=True)]
    about = pd.DataFrame({"prompt_id": asked.prompt_id, "draw": asked.draw, "parted": parted, "ended": ended})
    about = about.iloc[found["row"].to_numpy()].reset_index(drop=True)
    return pd.concat([about, found.drop(columns="row").reset_index(drop=True)], axis=1)
