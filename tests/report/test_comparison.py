"""The block of statistics as a page shows it, a column a model."""

import numpy as np
import pandas as pd

from prunelib.measure.token_summary import TITLES, summarise
from prunelib.report import comparison


def tokens(label: str, spec: str, scale: float, seed: int = 0) -> pd.DataFrame:
    made = np.random.default_rng(3)
    n = 40
    kl, right = made.exponential(size=n) * scale, made.random(n) < 0.5
    return pd.DataFrame(
        {
            "cluster": np.repeat(["a", "b", "c", "d"], 10),
            "nll_dense": 2.0,
            "nll_pruned": 2.0 + scale,
            "kl_dense_pruned": kl,
            "kl_pruned_dense": kl,
            "dp": -0.1 * scale,
            "dp_top": -0.1 * scale,
            "right_dense": right,
            "right_pruned": right if scale == 0 else ~right,
            "agree": 5 if scale == 0 else 0,
            "spec": spec,
            "label": label,
            "seed": seed,
        }
    )


def test_a_column_a_model_and_a_row_a_statistic():
    twin, other = tokens("Twin", "rtn:8", 0.0), tokens("Drop-8A", "drop:attn:8", 1.0)
    again = tokens("Drop-8A", "drop:attn:8", 7.0, seed=1)  # another seed of the same model
    found = comparison.block(pd.concat([tokens("dense", "dense", 0.0), twin, other, again], ignore_index=True))
    assert list(found) == ["statistic", "Twin", "Drop-8A", "unit"]
    rows = found.set_index("statistic")
    names = list(summarise(twin)["name"])
    assert list(rows.index) == [TITLES[name] for name in names] and set(names) == set(TITLES)
    assert rows.loc[TITLES["kl_dense_pruned_max"], "Twin"] == "0"
    assert rows.loc[TITLES["flips"], "Twin"].startswith("0") and rows.loc[TITLES["flips"], "Drop-8A"].startswith("1.00")
    assert rows.loc[TITLES["perplexity_ratio"], "Drop-8A"].startswith("2.72")  # exp(1), not exp(7)
    assert rows.loc[TITLES["tokens"], "Twin"] == "40"


def test_without_a_compressed_model_the_table_is_empty():
    assert comparison.block(tokens("dense", "dense", 0.0)).empty
