"""Figures of Theorem 1: on paper, and on the real model."""

import pandas as pd

from prunelib.report.figures import Drawn, figure
from prunelib.report.style import Style
from prunelib.report.theorem_figures import ASKED, HOW, broken, factor, model_text, on_model, on_paper, slopes


@figure("fig-t1-model", "Theorem 1 on the real model")
def t1_model(data: pd.DataFrame, style: Style) -> Drawn:
    fig = on_model("T1", data, style)
    return Drawn(fig, *model_text(data, "how far the hidden state turns", "h"))


@figure("fig-t1-theory", "Theorem 1 on paper: its error and the worst case")
def t1_theory(data: pd.DataFrame, style: Style) -> Drawn:
    fig = on_paper("T1", data, style)
    low, high = factor(data, "paper", ASKED)
    refined = factor(data, "refined", ASKED)[0]
    caption = (
        f"The estimate of Theorem 1 is sharp only as far as the perturbation is small: at "
        f"$\\varepsilon = {ASKED:g}$ the exact value lies between {low:.2f} and {high:.2f} times "
        f"the estimate, and both ends occur. Keeping the factor $1+\\alpha$ makes the error "
        f"vanish faster (slope {slopes(data, 'refined')} instead of {slopes(data, 'paper')}) "
        f"and narrows that range to {refined:.3f} – 1. {broken(data)}the proven interval. {HOW}"
    )
    alt = (
        f"Two panels. Left: log-log remainder curves; slopes {slopes(data, 'paper')} for the "
        f"paper's estimate, {slopes(data, 'refined')} with the factor 1+α. Right: exact over "
        f"estimate against ε; at ε = {ASKED:g} from {low:.3f} to {high:.3f} for the paper's "
        f"estimate and from {refined:.3f} to 1 with the factor; worst cases lie on the edges."
    )
    return Drawn(fig, caption, alt)
