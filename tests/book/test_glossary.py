"""Terms that explain themselves: where they are marked, and that the explanation is seen and heard."""

import re


def test_the_first_mention_of_a_term_is_marked_and_only_that(site):
    page = (site / "book/index.html").read_text()
    marked = re.findall(r'class="term" aria-describedby="([^"]+)">([^<]+)<', page)
    assert sorted(word for _, word in marked) == ["nats", "points"] and len({name for name, _ in marked}) == 2
    assert "the unit of logits; one nat is 1.44 bits." in page  # as plain words
    assert 'class="term"' not in (site / "book/notation.html").read_text()


def test_an_explanation_opens_on_focus_and_stays_in_view(opened, site, violations):
    for width in (1280, 390):
        page = opened(site / "book/index.html", width, "dark")
        term = page.locator(".term").first
        tip = page.locator(f"#{term.get_attribute('aria-describedby')}")
        assert not tip.is_visible()
        term.focus()
        assert tip.is_visible() and tip.inner_text() == "single measurements, one a prompt."
        box = tip.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width
        assert violations(page) == []
