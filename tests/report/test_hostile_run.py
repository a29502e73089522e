"""A run folder that somebody else made: nothing in it runs, and nothing outside it is read, written or removed."""

import json
import os
import shutil
import subprocess
import sys

import fakebook
import pytest

from prunelib.errors import PrunelibError
from prunelib.files import read_json, sha256, write_json
from prunelib.report import drawings, figures, pages, provenance, publish, reference
from prunelib.runs import schema


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return fakebook.make(tmp_path_factory.mktemp("book"))


@pytest.fixture
def book(made, tmp_path):
    """A project, a run in it, and a neighbour that must stay as it is."""
    root, run = tmp_path / "project", tmp_path / "runs" / "run"
    shutil.copytree(made[0], root)
    shutil.copytree(made[1], run)
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "thesis.txt").write_text("years of work")
    return root, run


def everything(folder):
    """Every path below a folder with its content, links not followed."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in sorted(folder.rglob("*"))
    }


def change(run, **fields) -> None:
    """Another manifest; a field is a dict that goes into the old one, or its new value."""
    manifest = read_json(run / "manifest.json")
    for name, value in fields.items():
        manifest[name] = manifest[name] | value if isinstance(value, dict) else value
    (run / "manifest.json").write_text(json.dumps(manifest))


def draw(run, name: str, content) -> None:
    """Other content of a figure's file, under its right hash."""
    file = run / "figures" / name
    file.write_text(content) if isinstance(content, str) else file.write_bytes(content)
    manifest = read_json(run / "manifest.json")
    manifest["figures"]["fig-demo"]["files"][name] = sha256(file)
    write_json(run / "manifest.json", manifest)


def card(run, **fields) -> None:
    """Another card of the figure, under its right hash."""
    known = json.loads((run / "figures" / "fig-demo.json").read_text())
    draw(run, "fig-demo.json", json.dumps(known | fields))


def svg(run, inside: str, attributes: str = "") -> None:
    head = '<?xml version="1.0" encoding="utf-8"?>\n<svg xmlns="http://www.w3.org/2000/svg" '
    draw(run, "fig-demo.light.svg", f'{head}xmlns:xlink="http://www.w3.org/1999/xlink" {attributes}>{inside}</svg>')


def link(run, name: str) -> None:
    """A file of the run that is a link to one outside with the same content."""
    outside = run.parent.parent / "victim" / "copy"
    shutil.copy(run / name, outside)
    (run / name).unlink()
    (run / name).symlink_to(outside)


def link_folder(run, name: str) -> None:
    outside = run.parent.parent / "victim" / "folder"
    shutil.move(run / name, outside)
    (run / name).symlink_to(outside)


def execute(root, run, *cells) -> None:
    """Other executed cells, under the right hashes."""
    fakebook.write_run(root, run, list(cells))


HASH = "0" * 64
ENTITIES = '<!DOCTYPE svg [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
DEEP = '{"a":' * 100_000 + "1" + "}" * 100_000

