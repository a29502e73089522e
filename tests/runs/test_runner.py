"""Parameters are checked before anything runs; finished notebooks are kept; failures are named."""

import json
import multiprocessing
import os

import nbformat
import pytest

from prunelib.errors import NotebookFailed, PrunelibError
from prunelib.files import sha256
from prunelib.runs import folders, runner, sources
from prunelib.runs.options import FLAGS, RunOptions
from prunelib.runs.tables import read_table

SOURCE = """
from prunelib.runs import environment
from prunelib.runs.record import Record
import pandas as pd
run = Record({folder!r}, "07-demo", {{"code": environment.code_version(), "parameters": {{}}}})
run.table("demo", {{"n": n}}, lambda: pd.DataFrame({{"n": range(n)}}))
"""


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


def write(tmp_path, folder, body="", parameters='n = 3\nname = "a"\nshare = 0.5\nflag = True\n'):
    cells = [nbformat.v4.new_code_cell(parameters), nbformat.v4.new_code_cell(SOURCE.format(folder=str(folder)) + body)]
    cells[0].metadata["tags"] = ["parameters"]
    book = nbformat.v4.new_notebook(cells=cells)
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    file = tmp_path / "07-demo.ipynb"
    nbformat.write(book, file)
    return sources.Notebook("07-demo", file, sources.defaults(file))


def test_every_source_notebook_declares_the_common_parameters_and_carries_no_output():
    for book in sources.select([]):
        assert {*FLAGS} - {"beside"} <= set(book.defaults), book.id
        cells = json.loads(book.file.read_text())["cells"]
        assert not any(c.get("outputs") or c.get("execution_count") for c in cells), book.id


def test_notebooks_are_found_by_number_name_or_path():
    assert [b.id for b in sources.select(["5"])] == ["05-layerwise"]
    assert [b.id for b in sources.select(["notebooks/05-layerwise.ipynb", "05"])] == ["05-layerwise"]
    with pytest.raises(PrunelibError, match="did you mean '05-layerwise'"):
        sources.select(["05-layerwyse"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nam=b", "unknown parameter 'nam' .did you mean 'name'"),
        ("n=three", "parameter n must be a whole number, got 'three'"),
        ("n=1.5", "whole number"),
        ("share=much", "parameter share must be a number"),
        ("flag=1", "true or false"),
        ("n", "name=value"),
        ("seed=1", "--seed"),
    ],
)
def test_a_bad_parameter_is_one_line_before_anything_runs(tmp_path, folder, given, message):
    book = write(tmp_path, folder)
    with pytest.raises(PrunelibError, match=message):
        runner.parameters_of([book], RunOptions(), [given])
    assert not folder.exists()


def test_values_take_the_type_of_the_default_and_strings_stay_strings(tmp_path, folder):
    book = write(tmp_path, folder)
    given = ["n=4", "name=12e45", "share=1", "flag=false"]
    assert runner.parameters_of([book], RunOptions(), given)["07-demo"] == {
        "n": 4,
        "name": "12e45",
        "share": 1.0,
        "flag": False,
    }


def execute(book, folder, n=3):
    parameters = book.defaults | {"n": n}
    with runner.locked(folder):
        part = runner.execute(folder, book, parameters, "same files", lambda text: None)
    return parameters, part


def test_a_finished_notebook_is_kept_until_something_it_depends_on_changes(tmp_path, folder):
    book = write(tmp_path, folder)
    parameters, part = execute(book, folder)
    assert part["units"] == {"computed": 1, "reused": 0}
    assert runner.is_done(folder, book, parameters, "same files")
    assert not runner.is_done(folder, book, parameters | {"n": 4}, "same files")
    assert not runner.is_done(folder, book, parameters, "other files")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["notebooks"]["07-demo"]["sha256"] == sha256(folder / "notebooks" / "07-demo.ipynb")

    table = folder / "tables" / "demo.parquet"
    content = table.read_bytes()
    table.write_bytes(content + b"x")
    assert not runner.is_done(folder, book, parameters, "same files")
    table.write_bytes(content)
    write(tmp_path, folder, body="# changed\n")
    assert not runner.is_done(folder, book, parameters, "same files")


def test_a_users_mistake_in_a_notebook_stays_one_line(tmp_path, folder):
    body = 'from prunelib.errors import PrunelibError\nraise PrunelibError("no such thing")\n'
    book = write(tmp_path, folder, body=body)
    with pytest.raises(PrunelibError, match="^no such thing$"):
        execute(book, folder)
    assert not (folder / "notebooks" / "07-demo.ipynb").exists()
    # What was computed before the mistake is kept.
    assert read_table(folder / "tables" / "demo.parquet") is not None


