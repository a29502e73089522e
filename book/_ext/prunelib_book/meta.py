"""What a page says of itself to machines: OpenGraph for previews of links, Highwire tags for the paper.

The description is the page's answer, or the paragraph below its title. sphinxext-opengraph would take the first
words of a page, formulas as TeX among them, and needs an address of the site.
"""

import re
import textwrap
from html import escape, unescape

from docutils import nodes

from prunelib.report import cite, stubs
from prunelib_book import plain

_TAG = re.compile(r"<[^>]+>")
_LONGEST = 300  # characters; more is cut off where links are shown


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
    plain.without_tex(own)
    return " ".join(own.astext().split())


def _short(text: str) -> str:
    return textwrap.shorten(text, _LONGEST, placeholder=" …")


def add_tags(app, pagename: str, templatename: str, context: dict, doctree: nodes.document | None) -> None:
    """Write the tags of a page that is about to be rendered."""
    title = unescape(_TAG.sub("", context.get("title", ""))) or app.config.html_title
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