REFUSED = {
    "a file of a figure above the run": lambda root, run: change(
        run, figures={"fig-demo": {"files": {"../../conf.py": HASH}, "notebook": "01-demo"}}),
    "a file of a figure with an absolute path": lambda root, run: change(
        run, figures={"fig-demo": {"files": {"/etc/passwd": HASH}}}),
    "a file of a figure with a backslash": lambda root, run: change(
        run, figures={"fig-demo": {"files": {"..\\..\\conf.py": HASH}}}),
    "a page among the files of a figure": lambda root, run: change(
        run, figures={"fig-demo": {"files": {"fig-demo.html": HASH}}}),
    "a figure nobody knows": lambda root, run: change(run, figures={"fig-other": {"files": {}}}),
    "a figure whose id is a path": lambda root, run: change(run, figures={"../fig-demo": {"files": {}}}),
    "a table above the run": lambda root, run: change(run, tables={"../../victim/thesis": {"sha256": HASH}}),
    "a table whose name has a line break": lambda root, run: change(run, tables={"a\nb": {"sha256": HASH}}),
    "a table whose name has a NUL": lambda root, run: change(run, tables={"a\0b": {"sha256": HASH}}),
    "a notebook that is a path": lambda root, run: change(run, notebooks={"../01-demo": {"sha256": HASH}}),
    "a slug that is a path": lambda root, run: change(run, model={"slug": "../../victim"}),
    "a slug that is a hidden folder": lambda root, run: change(run, model={"slug": ".ssh"}),
    "a profile that is a path": lambda root, run: change(run, profile="../../victim"),
    "a model that is a list": lambda root, run: change(run, model=["a"]),
    "a model without a name": lambda root, run: change(run, model=None),
    "a model whose name is a group": lambda root, run: change(run, model={"name": {"a": 1}}),
    "tables that are a list": lambda root, run: change(run, tables=[1, 2]),
    "an entry that is a number": lambda root, run: change(run, figures={"fig-demo": 3}),
    "a value that is a list": lambda root, run: change(run, values={"demo.ratio": {"value": [1, 2]}}),
    "a value too large for a float": lambda root, run: change(run, values={"demo.ratio": {"value": 10**400}}),
    "a format that fills the memory": lambda root, run: change(
        run, values={"demo.ratio": {"value": 1.0, "fmt": "999999999d"}}),
    "a verdict nobody gives": lambda root, run: change(run, claims={"C1": {"verdict": "<b>supported</b>"}}),
    "a manifest of another schema": lambda root, run: change(run, schema=2),
    "a manifest nested too deeply": lambda root, run: (run / "manifest.json").write_text(DEEP),
    "a manifest that is a list": lambda root, run: (run / "manifest.json").write_text("[]"),
    "a manifest cut short": lambda root, run: (run / "manifest.json").write_text('{"schema": 1,'),
    "a manifest that is no text": lambda root, run: (run / "manifest.json").write_bytes(b"\xff\xfe\x00{"),
    "a manifest with half a character": lambda root, run: (run / "manifest.json").write_text(
        (run / "manifest.json").read_text().replace("tiny/model", "\\ud800")),
    "a manifest that is a link": lambda root, run: link(run, "manifest.json"),
    "a manifest that is a folder": lambda root, run: (
        (run / "manifest.json").unlink(), (run / "manifest.json").mkdir()),
    "a notebook that is a link": lambda root, run: link(run, "notebooks/01-demo.ipynb"),
    "a table that is a link": lambda root, run: link(run, "tables/demo.parquet"),
    "a figure that is a link": lambda root, run: link(run, "figures/fig-demo.pdf"),
    "a folder of figures that is a link": lambda root, run: link_folder(run, "figures"),
    "a figure that is a pipe": lambda root, run: (
        (run / "figures" / "fig-demo.pdf").unlink(), os.mkfifo(run / "figures" / "fig-demo.pdf")),
    "an SVG with a script": lambda root, run: svg(run, "<script>alert(1)</script>"),
    "an SVG with HTML in it": lambda root, run: svg(run, "<foreignObject><p>x</p></foreignObject>"),
    "an SVG with an event handler": lambda root, run: svg(run, "", 'onload="alert(1)"'),
    "an SVG with a link": lambda root, run: svg(run, '<a xlink:href="javascript:alert(1)"><rect/></a>'),
    "an SVG that uses another file": lambda root, run: svg(run, '<use xlink:href="https://example.org/x.svg#a"/>'),
    "an SVG with a picture from elsewhere": lambda root, run: svg(run, '<image href="http://example.org/x.png"/>'),
    "an SVG with an SVG inside a picture": lambda root, run: svg(
        run, '<image href="data:image/svg+xml;base64,AAAA"/>'),
    "an SVG whose style loads": lambda root, run: svg(run, "<style>@import url(//example.org/x.css);</style>"),
    "an SVG whose attribute loads": lambda root, run: svg(run, '<rect style="fill: url(//example.org/x)"/>'),
    "an SVG with an animation": lambda root, run: svg(run, '<rect><set attributeName="href" to="x"/></rect>'),
    "an SVG of entities": lambda root, run: draw(
        run, "fig-demo.dark.svg", f'<?xml version="1.0"?>{ENTITIES}<svg>&b;</svg>'),
    "an SVG in another encoding": lambda root, run: draw(
        run, "fig-demo.light.svg", '<?xml version="1.0" encoding="utf-16"?><svg/>'.encode("utf-16")),
    "a PDF that is PostScript": lambda root, run: draw(run, "fig-demo.pdf", "%!PS-Adobe-3.0 EPSF-3.0\n"),
    "a PNG that is a page": lambda root, run: draw(run, "fig-demo.png", "<html><script>alert(1)</script></html>"),
    "a card with a field too many": lambda root, run: card(run, folder="/etc"),
    "a card whose size is text": lambda root, run: card(run, size=["1000%", "1"]),
    "a card of another figure's name": lambda root, run: card(run, id="../../index"),
    "a card whose notebook is a path": lambda root, run: card(run, notebook="../../01-demo"),
    "a card that is a list": lambda root, run: draw(run, "fig-demo.json", "[]"),
    "a notebook with another text": lambda root, run: execute(
        root, run, fakebook.markdown("<script>alert(1)</script>"), *fakebook.executed_cells()[1:]),
    "a notebook with a directive": lambda root, run: execute(
        root, run, *fakebook.executed_cells(), fakebook.markdown("```{raw} html\n<script>alert(1)</script>\n```")),
    "a notebook with a raw cell": lambda root, run: execute(
        root, run, *fakebook.executed_cells(), {"cell_type": "raw", "id": "r", "metadata": {}, "source": "<script>"}),
    "a notebook with other code": lambda root, run: execute(
        root, run, *fakebook.executed_cells(), fakebook.code("import os", count=4)),
    "a notebook that is none": lambda root, run: execute(root, run, {"cell_type": "code"}),
}  # fmt: skip


