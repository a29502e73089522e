"""The gate refuses what is incomplete, stale or changed; staging is minimal; the swap is safe."""

import json
import os
import re
import shutil
from html import unescape
from pathlib import Path

import fakebook
import pytest

from prunelib.errors import PrunelibError
from prunelib.files import read_json, write_json
from prunelib.report import pages, publish, sitecheck


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return fakebook.make(tmp_path_factory.mktemp("book"))


@pytest.fixture
def book(made, tmp_path):
    """A fresh copy of the project and the run."""
    root, run = tmp_path / "project", tmp_path / "run"
    shutil.copytree(made[0], root)
    shutil.copytree(made[1], run)
    return root, run


def only(problems: list[str]) -> str:
    assert len(problems) == 1, problems
    return problems[0]


def rewrite(book, *cells) -> None:
    """The run again, its notebook executed to ``cells``; hashes and all."""
    fakebook.write_run(*book, list(cells))


def test_a_complete_run_passes(book):
    assert publish.gate(book[1], book[0]) == []


def test_no_run_at_all(book, tmp_path):
    with pytest.raises(PrunelibError, match="has no manifest.json: run `prunelib run` first"):
        publish.gate(tmp_path / "nowhere", book[0])


def test_traceback(book):
    error = {"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": []}
    rewrite(book, *fakebook.executed_cells(), fakebook.code("1 / 0", outputs=[error], count=4))
    assert "01-demo cell 6 ends in ValueError" in only(publish.gate(book[1], book[0]))


def test_unexecuted_cell(book):
    rewrite(book, *fakebook.executed_cells(), fakebook.code("1 + 1", count=None))
    assert "01-demo cell 6 was not executed" in only(publish.gate(book[1], book[0]))


def test_stale_source(book):
    source = book[0] / "notebooks" / "01-demo.ipynb"
    source.write_text(source.read_text().replace("6 * 7", "6 * 8"))
    assert "changed since it was run" in only(publish.gate(book[1], book[0]))


def test_other_code(book):
    manifest = read_json(book[1] / "manifest.json")
    manifest["notebooks"]["01-demo"]["code"]["digest"] = "0"
    write_json(book[1] / "manifest.json", manifest)
    assert "other code" in only(publish.gate(book[1], book[0]))


def test_notebook_that_was_not_run(book):
    toc = book[0] / "_toc.yml"
    toc.write_text(toc.read_text() + "      - file: notebooks/02-more\n")
    assert "no such notebook" in only(publish.gate(book[1], book[0]))
    shutil.copy(book[0] / "notebooks" / "01-demo.ipynb", book[0] / "notebooks" / "02-more.ipynb")
    assert publish.gate(book[1], book[0]) == []
    assert publish.missing(publish.read_manifest(book[1]), book[0]) == ["02-more"]


def test_a_run_of_nothing_is_no_book(book):
    manifest = read_json(book[1] / "manifest.json")
    write_json(book[1] / "manifest.json", manifest | {"notebooks": {}})
    assert "none of the book's chapters was run: `prunelib run 01`" in only(publish.gate(book[1], book[0]))


@pytest.mark.parametrize(
    "name", ["figures/fig-demo.pdf", "figures/fig-demo.csv", "tables/demo.parquet", "notebooks/01-demo.ipynb"]
)
def test_tampered_file(book, name):
    with open(book[1] / name, "ab") as file:
        file.write(b"\n")
    assert "not the file that the run wrote" in only(publish.gate(book[1], book[0]))


def test_missing_file(book):
    (book[1] / "figures" / "fig-demo.png").unlink()
    assert "fig-demo.png is in the manifest but missing" in only(publish.gate(book[1], book[0]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{val}`demo.ratoi`", "no value 'demo.ratoi' (did you mean 'demo.ratio'?)"),
        ("{val}`demo.count:interval`", "no interval"),
        ("```{figcard} fig-other\n```", "no figure 'fig-other'"),
        (":::{figcard} fig-other\n:::", "no figure 'fig-other'"),
    ],
)
def test_page_that_asks_for_what_is_not_there(book, text, message):
    page = book[0] / "book" / "index.md"
    page.write_text(page.read_text() + f"\n{text}\n")
    assert message in only(publish.gate(book[1], book[0]))


