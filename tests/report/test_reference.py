"""A run kept in small and read again: the same book, whatever notebooks and code have become."""

import json
import re
import shutil

import fakebook
import pytest

from prunelib import cli
from prunelib.errors import PrunelibError
from prunelib.files import read_json, sha256, write_json
from prunelib.paths import project_root
from prunelib.report import publish, reference
from prunelib.runs import beside, environment


@pytest.fixture
def kept(tmp_path):
    """The project, the run, and the run's reference."""
    root, run = fakebook.make(tmp_path)
    return root, run, reference.save(run, tmp_path / "data" / "tiny", root)


def test_what_is_read_again_is_the_run(kept, tmp_path):
    root, run, source = kept
    again = reference.restore(source, tmp_path / "again")
    assert publish.gate(again, root, current=False) == []
    before, after = (read_json(folder / "manifest.json") for folder in (run, again))
    for name in ("values", "claims", "model", "profile", "seed", "code"):
        assert before.get(name) == after.get(name)
    assert (again / "tables" / "demo.parquet").read_bytes() == (run / "tables" / "demo.parquet").read_bytes()
    for suffix in (".light.svg", ".dark.svg", ".csv", ".bib"):  # drawn again from its data
        assert (again / "figures" / f"fig-demo{suffix}").read_bytes() == (
            run / "figures" / f"fig-demo{suffix}"
        ).read_bytes()


def test_it_is_read_after_notebooks_and_code_have_changed(kept, tmp_path, monkeypatch):
    root, _, source = kept
    notebook = root / "notebooks" / "01-demo.ipynb"
    notebook.write_text(notebook.read_text().replace("6 * 7", "6 * 8"))
    monkeypatch.setattr(environment, "code_digest", lambda of="": "other")
    again = reference.restore(source, tmp_path / "again")
    assert len(publish.gate(again, root)) == 2 and publish.gate(again, root, current=False) == []


def test_an_unfinished_run_is_not_kept(kept, tmp_path):
    root, run, source = kept
    (run / "figures" / "fig-demo.pdf").unlink()
    before = sorted(file.name for file in source.rglob("*"))
    with pytest.raises(PrunelibError, match="is no finished run: .*fig-demo.pdf is in the manifest but missing"):
        reference.save(run, source, root)
    assert sorted(file.name for file in source.rglob("*")) == before


def test_pictures_and_long_tables_are_left_out(kept, tmp_path, monkeypatch):
    root, run, source = kept
    picture = {"output_type": "display_data", "data": {"image/png": "AAAA", "text/plain": "Figure"}, "metadata": {}}
    cells = fakebook.executed_cells()
    cells[3]["outputs"] = [picture]
    fakebook.write_run(root, run, cells)
    monkeypatch.setattr(reference, "TABLE_LIMIT", 10)
    reference.save(run, source, root)
    assert not list(source.glob("figures/*.png")) and not list(source.glob("tables/*"))
    assert "image/png" not in (source / "notebooks" / "01-demo.ipynb").read_text()
    assert set(json.loads((source / reference.LEFT_OUT).read_text())["demo"]) == {"bytes", "rows", "sha256"}
    assert publish.gate(reference.restore(source, tmp_path / "again"), root, current=False) == []


def test_nothing_of_the_machine_is_kept():
    cell = fakebook.code("x", outputs=[{"output_type": "stream", "name": "stderr", "text": "/home/me/warning"}])
    given = fakebook.code("out = '/home/me/run'\nmodel = 'tiny'\n") | {"metadata": {"tags": ["injected-parameters"]}}
    papermill = {"input_path": "/home/me/01-demo.ipynb", "output_path": "/home/me/.tmp-1-01-demo.ipynb",
                 "parameters": {"out": "/home/me/run", "model": "tiny"}}  # fmt: skip
    kept = reference.portable({"cells": [cell, given], "metadata": {"papermill": papermill}})
    assert "/home" not in json.dumps(kept) and kept["metadata"]["papermill"]["input_path"] == "01-demo.ipynb"


