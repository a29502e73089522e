"""The texts side by side, and what the page records."""

import html

import pandas as pd

from prunelib.chapters.chapter import Chapter
from prunelib.report import scores


def texts(table: pd.DataFrame, prompt_id: str):
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


def drop_lists(ch: Chapter, table: pd.DataFrame):
    """Which layers the models of the page drop."""
    return scores.drop_lists(ch, list(dict.fromkeys(table["spec"])))
