"""Benchmark scores beside the dense ones."""

import json
from types import SimpleNamespace

import pandas as pd
import pytest

from prunelib.chapters.dropping_layers import benchmarks, page
from prunelib.errors import PrunelibError
from prunelib.files import sha256
from prunelib.runs.beside import Beside
from prunelib.runs.tables import write_table
from prunelib.tasks import harness


def rows(spec, values):
    return [
        {
            "task": "t",
            "benchmark": "t",
            "doc_id": i,
            "filter": "none",
            "shots": 0,
            "spec": spec,
            "label": spec,
            "response": json.dumps("a text"),
            "metrics": json.dumps({"acc": value}),
        }
        for i, value in enumerate(values)
    ]


def test_a_score_is_paired_with_dense_item_by_item():
    table = benchmarks.scores(pd.DataFrame(rows("dense", [1, 1, 0, 0] * 4) + rows("Drop-4A", [1, 0, 0, 0] * 4)))
    dense, dropped = table.to_dict("records")
    assert (dense["score"], dense["kept"], dense["lo"], dense["hi"]) == (0.5, 1, 1, 1)
    assert (dropped["model"], dropped["score"], dropped["kept"]) == ("Drop-4A", 0.25, 0.5)
    assert dropped["lo"] < 0.5 < dropped["hi"] and dropped["items"] == 16


def test_what_is_chosen_from_options_is_taken_above_guessing():
    options = json.dumps([["A", [-1, True]], ["B", [-2, False]], ["C", [-2, False]], ["D", [-2, False]]])
    found = pd.DataFrame(rows("dense", [1, 1, 1, 0] * 4) + rows("Drop-4A", [1, 1, 0, 0] * 4))
    assert benchmarks.scores(found)["kept"].tolist() == pytest.approx([1, 2 / 3])
    assert benchmarks.scores(found.assign(response=options))["kept"].tolist() == pytest.approx([1, 0.5])


@pytest.mark.parametrize("dense", [[0] * 16, [1, 0, 0, 0] * 4], ids=["zero", "a guess"])
def test_a_dense_score_of_nothing_keeps_nothing_to_compare(dense):
    options = json.dumps([["A", [-1, True]]] * 4)
    found = pd.DataFrame(rows("dense", dense) + rows("Drop-4A", [1, 0] * 8)).assign(response=options)
    assert benchmarks.scores(found)[["kept", "lo", "hi"]].isna().all(axis=None)


@pytest.fixture
def ch():
    settings = SimpleNamespace(calibration_key=[], benchmark_items=2)
    return SimpleNamespace(settings=settings, seed=0, model={"n_layers": 30}, beside=[])  # computes nothing


def test_nothing_asked_for_says_how_to_ask(ch):
    assert "-p benchmarks=" in page.standard(ch, " ").data
    assert list(benchmarks.scores(pd.DataFrame()).columns)[0] == "benchmark"


def test_nothing_asked_for_shows_the_runs_beside(ch, tmp_path, capsys):
    for spec, label, values in (("drop:attn:4", "Drop-4A", [1, 0]), ("dense", "dense", [1, 1])):
        table = pd.DataFrame(rows(spec, values)).assign(benchmark="gsm8k", label=label)
        write_table(tmp_path / "tables" / f"benchmark_gsm8k_{spec.replace(':', '-')}.parquet", table, {})
    (tmp_path / "manifest.json").write_text('{"model": {"name": "tiny"}}')
    found = benchmarks.of_run(Beside("reference", tmp_path))
    assert list(dict.fromkeys(found["label"])) == ["dense", "Drop-4A"] and set(found["benchmark"]) == {"gsm8k"}
    ch.beside = [Beside("reference", tmp_path)]
    page.standard(ch, "")
    said = capsys.readouterr().out
    assert said.count("object>") == 3  # where they are from, their scores, and the shares kept


def test_a_share_of_nothing_is_said_in_words_and_left_out_of_the_table(capsys):
    nothing = pd.concat([pd.DataFrame(rows(spec, [0] * 16)) for spec in ("dense", "Drop-4A")])
    some = pd.DataFrame(rows("dense", [1] * 16) + rows("Drop-4A", [1, 0] * 8)).assign(benchmark="u")
    table = benchmarks.scores(pd.concat([nothing, some]))
    shown = page.by_benchmark(table)
    assert shown["benchmark"].tolist() == ["t", "u"] and shown["Drop-4A"].tolist() == [0, 0.5]
    said = page.without_shares(table)
    assert "on t (acc: 0.00):" in said and "u (" not in said
    assert page.without_shares(table[table["benchmark"] == "u"]) == ""


def test_humaneval_runs_in_the_sandbox_and_is_scored_like_the_rest(monkeypatch):
    from prunelib.tasks import humaneval

    solved = [one["canonical_solution"] for one in humaneval.problems(2)]
    monkeypatch.setattr(humaneval, "complete", lambda lm, prompts, *_: [[solved[0]], ["    return None"]])
    found = benchmarks._programs(None, 2).assign(benchmark="humaneval", spec="dense", label="dense")
    row = benchmarks.scores(found).iloc[0]
    assert (row["metric"], row["score"], row["items"]) == ("pass@1", 0.5, 2)
    assert json.loads(found["filtered"].iloc[1]) == "failed" and "def " in found["prompt"].iloc[0]


@pytest.mark.parametrize(
    ("names", "line"),
    [
        ("gsm9k", "unknown task 'gsm9k' .*gsm8k"),
        ("commonsense_qa,bolq", "unknown task 'bolq' .*boolq"),
        ("commonsense_qa,gsm8k", "gsm8k_test.jsonl"),
        ("mbpp", "prunelib.tasks.humaneval"),
    ],
)
def test_a_name_that_cannot_be_read_stops_before_anything_is_computed(names, line, ch, tmp_path, monkeypatch):
    choices = {"label": list("ABCDE"), "text": list("abcde")}
    row = {"question": "q", "choices": choices, "answerKey": "A"}
    (tmp_path / "commonsense_qa_validation.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.setenv(harness.FOLDER, str(tmp_path))
    with pytest.raises(PrunelibError, match=line):
        benchmarks.samples(ch, names, ["drop:attn:4"])


def test_the_rows_of_a_table_are_known_by_their_file_or_as_the_hubs(tmp_path, monkeypatch):
    (tmp_path / "addsub.jsonl").write_text("{}\n")
    monkeypatch.setenv(harness.FOLDER, str(tmp_path))
    assert benchmarks._rows("addsub") == sha256(tmp_path / "addsub.jsonl")
    assert benchmarks._rows("boolq") == "hub"  # never read from a folder
