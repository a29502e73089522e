"""What stands behind a verdict: tables decide it, and sample, cost, command and the paper's numbers are told."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from fakebook import make
from opened import open_chapter

from prunelib.chapters.retrieval import page as retrieval
from prunelib.chapters.sparsity import page as sparsity
from prunelib.files import read_json, write_json
from prunelib.report import claims, evidence, paper, paper_claims, publish, scores
from prunelib.runs import commands, folders
from prunelib.tasks import shares
from prunelib.tasks.retrieval import MEASURES

CARD = {"name": "tiny/model", "slug": "tiny", "revision": None, "fingerprint": "0", "device": "cpu", "n_layers": 4}


def answers(choice: float, written: float, passages=40) -> pd.DataFrame:
    """Two questions a passage; the compressed model is right on these shares of them, the dense one on all."""
    rows = []
    for spec, right in (("dense", (1, 1)), ("drop:attn:1", (choice, written))):
        for i in range(2 * passages):
            place = (i * 7 % 20) / 20
            scored = dict.fromkeys(shares.READOUTS, float(place < right[1])) | {"choice": float(place < right[0])}
            about = {"item_id": f"i{i}", "passage_id": f"p{i // 2}", "chance": 0.25, "spec": spec, "label": spec}
            rows.append(about | {"seed": 0} | scored)
    return pd.DataFrame(rows)


def searches(kept: float) -> pd.DataFrame:
    rows = []
    for spec, score in (("dense", 1.0), ("drop:attn:1", kept)):
        for i in range(20):
            noise = 0.01 * (i % 3) if spec != "dense" else 0.0
            about = {"query_id": f"q{i}", "cluster": f"d{i // 2}", "spec": spec, "label": spec}
            rows.append(about | dict.fromkeys(MEASURES, score - noise) | {"documents": 10, "chance": 0.1, "layers": 4})
    return pd.DataFrame(rows)


def task_claim(name):
    return lambda ch, table: scores.record(ch, table, {"C8": "dropping", "C9": "sparsity"}[name], name)


CASES = {
    "C8": (task_claim("C8"), answers(0.95, 0.1), answers(0.4, 0.9), answers(0.6, 0.5, passages=4)),
    "C9": (task_claim("C9"), answers(0.95, 0.1), answers(0.4, 0.9), answers(0.6, 0.5, passages=4)),
    "C10": (lambda ch, table: retrieval.record(ch, table, table), searches(0.97), searches(0.5), searches(0.909)),
    "C16": (sparsity.record_proxy, answers(1.0, 0.3), answers(1.0, 1.0, passages=120), answers(1.0, 0.95, passages=10)),
}


def recorded(folder, record, table) -> dict:
    """The manifest of a run that has measured ``table``, kept and read as a table of the run."""
    ch = open_chapter(folder, "08-dropping-layers", card=CARD)
    record(ch, ch.record.table("measured", {"rows": len(table), "sum": float(table.sum(numeric_only=True).sum())},
                               lambda: table))  # fmt: skip
    ch.record.save()
    return folders.merge(folder)


@pytest.mark.parametrize("claim", CASES)
def test_a_changed_table_changes_the_verdict(tmp_path, claim):
    record, *tables = CASES[claim]
    found = []
    for number, table in enumerate(tables):
        row = {row["id"]: row for row in claims.ledger(recorded(tmp_path / str(number), record, table))}[claim]
        assert row["sample"] and row["sample"][0]["count"] > 0
        found.append(row["verdict"])
    assert found == ["supported", "not supported", "undecided"]


@pytest.mark.parametrize("claim", CASES)
def test_one_cluster_gives_no_interval_and_decides_nothing(tmp_path, claim):
    record, table, *_ = CASES[claim]
    by = "cluster" if "cluster" in table else "passage_id"
    row = {r["id"]: r for r in claims.ledger(recorded(tmp_path, record, table.assign(**{by: "one"})))}[claim]
    assert row["verdict"] == "undecided"


def test_the_book_s_ledger_follows_the_manifest(tmp_path):
    root, run = make(tmp_path)
    manifest = read_json(run / "manifest.json")
    first = {row["id"]: row for row in publish.claims_record(manifest)["claims"]}
    assert first["C1"]["verdict"] == "supported" and first["C8"]["verdict"] == "undecided"
    manifest["claims"]["C1"] |= {"value": 3.0, "lo": 2.5, "hi": 3.5}
    manifest["claims"]["C8"]["parts"]["generation kept"] |= {"value": 0.9, "lo": 0.8, "hi": 1.0}
    write_json(run / "manifest.json", manifest)
    publish.stage(run, tmp_path / "source", root)
    staged = {row["id"]: row for row in read_json(tmp_path / "source" / "_extra" / "claims.json")["claims"]}
    assert staged["C1"]["verdict"] == staged["C8"]["verdict"] == "not supported"
    manifest["claims"]["C1"] |= {"lo": None, "hi": None}
    assert publish.claims_record(manifest)["claims"][0]["verdict"] == "undecided"


@pytest.mark.parametrize("claim", claims.CLAIMS)
def test_no_claim_is_decided_without_an_interval(claim):
    known = claims.CLAIMS[claim]
    number = {"value": 0.99, "exact": False}
    entry = number | {"parts": {part.name: number for part in known.parts}}
    assert {row["id"]: row for row in claims.ledger({"claims": {claim: entry}})}[claim]["verdict"] == "undecided"


# ---------------------------------------------------------------- sample, cost, command


def test_a_row_tells_what_stands_behind_it():
    manifest = {
        "model": {"name": "tiny/model"}, "profile": "smoke", "figures": {"fig-dropping-kept": {}},
        "parameters": {"08-dropping-layers": {"model": "org/model 7b", "profile": "smoke", "seed": 3, "out": "/x",
                                              "benchmarks": "gsm8k", "specs": ""}},
        "notebooks": {"08-dropping-layers": {"cost": {"seconds": 90.0, "memory_gib": 1.5, "computed": 4}}},
        "claims": {"C8": {"notebook": "08-dropping-layers", "sample": [{"count": 1200, "of": "passages"},
                                                                       {"count": 3600, "of": "items"}]}},
    }  # fmt: skip
    row = {row["id"]: row for row in claims.ledger(manifest)}["C8"]
    assert row["command"] == "prunelib run 08 --model 'org/model 7b' --profile smoke --seed 3 -p benchmarks=gsm8k"
    assert (
        row["cost"] == {"minutes": 1.5, "memory_gib": 1.5} and row["evidence"] == "figures/fig-dropping-kept.light.svg"
    )
    assert evidence.sample_words(row) == "1,200 passages, 3,600 items"
    assert evidence.cost_words(row) == "1.5 minutes, 1.5 GiB"
    assert "choice kept: " in evidence.paper_words(row) and "MMLU" in evidence.paper_words(row)
    assert json.loads(json.dumps(row, allow_nan=False)) == row


def test_what_a_run_does_not_tell_is_said_to_be_missing():
    row = claims.ledger({})[0]
    assert row["sample"] == [] and row["cost"] is None and row["command"] is None and row["evidence"] is None
    assert evidence.sample_words(row) == evidence.cost_words(row) == "not recorded"
    assert evidence.paper_words(row) == evidence.NOTHING_REPORTED
    older = evidence.cost_words({"cost": {"minutes": 3.0, "memory_gib": None}})
    assert older == "3 minutes"


def test_the_command_of_a_chapter_that_was_not_run_has_the_options_of_the_run():
    manifest = {"model": {"name": "m"}, "profile": "quick", "parameters": {"01-a": {"model": "m", "dtype": "float64"}}}
    assert commands.command("05-layerwise", manifest, "my run") == (
        "prunelib run 05 --model m --profile quick --dtype float64 --out 'my run'"
    )


def test_the_cost_is_that_of_the_run_that_computed(tmp_path):
    def run(compute: bool, seed=0):
        ch = open_chapter(tmp_path, "05-layerwise", card=CARD)
        ch.record.table("t", {"seed": seed}, lambda: pd.DataFrame({"x": [1.0]}))
        ch.record._spent = ch.record._spent or {"seconds": 100.0 if compute else 0.0, "computed": 0}
        ch.record.save()
        return folders.finish(tmp_path, "05-layerwise", {"sha256": "0" * 64})["cost"]

    first = run(True)
    assert first["seconds"] >= 100 and first["computed"] == 1 and 0.01 < first["memory_gib"] < 1000
    assert run(False) == first  # reads the table again
    assert folders.merge(tmp_path)["notebooks"]["05-layerwise"]["cost"] == first
    assert run(False, seed=1)["seconds"] < 100  # computed anew


def test_an_interrupted_run_s_cost_is_added(tmp_path):
    ch = open_chapter(tmp_path, "05-layerwise", card=CARD)
    ch.record._started -= 50
    ch.record.table("a", {}, lambda: pd.DataFrame({"x": [1.0]}))
    again = open_chapter(tmp_path, "05-layerwise", card=CARD)
    again.record.table("b", {}, lambda: pd.DataFrame({"x": [1.0]}))
    cost = folders.finish(tmp_path, "05-layerwise", {"sha256": "0" * 64})["cost"]
    assert cost["seconds"] >= 50 and cost["computed"] == 2


def test_parts_of_older_versions_know_seconds_only():
    part = {"seconds": 12.5, "units": {"computed": 3, "reused": 0}}
    assert folders.cost_of(part) == {"seconds": 12.5, "memory_gib": None, "computed": 3}
    assert folders.cost_of(part | {"units": {"computed": 0, "reused": 3}}) == {} == folders.cost_of(None)


# ---------------------------------------------------------------- the paper's numbers


def test_the_paper_s_numbers_are_those_of_its_tables_and_curves():
    found = {claim: paper_claims.reported(claim) for claim in claims.CLAIMS}
    row = paper.table("table:task_suite").set_index("task").loc["BEIR-13 average nDCG@10"]
    assert found["C10"][0].value == pytest.approx(row["Drop-8A"] / row["Full"])
    assert found["C3"][0].value < found["C2"][0].value < 2
    assert [one.part for one in found["C8"]] == [part.name for part in claims.CLAIMS["C8"].parts]
    assert 0 < found["C6"][0].value <= 1 and found["C13"][0].value > 1
    assert not found["C1"] and not found["C15"]
    for claim, numbers in found.items():
        parts = {part.name for part in claims.CLAIMS[claim].parts} | {""}
        for one in numbers:
            assert np.isfinite(one.value) and one.part in parts and one.what and "arXiv" in one.source


def test_the_paper_s_numbers_follow_its_data(monkeypatch):
    flat = pd.DataFrame({"x": range(20), "y": 1.0})
    monkeypatch.setattr(paper_claims, "paper", SimpleNamespace(series=lambda *names: flat))
    assert paper_claims.reported("C12")[0].value == 1 and paper_claims.reported("C2")[0].value == 1
