"""The built pages as readers meet them who do not see them, or have no mouse: axe-core finds nothing."""

import json
import re
import subprocess
from importlib.resources import files

import pytest

from prunelib.files import sha256

# Chromium's flags, as in conftest.
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--virtual-time-budget=15000"]
PROBE = """<script>%s</script><script>
window.addEventListener("load", async () => {
  if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
  const found = await axe.run(document, {resultTypes: ["violations"]});
  const said = found.violations.map(one => [one.id, one.nodes.map(node => node.html.slice(0, 200))]);
  window.parent.postMessage(JSON.stringify(said), "*");
});
</script>"""


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
@pytest.mark.parametrize("page", ["book/index.html", "notebooks/01-demo.html", "book/figures.html", "search.html"])
def test_axe_finds_no_violation(probed, page, width, dark):
    script = (files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8")
    assert probed(page, PROBE % script, width, dark) == []


def test_the_first_page_has_a_language_and_a_title(site):
    page = (site / "index.html").read_text()
    assert '<html lang="en">' in page and "<title>Demystifying When Pruning Works</title>" in page


LIMIT = 2_900_000
"""Bytes of a page with formulas, its styles, scripts, icons and MathJax (1.9 MB of them), drawings aside."""

SET = """<script>
window.addEventListener("load", async () => {
  if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
  const icon = document.querySelector(".theme-switch-button .theme-switch, .search-button i");
  window.parent.postMessage(JSON.stringify({
    formulas: document.querySelectorAll("mjx-container svg").length,
    faults: document.querySelectorAll("mjx-merror, [data-mjx-error]").length,
    icon: getComputedStyle(icon, "::before").content,
    stops: document.querySelectorAll("mjx-container[tabindex='0']:not(.scrolls)").length,
  }), "*");
});
</script>"""


def test_a_page_is_light(site):
    """Summed by hand: a browser tells nothing of what a page loads from files."""
    page = site / "book/index.html"
    named = re.findall(r'<(?:script|link)[^>]*(?:src|href)="(\.\./_static/[^"?]+)', page.read_text())
    files = {(page.parent / name).resolve() for name in named}
    files |= {*site.glob("_static/mathjax/**/*.js"), *site.glob("_static/vendor/fontawesome/*/webfonts/fa-solid*")}
    weights = sorted(((file.stat().st_size, file.name) for file in files), reverse=True)
    assert sum(weight for weight, _ in weights) + page.stat().st_size < LIMIT, weights
    assert not list(site.glob("_static/vendor/fontawesome/*/js"))  # 1.5 MB for icons that the font draws


@pytest.mark.parametrize("width", [1280, 390])
def test_formulas_and_icons_are_drawn(probed, width):
    found = probed("book/index.html", SET, width)
    assert found["formulas"] >= 4 and found["faults"] == 0 and found["stops"] == 0
    assert found["icon"] not in ("none", "normal")  # drawn by the font


def test_nothing_is_refused_to_a_page_that_is_opened_from_a_file(site, chromium, tmp_path):
    for page in ("book/index.html", "notebooks/01-demo.html", "search.html?q=points"):
        command = [chromium, *FLAGS, "--enable-logging=stderr", "--v=0", f"--user-data-dir={tmp_path}", "--dump-dom"]
        done = subprocess.run([*command, f"file://{site}/{page}"], capture_output=True, text=True, timeout=120)
        said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        assert not [line for line in said if "CORS" in line or "Uncaught" in line or "Failed" in line], page
        if "q=" in page:
            assert "notebooks/01-demo.html" in done.stdout.split("search-results")[1]


def test_the_search_knows_words_and_no_code(site):
    index = json.loads((site / "searchindex.js").read_text().removeprefix("Search.setIndex(").removesuffix(")"))
    assert "point" in index["terms"] or "point" in index["titleterms"]
    assert "seed" not in index["terms"]  # a parameter, in a cell of the chapter and nowhere else


def test_nothing_is_stored_twice(site):
    seen: dict[str, list[str]] = {}
    for file in site.rglob("*"):
        if file.is_file() and file.stat().st_size > 1000:
            seen.setdefault(sha256(file), []).append(file.name)
    # The book of the reference run is the one whose ledger is the reference's.
    assert [
        names for names in seen.values() if len(names) > 1 and set(names) != {"claims.json", "reference.json"}
    ] == []