@pytest.mark.parametrize("attack", REFUSED)
def test_what_is_no_run_of_ours_is_refused_in_one_line(attack, book, tmp_path, capsys):
    root, run = book
    REFUSED[attack](root, run)
    before = everything(tmp_path)
    with pytest.raises(PrunelibError) as caught:
        publish.build(run, tmp_path / "site", root)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    assert capsys.readouterr().err.count("\n") <= publish.SHOWN + 1
    after = everything(tmp_path)
    assert {name: after.get(name) for name in before} == before
    assert not any(name.startswith("site") for name in after)


SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(1)>"


def test_what_can_be_shown_does_nothing(book, tmp_path):
    """A caption, an alternative text, a model's name, parameters and outputs full of markup: all of it is text."""
    root, run = book
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": SCRIPT},
        {"output_type": "execute_result", "execution_count": 3, "metadata": {"x": SCRIPT},
         "data": {"text/html": f"<table class='d'><tr><td>42{SCRIPT}<a href='javascript:alert(1)'>x</a></td></tr>"
                  "</table>"
                  "<style>@import url(//example.org)</style><iframe src='//example.org'></iframe>",
                  "text/plain": SCRIPT, "application/javascript": "alert(1)", "image/svg+xml": "<svg onload=alert(1)>",
                  "text/markdown": SCRIPT, "text/latex": r"\href{javascript:alert(1)}{x}"}},
        {"output_type": "display_data", "metadata": {}, "data": {"image/png": "PHNjcmlwdD4="}},
    ]  # fmt: skip
    cells = fakebook.executed_cells()
    cells[2]["source"] = f'# Parameters\nmodel = "{SCRIPT}"\n'
    cells[3]["outputs"] = outputs
    execute(root, run, *cells)
    evil = "**bold** $x<y$ `code` {download}`/etc/passwd` ```{raw} html\n" + SCRIPT + " <!-- [a](javascript:b)"
    card(run, caption=" ".join(evil.split()), alt=f'"{SCRIPT}', title=SCRIPT)
    change(run, model={"name": f"{SCRIPT}{{val}}`x`"})
    publish.build(run, tmp_path / "site", root)
    index = tmp_path / "site" / "book" / "index.html"
    chapter = (tmp_path / "site" / "notebooks" / "01-demo.html").read_text()
    for page in (chapter, index.read_text()):
        assert "<script>alert" not in page and "onerror=alert(1)>" not in page.replace("onerror=alert(1)&gt;", "")
        for word in ("javascript:alert", "example.org", "<iframe", "svg onload"):
            assert word not in page, word
    assert ">42" in chapter and "{download}" in chapter and "/etc/passwd" in chapter
    assert not list((tmp_path / "site").rglob("*passwd*"))
    offered = json.loads((tmp_path / "site" / "notebooks" / "01-demo.ipynb").read_text())
    assert "javascript" not in json.dumps([cell.get("outputs") for cell in offered["cells"]])


def test_our_own_outputs_stay_as_they_are():
    table = '<div>\n<table border="1" class="dataframe"><tbody><tr><td>1.5</td></tr></tbody></table>\n</div>'
    span = '<p class="text"><span class="t3" title="p = 0.1">word</span></p>'
    for markup in (table, span):
        output = {"output_type": "execute_result", "execution_count": 1, "metadata": {}, "data": {"text/html": markup}}
        assert pages.inert(output)["data"]["text/html"] == markup


def test_a_sentence_that_a_cell_shows_as_markdown_is_text():
    shown = {"text/markdown": "`-p x=1` & <b>[a](javascript:b)", "text/plain": "<IPython.core.display.Markdown object>"}
    output = {"output_type": "display_data", "metadata": {}, "data": shown}
    assert pages.inert(output)["data"]["text/html"] == "<p><code>-p x=1</code> &amp; &lt;b&gt;[a](javascript:b)</p>"


# ---------------------------------------------------------------- whence