def test_the_committed_reference_is_whole_and_small():
    """What `make read` renders: every figure's data is what was recorded, and git can carry it."""
    for source in (project_root() / "data" / "reference").iterdir():
        assert sum(file.stat().st_size for file in source.rglob("*") if file.is_file()) < reference.LIMIT
        assert not re.search(r'"out": "/', (source / "manifest.json").read_text())
        manifest = read_json(source / "manifest.json")
        assert manifest["profile"] == "full" and manifest["code"]["commit"] and not manifest["code"]["dirty"]
        for figure_id, entry in manifest["figures"].items():
            data = source / "figures" / f"{figure_id}.csv"
            assert sha256(data) == entry["files"][data.name]
        left_out = read_json(source / reference.LEFT_OUT)
        for name, entry in manifest["tables"].items():
            file = source / "tables" / f"{name}.parquet"
            assert name in left_out or sha256(file) == entry["sha256"]
        for file in source.glob("notebooks/*.ipynb"):
            assert not re.search(r'"/(home|root|tmp|work|Users)/', file.read_text()), file


def test_one_that_is_too_large_leaves_the_old_one(kept, monkeypatch):
    root, run, source = kept
    before = (source / "manifest.json").read_bytes()
    monkeypatch.setattr(reference, "LIMIT", 1000)
    with pytest.raises(PrunelibError, match="the reference would take .* its largest file is"):
        reference.save(run, source, root)
    assert (source / "manifest.json").read_bytes() == before
    assert [folder.name for folder in source.parent.iterdir()] == ["tiny"]  # no leftovers


def test_changed_data_is_refused(kept, tmp_path):
    *_, source = kept
    data = source / "figures" / "fig-demo.csv"
    data.write_text(data.read_text().replace("1", "2", 1))
    with pytest.raises(PrunelibError, match="is not the data that the reference run recorded"):
        reference.restore(source, tmp_path / "again")


def test_no_reference_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["book", "--reference", "nothing"]) == 2
    error = capsys.readouterr().err
    assert "no reference run in" in error and "make reference" in error and error.count("\n") == 1
    assert cli.main(["reference", "--run", str(tmp_path)]) == 2
    shutil.rmtree(tmp_path)


def test_a_site_that_is_not_ours_is_refused_before_anything_is_drawn(tmp_path, capsys):
    site = tmp_path / "mine"
    site.mkdir()
    (site / "notes.txt").write_text("mine")
    assert cli.main(["book", "--reference", "--site", str(site)]) == 2
    assert "no site of prunelib" in capsys.readouterr().err
    assert [found.name for found in tmp_path.iterdir()] == ["mine"]


def test_the_reference_in_its_own_book_is_not_stored_twice(kept, tmp_path):
    root, run, source = kept
    slug = read_json(run / "manifest.json")["model"]["slug"]
    write_json(root / "data" / "reference" / slug / "manifest.json", read_json(source / "manifest.json"))
    publish.stage(run, tmp_path / "staged", root)
    assert read_json(tmp_path / "staged" / "_extra" / "reference.json")["same_as"] == "claims.json"


def test_the_claims_of_the_reference_stand_beside_another_run(kept, tmp_path):
    root, run, source = kept
    manifest = read_json(run / "manifest.json")
    staged = tmp_path / "staged"
    publish.stage(run, staged, root)
    shown = staged / "_extra" / "reference.json"
    assert {row["status"] for row in read_json(shown)["claims"]} == {"not yet"}  # none is committed
    for slug in (beside.DEFAULT, manifest["model"]["slug"]):  # the model's own goes before the default's
        other = read_json(source / "manifest.json") | {"seed": len(slug)}
        write_json(root / "data" / "reference" / slug / "manifest.json", other)
        publish.stage(run, staged, root)
        assert read_json(shown)["run"]["seed"] == len(slug)
        assert read_json(shown)["claims"] == publish.claims_record(manifest)["claims"]


