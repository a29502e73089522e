"""Figures of Theorem 2: on paper, and on the real model."""

import pandas as pd

from prunelib.report.figures import Drawn, figure
from prunelib.report.style import Style
from prunelib.report.theorem_figures import model_text, on_model, on_paper, range_text


@figure("fig-t2-model", "Theorem 2 on the real model")
def t2_model(data: pd.DataFrame, style: Style) -> Drawn:
    fig = on_model("T2", data, style)
    return Drawn(fig, *model_text(data, "how far the probability vector turns", "normed"))


@figure("fig-t2-theory", "Theorem 2 on paper: its error and the worst case")
def t2_theory(data: pd.DataFrame, style: Style) -> Drawn:
    return Drawn(on_paper("T2", data, style), *range_text(data, 2, "cos_p", "1 − cos p"))
