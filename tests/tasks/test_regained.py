"""Which share of what was lost a repair brings back: by hand, and what must not count."""

import numpy as np
import pandas as pd
import pytest

from prunelib.tasks import regained


def table(**scores):
    """A row an item and model; three items a passage, scores in the order of the items."""
    rows = [
        {"item_id": f"i{i}", "passage_id": f"p{i // 3}", "spec": spec, "generation": float(one), "choice": float(one),
         "chance": 0.25, "seed": 0, "label": spec}
        for spec, own in scores.items() for i, one in enumerate(own)
    ]  # fmt: skip
    return pd.DataFrame(rows)


DENSE = [1] * 30
PRUNED = ([1, 0, 0] * 10)[:30]
HALF = [1, 1, 0] * 10


def test_the_share_of_the_loss_that_comes_back():
    answers = table(dense=DENSE, pruned=PRUNED, repaired=HALF)
    value, lo, hi = regained.regained(answers, [("pruned", "repaired")])
    assert value == pytest.approx(0.5) and lo == pytest.approx(0.5) == hi  # the same in every passage
    assert regained.regained(answers, [("pruned", "pruned"), ("pruned", "repaired")])[0] == pytest.approx(0.25)


def test_a_repair_that_makes_it_worse_regains_less_than_nothing():
    answers = table(dense=DENSE, pruned=HALF, repaired=PRUNED)
    assert regained.regained(answers, [("pruned", "repaired")])[0] == pytest.approx(-1.0)


def test_where_nothing_was_lost_no_share_comes_back():
    answers = table(dense=DENSE, pruned=DENSE, repaired=DENSE)
    assert np.isnan(regained.regained(answers, [("pruned", "repaired")])).all()
    one = table(dense=DENSE[:3], pruned=PRUNED[:3], repaired=HALF[:3])  # one passage
    assert np.isnan(regained.regained(one, [("pruned", "repaired")])).all()
    assert np.isnan(regained.regained(answers, [])).all()


def test_models_that_answer_alike_are_not_told_apart_for_certain():
    """No item differs: the jackknife sees no spread, the interval has one all the same."""
    answers = table(dense=DENSE, pruned=PRUNED, repaired=PRUNED)
    value, lo, hi = regained.regained(answers, [("pruned", "repaired")])
    assert value == 0 and lo < -0.05 and hi > 0.05


def test_the_best_repair_is_chosen_on_the_other_half():
    """One repair is right on even passages, one on odd ones: each fails where it is judged."""
    even = [float((i // 3) % 2 == 0) for i in range(30)]
    odd = [1 - one for one in even]
    answers = table(dense=DENSE, pruned=[0] * 30, even=even, odd=odd)
    found = regained.best(answers, {"pruned": ["even", "odd"]})
    assert found.chosen == [["even"], ["odd"]] and found.regained[0] == 0
    same = regained.best(table(dense=DENSE, pruned=PRUNED, repaired=HALF), {"pruned": ["repaired"]})
    assert same.regained[0] == pytest.approx(0.5) and same.chosen == [["repaired"]] * 2


def test_the_best_over_several_pruned_models_is_their_mean():
    answers = table(dense=DENSE, one=PRUNED, two=PRUNED, half=HALF, whole=DENSE)
    found = regained.best(answers, {"one": ["half"], "two": ["whole"]})
    assert found.regained[0] == pytest.approx(0.75)
    assert np.isnan(regained.best(answers, {"one": ["half"], "two": []}).regained).all()


@pytest.mark.parametrize("readout", ["generation", "choice"])
def test_one_model_minus_another(readout):
    answers = table(dense=DENSE, one=HALF, two=PRUNED)
    forward, back = (regained.minus(answers, *pair, readout) for pair in (("one", "two"), ("two", "one")))
    gap = 1 / 3 if readout == "generation" else 1 / 3 / 0.75
    assert forward[0] == pytest.approx(gap) == -back[0]
