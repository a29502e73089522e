"""The built pages in a real browser without a network."""

import pytest

PAGES = ["book/index.html", "notebooks/01-demo.html"]


@pytest.mark.parametrize("page", PAGES)
def test_formulas_are_typeset(look, page):
    seen = look(page)
    assert seen["formulas"] >= 2 and seen["untypeset"] == 0


@pytest.mark.parametrize("page", PAGES)
def test_nothing_comes_from_a_network(look, page):
    assert [name for name in look(page)["loaded"] if not name.startswith("file:")] == []


@pytest.mark.parametrize(
    ("dark", "theme", "colour"), [(False, "light", "rgb(255, 255, 255)"), (True, "dark", "rgb(18, 18, 18)")]
)
def test_the_figure_follows_the_colour_scheme(look, dark, theme, colour):
    seen = look("notebooks/01-demo.html", dark=dark)
    assert (seen["theme"], seen["page"]) == (theme, colour)
    [image] = seen["images"]
    assert image == {"src": f"../figures/fig-demo.{theme}.svg", "loaded": True, "alt": "Two curves up to 7."}
    [caption] = seen["captions"]
    assert caption.strip().startswith("Figure 1.1 The top is 7.")


@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("page", PAGES)
def test_wide_things_scroll_in_their_own_box(look, page, width):
    seen = look(page, width=width)
    assert seen["width"] == width and seen["sticking_out"] == []


# What the two buttons hand to the clipboard, and what they say; the browser of the tests has no user to allow it.
PRESS = """
<script>
const took = [];
%s
window.addEventListener("load", async () => {
  const box = document.querySelector(".figcard-copy");
  const said = [];
  for (const button of box.querySelectorAll("button")) {
    button.click();
    await new Promise(done => setTimeout(done, 100));
    said.push(box.querySelector("[role=status]").textContent);
  }
  const left = document.querySelectorAll("textarea").length;
  window.parent.postMessage(JSON.stringify({took, said, left, shown: box.offsetHeight > 0}), "*");
});
</script>
"""
CLIPBOARD = {
    "clipboard": "navigator.clipboard.writeText = async text => { took.push(text); };",
    "without": """navigator.clipboard.writeText = async () => { throw new Error("not allowed"); };
document.execCommand = what => { took.push(document.activeElement.value); return what === "copy"; };""",
    "refused": """navigator.clipboard.writeText = async () => { throw new Error("not allowed"); };
document.execCommand = () => false;""",
}


@pytest.mark.parametrize("way", ["clipboard", "without"])
def test_buttons_copy_the_entry_and_the_link(probed, site, way):
    seen = probed("notebooks/01-demo.html", PRESS % CLIPBOARD[way])
    entry, link = seen["took"]
    assert entry == (site / "figures" / "fig-demo.bib").read_text()
    assert link.startswith("file://") and link.endswith("01-demo.html#fig-demo")
    assert seen["said"] == ["BibTeX copied", "Link copied"] and seen["shown"] and seen["left"] == 0


def test_a_refused_copy_is_told(probed):
    said = probed("notebooks/01-demo.html", PRESS % CLIPBOARD["refused"])["said"]
    assert all("could not be copied" in one for one in said) and len(said) == 2


def test_buttons_are_hidden_without_scripts(site):
    assert '<p class="figcard-copy" hidden>' in (site / "notebooks" / "01-demo.html").read_text()