def test_missing_page(book):
    toc = book[0] / "_toc.yml"
    toc.write_text(toc.read_text() + "      - file: book/more\n")
    assert "book/more.md is in _toc.yml but does not exist" in only(publish.gate(book[1], book[0]))


def test_build_refuses_with_every_problem(book, tmp_path, capsys):
    (book[1] / "figures" / "fig-demo.png").unlink()
    (book[1] / "figures" / "fig-demo.pdf").unlink()
    with pytest.raises(publish.NotPublishable, match="and 1 more") as caught:
        publish.build(book[1], tmp_path / "site", book[0])
    assert len(caught.value.problems) == capsys.readouterr().err.count("\n") == 2
    assert not (tmp_path / "site").exists()


def test_build_never_replaces_a_folder_that_holds_no_book(book, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    with pytest.raises(PrunelibError, match="no site of prunelib"):
        publish.build(book[1], tmp_path / "home", book[0])
    assert (tmp_path / "home" / "thesis.txt").exists()


def test_parameters_appear_once_with_the_values_of_the_run(book):
    cleaned = pages.page(json.loads((book[1] / "notebooks" / "01-demo.ipynb").read_text()))
    sources = [cell["source"] for cell in cleaned["cells"] if cell["cell_type"] == "code"]
    assert sources == ['model = "other"  # any model\nseed = 0', "6 * 7"]
    assert "papermill" not in cleaned["metadata"]


def test_staging_touches_only_what_changed(book, tmp_path):
    root, run = book
    source = tmp_path / "source"
    publish.stage(run, source, root)
    for file in source.rglob("*"):
        os.utime(file, (1, 1))
    (root / "book" / "index.md").write_text("# Other\n")
    (root / "book" / "_static" / "favicon.svg").unlink()
    publish.stage(run, source, root)
    changed = {p.relative_to(source).as_posix() for p in source.rglob("*") if p.is_file() and p.stat().st_mtime > 1}
    assert changed == {"book/index.md"}
    assert not (source / "book/_static/favicon.svg").exists()


def test_a_changed_style_sheet_renders_every_page_again(book, tmp_path):
    publish._forget_if_outdated(tmp_path, book[0], partial=False)
    (tmp_path / "html").mkdir()
    publish._forget_if_outdated(tmp_path, book[0], partial=False)
    assert (tmp_path / "html").is_dir()
    sheet = book[0] / "book" / "_static" / "prunelib.css"
    sheet.write_text(sheet.read_text() + "\np { color: red; }\n")
    publish._forget_if_outdated(tmp_path, book[0], partial=False)
    assert not (tmp_path / "html").exists()


def test_drawing_code_and_ledger_are_published(book, tmp_path):
    publish.stage(book[1], tmp_path, book[0])
    code = (tmp_path / "_extra/figures/fig-demo.py.txt").read_text()
    line = int(code.split("line ")[1].split("\n")[0])
    assert code.splitlines()[line - 1].startswith("@figures.figure")
    ledger = json.loads((tmp_path / "_extra/claims.json").read_text())
    assert [claim["id"] for claim in ledger["claims"]] == [f"C{i}" for i in range(1, 17)]
    assert ledger["claims"][0]["status"] == "measured in this book"
    assert ledger["run"]["model"]["name"] == "tiny/model"


@pytest.mark.parametrize(
    ("html", "problem"),
    [
        ('<script src="https://cdn.example/x.js"></script>', "from a network"),
        ('<link rel="stylesheet" href="//cdn.example/x.css">', "from a network"),
        ('<img src="http://example.org/x.png">', "from a network"),
        ('<a href="missing.html">x</a>', "does not exist"),
        ('<a href="#nowhere">x</a>', "does not exist"),
        ('<a href="other.html#here">x</a>', "does not exist"),
        ('<a href="https://example.org">x</a><a href="other.html#there">y</a><a href="mailto:x@y.z">z</a>', ""),
    ],
)
def test_site_check(tmp_path, html, problem):
    (tmp_path / "index.html").write_text(f"<html><body id='top'>{html}</body></html>")
    (tmp_path / "other.html").write_text("<p id='there'>x</p>")
    found = sitecheck.problems(tmp_path)
    assert (problem in only(found)) if problem else found == []


def test_site_check_reads_style_sheets(tmp_path):
    (tmp_path / "a.css").write_text("@font-face { src: url('https://fonts.example/x.woff2') }")
    assert "a.css loads from a network" in only(sitecheck.problems(tmp_path))


def test_real_toc_lists_the_notebooks_in_order():
    notebooks, pages = publish.chapters()
    assert [int(name.split("-")[0]) for name in notebooks] == list(range(1, 1 + len(notebooks)))
    assert len(notebooks) >= 10
    assert pages[0] == "book/index.md" and all(Path(page).parent.name == "book" for page in pages)


# ---------------------------------------------------------------- runs of some chapters


@pytest.fixture
def partial(book):
    """A book of three chapters, of which one was run; pages refer to figures, numbers and places of all."""
    root, run = book
    toc = root / "_toc.yml"
    toc.write_text(toc.read_text() + "      - file: notebooks/02-more\n      - file: notebooks/03-most\n")
    for name, title in (("02-more", "What more there is"), ("03-most", "Most of all")):
        cells = [
            fakebook.markdown(f"# {title}\n\nAnd {{val}}`more.count`."),
            fakebook.markdown("```{figcard} fig-more\n```"),
        ]
        (root / "notebooks" / f"{name}.ipynb").write_text(fakebook.notebook(*cells))
    page = root / "book" / "index.md"
    more = "See {numref}`fig-more`, {numref}`Figure %s <fig-more>` and [there](../notebooks/02-more.ipynb#more)."
    page.write_text(page.read_text() + f"\n{more} It is {{val}}`more.count`.\n\n```{{figcard}} fig-more\n```\n")
    return root, run


def test_a_run_of_some_chapters_becomes_a_book(partial, tmp_path, capsys):
    root, run = partial
    manifest = read_json(run / "manifest.json")
    given = {"model": "org/model 7b", "revision": "abc", "device": "auto", "seed": 3, "profile": "smoke"}
    write_json(run / "manifest.json", manifest | {"parameters": {"01-demo": given}})
    publish.build(run, tmp_path / "site", root)
    assert capsys.readouterr().err == "not run, and so in the contents only: 02-more, 03-most\n"
    stub = unescape(re.sub("<[^>]+>", "", (tmp_path / "site" / "notebooks" / "02-more.html").read_text()))
    assert "What more there is" in stub and "This chapter was not run for this model" in stub
    assert f"prunelib run 02 --model 'org/model 7b' --profile smoke --revision abc --seed 3 --out {run}" in stub
    index = tmp_path / "site" / "book" / "index.html"
    shown = unescape(re.sub("<[^>]+>", "", index.read_text()))
    assert "See a figure that was not run, a figure that was not run and there. It is not run." in shown
    assert "This figure was not run." in shown and "What more there is" in shown  # in the contents
    assert not (tmp_path / "site" / "notebooks" / "02-more.ipynb").exists()
    assert "Figure 1.1" in unescape((tmp_path / "site" / "notebooks" / "01-demo.html").read_text())
    figures = unescape((tmp_path / "site" / "book" / "figures.html").read_text())
    assert "fig-demo.light.svg" in figures and "fig-more" not in figures
    # The missing chapter arrives: nothing of the incomplete book stays.
    (root / "_toc.yml").write_text(fakebook.TOC)
    (root / "book" / "index.md").write_text(fakebook.PAGE)
    publish.build(run, tmp_path / "site", root)
    assert "was not run" not in index.read_text() and "What more there is" not in index.read_text()


def test_what_was_run_is_still_checked_in_a_run_of_some_chapters(partial):
    root, run = partial
    with open(run / "figures" / "fig-demo.csv", "ab") as file:
        file.write(b"\n")
    assert "fig-demo.csv is not the file that the run wrote" in only(publish.gate(run, root))


def test_no_message_lists_more_than_ten_problems(book, tmp_path, capsys):
    page = book[0] / "book" / "index.md"
    page.write_text(page.read_text() + "\n".join(f"{{val}}`no.{i}`" for i in range(226)))
    with pytest.raises(publish.NotPublishable, match="and 225 more"):
        publish.build(book[1], tmp_path / "site", book[0])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 11 and lines[-1] == "- and 216 more"
