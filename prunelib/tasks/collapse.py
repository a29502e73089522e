"""Longer texts without a reference answer: has the model that wrote them collapsed?"""

from collections.abc import Sequence

import pandas as pd
import torch

from prunelib.engine.decode import Generated, generate
from prunelib.engine.prefix import extend
from prunelib.engine.text import Prompt
from prunelib.models.lm import LM
from prunelib.tasks.score import Request, loglikelihoods

NGRAM = 4


def write(lm: LM, prompts: Sequence[Prompt], new_tokens: int, batch_size: int = 32, progress=None) -> pd.DataFrame:
    """Greedy texts, by the chat template where there is one.

    Columns ``prompt_id, kind, prompt_ids, ids`` (token ids), ``text``, ``ended``,
    ``length`` (tokens), ``repeated`` and ``distinct`` (:func:`repeated`,
    :func:`distinct`).
    """
    encoded = [lm.encode_one(prompt.text) for prompt in prompts]
    made: list[Generated] = generate(lm, encoded, new_tokens, batch_size=batch_size, progress=progress)
    rows = [
        (p.id, p.kind, ids, m.ids, m.text, m.ended, len(m.ids), repeated(m.ids), distinct(m.ids))
        for p, ids, m in zip(prompts, encoded, made, strict=True)
    ]
    names = ["prompt_id", "kind", "prompt_ids", "ids", "text", "ended", "length", "repeated", "distinct"]
    return pd.DataFrame(rows, columns=names)


def surprise(lm: LM, texts: pd.DataFrame, batch_size: int = 32) -> list[float]:
    """Mean negative log-likelihood (nats a token) of written texts under ``lm``, usually the dense model.

    ``texts`` is a table of :func:`write`; a text without tokens gives NaN. A low value
    is no praise: a loop is very predictable. Read it beside ``repeated``.
    """
    some = [(i, row) for i, row in enumerate(texts.itertuples()) if len(row.ids)]
    scored = loglikelihoods(lm, [Request(list(r.prompt_ids), list(r.ids)) for _, r in some], batch_size)
    found = [float("nan")] * len(texts)
    for (i, _), row in zip(some, scored.itertuples(), strict=True):
        found[i] = -row.logprob / row.tokens
    return found


@torch.inference_mode()
def token_probabilities(lm: LM, texts: pd.DataFrame) -> list[list[float]]:
    """Probability under ``lm`` of each token of written texts (a table of :func:`write`), at temperature 1."""
    found = []
    for row in texts.itertuples():
        whole = [*map(int, row.prompt_ids), *map(int, row.ids)]
        hidden, _ = extend(lm, [whole[:-1]], keep=False)
        wanted = torch.tensor(whole[len(row.prompt_ids) :], device=lm.device)
        p = torch.softmax(lm.logits(hidden[0, len(row.prompt_ids) - 1 :]).double(), -1)
        found.append(p.gather(1, wanted[:, None])[:, 0].tolist())
    return found


def repeated(ids: Sequence[int], n: int = NGRAM) -> float:
    """Share of the n-grams of a text that stood in it before (1 − distinct n-grams / n-grams); 0 if too short."""
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def distinct(ids: Sequence[int]) -> float:
    """Share of different tokens among all tokens of a text; 1 for an empty one."""
    return len(set(ids)) / len(ids) if len(ids) else 1.0