@pytest.mark.parametrize(("name", "content"), [
    ("x.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), ("x.png", b"P6 9 9 255\n"),
    ("x.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 40), ("x.pdf", b"%!PS-Adobe"), ("x.pdf", b"%PDF-1.4 nothing"),
    ("x.svg", f'<?xml version="1.0"?>{ENTITIES}<svg>&b;</svg>'.encode()), ("x.svg", b"<?xml version='1.0'?><svg>"),
    ("x.svg", b"<html>"), ("x.PNG", b"GIF89a"), ("x.svg", b""),
])  # fmt: skip
def test_a_file_is_opened_only_as_what_its_suffix_says(name, content, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    tool = tmp_path / "gs"  # Pillow hands PostScript to it
    tool.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    tool.chmod(0o755)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PrunelibError, match="not a readable") as caught:
        provenance.read_provenance(tmp_path / name)
    assert "\n" not in str(caught.value) and not (tmp_path / "ran").exists()


def test_our_own_drawings_are_drawings(book):
    for suffix in figures.SUFFIXES:
        drawings.check(book[1] / "figures" / f"fig-demo{suffix}")
        if suffix == ".json":
            schema.read(book[1] / "figures" / f"fig-demo{suffix}", "card")


# ---------------------------------------------------------------- whose folder is it?


def app(folder):
    """A web application of the user's, with the manifest that all of them have."""
    folder.mkdir()
    (folder / "manifest.json").write_text('{"name": "my app", "icons": []}')
    (folder / "index.html").write_text("<html>")


SITES = {
    "a web application": lambda tmp, run: (app(tmp / "app"), tmp / "app")[1],
    "the run itself": lambda tmp, run: run,
    "a folder in the run": lambda tmp, run: run / "site",
    "what holds the run": lambda tmp, run: run.parent,
    "the project": lambda tmp, run: tmp / "project",
    "what holds everything": lambda tmp, run: tmp,
    "the root": lambda tmp, run: tmp.__class__("/"),
    "a file": lambda tmp, run: tmp / "victim" / "thesis.txt",
    "a link to somebody's folder": lambda tmp, run: ((tmp / "link").symlink_to(tmp / "victim"), tmp / "link")[1],
}


@pytest.mark.parametrize("place", SITES)
def test_no_folder_of_the_user_s_becomes_a_site(place, book, tmp_path):
    root, run = book
    site = SITES[place](tmp_path, run)
    before = everything(tmp_path)
    with pytest.raises(PrunelibError) as caught:
        publish.build(run, site, root)
    assert "\n" not in str(caught.value) and everything(tmp_path) == before


def test_what_lies_beside_the_site_stays(book, tmp_path):
    """Folders under the names that a build uses for its own work."""
    root, run = book
    place = tmp_path / "www"
    for name in ("_build/tiny-smoke", "_build/model-smoke"):
        (place / name).mkdir(parents=True)
        (place / name / "mine.txt").write_text("mine")
    before = everything(tmp_path)
    with pytest.raises(PrunelibError, match="is not empty and not ours"):
        publish.build(run, place / "site", root)
    assert everything(tmp_path) == before
    shutil.rmtree(place / "_build")
    (place / ".site.new").mkdir()
    (place / ".site.new" / "mine.txt").write_text("mine")
    publish.build(run, place / "site", root)
    assert [path.name for path in place.glob(".site*")] == [".site.new"] and (place / ".site.new" / "mine.txt").exists()


def test_a_site_of_ours_is_replaced_whoever_made_it(book, tmp_path):
    root, run = book
    site = tmp_path / "site"
    publish.build(run, site, root)
    assert (site / ".prunelib-site").is_file()
    (site / "old.html").write_text("x")
    publish.build(run, site, root)
    assert not (site / "old.html").exists()
    (site / ".prunelib-site").unlink()  # as an older version left it
    publish.build(run, site, root)
    assert (site / ".prunelib-site").is_file()


def test_a_reference_is_restored_into_no_folder_of_the_user_s(book, tmp_path):
    root, run = book
    source = reference.save(run, tmp_path / "reference", root)
    before = everything(tmp_path)
    for target in (tmp_path / "victim", tmp_path / "project"):
        with pytest.raises(PrunelibError, match="is not empty and not ours"):
            reference.restore(source, target)
    with pytest.raises(PrunelibError, match="is not empty and no reference run"):
        reference.save(run, tmp_path / "victim", root)
    assert everything(tmp_path) == before
    assert reference.restore(reference.save(run, source, root), tmp_path / "again") == tmp_path / "again"
    reference.restore(source, tmp_path / "again")


def test_a_killed_command_s_leftovers_go_and_others_stay(book, tmp_path):
    root, run = book
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    folder = tmp_path / "reference"
    folder.mkdir()
    dead, alive = (folder / f".tiny.{number}.part" for number in (ended.pid, os.getppid()))
    mine = folder / ".tiny.notes.part"
    for path in (dead, alive, mine):
        path.mkdir()
        (path / "x").write_text("x")
    reference.save(run, folder / "tiny", root)
    assert not dead.exists() and alive.exists() and mine.exists()
