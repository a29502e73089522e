"""The texts themselves: what dense and dropped models write, token by token."""

import html
from collections.abc import Sequence

import pandas as pd

from prunelib.experiments import tasks
from prunelib.experiments.chapter import Chapter
from prunelib.experiments.zoo import compressed_model

TEXTS = {"smoke": 1, "quick": 2, "full": 8}
"""Prompts shown, the first ones of the longer texts."""


def specs(ch: Chapter) -> list[str]:
    """Drop-4 and Drop-8 of attention, MLP and blocks, as in the paper's case study, scaled to the model's depth."""
    layers = ch.model["n_layers"]
    counts = dict.fromkeys(max(1, layers * n // 30) for n in (4, 8))
    return [f"drop:{kind}:{n}" for kind in ("attn", "mlp", "block") for n in counts]


def tokens(ch: Chapter, chosen: Sequence[str]) -> pd.DataFrame:
    """Each written token and its probability: ``spec, label, prompt_id, prompt, position, token, p_own, p_dense``.

    ``p_own`` is under the model that wrote it, ``p_dense`` under the dense model, both at
    temperature 1 after the same tokens.
    """
    texts = tasks.texts(ch, chosen)
    shown = list(dict.fromkeys(texts["prompt_id"]))[: TEXTS[ch.run.part["profile"]]]
    texts = texts[texts["prompt_id"].isin(shown)]
    key = {"specs": list(chosen), "ids": [list(map(int, ids)) for ids in texts["ids"]], "prompts": shown}

    def compute(spec):
        return {"case_tokens": _tokens(ch, texts[texts["spec"] == spec], spec)}

    return ch.tables(["case_tokens"], key, list(dict.fromkeys(texts["spec"])), compute)["case_tokens"]


def _tokens(ch: Chapter, texts: pd.DataFrame, spec: str) -> pd.DataFrame:
    from prunelib.tasks.collapse import token_probabilities
    from prunelib.text import load_prompts

    prompts = {p.id: p.text for p in load_prompts(str(tasks.prompts_file()))}
    dense = token_probabilities(ch.lm, texts)
    with compressed_model(ch, spec).applied(ch.lm):
        own = token_probabilities(ch.lm, texts)
    rows = []
    for text, p_own, p_dense in zip(texts.itertuples(), own, dense, strict=True):
        for position, token in enumerate(text.ids):
            written = ch.lm.decode([int(token)], text.ids[:position])
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


def page(table: pd.DataFrame, prompt_id: str):
    """The texts on one prompt side by side, the darker a token the less likely it is to the dense model."""
    from IPython.display import HTML

    some = table[table["prompt_id"] == prompt_id]
    cards = [
        f'<div class="case-text"><h4>{html.escape(label)}</h4><p>{_spans(rows)}</p></div>'
        for label, rows in some.groupby("label", sort=False)
    ]
    asked = html.escape(some["prompt"].iloc[0])
    asked = f'<p class="case-prompt"><strong>Prompt.</strong> {asked}</p>'
    return HTML(f'{asked}<div class="case-texts">{"".join(cards)}</div>')


def _spans(rows: pd.DataFrame) -> str:
    parts = []
    for row in rows.itertuples():
        shade = min(4, int(5 * (1 - row.p_dense)))
        title = f"own {row.p_own:.3f}, dense {row.p_dense:.3f}"
        text = html.escape(row.token).replace("\n", "<br>")
        parts.append(f'<span class="case-{shade}" title="{title}">{text}</span>')
    return "".join(parts)


def record(ch: Chapter, table: pd.DataFrame) -> pd.DataFrame:
    """Record how many texts are shown; returns mean probabilities by model."""
    ch.value("case.prompts", table["prompt_id"].nunique(), exact=True, fmt="d")
    ch.value("case.tokens", ch.settings.long_tokens, exact=True, fmt="d")
    means = table.groupby("label", sort=False)[["p_own", "p_dense"]].mean().round(2).reset_index()
    return means.rename(columns={"p_own": "probability, own", "p_dense": "probability, dense"})
