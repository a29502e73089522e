"""Terms that explain themselves: where they are marked, and that the explanation is seen and heard."""

import re
from importlib.resources import files

TIP = """<script>
window.addEventListener("load", async () => {
  const term = document.querySelector(".term"), tip = document.getElementById(term.getAttribute("aria-describedby"));
  const before = getComputedStyle(tip).visibility;
  term.focus();
  const box = tip.getBoundingClientRect();
  const report = {before, after: getComputedStyle(tip).visibility, text: tip.textContent, left: box.left,
                  right: box.right, width: innerWidth};
  window.parent.postMessage(JSON.stringify(report), "*");
});
</script>"""

AXE = """<script>%s</script><script>
window.addEventListener("load", async () => {
  document.querySelector(".term").focus();
  const found = await axe.run(document, {resultTypes: ["violations"]});
  window.parent.postMessage(JSON.stringify(found.violations.map(one => one.id)), "*");
});
</script>"""


def test_the_first_mention_of_a_term_is_marked_and_only_that(site):
    page = (site / "book/index.html").read_text()
    marked = re.findall(r'class="term" aria-describedby="([^"]+)">([^<]+)<', page)
    assert sorted(word for _, word in marked) == ["nats", "points"] and len({name for name, _ in marked}) == 2
    assert "the unit of logits; one nat is 1.44 bits." in page  # as plain words
    assert 'class="term"' not in (site / "book/notation.html").read_text()


def test_an_explanation_opens_on_focus_and_stays_in_view(probed):
    for width in (1280, 390):
        found = probed("book/index.html", TIP, width)
        assert (found["before"], found["after"]) == ("hidden", "visible")
        assert found["text"] == "single measurements, one a prompt."
        assert found["left"] >= 0 and found["right"] <= found["width"]


def test_axe_finds_nothing_with_an_explanation_open(probed):
    script = (files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8")
    assert probed("book/index.html", AXE % script, 390, True) == []
