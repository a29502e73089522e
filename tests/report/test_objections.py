"""What readers doubted: twelve points, answered by recorded values or said to be unanswered."""

import json

import pytest
from fakebook import make

from prunelib.chapters import load_figures
from prunelib.errors import PrunelibError
from prunelib.files import read_json, write_json
from prunelib.paths import data_dir
from prunelib.report import objections, publish
from prunelib.runs import sources

REFERENCE = read_json(data_dir() / "reference" / "smollm2-135m-instruct" / "manifest.json")


def filled() -> dict:
    """A manifest in which every chapter was run and recorded what the answers name."""
    value = {"value": 0.5, "lo": 0.4, "hi": 0.6, "exact": False, "fmt": ".2f"}
    values, notebooks = {}, {}
    for one in objections.OBJECTIONS:
        values |= {key: value for _, key in one.numbers}
        said = {"value": f"{one.title}, says the run.", "exact": True, "fmt": "m"}
        values |= {f"said.{one.chapter}.{name}": said for name in one.said}
        if one.chapter in {book.partition("-")[2] for book in sources.available()}:
            notebooks[sources.of_chapter(one.chapter).id] = {}
    figures = {one.figure: {} for one in objections.OBJECTIONS if one.figure}
    about = {"model": {"name": "tiny"}, "profile": "smoke"}
    return about | {"values": values, "notebooks": notebooks, "figures": figures, "tables": {"a": {}, "b": {}}}


def test_there_are_twelve_and_each_names_a_figure_of_its_chapter():
    assert len(objections.OBJECTIONS) == 12
    drawn = load_figures()
    for one in objections.OBJECTIONS:
        assert one.doubted.endswith(".") and one.experiment.endswith(".")
        if one.figure:
            assert drawn[one.figure].chapter.replace("_", "-") == one.chapter


def test_a_whole_run_answers_with_numbers_and_their_intervals():
    rows = objections.rows(filled())
    assert [row["number"] for row in rows] == list(range(1, 13))
    for row, one in zip(rows, objections.OBJECTIONS, strict=True):
        if row["status"] == objections.LATER:
            continue
        assert row["status"] == objections.ANSWERED and row["numbers"] or row["said"]
        if one.chapter:
            assert all(number["shown"] == "0.50 (0.40–0.60)" for number in row["numbers"])
            assert len(row["said"]) == len(one.said)
    assert rows[0]["numbers"][0]["shown"] == "2"
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


def test_a_chapter_that_was_not_run_answers_nothing():
    manifest = filled() | {"notebooks": {}}
    rows = objections.rows(manifest)
    assert {row["status"] for row in rows[1:]} <= {objections.NOT_RUN, objections.LATER}
    assert all(row["numbers"] == [] == row["said"] for row in rows[1:])
    assert rows[1]["command"] == "prunelib run 03 --model tiny --profile smoke"
    assert rows[1]["figure"] is None


def test_an_edition_without_the_chapter_says_so(monkeypatch):
    known = {i: file for i, file in sources.available().items() if not i.endswith("choosing-what-to-prune")}
    monkeypatch.setattr(sources, "available", lambda: known)
    assert objections.rows(filled())[10]["status"] == objections.LATER


def test_a_value_that_a_finished_chapter_lacks_stops_the_book(tmp_path):
    manifest = filled()
    del manifest["values"]["t3.normed.factor"]
    with pytest.raises(PrunelibError, match="no value 't3.normed.factor'"):
        objections.rows(manifest)
    root, run = make(tmp_path)
    own = read_json(run / "manifest.json")
    own["notebooks"]["03-kl-theorem"] = own["notebooks"]["01-demo"]
    write_json(run / "manifest.json", own)
    assert any("t3.normed.factor" in problem for problem in publish.gate(run, root))


def test_the_committed_reference_has_the_values_of_its_chapters():
    rows = objections.rows(REFERENCE)
    done = [row for row in rows if row["notebook"] in REFERENCE["notebooks"]]
    assert len(done) >= 7 and all(row["status"] == objections.ANSWERED for row in done)
