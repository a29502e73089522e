"""The book as one PDF, printed by a real browser and read back."""

import re
import shutil

import pypdf
import pytest

from prunelib import cli
from prunelib.report import pdf, printed, provenance, publish, sitecheck


@pytest.fixture(scope="module")
def made(built, tmp_path_factory):
    """``(site, root)`` of the small book, with its PDF."""
    site = tmp_path_factory.mktemp("pdf") / "site"
    shutil.copytree(built[0], site)
    assert pdf.make(site, built[1]) == site / "book.pdf"
    return site, built[1]


@pytest.fixture(scope="module")
def reader(made):
    return pypdf.PdfReader(made[0] / "book.pdf")


def lines(page) -> list[str]:
    return [line.strip() for line in page.extract_text().splitlines()]


def titles(reader, outline=None, level=0) -> list[tuple[int, str, int]]:
    """``(level, title, page from 1)`` of the bookmarks."""
    found = []
    for one in reader.outline if outline is None else outline:
        if isinstance(one, list):
            found += titles(reader, one, level + 1)
        else:
            found.append((level, one.title, reader.get_destination_page_number(one) + 1))
    return found


def start_of(reader, title: str) -> int:
    """The page, from 1, that a bookmark leads to."""
    return next(page for _, found, page in titles(reader) if found == title)


def targets(reader, page) -> list[str]:
    """Names of the places that a page links to."""
    links = [note.get_object() for note in page.get("/Annots", ())]
    return [str(link["/Dest"]) for link in links if link.get("/Subtype") == "/Link" and "/Dest" in link]


def test_every_page_after_the_first_has_its_number_and_its_chapter(reader):
    assert len(reader.pages) >= 4
    for number, page in enumerate(reader.pages, 1):
        assert (str(number) in lines(page)) == (number > 1)
    assert lines(reader.pages[start_of(reader, "1. A chapter") - 1])[0] == "The theorems 1. A chapter"


def test_the_first_page_names_the_run(reader):
    text = " ".join(lines(reader.pages[0]))
    for said in ("Demystifying When Pruning Works", "tiny/model", "smoke, 0", "2026-01-01", "0.1.0"):
        assert said in text


def test_bookmarks_and_contents_lead_to_the_chapters(reader):
    found = titles(reader)
    assert [one[:2] for one in found if one[0] < 2] == [
        (0, "A small book"), (0, "The theorems"), (1, "1. A chapter"),
        (0, "Reference"), (1, "All figures"), (1, "Notation"),
    ]  # fmt: skip
    for _, title, page in found:
        assert title in lines(reader.pages[page - 1]) or title in ("The theorems", "Reference")
    told = re.search(r"1\. A chapter\s*(\d+)", reader.pages[1].extract_text())
    assert int(told[1]) == start_of(reader, "1. A chapter")


def test_links_lead_to_places_in_the_document(reader):
    places = {name: reader.get_destination_page_number(one) + 1 for name, one in reader.named_destinations.items()}
    used = {number: targets(reader, page) for number, page in enumerate(reader.pages, 1)}
    assert {name for names in used.values() for name in names} <= set(places)
    first = titles(reader)[0][2]
    assert {"/notebooks-01-demo", "/notebooks-01-demo-fig-demo"} <= set(used[first])
    assert places["/notebooks-01-demo-fig-demo"] == start_of(reader, "1. A chapter")
    notes = [note.get_object() for page in reader.pages for note in page.get("/Annots", ())]
    addresses = [note["/A"].get("/URI", "") for note in notes if "/A" in note]
    assert not [one for one in addresses if one.startswith("file:")]


def test_no_tex_is_left_and_nothing_of_the_screen(reader):
    text = "\n".join(page.extract_text() for page in reader.pages) + str(titles(reader))
    for sign in ("$", "\\mathrm", "\\(", "\\[", "\\cos"):
        assert sign not in text
    for word in ("Show parameters", "Hide parameters", "SVG dark", "Copy", "Search"):
        assert word not in text
    assert "# any model" in text and "Figure 1.1" in text
    assert "One of the points lies at 3 nats, the other" in " ".join(text.split())  # terms that explain themselves


