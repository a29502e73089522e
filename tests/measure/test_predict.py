"""Rank correlations, thresholds and sums by hand, and how often the intervals hold the truth."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from prunelib.measure.predict import added, correlated, difference, left_out, spearman, threshold, within

METHODS = list("aabbccdd")


def table(**columns) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    return pd.DataFrame({"method": METHODS[:n]} | columns)


def test_a_perfect_order_is_1_and_its_interval_a_point():
    x = np.arange(8.0)
    assert correlated(table(x=x, y=np.exp(x)), [("x", "y")]) == (1, 1, 1)
    assert correlated(table(x=x, y=-x), [("x", "y")]) == (-1, -1, -1)


def test_ties_share_their_mean_rank():
    """Ranks 1, 2½, 2½, 4 against 1, 2, 3, 4: covariance 4½, lengths √4½ and √5."""
    assert spearman([1, 2, 2, 5], [0, 1, 2, 3]) == pytest.approx(4.5 / np.sqrt(4.5 * 5))
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, (2, 40))
    assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic)


def test_what_cannot_be_ranked_is_not_defined():
    for x, y in (([1, 2], [1, 2]), ([1, 1, 1], [1, 2, 3]), ([1, 2, np.nan], [1, 2, 3])):
        assert np.isnan(spearman(x, y))
    assert np.isnan(correlated(table(x=[1.0] * 8, y=np.arange(8.0)), [("x", "y")])).all()


def test_fewer_than_three_methods_have_no_interval():
    x = np.arange(4.0)
    value, lo, hi = correlated(table(x=x, y=x), [("x", "y")])
    assert value == 1 and np.isnan([lo, hi]).all()
    assert np.isnan(difference(table(x=x, y=x), [("x", "y")], [("x", "y")])).all()


def test_order_and_scale_change_nothing():
    """Neither the order of the rows nor a change of scale of either number changes anything."""
    x = np.arange(8.0)
    y = np.array([0, 2, 1, 3, 7, 5, 4, 6.0])
    value, lo, hi = correlated(table(x=x, y=y), [("x", "y")])
    assert value == pytest.approx(spearmanr(x, y).statistic) and -1 < lo < value < hi < 1
    order = np.random.default_rng(1).permutation(8)
    again = correlated(table(x=x, y=y).iloc[order], [("x", "y")])
    assert again == pytest.approx((value, lo, hi))
    rescaled = correlated(table(x=np.exp(x), y=y**3), [("x", "y")])
    assert rescaled == pytest.approx((value, lo, hi))


def test_a_pair_of_halves_is_the_mean_on_fishers_scale():
    frame = table(a=np.arange(8.0), b=[0, 2, 1, 3, 5, 4, 7, 6.0], c=[7, 1, 2, 0, 3, 5, 6, 4.0])
    mean = np.mean([np.arctanh(spearmanr(frame["a"], frame[one]).statistic) for one in "bc"])
    assert correlated(frame, [("a", "b"), ("a", "c")])[0] == pytest.approx(np.tanh(mean))


def test_a_number_is_no_better_than_itself_and_better_than_its_reverse():
    frame = table(a=np.arange(8.0), b=[0, 2, 1, 3, 5, 4, 7, 6.0], c=[3, 1, 2, 0, 7, 5, 6, 4.0])
    assert difference(frame, [("a", "b")], [("a", "b")]) == (0, 0, 0)
    there, back = difference(frame, [("a", "b")], [("a", "c")]), difference(frame, [("a", "c")], [("a", "b")])
    assert there[0] > 0 and there == pytest.approx((-back[0], -back[2], -back[1]))


# ---------------------------------------------------------------- thresholds


def test_a_threshold_lies_between_the_two_sides():
    assert threshold([4, 1, 9, 16], [False, False, True, True]) == pytest.approx(6)
    assert threshold([-1, 0, 4, 9], [False, False, True, True]) == pytest.approx(2)  # no logarithm of 0
    assert threshold([1, 2, 4, 8, 16], [False, True, False, True, True]) == pytest.approx(2**0.5)  # one wrong, or
    assert np.isnan(threshold([1, 2], [True, True])) and np.isnan(threshold([1, np.nan], [True, False]))


def test_a_method_unlike_the_rest_is_judged_wrongly():
    """Methods a, b and c die above 1; d dies below it and lives above."""
    frame = table(x=[0.1, 10, 0.2, 20, 0.3, 30, 0.05, 40], dead=[0, 1, 0, 1, 0, 1, 1, 0])
    found = left_out(frame.assign(dead=frame["dead"] == 1), "x", "dead")
    assert found.rows.groupby("method")["wrong"].sum().to_dict() == {"a": 0, "b": 0, "c": 0, "d": 2}
    assert found.wrong[0] == pytest.approx(0.25) and 0 <= found.wrong[1] < 0.25 < found.wrong[2] <= 1
    assert 0.3 < found.lowest <= found.cut <= found.highest < 10


def test_one_threshold_for_all_is_never_wrong_and_its_error_still_has_an_interval():
    frame = table(x=[0.1, 10, 0.2, 20, 0.3, 30, 0.4, 40], dead=np.arange(8) % 2 == 1)
    found = left_out(frame, "x", "dead")
    assert found.wrong[:2] == (0, 0) and found.wrong[2] == pytest.approx(1 - 0.025**0.25)  # four methods
    assert found.constant[0] == pytest.approx(0.5)
    assert left_out(frame.assign(dead=True), "x", "dead") is None
    assert left_out(frame[frame["method"] == "a"], "x", "dead") is None


# ---------------------------------------------------------------- sums


def effects(together: float, sites="attn:1+mlp:2"):
    alone = pd.DataFrame(
        [(site, text, kl * (1 + text)) for site, kl in (("attn:1", 0.1), ("mlp:2", 0.3)) for text in range(3)],
        columns=["site", "cluster", "kl"],
    )
    joint = pd.DataFrame({"name": "set", "sites": sites, "cluster": range(3), "kl": [together * n for n in (1, 2, 3)]})
    return alone, joint


def test_a_single_site_adds_up_exactly():
    found = added(*effects(0.3, "mlp:2")).iloc[0]
    assert (found["count"], found["sum"], found["joint"]) == (1, found["joint"], pytest.approx(0.6))
    assert found[["ratio", "lo", "hi"]].tolist() == [1, 1, 1]


def test_sums_by_hand():
    found = added(*effects(0.8)).iloc[0]
    assert found[["count", "sum", "joint", "ratio"]].tolist() == pytest.approx([2, 0.8, 1.6, 0.5])
    assert found["lo"] == pytest.approx(0.5) and found["hi"] == pytest.approx(0.5)  # the same in every text


def test_up_to_where_a_sum_holds():
    def of(*ratios):
        return pd.DataFrame({"count": [1, 2, 4, 8][: len(ratios)], "ratio": ratios})

    assert within(of(1, 1.5, 0.6, 0.4)) == (4, -1) and within(of(1, 1.5, 2.5, 0.4)) == (2, 1)
    assert within(of(1, 1.9, 0.51)) == (4, 0) and within(of(3.0)) == (0, 1)


# ---------------------------------------------------------------- coverage


@pytest.mark.parametrize(("methods", "each"), [(9, 3), (6, 3)])
@pytest.mark.parametrize("strength", [0.6, 0.9])
def test_how_often_the_interval_holds_the_truth(methods, each, strength):
    """Models of a method share an effect in both numbers; the truth is the correlation over very many methods."""

    def drawn(rng, methods):
        effect = rng.normal(size=(methods, 1, 2))
        both = 0.7 * effect + 0.7 * rng.normal(size=(methods, each, 2))
        x = both[..., 0]
        y = strength * x + np.sqrt(1 - strength**2) * both[..., 1]
        return pd.DataFrame({"method": np.arange(methods).repeat(each), "x": x.ravel(), "y": y.ravel()})

    truth = spearman(*drawn(np.random.default_rng(1), 40_000)[["x", "y"]].to_numpy().T)
    rng, trials = np.random.default_rng(2), 400
    found = np.array([correlated(drawn(rng, methods), [("x", "y")]) for _ in range(trials)])
    hits = ((found[:, 1] <= truth) & (truth <= found[:, 2])).mean()
    print(f"\n{methods} methods of {each} models, rank correlation {truth:.2f}: {hits:.3f}")
    assert hits > 0.9 - 3 * (0.9 * 0.1 / trials) ** 0.5


def test_the_truth_is_not_held_when_models_count_as_independent():
    """What leaving out methods is for: the same data, each model its own method, are too sure of themselves."""
    rng, hits = np.random.default_rng(3), np.zeros(2)
    for _ in range(200):
        effect = rng.normal(size=(8, 1, 2))
        both = effect + 0.2 * rng.normal(size=(8, 4, 2))
        frame = pd.DataFrame(both.reshape(-1, 2), columns=["x", "y"]).assign(method=np.arange(8).repeat(4))
        for i, by in enumerate(("method", "model")):
            _, lo, hi = correlated(frame.assign(model=range(len(frame))), [("x", "y")], by)
            hits[i] += lo <= 0 <= hi
    assert hits[0] / 200 > 0.88 and hits[1] / 200 < 0.8, hits
