"""A run folder is ours by its mark, holds one model and one set of options, and nothing else is ever removed."""

import json
import shutil

import pandas as pd
import pytest

from prunelib import paths
from prunelib.errors import PrunelibError
from prunelib.files import is_plain, read_json, seal, sha256, write_json, writing
from prunelib.runs import folders, marks, runner
from prunelib.runs.options import RunOptions
from prunelib.runs.record import Record
from prunelib.runs.tables import read_table, write_table

FRAME = pd.DataFrame({"x": [1.0, 2.0]})
MODEL = {"name": "org/tiny", "slug": "org--tiny", "fingerprint": "f" * 64, "device": "cpu", "dtype": "float32"}
GIVEN = {"model": "org/tiny", "profile": "smoke", "seed": 0, "device": "auto", "dtype": "auto", "prompts": "default",
         "limit": 0, "temperatures": "1,2"}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


def begin(folder, notebook="05-layerwise", x=1.0, key=0, **given):
    """What a notebook does: it opens its record, makes a table and a figure's file."""
    common = {"model": MODEL, "parameters": GIVEN | given, "profile": "smoke", "code": {"digest": "d"}}
    run = Record(folder, notebook, common)
    run.table("t", {"k": key}, lambda: FRAME * x)
    file = run.place("figures/fig-demo.csv")
    with writing(file) as temporary:
        temporary.write_text(str(x))
    run.part["figures"]["fig-demo"] = {"files": {"fig-demo.csv": sha256(file)}, "notebook": notebook}
    run.part["values"]["x"] = {"value": x}
    run.save()
    return run


def end(folder, notebook="05-layerwise"):
    return folders.finish(folder, notebook, {"sha256": "s"})


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------- which are ours


