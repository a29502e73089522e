"""One-step statistics of a run: on which texts, and that they are those of the models in question."""

from dataclasses import replace

import numpy as np
import pytest
from opened import SMALL, open_chapter

from prunelib.measure import next_token
from prunelib.methods.apply import compress
from prunelib.runs import sources
from prunelib.runs.profiles import PROFILES
from prunelib.runs.zoo import one_step
from prunelib.tasks.items import load_items

SPEC = "sites:attn:1+mlp:2"


@pytest.fixture
def run(tiny, tmp_path, monkeypatch):
    texts = [(f"t{i}", [3 + (7 * i + 5 * n * n) % 90 for n in range(9 + i)]) for i in range(3)]
    monkeypatch.setattr(one_step, "held_out", lambda run: texts)
    run = open_chapter(tmp_path, sources.of_chapter("decoding").id, tiny("llama"), None, replace(SMALL, seeds=1))
    run.texts = texts
    return run


def test_no_profile_asks_an_item_of_a_text_that_is_read_here():
    asked = {item.passage_id for item in load_items(limit=max(profile.passages for profile in PROFILES.values()))}
    texts = one_step.passages()
    assert not asked & {name for name, _ in texts}
    assert len(texts) == 28 and all(text.strip() for _, text in texts)


def test_the_dense_model_deviates_by_nothing(run):
    found = one_step.one_step(run, ["dense"])
    zero = ["kl_dense_pruned", "kl_pruned_dense", "var_p", "var_r", "rms_dz", "one_minus_cos_h", "one_minus_cos_p"]
    assert (found[zero] == 0).all().all() and (found["spec"] == "dense").all()
    assert found["cluster"].tolist() == ["t0"] * 3 + ["t1"] * 3 + ["t2"] * 3


def test_rows_are_those_of_whole_texts_at_the_positions(run):
    found = one_step.one_step(run, [SPEC])
    made = compress(run.lm, [SPEC])[SPEC]
    pieces = list(enumerate(ids for _, ids in run.texts))
    every = next_token.compare(run.lm, run.lm, pieces, within=lambda: made.applied(run.lm))
    for number, (name, _) in enumerate(run.texts):
        rows, own = every[every["cluster"] == number].reset_index(drop=True), found[found["cluster"] == name]
        wanted = rows.loc[own["position"] - 1]
        for column in rows.columns.drop("cluster"):
            np.testing.assert_allclose(own[column], wanted[column], rtol=1e-4, atol=1e-5, err_msg=column)
    assert (found["kl_dense_pruned"] > 0).all()


def test_the_order_of_the_models_changes_nothing(run):
    specs = [SPEC, "magnitude:0.5"]
    first = one_step.one_step(run, specs)
    run.record.part["tables"].clear()
    run.record._recorded.clear()
    second = one_step.one_step(run, specs[::-1])
    for spec in specs:
        one, other = (table[table["spec"] == spec].reset_index(drop=True) for table in (first, second))
        assert one.equals(other)
