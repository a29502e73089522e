"""Claim C13 from scores made by hand: who is compared, who is chosen, who is judged."""

import math

import numpy as np
import pandas as pd
import pytest

from prunelib.tasks import equal_memory


def answers(**scores) -> pd.DataFrame:
    """One item a passage; ``scores`` by specification."""
    count = len(next(iter(scores.values())))
    rows = [(spec, f"i{i}", f"p{i}", float(own[i])) for spec, own in scores.items() for i in range(count)]
    return pd.DataFrame(rows, columns=["spec", "item_id", "passage_id", "generation"]).assign(seed=0, label="x")


def sizes(**megabytes) -> pd.DataFrame:
    kinds = {"d": "dense", "q": "quantize", "s": "sparsify", "l": "drop"}
    rows = [(spec, kinds[spec[0]], size) for spec, size in megabytes.items()]
    return pd.DataFrame(rows, columns=["spec", "kind", "bytes"])


def test_similar_is_from_the_largest_quantized_model_to_the_limit():
    table = sizes(d=100, q1=40, q2=45, q3=60, s1=44, s2=45, s3=70, s4=71, l1=60, l2=90)
    assert equal_memory.similar(table, ["q1", "q2"], 70) == ["s2", "s3", "l1"]  # ends count; q3 is no pruned model
    assert equal_memory.similar(table, [], 70) == []
    assert equal_memory.similar(table, ["q3"], 50) == []


def test_the_difference_is_that_of_the_shares():
    dense = [1] * 8 + [0] * 4
    found = equal_memory.advantage(
        answers(dense=dense, q=[1] * 7 + [0] * 5, r=[1] * 5 + [0] * 7, s=[1, 1] + [0] * 10), ["q", "r"], ["s"]
    )
    assert found.difference[0] == pytest.approx((7 + 5) / 2 / 8 - 2 / 8)
    assert found.difference[1] < found.difference[0] < found.difference[2]
    assert found.chosen == [["s"], ["s"]]


def test_a_lucky_half_does_not_choose_and_judge():
    even, odd = np.arange(12) % 2 == 0, np.arange(12) % 2 == 1
    table = answers(dense=np.ones(12), q=np.full(12, 0.5), lucky=even, other=odd)
    found = equal_memory.advantage(table, ["q"], ["lucky", "other"])
    assert found.chosen == [["lucky"], ["other"]]
    assert found.difference[0] == pytest.approx(0.5)  # on the halves that chose them it would be −0.5


def test_level_models_are_judged_as_their_mean():
    half = np.arange(12) < 6
    table = answers(dense=np.ones(12), q=np.ones(12), a=half, b=~half)
    found = equal_memory.advantage(table, ["q"], ["a", "b"])
    assert found.chosen == [["a", "b"], ["a", "b"]] and found.difference[0] == pytest.approx(0.5)


def test_more_pruned_models_that_are_worse_change_nothing():
    table = answers(dense=np.ones(12), q=np.ones(12), a=np.arange(12) < 9, b=np.zeros(12))
    one, two = (equal_memory.advantage(table, ["q"], specs) for specs in (["a"], ["a", "b"]))
    assert one == two


def test_calibration_seeds_are_averaged():
    first = answers(dense=np.ones(4), q=np.ones(4), a=np.zeros(4))
    again = answers(a=np.ones(4)).assign(seed=1)
    found = equal_memory.advantage(pd.concat([first, again]), ["q"], ["a"])
    assert found.difference[0] == pytest.approx(0.5)


@pytest.mark.parametrize("quantized, pruned", [([], ["a"]), (["q"], []), ([], [])])
def test_without_models_on_both_sides_there_is_no_number(quantized, pruned):
    table = answers(dense=np.ones(4), q=np.ones(4), a=np.zeros(4))
    found = equal_memory.advantage(table, quantized, pruned)
    assert all(map(math.isnan, found.difference)) and found.chosen == [[], []]


def test_one_passage_or_a_dead_dense_model_gives_no_number():
    for count, dense in ((1, 1.0), (6, 0.0)):
        table = answers(dense=np.full(count, dense), q=np.ones(count), a=np.zeros(count))
        assert math.isnan(equal_memory.advantage(table, ["q"], ["a"]).difference[0])
