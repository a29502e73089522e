"""The search: words of the text, not of its code, and excerpts that need no server.

Sphinx's script fetches a page to show an excerpt of it, which a browser forbids on pages opened as files. The texts
of all pages therefore come with the search page.
"""

import json
import re
from html import escape
from pathlib import Path

from bs4 import BeautifulSoup, NavigableString, Tag
from docutils import nodes
from sphinx.builders.html import StandaloneHTMLBuilder

from prunelib_book import plain

_FILE = "search-texts.js"
_SCRIPT = """\
const searchTexts = {texts};
// All that the search page fetches is pages, to show an excerpt of each.
window.fetch = (address) => Promise.resolve({{ text: () => searchTexts[address.replace(/^[./]*/, "")] }});
"""
_NO_TEXT = "script, style, summary, .headerlink, .cell_input, .figcard-links, .eqno"
_DELIMITERS = re.compile(r"^\\[(\[]|\\[)\]]$")


class Html(StandaloneHTMLBuilder):
    """Sphinx's pages, with a search index of what is read."""

    def index_page(self, pagename: str, doctree: nodes.document, title: str) -> None:
        """Index the words of a page without the code of its cells, and its formulas as they are read."""
        words = doctree.deepcopy()
        for code in [*words.findall(_is_code)]:
            code.parent.remove(code)
        plain.without_tex(words)
        super().index_page(pagename, words, title)

    def gen_additional_pages(self) -> None:
        """Write the texts before the search page, which names them."""
        texts = {f"{name}.html": _text(Path(self.get_outfilename(name))) for name in sorted(self.env.found_docs)}
        said = json.dumps(texts, ensure_ascii=False, indent=0).replace("</script", "<\\/script")
        (Path(self.outdir) / "_static" / _FILE).write_text(_SCRIPT.format(texts=said), encoding="utf-8")
        super().gen_additional_pages()


def _is_code(node: nodes.Node) -> bool:
    return isinstance(node, nodes.container) and node.get("nb_element") == "cell_code_source"


def _text(page: Path) -> str:
    """The text of a page in its sections, as the HTML in which Sphinx's script looks for a section by its id."""
    article = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser").select_one("article.bd-article")
    for unwanted in article.select(_NO_TEXT):
        unwanted.decompose()
    for formula in article.select(".math"):
        formula.replace_with(plain.text(_DELIMITERS.sub("", formula.get_text().strip())))
    return f'<div role="main">{" ".join(_sections(article).split())}</div>'


def _sections(tag: Tag) -> str:
    parts = []
    for child in tag.children:
        if type(child) is NavigableString:
            parts.append(escape(child, quote=False))
        elif isinstance(child, Tag):
            inner = _sections(child)
            parts.append(f'<section id="{child["id"]}">{inner}</section>' if child.name == "section" else inner)
            parts.append("" if child.name in ("a", "b", "code", "em", "span", "strong", "sub", "sup") else " ")
    return "".join(parts)


def add_texts(app, pagename: str, *_) -> None:
    if pagename == "search":
        app.add_js_file(_FILE)


def setup(app) -> None:
    app.add_builder(Html, override=True)
    app.connect("html-page-context", add_texts)
