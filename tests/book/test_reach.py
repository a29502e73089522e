"""Every page of the book, opened from a file in a real browser: what it loads, says, shows and lets be found."""

import re
import shutil
from importlib.resources import files
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from playwright.sync_api import sync_playwright

from prunelib.report import sitecheck

LIMIT = 2_500_000
"""Bytes that a page loads at first sight: itself, its styles, scripts and fonts, and the drawings in view."""
MODES = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]


@pytest.fixture(scope="module")
def browser(chromium):
    """One Chromium for all pages of this module."""
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield running
        running.close()


@pytest.fixture
def opened(browser):
    """``opened(address, width, scheme)``: a page without network, formulas set; it has ``loaded`` and ``said``."""
    contexts = []

    def open_page(address: str, width: int = 1280, scheme: str = "light"):
        contexts.append(
            browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
        )
        page = contexts[-1].new_page()
        page.loaded, page.said = set(), []
        page.on("request", lambda request: page.loaded.add(request.url))
        page.on("console", lambda message: page.said.append((message.type, message.text)))
        page.on("pageerror", lambda error: page.said.append(("error", str(error))))
        page.goto(address)
        page.evaluate("window.MathJax && MathJax.startup ? MathJax.startup.promise.then(() => 0) : 0")
        page.wait_for_timeout(300)
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def pages(site) -> list[Path]:
    """All pages but the first, which only leads on."""
    return [file for file in sorted(site.rglob("*.html")) if "_static" not in file.parts and file.parent != site] + [
        site / "genindex.html",
        site / "search.html",
    ]


@pytest.mark.parametrize(("width", "scheme"), MODES)
def test_every_page_can_be_read_by_everybody(opened, pages, width, scheme):
    script = (files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8")
    faults, wider = {}, []
    for file in pages:
        page = opened(file.as_uri(), width, scheme)
        page.evaluate(script)
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        if found:
            faults[file.name] = [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in found]
        if page.evaluate("document.documentElement.scrollWidth") > width:
            wider.append(file.name)
    assert (faults, wider) == ({}, [])


def test_every_page_is_light_and_quiet_and_needs_no_network(opened, pages):
    for file in pages:
        page = opened(file.as_uri())
        loaded = [Path(unquote(urlsplit(url).path)) for url in page.loaded if url.startswith("file:")]
        assert [url for url in page.loaded if not url.startswith(("file:", "data:"))] == []
        assert len(loaded) > 10, "the browser does not tell what it loads"
        weights = {part.name: part.stat().st_size for part in set(loaded)}
        assert sum(weights.values()) <= LIMIT, (file.name, sorted(weights.items(), key=lambda one: -one[1])[:5])
        assert [said for said in page.said if said[0] in ("error", "warning")] == [], file.name


def test_formulas_are_set_without_being_places_to_stop_at(opened, site):
    page = opened((site / "book" / "index.html").as_uri())
    assert page.locator("mjx-container svg").count() >= 3
    assert page.locator("mjx-container svg text, mjx-merror").count() == 0  # no outline is missing
    assert page.locator("mjx-container[tabindex], mjx-container [tabindex]").count() == 0
    assert page.locator("mjx-assistive-mml math").count() >= 3


def test_tables_are_named_and_their_heads_say_what_they_head(opened, pages):
    for file in pages:
        article = opened(file.as_uri()).locator("article")
        assert article.locator("table:not([aria-label]):not(:has(caption)):not(.indextable)").count() == 0, file.name
        assert article.locator("th:not([scope]):not(.head)").count() == 0, file.name


def test_icons_are_drawn_by_the_font_in_the_style_sheet(opened, site):
    page = opened((site / "book" / "index.html").as_uri())
    assert (
        page.evaluate("document.fonts.ready.then(all => [...all].filter(one => one.status === 'loaded').length)") >= 1
    )
    icons = page.locator("i.fas, i.fa-solid")
    assert icons.count() >= 3
    for icon in icons.all():
        code = icon.evaluate("icon => getComputedStyle(icon, '::before').content")
        assert re.fullmatch(r'"[\uf000-\uf8ff]"', code), icon.get_attribute("class")


def test_the_search_finds_text_and_shows_it(opened, site):
    def search(word: str) -> dict[str, str]:
        page = opened(f"{(site / 'search.html').as_uri()}?q={word}")
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
