"""What a page says of itself to machines: OpenGraph for previews of links, Highwire tags for the paper.

The description is the page's answer, or the paragraph below its title. sphinxext-opengraph would take the first
words of a page, formulas as TeX among them, and needs an address of the site.
"""

import re
import textwrap
from html import escape, unescape

from docutils import nodes
from pylatexenc.latex2text import LatexNodes2Text

from prunelib.report import cite, stubs

_FORMULA = re.compile(r"\\\((.+?)\\\)", re.DOTALL)
_TAG = re.compile(r"<[^>]+>")
_LONGEST = 300  # characters; more is cut off where links are shown
_read = LatexNodes2Text(math_mode="text", strict_latex_spaces="based-on-source")


def plain(html: str) -> str:
    """Text without markup, formulas in ``\\(…\\)`` as the characters nearest to them."""
    text = unescape(_TAG.sub("", html))
    # pylatexenc drops this sign of a norm.
    return " ".join(_FORMULA.sub(lambda found: _read.latex_to_text(found[1].replace(r"\|", "‖")), text).split())


def description(doctree: nodes.document) -> str:
    """What the page answers, or the paragraph below its title; empty for a page without either."""
    for paragraph in doctree.findall(nodes.paragraph):
        label = next((child for child in paragraph if child.astext()), None)  # MyST begins with an empty text
        if isinstance(label, nodes.strong) and label.astext().startswith("Answer"):
            answer = _words(paragraph).removeprefix(label.astext()).strip()
            if answer != stubs.NOT_RUN:
                return _short(answer)
    top = next(doctree.findall(nodes.section), doctree)
    return _short(next((_words(child) for child in top if isinstance(child, nodes.paragraph)), ""))


def _words(paragraph: nodes.paragraph) -> str:
    own = paragraph.deepcopy()
    for formula in list(own.findall(nodes.math)):
        formula.replace_self(nodes.Text(rf"\({formula.astext()}\)"))
    return plain(escape(own.astext()))


def _short(text: str) -> str:
    return textwrap.shorten(text, _LONGEST, placeholder=" …")


def add_tags(app, pagename: str, templatename: str, context: dict, doctree: nodes.document | None) -> None:
    """Write the tags of a page that is about to be rendered, and its title without TeX."""
    title = plain(context.get("title", "") or app.config.html_title)
    context["title"] = escape(title)
    paper = cite.paper()
    tags = [
        ("property", "og:title", title),
        ("property", "og:type", "article"),
        ("property", "og:site_name", app.config.html_title),
        ("property", "og:description", description(doctree) if doctree else ""),
        ("name", "citation_title", paper["title"]),
        *(("name", "citation_author", author) for author in paper["authors"]),
        ("name", "citation_publication_date", paper["year"]),
        ("name", "citation_arxiv_id", paper["arxiv"]),
    ]
    lines = (f'<meta {kind}="{name}" content="{escape(text)}">' for kind, name, text in tags if text)
    context["metatags"] = "\n".join([context.get("metatags", ""), *lines, ""])


def setup(app) -> None:
    app.connect("html-page-context", add_tags)
