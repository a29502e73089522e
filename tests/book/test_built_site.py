"""Files of the built site, and how the build fails."""

import json
import os
import re
import shutil
import subprocess
import time
from html import unescape
from html.parser import HTMLParser

import fakebook
import pytest

from prunelib import paths
from prunelib.files import sha256, write_json
from prunelib.report import provenance, publish, sitecheck
from prunelib.runs import marks


class Links(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "a":
            self.found.append(dict(attributes)["href"])


def test_every_link_of_the_figure_card_leads_to_a_file(site):
    page = site / "notebooks" / "01-demo.html"
    row = re.search(r'<p class="figcard-links">.*?</p>', page.read_text(), re.DOTALL)[0]
    *links, licence = Links(row).found
    assert licence == "https://creativecommons.org/licenses/by/4.0/" and ">CC BY 4.0</a>" in row
    files = [(page.parent / link).resolve() for link in links]
    assert {file.name for file in files} == {
        "fig-demo.light.svg", "fig-demo.dark.svg", "fig-demo.pdf", "fig-demo.column.pdf", "fig-demo.png",
        "fig-demo.csv", "01-demo.ipynb", "fig-demo.py.txt", "fig-demo.bib",
    }  # fmt: skip
    assert all(file.stat().st_size for file in files)
    for file in files:
        if file.suffix in (".svg", ".pdf", ".png"):
            assert provenance.read_provenance(file)["figure"] == "fig-demo"


def test_the_index_of_figures_shows_each_once_and_leads_to_its_place(site):
    page = (site / "book" / "figures.html").read_text()
    [entry] = re.findall(r"<ul class=\"figure-index[^>]*>(.*?)</ul>", page, re.DOTALL)
    assert re.findall(r'<img class="only-(\w+)" src="([^"]+)"[^>]* loading="lazy">', entry) == [
        ("light", "../figures/fig-demo.light.svg"),
        ("dark", "../figures/fig-demo.dark.svg"),
    ]
    assert Links(entry).found == ["../notebooks/01-demo.html#fig-demo"]
    assert "Figure 1.1 A demo figure" in " ".join(re.sub(r"<[^>]+>", "", entry).split())
    assert ">A chapter</" in page  # the chapter by its title


def tags(page: str) -> dict[str, list[str]]:
    found = {}
    for name, content in re.findall(r'<meta (?:property|name)="((?:og:|citation_)\w+)" content="([^"]*)">', page):
        found.setdefault(name, []).append(unescape(content))
    return found


@pytest.mark.parametrize("name", ["book/index.html", "notebooks/01-demo.html", "book/figures.html", "search.html"])
def test_every_page_names_itself_and_the_paper(site, name):
    page = (site / name).read_text()
    found = tags(page)
    assert found["citation_arxiv_id"] == ["2603.24652"] and found["citation_publication_date"] == ["2026"]
    assert found["citation_author"][0] == "He, Shwai" and len(found["citation_author"]) == 5
    assert len(found["og:title"]) == len(found["og:type"]) == len(found["citation_title"]) == 1
    assert not [text for texts in found.values() for text in texts if "\\" in text or "$" in text]
    assert "\\" not in re.search(r"<title>(.*?)</title>", page)[1]


def test_a_page_is_described_by_its_answer(copy):
    root, run, site = copy
    cells = fakebook.executed_cells()
    answer = '**Answer.** For $1-\\cos p$ it is {val}`demo.count`, & "more" than $\\|h\\|<1$.'
    cells[0]["source"] = f"# Of $h$ and $\\Delta z$\n\nFirst words.\n\n{answer}"
    source = root / "notebooks" / "01-demo.ipynb"
    unexecuted = json.loads(source.read_text())
    unexecuted["cells"][0] = cells[0]
    source.write_text(json.dumps(unexecuted))
    fakebook.write_run(root, run, cells)
    publish.build(run, site, root)
    page = (site / "notebooks" / "01-demo.html").read_text()
    assert tags(page)["og:description"] == ["For 1−cos p it is 1,200, & “more” than ‖h‖<1."]
    assert tags(page)["og:title"] == ["1. Of h and Δz"] and "<title>1. Of h and Δz &#8212;" in page


def test_the_first_address_of_the_site_says_the_same_as_the_page_it_leads_to(site):
    first, page = ((site / name).read_text() for name in ("index.html", "book/index.html"))
    assert tags(first) == tags(page) and tags(first)["og:title"]


def test_pages_link_the_paper_the_records_and_what_they_cite():
    """Of the sources: the small book has none of these pages."""
    import yaml
    from pybtex.database import parse_file

    root = paths.project_root()
    entries = parse_file(root / "book" / "references.bib").entries
    found = {key for key, entry in entries.items() if {"eprint", "doi", "url"} & {*entry.fields}}
    assert {*entries} - found == {"kantorovich1948", "karlin1966tchebycheff"}  # older than addresses
    paper = entries["he2026demystifying"].fields["eprint"]
    known = yaml.safe_load((root / "CITATION.cff").read_text())["references"][0]["identifiers"]
    assert known[0]["value"] == f"arXiv:{paper}"
    for name in ("book/index.md", "book/cite.md", "README.md"):
        assert f"https://arxiv.org/abs/{paper}" in (root / name).read_text(), name
    cite = (root / "book" / "cite.md").read_text()
    assert all(f'<a href="../{name}.json">' in cite for name in ("claims", "reference", "manifest"))
    listed = yaml.safe_load((root / "_toc.yml").read_text())["parts"][-1]["chapters"]
    assert {"file": "book/changelog"} in listed and {"file": "book/figures"} in listed


def test_the_changelog_is_a_page(copy):
    root, run, site = copy
    (root / "CHANGELOG.md").write_text("# Changelog\n\n## [Unreleased]\n\n- Something new.\n")
    shutil.copy(paths.project_root() / "book" / "changelog.md", root / "book")
    toc = root / "_toc.yml"
    toc.write_text(toc.read_text() + "      - file: book/changelog\n")
    publish.build(run, site, root)
    page = (site / "book" / "changelog.html").read_text()
    assert "Something new." in page and "<title>Changelog &#8212;" in page


def test_no_page_loads_anything_from_outside(site):
    pattern = r'(src|href)="https?://[^"]*\.(js|css|woff2?)'
    done = subprocess.run(["grep", "-rE", pattern, site, "--include=*.html"], capture_output=True)
    assert done.stdout == b"" and done.returncode == 1
    assert sitecheck.problems(site) == []
    assert not list(site.rglob("*thebe*")) and "unpkg" not in (site / "book/index.html").read_text()


def test_the_text_shows_the_numbers_of_the_run(site):
    text = re.sub(r"<[^>]+>", "", (site / "book/index.html").read_text())
    assert "The ratio is 2.31 (2.10–2.52); alone it is 2.31" in text
    assert "its interval 2.10–2.52. See Figure 1.1 and the chapter" in " ".join(text.split())
    assert "0.980 (0.970–0.990)" in text and text.count("✓ supported") == 2
    assert "choice kept: 0.710 (0.620–0.830)" in text and "generation kept: not defined" in text
    assert text.count("? undecided") == 2 and "choice kept is at least 0.5 and generation kept is at most 0.5" in text
    assert text.count("not yet") == 2 * 14 and text.count("Decided by") == 16  # one of two is brief


def test_records_for_machines(site):
    ledger = {row["id"]: row for row in json.loads((site / "claims.json").read_text())["claims"]}
    assert len(ledger) == 16
    assert [part["verdict"] for part in ledger["C8"]["parts"]] == ["supported", "undecided"]
    assert json.loads((site / "manifest.json").read_text())["profile"] == "smoke"
    assert "url=book/index.html" in (site / "index.html").read_text()


def test_parameters_of_the_run_are_shown_once(site):
    text = re.sub(r"<[^>]+>", "", (site / "notebooks/01-demo.html").read_text())
    assert text.count("# any model") == 1 and "# Parameters" not in text


def test_a_second_build_reads_no_page_again_and_gives_the_same_site(built):
    site, root, run = built
    before = {file.relative_to(site): file.read_bytes() for file in site.rglob("*") if file.is_file()}
    stamps = {file: file.stat().st_mtime_ns for file in (site.parent / "_build").rglob("*.doctree")}
    started = time.time()
    publish.build(run, site, root)
    assert time.time() - started < 60
    assert stamps and all(file.stat().st_mtime_ns == stamp for file, stamp in stamps.items())
    after = {file.relative_to(site): file.read_bytes() for file in site.rglob("*") if file.is_file()}
    assert after == before


@pytest.fixture
def copy(built, tmp_path):
    """A copy of the small book that may be broken."""
    root, run = tmp_path / "project", tmp_path / "run"
    shutil.copytree(built[1], root)
    shutil.copytree(built[2], run)
    return root, run, tmp_path / "site"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("See {numref}`fig-nowhere`.", "fig-nowhere"),
        ("Value {val}`demo.ratoi`.", "no value"),
        ("See [there](nowhere.md).", "nowhere.md"),
        ("{cite}`nobody2020`", "nobody2020"),
        ("Of $\\mathfrak{A}$.", "no letters for \\mathfrak"),
    ],
)
def test_a_warning_fails_the_build_and_keeps_the_old_site(copy, text, message):
    root, run, site = copy
    site.mkdir()
    marks.mark(site, "site")
    page = root / "book" / "index.md"
    page.write_text(page.read_text() + f"\n{text}\n")
    with pytest.raises(publish.NotPublishable) as caught:
        publish.build(run, site, root)
    assert any(message in problem for problem in caught.value.problems)
    assert os.listdir(site) == [".prunelib-site"]


def test_a_missing_value_fails_the_page_without_the_gate(copy, monkeypatch):
    root, run, site = copy
    page = root / "book" / "index.md"
    page.write_text(page.read_text() + "\n{val}`demo.ratoi`\n")
    monkeypatch.setattr(publish, "gate", lambda *_: [])
    with pytest.raises(publish.NotPublishable, match="did you mean 'demo.ratio'"):
        publish.build(run, site, root)


def test_a_figure_number_that_differs_from_its_files_fails(copy):
    root, run, site = copy
    manifest = json.loads((run / "manifest.json").read_text())
    card = run / "figures" / "fig-demo.json"
    card.write_text(card.read_text().replace('"number": "1.1"', '"number": "1.2"'))

    manifest["figures"]["fig-demo"]["files"][card.name] = sha256(card)
    write_json(run / "manifest.json", manifest)
    with pytest.raises(publish.NotPublishable, match="figure 1.1 on the page but 1.2 in its files"):
        publish.build(run, site, root)
