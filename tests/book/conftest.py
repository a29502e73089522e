"""One small book, built once, and a browser to look at it."""

import shutil
from importlib.resources import files
from pathlib import Path

import fakebook
import pytest
from playwright.sync_api import sync_playwright

from prunelib import chapters
from prunelib.report import publish, reference


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """``(site, root, run)`` of a small book that was rendered and passed all checks."""
    folder = tmp_path_factory.mktemp("book")
    root, run = fakebook.make(folder)
    return publish.build(run, folder / "site", root).parent, root, run


@pytest.fixture
def site(built) -> Path:
    return built[0]


@pytest.fixture(scope="session")
def reference_site(tmp_path_factory) -> Path:
    """The book of the committed reference run, as `make read` renders it."""
    folder = tmp_path_factory.mktemp("reference")
    chapters.load_figures()
    run = reference.restore(reference.folder("smollm2-135m-instruct"), folder / "run")
    return publish.build(run, folder / "site", current=False).parent


@pytest.fixture(scope="session")
def chromium() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.fail("no Chromium on this machine; these tests need it (apt-get install chromium)")
    return found


@pytest.fixture(scope="module")
def browser(chromium):
    """One Chromium for all tests of a module."""
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield running
        running.close()


@pytest.fixture
def opened(browser):
    """``opened(file, width, scheme)``: a page without network, formulas set.

    It has ``loaded``, the addresses that it asked for, and ``said``, what it wrote to the console.
    """
    contexts = []

    def open_page(file: Path, width: int = 1280, scheme: str = "light", query: str = "", before: str = ""):
        size = {"width": width, "height": 900}
        contexts.append(browser.new_context(viewport=size, color_scheme=scheme, offline=True))
        page = contexts[-1].new_page()
        page.loaded, page.said = set(), []
        page.on("request", lambda request: page.loaded.add(request.url))
        page.on("console", lambda message: page.said.append((message.type, message.text)))
        page.on("pageerror", lambda error: page.said.append(("error", str(error))))
        page.add_init_script(before)
        page.goto(file.as_uri() + query)
        page.evaluate("window.MathJax && MathJax.startup ? MathJax.startup.promise.then(() => 0) : 0")
        page.wait_for_timeout(300)
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def violations():
    """``violations(page)``: rules of axe-core that an open page breaks, and where.

    Drawings of formulas are emptied before: they are hidden from readers of the tree, which get MathML, and are most of
    a page's elements.
    """
    script = (files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8")

    def find(page) -> list:
        page.evaluate("document.querySelectorAll('mjx-container > svg').forEach(one => one.replaceChildren())")
        page.evaluate(script)
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        return [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in found]

    return find