def test_a_bug_in_a_notebook_keeps_the_half_executed_notebook_for_a_look(tmp_path, folder):
    book = write(tmp_path, folder, body="1 / 0\n")
    with pytest.raises(NotebookFailed, match="ZeroDivisionError"):
        execute(book, folder)
    assert (folder / "notebooks" / "07-demo.failed.ipynb").is_file()
    assert not (folder / "notebooks" / "07-demo.ipynb").exists()


@pytest.mark.parametrize("name", ["{x}", "{", "a{0}b}", "%s", "a b", "naïve", "-"])
def test_a_folder_of_any_name_is_taken_as_it_is(tmp_path, name):
    folder = tmp_path / name / "run"
    book = write(tmp_path, folder)
    _, part = execute(book, folder)
    assert sha256(folder / "notebooks" / "07-demo.ipynb") == part["executed"]["sha256"]
    assert [path.name for path in (tmp_path / name).iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "its process ended by itself, killed from"),
        ("raise MemoryError('no')", r"07-demo ran out of memory .MemoryError: no.: take a smaller --profile"),
        ("raise RuntimeError('[enforce fail] DefaultCPUAllocator: can\\'t allocate memory')", "ran out of memory"),
    ],
)
def test_a_lack_of_memory_is_one_line_and_what_was_done_is_kept(tmp_path, folder, body, message):
    book = write(tmp_path, folder, body=f"print('so far')\n{body}\n")
    with pytest.raises(PrunelibError, match=message) as error:
        execute(book, folder)
    failed = folder / "notebooks" / "07-demo.failed.ipynb"
    assert f"see {failed}" in str(error.value) and "kept" in str(error.value)
    assert json.loads(failed.read_text())["cells"] and not (folder / "notebooks" / "07-demo.ipynb").exists()
    write(tmp_path, folder)
    assert execute(book, folder)[1]["units"] == {"computed": 0, "reused": 1}
    assert not failed.exists()


def test_a_process_that_used_most_of_the_memory_was_killed_for_it(monkeypatch):
    monkeypatch.setattr(runner, "memory_limit", lambda: 0.001)
    assert runner._why_it_died().startswith("most likely killed for lack of memory (it used up to ")
    assert "--dtype bfloat16" in runner._why_it_died()


def test_an_interrupted_notebook_leaves_its_finished_record(tmp_path, folder):
    book = write(tmp_path, folder)
    parameters, part = execute(book, folder)
    write(tmp_path, folder, body="1 / 0\n")
    with pytest.raises(NotebookFailed):
        execute(book, folder, n=4)
    assert folders.parts(folder) == [part]
    write(tmp_path, folder)
    assert runner.is_done(folder, book, parameters, "same files")


def _hold(folder, ready, release):
    with runner.locked(folder):
        ready.set()
        release.wait(30)


def test_two_runs_do_not_write_to_one_folder_and_leftovers_are_removed(folder):
    context = multiprocessing.get_context("fork")
    ready, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(folder, ready, release))
    other.start()
    assert ready.wait(30)
    with pytest.raises(PrunelibError, match="another run"), runner.locked(folder):
        pass
    release.set()
    other.join()
    leftover = folder / "tables" / f".tmp-{os.getpid()}-x.parquet"
    leftover.parent.mkdir(parents=True)
    leftover.write_text("half")
    with runner.locked(folder):
        assert not leftover.exists()


def test_a_page_depends_on_the_runs_beside_it(tmp_path, monkeypatch):
    from prunelib.models import fetch

    monkeypatch.setattr(fetch, "identity", lambda name, revision=None: {"files": name})
    (tmp_path / "manifest.json").write_text('{"model": {"name": "m"}}')
    options = RunOptions(model="org/model", beside=str(tmp_path))
    alone, one = (runner.identity("org/model", None, found) for found in ([], runner.beside(options)))
    (tmp_path / "manifest.json").write_text('{"model": {"name": "n"}}')
    two = runner.identity("org/model", None, runner.beside(options))
    assert alone["beside"] == [] and len(one["beside"]) == 1 and one != two
    with pytest.raises(PrunelibError, match="no run in .*/nothing"):
        runner.beside(RunOptions(beside=f"{tmp_path},{tmp_path / 'nothing'}"))


def test_the_committed_reference_stands_beside_every_run_but_itself():
    found = runner.beside(RunOptions(model="org/model", profile="smoke"))
    assert [one.name for one in found] == ["reference"]
    manifest = found[0].manifest
    assert runner.beside(RunOptions(model=manifest["model"]["name"], profile=manifest["profile"])) == []
