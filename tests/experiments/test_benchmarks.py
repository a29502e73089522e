"""Benchmark scores beside the dense ones."""

import json

import pandas as pd
import pytest

from prunelib.experiments import benchmarks


def rows(spec, values):
    return [{"task": "t", "benchmark": "t", "doc_id": i, "filter": "none", "shots": 0, "spec": spec, "label": spec,
             "metrics": json.dumps({"acc": value})} for i, value in enumerate(values)]  # fmt: skip


def test_a_score_is_paired_with_dense_item_by_item():
    table = benchmarks.scores(pd.DataFrame(rows("dense", [1, 1, 0, 0]) + rows("Drop-4A", [1, 0, 0, 0])))
    dense, dropped = table.to_dict("records")
    assert (dense["score"], dense["kept"], dense["lo"], dense["hi"]) == (0.5, 1, 1, 1)
    assert (dropped["model"], dropped["score"], dropped["kept"]) == ("Drop-4A", 0.25, 0.5)
    assert dropped["lo"] < 0.5 < dropped["hi"] and dropped["items"] == 4


def test_a_dense_score_of_zero_keeps_nothing_to_compare():
    table = benchmarks.scores(pd.DataFrame(rows("dense", [0, 0]) + rows("Drop-4A", [1, 0])))
    assert table["kept"].isna().iloc[0] and not table["kept"].between(-1e9, 1e9).iloc[1]


def test_nothing_asked_for_says_how_to_ask():
    assert "-p benchmarks=" in benchmarks.show(None, " ", []).data
    assert list(benchmarks.scores(pd.DataFrame()).columns)[0] == "benchmark"


@pytest.mark.parametrize("names", ["gsm9k", "commonsense_qa,bolq"])
def test_a_name_that_cannot_be_read_stops_before_anything_is_computed(names, tmp_path, monkeypatch):
    from types import SimpleNamespace

    from prunelib.errors import PrunelibError
    from prunelib.tasks import harness

    (tmp_path / "commonsense_qa_validation.jsonl").write_text(
        '{"question": "q", "choices": {"label": ["A"], "text": ["a"]}, "answerKey": "A"}\n'
    )
    monkeypatch.setenv(harness.FOLDER, str(tmp_path))
    ch = SimpleNamespace(run=SimpleNamespace(part={"profile": "smoke"}), calibration_key=[])  # computes nothing
    with pytest.raises(PrunelibError, match="cannot be read from a folder"):
        benchmarks.samples(ch, names, ["drop:attn:4"])
