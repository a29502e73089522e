"""The texts themselves: what dense and dropped models write, token by token."""

from collections.abc import Sequence

import pandas as pd

from prunelib.methods import parse_list
from prunelib.runs.run import Run
from prunelib.runs.zoo import scores
from prunelib.runs.zoo.models import compressed_model

KINDS = ("sparsify", "quantize", "drop", "joined")
"""Kinds of methods that this chapter compares."""


def chosen(run: Run, specs: str = "") -> list[str]:
    """The notebook's comma-separated ``specs``, or the drops of the paper's case study."""
    return [method.spec for method in parse_list(specs)] or scores.paper_drops(run)


def tokens(run: Run, chosen: Sequence[str]) -> pd.DataFrame:
    """Each written token and its probability: ``spec, label, prompt_id, prompt, position, token, p_own, p_dense``.

    ``p_own`` is under the model that wrote it, ``p_dense`` under the dense model, both at
    temperature 1 after the same tokens.
    """
    texts = scores.texts(run, chosen)
    shown = list(dict.fromkeys(texts["prompt_id"]))[: run.settings.case_texts]
    texts = texts[texts["prompt_id"].isin(shown)]
    key = {"specs": list(chosen), "ids": [list(map(int, ids)) for ids in texts["ids"]], "prompts": shown}

    def compute(spec):
        return {"case_tokens": _tokens(run, texts[texts["spec"] == spec], spec)}

    return run.tables(["case_tokens"], key, list(dict.fromkeys(texts["spec"])), compute)["case_tokens"]


def _tokens(run: Run, texts: pd.DataFrame, spec: str) -> pd.DataFrame:
    from prunelib.engine.text import load_prompts
    from prunelib.tasks.collapse import token_probabilities

    prompts = {p.id: p.text for p in load_prompts(str(scores.prompts_file()))}
    dense = token_probabilities(run.lm, texts)
    with compressed_model(run, spec).applied(run.lm):
        own = token_probabilities(run.lm, texts)
    rows = []
    for text, p_own, p_dense in zip(texts.itertuples(), own, dense, strict=True):
        for position, token in enumerate(text.ids):
            written = run.lm.decode([int(token)], text.ids[:position])
            rows.append(
                (
                    spec,
                    text.label,
                    text.prompt_id,
                    prompts[text.prompt_id],
                    position,
                    written,
                    p_own[position],
                    p_dense[position],
                )
            )
    names = ["spec", "label", "prompt_id", "prompt", "position", "token", "p_own", "p_dense"]
    return pd.DataFrame(rows, columns=names)
