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
