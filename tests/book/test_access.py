"""The built pages as readers meet them who do not see them, or have no mouse: axe-core finds nothing."""

from importlib.resources import files

import pytest

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