def test_the_light_drawing_is_printed_on_one_page_with_its_caption(made, reader):
    soup = printed.BeautifulSoup(printed.document(*made), "html.parser")
    drawings = [name for one in soup.select("img, source") for name in (one.get("src"), one.get("srcset")) if name]
    assert [name.rsplit("/", 1)[1] for name in drawings] == ["fig-demo.light.svg"] * 2  # the second in the index
    [page] = [page for page in reader.pages if "The top is 7." in page.extract_text()]
    assert "Figure 1.1" in page.extract_text()


def test_the_file_says_where_it_comes_from(made, reader):
    found = provenance.read_provenance(made[0] / "book.pdf")
    assert found["model"]["name"] == "tiny/model" and (found["profile"], found["seed"]) == ("smoke", 0)
    assert found["book"] == reader.metadata.title == "Demystifying When Pruning Works"
    assert reader.metadata.author == "The prunelib authors"


def test_the_first_page_links_it_only_where_it_is(made, site):
    page = (made[0] / "book" / "index.html").read_text()
    assert 'href="../book.pdf"' in page and sitecheck.problems(made[0]) == []
    assert "book.pdf" not in (site / "book" / "index.html").read_text()


def test_without_a_browser_the_site_stays_and_one_line_says_what_was_looked_for(made, tmp_path, monkeypatch, capsys):
    site = made[0]
    before = {file: file.read_bytes() for file in site.rglob("*") if file.is_file()}
    (tmp_path / "manifest.json").write_text("{}")
    monkeypatch.setattr(publish, "build", lambda *_, **__: site / "index.html")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(pdf, "BROWSERS", pdf.BROWSERS[:-1])  # the last is a path, which may be there
    assert cli.main(["book", "--run", str(tmp_path), "--site", str(site), "--pdf"]) == 2
    said = capsys.readouterr()
    assert said.out.strip() == str(site / "index.html")
    [line] = said.err.splitlines()
    assert "none of these is there: chromium, chromium-browser, google-chrome" in line
    assert {file: file.read_bytes() for file in site.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize(("version", "message"), [("Chromium 130.0.1.2", "131 or newer"), ("Chromium 150.0.1.2", "7")])
def test_a_browser_that_is_old_or_fails_is_told_in_one_line(made, tmp_path, monkeypatch, version, message):
    fake = tmp_path / "chromium"
    fake.write_text(f'#!/bin/sh\ncase "$1" in --version) echo "{version}";; *) echo broken >&2; exit 7;; esac\n')
    fake.chmod(0o755)
    monkeypatch.setattr(pdf, "BROWSERS", (str(fake),))
    with pytest.raises(pdf.PrunelibError, match=message):
        pdf.make(*made)


def test_a_formula_that_was_not_set_is_told():
    page = '<html><head></head><body><span class="math">\\(x\\)</span>%s</body></html>'
    red = '<mjx-assistive-mml><math><mtext mathcolor="red">\\nosuch</mtext></math></mjx-assistive-mml>'
    assert printed.typeset(page % red)[2] == ["\\(x\\)", "\\nosuch"]


def test_a_heading_with_a_formula_is_plain_in_bookmarks_and_running_heads():
    signs = "<math><mi>cos</mi><mo>\u2061</mo><mi>p</mi></math>"
    head = f'2. Of <span class="math"><mjx-container><svg></svg>{signs}</mjx-container></span>'
    contents = f'<nav class="contents"><p class="contents-1"><a href="#a-s">{head}</a></p></nav>'
    section = f'<section id="a-s"><h1>{head}</h1></section>'
    article = f'<article id="a" data-part="One &amp; &quot;two&quot;">{section}</article>'
    page = f"<html><head></head><body>{contents}{article}</body></html>"
    still, entries, wrong = printed.typeset(page)
    assert wrong == [] and entries == [printed.Entry(1, "2. Of cos p", "a-s")]
    assert '@top-left { content: "One & \\"two\\"" } @top-right { content: "2. Of cos p" }' in still
