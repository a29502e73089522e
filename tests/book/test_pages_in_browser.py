"""What the built pages do in a browser: figures that follow the scheme, boxes that scroll, buttons, explanations."""

import pytest

PAGES = ["book/index.html", "notebooks/01-demo.html"]


@pytest.mark.parametrize("page", PAGES)
def test_formulas_are_typeset(opened, site, page):
    seen = opened(site / page)
    assert seen.locator("mjx-container svg").count() >= 2
    assert seen.locator("span.math:not(:has(mjx-container))").count() == 0


@pytest.mark.parametrize(("theme", "colour"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(18, 18, 18)")])
def test_the_figure_follows_the_colour_scheme(opened, site, theme, colour):
    page = opened(site / "notebooks/01-demo.html", scheme=theme)
    assert page.locator("html").get_attribute("data-theme") == theme
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == colour
    [image] = [one for one in page.locator("figure.figcard img").all() if one.is_visible()]
    assert image.get_attribute("src") == f"../figures/fig-demo.{theme}.svg"
    assert image.get_attribute("alt") == "Two curves up to 7."
    assert image.evaluate("e => e.complete && e.naturalWidth > 0")
    [caption] = page.locator("figure.figcard figcaption").all()
    assert caption.inner_text().strip().startswith("Figure 1.1 The top is 7.")


# What the two buttons hand to the clipboard; the browser of the tests has no user to allow it.
CLIPBOARD = {
    "clipboard": "navigator.clipboard.writeText = async text => { took.push(text); };",
    "without": """navigator.clipboard.writeText = async () => { throw new Error("not allowed"); };
document.execCommand = what => { took.push(document.activeElement.value); return what === "copy"; };""",
    "refused": """navigator.clipboard.writeText = async () => { throw new Error("not allowed"); };
document.execCommand = () => false;""",
}


def press(page) -> list[str]:
    """Press the buttons below the first figure; what each one said."""
    box, said = page.locator(".figcard-copy").first, []
    assert box.is_visible()
    for button in box.locator("button").all():
        button.click()
        page.wait_for_timeout(100)
        said.append(box.locator("[role=status]").inner_text())
    return said


@pytest.mark.parametrize("way", ["clipboard", "without"])
def test_buttons_copy_the_entry_and_the_link(opened, site, way):
    page = opened(site / "notebooks/01-demo.html", before=f"window.took = [];\n{CLIPBOARD[way]}")
    assert press(page) == ["BibTeX copied", "Link copied"]
    entry, link = page.evaluate("took")
    assert entry == (site / "figures" / "fig-demo.bib").read_text()
    assert link.startswith("file://") and link.endswith("01-demo.html#fig-demo")
    assert page.locator("textarea").count() == 0


def test_a_refused_copy_is_told(opened, site):
    said = press(opened(site / "notebooks/01-demo.html", before=CLIPBOARD["refused"]))
    assert all("could not be copied" in one for one in said) and len(said) == 2


def test_buttons_are_hidden_without_scripts(site):
    assert '<p class="figcard-copy" hidden>' in (site / "notebooks" / "01-demo.html").read_text()
