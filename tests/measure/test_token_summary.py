"""The block of statistics of a table of tokens: against NumPy, by hand, and its intervals."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from prunelib.measure.stats import bootstrap
from prunelib.measure.token_summary import TITLES, percentile_name, percentiles, summarise


def table(clusters: int = 12, seed: int = 0, each: int = 40) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    n, who = clusters * each, np.repeat(np.arange(clusters), each)
    nll = rng.exponential(3, n) + 0.2 * rng.random(clusters)[who]
    right = rng.random(n) < 0.4
    return pd.DataFrame(
        {
            "cluster": who,
            "nll_dense": nll,
            "nll_pruned": nll + rng.normal(0.3, 0.5, n),
            "kl_dense_pruned": rng.exponential(0.2, n),
            "kl_pruned_dense": rng.exponential(0.3, n),
            "dp": rng.normal(-0.02, 0.1, n).clip(-1, 1),
            "dp_top": rng.normal(-0.05, 0.1, n).clip(-1, 1),
            "right_dense": right,
            "right_pruned": right ^ (rng.random(n) < 0.1),
            "agree": rng.integers(0, 6, n),
        }
    )


def test_the_values_are_numpy_s():
    tokens = table()
    found = summarise(tokens).set_index("name")
    value, kl = found["value"], tokens["kl_dense_pruned"]
    expected = {
        "kl_dense_pruned_mean": kl.mean(),
        "kl_dense_pruned_max": kl.max(),
        "kl_pruned_dense_mean": tokens["kl_pruned_dense"].mean(),
        "dp_mean": tokens["dp"].mean(),
        "dp_rms": np.sqrt((tokens["dp"] ** 2).mean()),
        "dp_top_rms": np.sqrt((tokens["dp_top"] ** 2).mean()),
        "dp_min": tokens["dp"].min(),
        "dp_max": tokens["dp"].max(),
        "same_top": (tokens["agree"] >= 1).mean(),
        "top_agreement_1": (tokens["agree"] >= 1).mean(),
        "top_agreement_5": (tokens["agree"] == 5).mean(),
        "perplexity_dense": np.exp(tokens["nll_dense"].mean()),
        "perplexity_ratio": np.exp(tokens["nll_pruned"].mean()) / np.exp(tokens["nll_dense"].mean()),
        "nll_difference": (tokens["nll_pruned"] - tokens["nll_dense"]).mean(),
        "right_dense": tokens["right_dense"].mean(),
        "flips": (tokens["right_dense"] != tokens["right_pruned"]).mean(),
        "tokens": 480,
        "clusters": 12,
    }
    for percent in (99.9, 99, 95, 50, 5, 1):
        expected[percentile_name("kl_dense_pruned", percent)] = np.percentile(kl, percent)
    for percent in (99.9, 99, 95, 50, 5, 1, 0.1):
        expected[percentile_name("dp", percent)] = np.percentile(tokens["dp"], percent)
    for name, number in expected.items():
        assert value[name] == pytest.approx(number, rel=1e-12), name
    assert value["flips_lost"] + value["flips_gained"] == pytest.approx(value["flips"])
    assert value["right_difference"] == pytest.approx(value["flips_gained"] - value["flips_lost"])
    lost, gained = (round(480 * value[f"flips_{name}"]) for name in ("lost", "gained"))
    assert value["flips_mcnemar_p"] == pytest.approx(binomtest(lost, lost + gained).pvalue)


def test_every_number_has_an_interval_or_is_exact_a_unit_and_a_title():
    found = summarise(table())
    assert found["name"].is_unique and set(found["name"]) == set(TITLES)
    assert set(found["unit"]) == {"nats", "probability", "share", "1"}
    estimates = found[~found["exact"]]
    assert (estimates["lo"] <= estimates["value"]).all() and (estimates["value"] <= estimates["hi"]).all()
    assert found[found["exact"]][["lo", "hi"]].isna().all(None)
    never_negative = estimates[~estimates["name"].str.match("dp_(mean|median|p)|nll_diff|right_diff")]
    assert (never_negative["lo"] >= 0).all()


def test_intervals_are_over_clusters():
    """Tokens of one piece that are all alike say as much as one of them."""
    tokens = table(each=1)
    many = tokens.loc[tokens.index.repeat(50)]
    columns = ["value", "lo", "hi"]
    once, often = (summarise(one).set_index("name")[columns].loc["kl_dense_pruned_mean"] for one in (tokens, many))
    assert once.to_numpy() == pytest.approx(often.to_numpy())
    one = summarise(table(clusters=1))
    assert one["value"].notna().sum() == len(one) - 2  # a p value needs two pieces
    assert one[["lo", "hi"]].isna().all(None)


def test_percentiles_are_those_of_the_bootstrap_of_whole_rows():
    tokens = table(clusters=7, each=11).sample(frac=1, random_state=1)
    frame = pd.DataFrame({"prompt_id": tokens["cluster"], "x": tokens["kl_dense_pruned"]})
    found = percentiles(frame["x"], frame["prompt_id"], [99.9, 50, 5], seed=3)
    for percent, one in zip([99.9, 50, 5], found, strict=True):
        assert one == pytest.approx(bootstrap(frame, lambda f, q=percent: np.percentile(f["x"], q), seed=3))


def test_equal_models_and_dead_ones():
    same = table().assign(kl_dense_pruned=0.0, kl_pruned_dense=0.0, dp=0.0, dp_top=0.0, agree=5)
    same = same.assign(nll_pruned=same["nll_dense"], right_pruned=same["right_dense"])
    found = summarise(same).set_index("name")
    zero = [name for name in found.index if name.startswith(("kl_", "dp_")) or name in ("flips", "nll_difference")]
    assert (found.loc[zero, "value"] == 0).all()
    assert found["value"][["same_top", "perplexity_ratio", "nll_difference_p", "flips_mcnemar_p"]].eq(1).all()
    assert tuple(found.loc["kl_dense_pruned_mean", ["lo", "hi"]]) == (0, 0)
    assert found.loc["same_top", "lo"] < 1  # other pieces may differ
    dead = summarise(table().assign(nll_pruned=2000.0)).set_index("name")
    assert dead["value"]["perplexity_pruned"] == np.inf and np.isfinite(dead["value"]["nll_difference"])
