"""Every page of the book, opened from a file in a real browser: what it loads, says, shows and lets be found."""

import json
import re
import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from fakebook import STICKING_OUT, pages_of

from prunelib.files import sha256
from prunelib.report import sitecheck

LIMIT = 2_500_000
"""Bytes that a page loads at first sight: itself, its styles, scripts and fonts, and the drawings in view."""

MODES = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]


def weights(page) -> dict[str, int]:
    """Bytes of each file that a page has loaded."""
    files = {Path(unquote(urlsplit(url).path)) for url in page.loaded if url.startswith("file:")}
    return {file.name: file.stat().st_size for file in files}


def faults(page, width: int, violations) -> list:
    """What keeps somebody from reading an open page."""
    found = []
    if (needed := page.evaluate("document.documentElement.scrollWidth")) > width:
        found.append(f"{needed} px wide")
    found += [f"loads {url}" for url in page.loaded if not url.startswith(("file:", "data:"))]
    found += [said for said in page.said if said[0] in ("error", "warning")]
    # Nothing stands out of the page unseen, and at a desk no formula has to be scrolled.
    found += page.evaluate(STICKING_OUT)
    if width > 1000:
        found += [f"a wide formula: {one}" for one in page.locator("mjx-container.scrolls").all_inner_texts()]
    largest = sorted(weights(page).items(), key=lambda one: -one[1])
    if sum(bytes for _, bytes in largest) > LIMIT:
        found.append(largest[:6])
    for fault in ("table:not([aria-label]):not(:has(caption)):not(.indextable)", "th:not([scope]):not(.head)"):
        found += [fault] if page.locator(f"article {fault}").count() else []
    return found + violations(page)  # last: it empties drawings


# Of the large book each width and each scheme once: what differs between them is the style sheet's, not a page's.
@pytest.mark.parametrize(
    ("book", "width", "scheme"),
    [*(("site", *mode) for mode in MODES), ("reference_site", 1280, "light"), ("reference_site", 390, "dark")],
)
def test_every_page_can_be_read_by_everybody(request, opened, violations, book, width, scheme):
    found = {}
    for file in pages_of(request.getfixturevalue(book)):
        page = opened(file, width, scheme)
        assert len(page.loaded) > 10, "the browser does not tell what it loads"
        if here := faults(page, width, violations):
            found[file.name] = here
    assert found == {}


def test_formulas_are_set_without_being_places_to_stop_at(opened, site):
    page = opened(site / "book" / "index.html")
    assert page.locator("mjx-container svg").count() >= 3
    assert page.locator("mjx-container svg text, mjx-merror").count() == 0  # no outline is missing
    assert page.locator("mjx-container[tabindex], mjx-container [tabindex]").count() == 0
    assert page.locator("mjx-assistive-mml math").count() >= 3


def test_icons_are_drawn_by_the_font_in_the_style_sheet(opened, site):
    page = opened(site / "book" / "index.html")
    loaded = "document.fonts.ready.then(all => [...all].filter(one => one.status === 'loaded').length)"
    assert page.evaluate(loaded) >= 1
    icons = page.locator("i.fas, i.fa-solid")
    assert icons.count() >= 3
    for icon in icons.all():
        code = icon.evaluate("icon => getComputedStyle(icon, '::before').content")
        assert re.fullmatch(r'"[\uf000-\uf8ff]"', code), icon.get_attribute("class")


def test_the_search_finds_text_and_shows_it(opened, site):
    def search(word: str) -> dict[str, str]:
        page = opened(site / "search.html", query=f"?q={word}")
        page.wait_for_selector("p.search-summary:not(:empty)")
        page.wait_for_timeout(300)
        assert [said for said in page.said if said[0] in ("error", "warning")] == []
        found = {}
        for hit in page.locator("ul.search > li").all():
            found.setdefault(hit.locator("a").get_attribute("href"), hit.inner_text())
        return found

    caption = search("Curves")
    assert "The top is 7. Curves of cos p." in caption["notebooks/01-demo.html"]
    assert "an_unbreakable_and_rather_long_word" in search("unbreakable_and_rather_long_word")["book/index.html"]
    for of_code in ("injected", "seed", "mathrm", "underbrace", "boldsymbol"):
        assert search(of_code) == {}


def test_the_texts_of_the_search_hold_no_tex(site):
    text = (site / "_static" / "search-texts.js").read_text()
    assert "1−cos p" in text and "KL(p ‖ q) = log 𝔼_p[w] − μ" in text
    assert not re.search(r"\\\\[a-zA-Z]{2,}", text)


@pytest.mark.parametrize("where", ["heading", "text"])
def test_tex_that_nothing_sets_is_a_fault(site, tmp_path, where):
    copy = tmp_path / "site"
    shutil.copytree(site, copy)
    page = copy / "book" / "index.html"
    tag = {"heading": "<title>\\alpha</title>", "text": "<p>of \\(x\\)</p>"}[where]
    page.write_text(page.read_text().replace("</body>", f"{tag}</body>"))
    assert any("book/index.html shows the TeX source" in problem for problem in sitecheck.problems(copy))


def test_the_first_page_has_a_language_and_a_title(site):
    page = (site / "index.html").read_text()
    assert '<html lang="en">' in page and "<title>Demystifying When Pruning Works</title>" in page


def test_the_search_knows_words_and_no_code(site):
    index = json.loads((site / "searchindex.js").read_text().removeprefix("Search.setIndex(").removesuffix(")"))
    assert "point" in index["terms"] or "point" in index["titleterms"]
    assert "seed" not in index["terms"]  # a parameter, in a cell of the chapter and nowhere else


def test_nothing_is_stored_twice(site):
    seen: dict[str, list[str]] = {}
    for file in site.rglob("*"):
        if file.is_file() and file.stat().st_size > 1000:
            seen.setdefault(sha256(file), []).append(file.name)
    assert [names for names in seen.values() if len(names) > 1] == []
    assert not list(site.glob("_static/vendor/fontawesome/*/js"))  # 1.5 MB for icons that the font draws
