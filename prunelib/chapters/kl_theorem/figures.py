"""Figures of Theorem 3: on paper, and on the real model."""

import pandas as pd

from prunelib.report.figures import Drawn, figure
from prunelib.report.style import Style
from prunelib.report.theorem_figures import model_text, on_model, on_paper, range_text


@figure("fig-t3-model", "Theorem 3 on the real model")
def t3_model(data: pd.DataFrame, style: Style) -> Drawn:
    fig = on_model("T3", data, style, nrows=2)
    return Drawn(fig, *model_text(data, "KL(dense ‖ pruned)", "normed"))


@figure("fig-t3-theory", "Theorem 3 on paper: its error and the worst case")
def t3_theory(data: pd.DataFrame, style: Style) -> Drawn:
    return Drawn(on_paper("T3", data, style), *range_text(data, 3, "kl_dense_pruned", "the KL"))
