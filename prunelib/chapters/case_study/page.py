"""The texts side by side, and what the page records."""

import html

import pandas as pd

from prunelib.chapters.chapter import Chapter
from prunelib.report import scores
from prunelib.report.sentences import listed

SHADES = 5
"""Steps of a token's shade: a fifth of the probability each."""


def texts(table: pd.DataFrame):
    """All texts of the chapter, prompt by prompt, the stronger the shade of a token the less likely it is to dense.

    The numbers stand below each text, token by token, where keyboard and touch reach them too.
    """
    from IPython.display import HTML

    parts = [_legend()]
    for _, some in table.groupby("prompt_id", sort=False):
        cards = [
            f'<div class="case-text"><p><strong>{html.escape(label)}</strong></p><p>{_spans(rows)}</p>'
            f"{_numbers(rows)}</div>"
            for label, rows in some.groupby("label", sort=False)
        ]
        asked = html.escape(some["prompt"].iloc[0])
        parts.append(
            f'<p class="case-prompt"><strong>Prompt.</strong> {asked}</p><div class="case-texts">{"".join(cards)}</div>'
        )
    return HTML("".join(parts))


def _shade(p_dense: float) -> int:
    return min(SHADES - 1, int(SHADES * (1 - p_dense)))


def _legend() -> str:
    steps = [f"{1 - i / SHADES:.1f} to {1 - (i + 1) / SHADES:.1f}" for i in range(SHADES)]
    marks = " ".join(f'<span class="case-{i}">&nbsp;{step}&nbsp;</span>' for i, step in enumerate(steps))
    return f'<p class="case-legend">Probability under the dense model: {marks}</p>'


def _spans(rows: pd.DataFrame) -> str:
    parts = []
    for row in rows.itertuples():
        title = f"own {row.p_own:.3f}, dense {row.p_dense:.3f}"
        text = html.escape(row.token).replace("\n", "<br>")
        parts.append(f'<span class="case-{_shade(row.p_dense)}" title="{title}">{text}</span>')
    return "".join(parts)


def _numbers(rows: pd.DataFrame) -> str:
    lines = "".join(
        f"<tr><td>{html.escape(row.token.strip()) or '␣'}</td><td>{row.p_own:.3f}</td><td>{row.p_dense:.3f}</td></tr>"
        for row in rows.itertuples()
    )
    head = '<tr><th scope="col">token</th><th scope="col">own</th><th scope="col">dense</th></tr>'
    return (
        f"<details><summary>token by "
        f"token</summary><table><thead>{head}</thead><tbody>{lines}</tbody></table></details>"
    )


def record(ch: Chapter, table: pd.DataFrame) -> pd.DataFrame:
    """Record how many texts are shown; returns mean probabilities by model."""
    ch.value("case.prompts", table["prompt_id"].nunique(), exact=True, fmt="d")
    ch.value("case.tokens", ch.settings.long_tokens, exact=True, fmt="d")
    ch.say(say(table))
    means = table.groupby("label", sort=False)[["p_own", "p_dense"]].mean().round(2).reset_index()
    return means.rename(columns={"p_own": "probability, own", "p_dense": "probability, dense"})


def drop_lists(ch: Chapter, table: pd.DataFrame):
    """Which layers the models of the page drop."""
    return scores.drop_lists(ch, list(dict.fromkeys(table["spec"])))


RISES = 0.1
"""By how much the mean probability of a text's last third must exceed that of its first to count as rising."""


def say(table: pd.DataFrame) -> dict[str, str]:
    """What the page says of these texts, from the dense model's probabilities of their first and last thirds."""
    thirds = table.assign(
        third=table.groupby(["label", "prompt_id"])["position"].transform(lambda x: 3 * x // (x.max() + 1))
    )
    means = thirds.pivot_table(index="label", columns="third", values="p_dense", sort=False)
    first, last = means[0], means[means.columns.max()]
    whole = table.groupby("label", sort=False)["p_dense"].mean()
    others = [label for label in whole.index if label != "dense"]
    strays = [label for label in others if whole[label] < whole["dense"] / 2]
    rising = [label for label in others if last[label] > first[label] + RISES]
    words = {label: f"{label} ({whole[label]:.2f})" for label in others}
    answer = f"The dense model's own texts have a mean probability of {whole['dense']:.2f} a token. " + (
        f"Less than half of that has what {listed([words[one] for one in strays])} write."
        if strays
        else "No other model writes what is less than half as likely to it."
    )
    loops = (
        f"{listed(rising)} write what becomes likelier to the dense model from the first third of a text to the last, "
        f"as a loop does."
        if rising
        else "No text becomes much likelier to the dense model as it goes on, as a loop would."
    )
    return {"answer": answer, "loops": loops}