def second(root, run, tmp_path):
    """A run of a second chapter alone, with a value, a table and the claim C8 of its own."""
    toc = root / "_toc.yml"
    toc.write_text(
        toc.read_text().replace("notebooks/01-demo\n", "notebooks/01-demo\n      - file: notebooks/02-more\n")
    )
    shutil.copy(root / "notebooks" / "01-demo.ipynb", root / "notebooks" / "02-more.ipynb")
    other = shutil.copytree(run, tmp_path / "second")
    (other / "notebooks" / "01-demo.ipynb").rename(other / "notebooks" / "02-more.ipynb")
    (other / "tables" / "demo.parquet").rename(other / "tables" / "more.parquet")
    manifest = read_json(other / "manifest.json")
    manifest["notebooks"] = {"02-more": manifest["notebooks"]["01-demo"]}
    manifest["tables"] = {"more": manifest["tables"]["demo"]}
    manifest["values"] = {
        "demo.count": manifest["values"]["demo.count"],
        "more.ratio": manifest["values"]["demo.ratio"],
    }
    manifest["claims"] = {"C8": manifest["claims"]["C1"]}
    for entry in (*manifest["values"].values(), *manifest["claims"].values()):
        entry["notebook"] = "02-more"
    write_json(other / "manifest.json", manifest)
    return other


def test_chapters_are_added_to_what_is_committed(kept, tmp_path):
    root, run, source = kept
    first, other = read_json(source / "manifest.json"), second(root, run, tmp_path)
    with pytest.raises(PrunelibError, match="01-demo was not run"):  # alone it is no whole run
        reference.save(other, source, root)
    reference.save(other, source, root, add=True)
    found = read_json(source / "manifest.json")
    assert list(found["notebooks"]) == ["01-demo", "02-more"]
    assert found["notebooks"]["01-demo"] == first["notebooks"]["01-demo"]
    assert set(found["values"]) == {"demo.ratio", "demo.count", "more.ratio"}
    assert {name: entry["notebook"] for name, entry in found["claims"].items()} == {"C1": "01-demo", "C8": "02-more"}
    assert {file.stem for file in (source / "tables").iterdir()} == {"demo", "more"}
    again = reference.restore(source, tmp_path / "again")
    assert publish.gate(again, root, current=False) == []


def test_what_is_added_to_may_lack_chapters_still(kept, tmp_path):
    root, run, source = kept
    other, toc = second(root, run, tmp_path), root / "_toc.yml"
    shutil.copy(root / "notebooks" / "01-demo.ipynb", root / "notebooks" / "03-most.ipynb")
    toc.write_text(
        toc.read_text().replace("notebooks/02-more\n", "notebooks/02-more\n      - file: notebooks/03-most\n")
    )
    reference.save(other, source, root, add=True)
    assert list(read_json(source / "manifest.json")["notebooks"]) == ["01-demo", "02-more"]


def test_a_chapter_that_is_added_again_takes_its_own_place(kept, tmp_path):
    root, run, source = kept
    manifest = read_json(run / "manifest.json")
    del manifest["claims"]["C8"]
    manifest["claims"]["C1"]["value"] = 0.5
    write_json(run / "manifest.json", manifest)
    reference.save(run, source, root, add=True)
    claims = read_json(source / "manifest.json")["claims"]
    assert set(claims) == {"C1"} and claims["C1"]["value"] == 0.5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"profile": "quick"}, "of profile smoke, this run of quick"),
        ({"seed": 3}, "of seed 0, this run of 3"),
        ({"model": {"name": "tiny/model", "slug": "tiny", "n_layers": 2, "fingerprint": "b"}}, "their weights differ"),
    ],
)
def test_what_is_added_is_of_the_same_model_and_size(kept, change, said):
    root, run, source = kept
    write_json(run / "manifest.json", read_json(run / "manifest.json") | change)
    before = sorted(file.name for file in source.rglob("*"))
    with pytest.raises(PrunelibError, match=said):
        reference.save(run, source, root, add=True)
    assert sorted(file.name for file in source.rglob("*")) == before


def test_there_is_something_to_add_to(kept, tmp_path):
    root, run, _ = kept
    with pytest.raises(PrunelibError, match="no reference run in .* to add to"):
        reference.save(run, tmp_path / "nowhere", root, add=True)
