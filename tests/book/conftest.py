"""One small book, built once, and a browser to look at it."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import fakebook
import pytest

from prunelib.report import publish

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--virtual-time-budget=20000",
]
# What a page looks like, told by the page itself once its formulas are set.
PROBE = """
<script>
window.addEventListener("load", async () => {
  if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
  const shown = e => getComputedStyle(e).display !== "none" && e.offsetWidth > 0;
  const article = document.querySelector("article");
  const scrolls = e => e !== article && (getComputedStyle(e).overflowX !== "visible" || scrolls(e.parentElement));
  const sticksOut = e => e.getBoundingClientRect().right > innerWidth && !scrolls(e.parentElement);
  const report = {
    theme: document.documentElement.dataset.theme,
    page: getComputedStyle(document.body).backgroundColor,
    width: window.innerWidth,
    sticking_out: [...article.querySelectorAll("*")].filter(sticksOut).map(e => e.outerHTML.slice(0, 200)),
    formulas: document.querySelectorAll("mjx-container svg").length,
    untypeset: document.querySelectorAll("span.math:not(:has(mjx-container)), mjx-merror").length,
    images: [...document.querySelectorAll("figure.figcard img")].filter(shown).map(
      e => ({src: e.getAttribute("src"), loaded: e.complete && e.naturalWidth > 0, alt: e.alt})),
    captions: [...document.querySelectorAll("figure.figcard figcaption")].filter(shown).map(
      e => e.textContent),
    loaded: performance.getEntriesByType("resource").map(e => e.name),
  };
  window.parent.postMessage(JSON.stringify(report), "*");
});
</script>
"""
# The page sits in a frame, because a browser window cannot be as narrow as a phone.
FRAME = """<!doctype html><meta name="color-scheme" content="light dark"><body style="margin: 0">
<script>
window.addEventListener("message", message => {
  const note = document.createElement("pre");
  note.id = "probe";
  note.textContent = message.data;
  document.body.append(note);
});
</script>
<iframe src="%s" style="border: 0; width: %dpx; height: 1000px"></iframe>
"""


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """``(site, root, run)`` of a small book that was rendered and passed all checks."""
    folder = tmp_path_factory.mktemp("book")
    root, run = fakebook.make(folder)
    return publish.build(run, folder / "site", root).parent, root, run


@pytest.fixture(scope="session")
def chromium() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.fail("no Chromium on this machine; these tests need it (apt-get install chromium)")
    return found


@pytest.fixture
def probed(built, chromium, tmp_path):
    """``probed(name, script, width, dark)``: what a script in a page posts to the frame around it, offline."""

    def open_page(name: str, script: str, width: int = 1400, dark: bool = False):
        page = built[0] / name
        probe = page.with_name(f"probe-{page.name}")
        probe.write_text(page.read_text().replace("</body>", script + "</body>"))
        frame = tmp_path / "frame.html"
        frame.write_text(FRAME % (probe.as_uri(), width))
        options = ["--window-size=1600,1200", f"--user-data-dir={tmp_path / 'profile'}"]
        options += ["--host-resolver-rules=MAP * ~NOTFOUND"]
        options += [f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
        command = [chromium, *FLAGS, *options, "--dump-dom", frame.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        probe.unlink()
        found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
        assert found, f"the page did not load: {done.stderr[-2000:]}"
        return json.loads(unescape(found[1]))

    return open_page


@pytest.fixture
def look(probed):
    """``look("book/index.html", width=390, dark=True)``: what the page says of itself."""
    return lambda name, width=1400, dark=False: probed(name, PROBE, width, dark)


@pytest.fixture
def site(built) -> Path:
    return built[0]
