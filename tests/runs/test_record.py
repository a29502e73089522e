"""Run folders: what is computed is kept, what is half-written is never read."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prunelib import paths
from prunelib.errors import PrunelibError
from prunelib.files import is_plain, key_hash, short_name, write_json, writing
from prunelib.paths import data_dir
from prunelib.runs import environment, folders
from prunelib.runs.record import Record
from prunelib.runs.sources import source_sha256
from prunelib.runs.tables import read_table


@pytest.fixture
def run(tmp_path):
    return Record(tmp_path / "run", "05-layerwise", {"model": {"name": "tiny"}, "code": {"digest": "d"}})


def frame(n):
    return pd.DataFrame({"x": np.arange(n) + 0.5, "name": [f"row {i}" for i in range(n)]})


def test_a_table_is_computed_once_for_a_key_and_again_for_another(run):
    calls = []

    def compute():
        calls.append(1)
        return frame(3)

    first = run.table("t", {"seed": 0}, compute)
    pd.testing.assert_frame_equal(first, run.table("t", {"seed": 0}, compute))
    assert len(calls) == 1
    run.table("t", {"seed": 1}, compute)
    assert len(calls) == 2


def test_finished_units_survive_a_failure_and_are_not_computed_again(run):
    computed = []

    def compute(item, broken=()):
        if item in broken:
            raise RuntimeError("killed here")
        computed.append(item)
        return {"a": frame(item), "b": frame(1)}

    with pytest.raises(RuntimeError):
        run.tables(["a", "b"], {"k": 1}, [1, 2, 3], lambda i: compute(i, broken=[3]))
    found = run.tables(["a", "b"], {"k": 1}, [1, 2, 3], compute)
    assert computed == [1, 2, 3]  # 1 and 2 once only
    assert (len(found["a"]), len(found["b"])) == (6, 3)
    assert not list((run.folder / "units").iterdir())


def test_kill_minus_nine_leaves_the_same_table_as_an_undisturbed_run(tmp_path):
    script = textwrap.dedent("""
        import os, signal, sys, pandas as pd
        from prunelib.runs.record import Record
        folder, die_at = sys.argv[1], int(sys.argv[2])
        def compute(i):
            if i == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            print(i, flush=True)
            return {"t": pd.DataFrame({"i": [i] * 4, "x": [i / 7] * 4})}
        run = Record(folder, "nb", {"code": {}})
        run.tables(["t"], {"k": 0}, range(6), compute)
    """)

    def go(folder, die_at):
        command = [sys.executable, "-c", script, str(tmp_path / folder), str(die_at)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    whole = go("whole", -1)
    killed = go("killed", 4)
    assert killed.returncode == -signal.SIGKILL and killed.stdout.split() == list("0123")
    assert go("killed", -1).stdout.split() == list("45")
    assert whole.stdout.split() == list("012345")
    tables = [(tmp_path / f / "tables" / "t.parquet").read_bytes() for f in ("whole", "killed")]
    assert tables[0] == tables[1]


def test_a_damaged_table_is_computed_again(run):
    run.table("t", {"k": 1}, lambda: frame(3))
    file = run.folder / "tables" / "t.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    assert read_table(file) is None
    assert len(run.table("t", {"k": 1}, lambda: frame(3))) == 3


def test_parts_merge_into_one_manifest_tagged_with_their_notebook(tmp_path):
    for name in ("01-a", "02-b"):
        part = Record(tmp_path, name, {"model": {"name": "m"}, "code": {"digest": name}})
        part.part["values"][f"{name}.x"] = {"value": 1}
        part.save()
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert {k: v["notebook"] for k, v in manifest["values"].items()} == {"01-a.x": "01-a", "02-b.x": "02-b"}


def test_merging_an_empty_folder_is_one_clear_line(tmp_path):
    with pytest.raises(PrunelibError, match="nothing was run"):
        folders.merge(tmp_path)


def test_a_full_disk_is_one_clear_line_and_leaves_no_file(tmp_path):
    target = tmp_path / "x.json"
    with pytest.raises(PrunelibError, match="No space left"), writing(target) as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_folders_place_is_one_clear_line(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(PrunelibError, match="cannot write"):
        write_json(tmp_path / "runs" / "x.json", {})


def test_keys_ignore_the_order_of_fields():
    assert key_hash({"a": 1, "b": 2}) == key_hash({"b": 2, "a": 1})
    assert key_hash({"a": 1}) != key_hash({"a": 2})


def sources_of(module):
    root = Path(paths.__file__).parent
    return {file.relative_to(root).as_posix() for file in environment.sources_of(f"prunelib.{module}")}


def test_the_code_digest_of_a_table_covers_what_its_module_imports():
    names = sources_of("runs.zoo.scores")
    # models and methods in any case; its own; imported at the head, inside a function, by an import
    needed = {"models/lm.py", "methods/drop.py", "methods/wanda.py", "runs/zoo/scores.py", "tasks/readouts.py",
              "tasks/score.py", "engine/prefix.py"}  # fmt: skip
    assert names >= needed
    others = {name for name in names if not name.startswith("runs/zoo/")}
    assert not {name for name in others if name.startswith(("report", "runs", "cli", "files", "errors"))}
    assert not {name for name in sources_of("runs.zoo.traces") if name.startswith("tasks/")}
    modules = ("", "prunelib.runs.zoo.scores", "prunelib.runs.zoo.traces")
    assert len({environment.code_digest(module) for module in modules}) == 3


# ---------------------------------------------------------------- damage is not blessed


def edit(file, change):
    """Write another content under the old key, as a user with pandas and pyarrow would."""
    table = pq.read_table(file)
    changed = pa.Table.from_pandas(change(table.to_pandas()), preserve_index=False)
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), file)


def test_an_edited_table_is_computed_again(run):
    good = run.table("t", {"k": 1}, lambda: frame(3))
    file = run.folder / "tables" / "t.parquet"
    edit(file, lambda table: table.assign(x=99.0))
    assert read_table(file, {"k": 1})["x"].tolist() == [99.0] * 3  # its key is still the old one
    again = Record(run.folder, "05-layerwise", {"code": {}})
    pd.testing.assert_frame_equal(again.table("t", {"k": 1}, lambda: frame(3)), good)
    assert (again.units_computed, again.units_reused) == (1, 0)


def test_an_edited_unit_is_computed_again(run):
    def compute(item, broken):
        if broken and item == 3:
            raise RuntimeError("killed here")
        return {"t": frame(item)}

    with pytest.raises(RuntimeError):
        run.tables(["t"], {"k": 1}, [1, 2, 3], lambda item: compute(item, True))
    edit(next((run.folder / "units").glob("*/0001.t.parquet")), lambda table: table.assign(x=99.0))
    found = run.tables(["t"], {"k": 1}, [1, 2, 3], lambda item: compute(item, False))
    assert found["t"]["x"].max() == 2.5 and (run.units_computed, run.units_reused) == (4, 1)


def test_a_table_that_no_part_records_is_computed_again(run):
    run.table("t", {"k": 1}, lambda: frame(3))
    (run.folder / "parts" / "05-layerwise.json").write_text("{}")
    again = Record(run.folder, "05-layerwise", {"code": {}})
    again.table("t", {"k": 1}, lambda: frame(3))
    assert again.units_computed == 1


def test_a_table_is_known_by_whichever_notebook_recorded_it(run):
    run.table("t", {"k": 1}, lambda: frame(3))
    other = Record(run.folder, "06-other", {"code": {}})
    other.table("t", {"k": 1}, lambda: 1 / 0)
    assert other.units_reused == 1 and other.part["tables"]["t"] == run.part["tables"]["t"]


def test_a_kill_before_the_hash_is_on_record_keeps_the_units(run, monkeypatch):
    monkeypatch.setattr(run, "save", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run.tables(["t"], {"k": 1}, [1, 2], lambda n: {"t": frame(n)})
    again = Record(run.folder, "05-layerwise", {"code": {}})
    again.tables(["t"], {"k": 1}, [1, 2], lambda n: 1 / 0)
    assert again.units_reused == 2


# ---------------------------------------------------------------- names


def test_names_stay_short_and_tell_apart_what_they_name(run):
    plans = [",".join(f"attn:{layer}" for layer in range(start, 64)) for start in (0, 1)]
    names = ["answers_sites-" + plan.replace(":", "-").replace(",", "_") for plan in plans]
    for name in names:
        run.table(name, {"k": 1}, lambda name=name: frame(len(name)))
    files = [file.name for file in (run.folder / "tables").iterdir()]
    assert len(files) == 2 and all(len(file) < 120 and file.startswith("answers_sites-attn-") for file in files)
    again = Record(run.folder, "06-other", {"code": {}})
    for name in names:
        assert len(again.table(name, {"k": 1}, lambda: 1 / 0)) == len(name)
    assert {f"{name}.parquet" for name in again.part["tables"]} == set(files)


def test_names_of_the_committed_reference_are_what_they_were():
    tables = (data_dir() / "reference").glob("*/tables/*.parquet")
    names = [file.stem for file in tables]
    assert names and all(short_name(name) == name and is_plain(name) for name in names)


def test_a_long_name_is_cut_between_characters():
    assert short_name("ä" * 200).startswith("ä" * 40 + "-") and len(short_name("ä" * 200).encode()) < 100


def test_a_notebook_that_jupyter_saved_is_the_same_source(tmp_path):
    def write(name, *, source=("a = 1\n", "a"), tags=("parameters",), **more):
        cell = {"cell_type": "code", "source": list(source), "metadata": {"tags": list(tags)}, "outputs": [],
                "execution_count": None}  # fmt: skip
        cell |= more
        (tmp_path / name).write_text(json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
        return source_sha256(tmp_path / name)

    first = write("a.ipynb")
    printed = [{"output_type": "stream", "text": "1"}]
    assert first == write("b.ipynb", outputs=printed, execution_count=3, source="a = 1\na")
    others = write("c.ipynb", source="a = 2"), write("d.ipynb", tags=()), write("e.ipynb", cell_type="raw")
    assert len({first, *others}) == 4