@pytest.mark.parametrize(
    "names",
    [
        ["thesis.tex"],
        ["manifest.json"],
        ["parts/a.json", "manifest.json"],
        ["tables/mine.parquet", "notebooks/05-layerwise.ipynb", "figures/a.png"],  # a clone of some project
    ],
)
def test_a_folder_that_is_not_ours_is_refused_and_nothing_in_it_changes(folder, names):
    for name in [*names, "deep/.tmp-1-theirs"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('{"schema": 1, "name": "my web app"}')
    before = files(folder)
    with pytest.raises(PrunelibError, match="not empty and no run folder"), runner.locked(folder):
        pass
    assert files(folder) == before


def test_a_run_of_an_older_version_is_known_by_its_manifest_and_parts(folder):
    begin(folder)
    assert not marks.is_marked(folder, "run") and folders.is_run(folder)
    with runner.locked(folder):
        assert marks.is_marked(folder, "run")
    shutil.rmtree(folder / "parts")
    (folder / ".prunelib-run").unlink()
    assert not folders.is_run(folder)


def test_fresh_removes_what_we_wrote_and_nothing_else(folder, tmp_path):
    folders.claim(folder)
    begin(folder)
    end(folder)
    begin(folder, x=2.0, key=1)  # once more, and not finished
    write_table(folder / "units" / "t-abc" / "0000.t.parquet", FRAME, {"k": 3})
    seal(folder / "units" / "t-abc" / "0000.t.parquet")
    write_table(folder / "weights" / "wanda-0.5.seed0.parquet", FRAME, {"k": 3})
    for name in ("notebooks/05-layerwise.ipynb", "notebooks/05-layerwise.failed.ipynb", "model.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    theirs = ["notes.txt", "tables/notes.csv", "tables/sub/t.parquet", "figures/photo.png", "notebooks/mine.ipynb",
              "parts/spare.json", "units/notes/x.parquet", "other/.tmp-1-x", "tables/.tmp-draft",
              "unfinished/theirs.txt"]  # fmt: skip
    for name in theirs:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("theirs")
    FRAME.to_parquet(folder / "tables" / "mine.parquet")
    outside = tmp_path / "outside"
    write_table(outside / "t.parquet", FRAME, {"k": 1})
    (folder / "tables" / "link.parquet").symlink_to(outside / "t.parquet")
    folders.discard(folder)
    assert set(files(folder)) == {*theirs, "tables/mine.parquet", "tables/link.parquet", ".prunelib-run"}
    assert (outside / "t.parquet").is_file()


@pytest.mark.parametrize("name", ["tables", "units", "parts", "figures", "notebooks", "weights", "unfinished"])
def test_links_are_not_followed_out(folder, tmp_path, name):
    folders.claim(folder)
    outside = tmp_path / "outside"
    for sub in (outside, outside / "t-1", outside / "05-layerwise" / "tables"):
        write_table(sub / "t.parquet", FRAME, {"k": 1})
        (sub / ".tmp-12-t.parquet").write_text("half")
    begin(outside / "05-layerwise")
    before = files(outside)
    (folder / name).symlink_to(outside)
    folders.clean(folder)
    folders.discard(folder)
    assert files(outside) == before and (folder / name).is_symlink()


def test_only_our_own_leftovers_are_removed_where_we_write(folder):
    folders.claim(folder)
    ours = [".tmp-12-manifest.json", "tables/.tmp-12-t.parquet", "units/t-1/.tmp-3-0000.t.parquet",
            "unfinished/05-layerwise/figures/.tmp-4-fig.csv"]  # fmt: skip
    theirs = [".tmp-x", "tables/.tmp-backup", "deep/er/.tmp-12-x", "tables/deep/.tmp-12-x", ".tmp-12-folder/x"]
    for name in [*ours, *theirs]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    with runner.locked(folder):
        pass
    assert set(files(folder)) == {*theirs, ".lock", ".prunelib-run"}


# ---------------------------------------------------------------- one model, one set of options


@pytest.mark.parametrize(
    ("given", "model", "message"),
    [
        ({"model": "org/other"}, {"slug": "org--other"}, "holds results of model org/tiny, not of model org/other: "
                                                         "name another folder with --out, or start this one anew"),
        ({}, {"fingerprint": "e" * 64}, "model org/tiny with weights ffffffffffff, not of model org/tiny with weights"),
        ({"seed": 1}, {}, "of seed 0, not of seed 1"),
        ({"profile": "full"}, {}, "of profile smoke, not of profile full"),
        ({"limit": 3}, {}, "of limit 0, not of limit 3"),
        ({"prompts": "my.txt"}, {}, "of prompts default, not of prompts my.txt"),
        ({"temperatures": "1,3"}, {}, "of temperatures 1,2, not of temperatures 1,3"),
        ({"dtype": "bfloat16"}, {}, "of dtype float32, not of dtype bfloat16"),
        ({"device": "cuda"}, {"device": "cuda:0"}, "of device cpu, not of device cuda:0"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("notebook", ["05-layerwise", "06-theory-meets-measurement"])
def test_another_model_or_option_is_refused_in_one_line(folder, given, model, message, notebook):
    begin(folder)
    folders.refuse_other(folder, {notebook: GIVEN}, {"slug": MODEL["slug"]})
    with pytest.raises(PrunelibError, match=message):
        folders.refuse_other(folder, {notebook: GIVEN | given}, {"slug": MODEL["slug"]} | model)


def test_options_that_mean_the_same_or_that_a_notebook_lacks_do_not_matter(folder):
    begin(folder, "07-methods")  # knows neither prompts nor temperatures
    same = GIVEN | {"temperatures": "1,3", "prompts": "my.txt", "device": "cpu", "dtype": "float32"}
    folders.refuse_other(folder, {"05-layerwise": same}, MODEL)
    begin(folder, "05-layerwise")
    folders.refuse_other(folder, {"06-theory-meets-measurement": GIVEN | {"temperatures": "2, 1.0"}}, MODEL)


def test_what_is_not_finished_counts_too(folder):
    begin(folder, "05-layerwise")
    end(folder)
    part = begin(folder, "05-layerwise").place("parts/05-layerwise.json")
    write_json(part, read_json(part) | {"parameters": GIVEN | {"seed": 7}})
    with pytest.raises(PrunelibError, match="of seed 7, not of seed 0"):
        folders.refuse_other(folder, {"05-layerwise": GIVEN}, MODEL)


# ---------------------------------------------------------------- a finished record stays


def test_a_finished_record_stays_until_the_new_one_is_finished(folder):
    begin(folder)
    end(folder)
    before = files(folder)
    begin(folder, x=2.0, key=1)
    after = files(folder)
    waiting = {name for name in after if name.startswith("unfinished/05-layerwise/")}
    assert {name: after[name] for name in after.keys() - waiting} == before
    assert waiting == {
        f"unfinished/05-layerwise/{name}"
        for name in ("parts/05-layerwise.json", "tables/t.parquet", "figures/fig-demo.csv")
    }
    part = end(folder)
    assert "earlier" not in part and part["executed"] == {"sha256": "s"}
    assert not (folder / "unfinished").exists()
    assert read_table(folder / "tables" / "t.parquet", {"k": 1})["x"].tolist() == [2, 4]
    assert (folder / "figures" / "fig-demo.csv").read_text() == "2.0"
    assert json.loads((folder / "manifest.json").read_text())["values"]["x"]["value"] == 2.0
    for name, digest in folders.described(part).items():
        assert sha256(folder / name) == digest


def test_what_an_interrupted_run_computed_is_found_again(folder):
    begin(folder)
    end(folder)
    begin(folder, key=1)  # interrupted after its table
    for _ in range(2):  # interrupted twice more, before the table
        Record(folder, "05-layerwise", {"code": {}})
    again = begin(folder, key=1)
    assert (again.units_computed, again.units_reused) == (0, 1)
    other = begin(folder, "06-other", key=1)  # another notebook needs the same table
    assert (other.units_computed, other.units_reused) == (0, 1)
    end(folder, "06-other")
    part = end(folder)
    assert all(sha256(folder / name) == digest for name, digest in folders.described(part).items())


def test_a_stale_file_that_waits_does_not_take_the_place_of_a_good_one(folder):
    begin(folder)
    end(folder)
    begin(folder, x=2.0, key=1)
    run = Record(folder, "05-layerwise", {"code": {}})
    run.table("t", {"k": 0}, lambda: 1 / 0)  # the finished one
    end(folder)
    assert read_table(folder / "tables" / "t.parquet", {"k": 0}) is not None


@pytest.mark.parametrize("name", ["../../victim", "/etc/passwd", ".hidden", "a/b", ""])
def test_a_part_that_names_a_file_elsewhere_is_none(folder, name):
    begin(folder)
    file = folder / "parts" / "05-layerwise.json"
    part = read_json(file)
    for bad in ({"tables": {name: {"sha256": "0"}}}, {"figures": {"f": {"files": {name: "0"}}}}):
        write_json(file, part | bad)
        assert folders.parts(folder) == []
    figures = {"f": {"files": []}}
    for bad in ({"tables": []}, {"figures": figures}, {"notebook": "06"}, {"created": 3}, {"values": None}):
        write_json(file, part | bad)
        assert folders.parts(folder) == []


# ---------------------------------------------------------------- where it lies


def folder_of(out=""):
    return RunOptions(model="org/tiny", profile="quick", out=out).folder


def test_jupyter_finds_the_run_folder_of_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wanted = folder_of().resolve()
    named = folder_of("out/x").resolve()
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "05-layerwise.ipynb").write_text("{}")
    monkeypatch.chdir(tmp_path / "notebooks")
    assert folder_of().resolve() == wanted == tmp_path / "runs/org--tiny/quick"
    assert folder_of("out/x").resolve() == named == tmp_path / "out/x"
    folders.claim(wanted)
    shutil.copytree(tmp_path / "notebooks", wanted / "notebooks")
    monkeypatch.chdir(wanted / "notebooks")  # an executed notebook, opened where its run keeps it
    for out in ("", "runs/org--tiny/quick"):
        assert folder_of(out).resolve() == wanted
    assert folder_of(str(tmp_path / "y")) == tmp_path / "y"


def test_two_models_of_one_folder_name_do_not_share_a_run_folder(tmp_path, monkeypatch):
    for name in ("exp1/checkpoint-1000", "exp2/checkpoint-1000", "smollm2-135m-instruct", "org/tiny"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    first, second = (paths.slugify(f"exp{n}/checkpoint-1000") for n in (1, 2))
    assert first.startswith("exp1-checkpoint-1000-") and second.startswith("exp2-checkpoint-1000-")
    (tmp_path / "link").symlink_to(tmp_path / "exp1")
    same = ["./exp1/checkpoint-1000/", str(tmp_path / "exp1/checkpoint-1000"), "exp2/../exp1/checkpoint-1000",
            "link/checkpoint-1000"]  # fmt: skip
    assert {paths.slugify(name) for name in same} == {first}
    assert paths.slugify("smollm2-135m-instruct") == "smollm2-135m-instruct"  # an alias goes before a folder
    assert paths.slugify("org/tiny") != "org--tiny" and paths.slugify("org/small", "v1") == "org--small--v1"
    for name in ("x" * 5000, "./" + "x" * 250, "/", "~nobody-of-that-name/m", "..", "a\nb"):
        slug = paths.slugify(name)
        assert 0 < len(slug) < 160 and is_plain(slug)
