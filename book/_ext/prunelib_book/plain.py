"""Formulas as plain text, where nothing can typeset them: titles in the navigation and in the search."""

import re

from docutils import nodes
from pylatexenc import latex2text

# What the library does not know, and spaces that it would swallow.
_SAME = (
    (re.compile(r"\\[dt]frac"), r"\\frac"),
    (re.compile(r"\\\|"), r"\\Vert{}"),
    (re.compile(r"\\(a?cos|sin|cosh|sinh|log|ln|exp|max|min|le|ge)\s"), r"\\\1{} "),
)


def _fraction(node, l2tobj: latex2text.LatexNodes2Text) -> str:
    parts = [l2tobj.nodelist_to_text([part]).strip() for part in node.nodeargd.argnlist]
    return "/".join(part if re.fullmatch(r"\w|\d+", part) else f"({part})" for part in parts)


def _to_text() -> latex2text.LatexNodes2Text:
    known = latex2text.get_default_latex_context_db()
    known.add_context_category("book", macros=[latex2text.MacroTextSpec("frac", _fraction)], prepend=True)
    return latex2text.LatexNodes2Text(known, math_mode="text")


_TO_TEXT = _to_text()


def text(tex: str) -> str:
    """TeX as one line of Unicode: ``1−cos p`` for ``1-\\cos p``."""
    for command, same in _SAME:
        tex = command.sub(same, tex)
    return " ".join(_TO_TEXT.latex_to_text(tex).replace("-", "−").split())


def without_tex(node: nodes.Node) -> None:
    """Put plain text in the place of every formula below ``node``."""
    for formula in [*node.findall(lambda one: isinstance(one, nodes.math | nodes.math_block))]:
        formula.parent.replace(formula, nodes.Text(text(formula.astext())))


def plain_titles(app, doctree: nodes.document) -> None:
    """Titles as other pages show them, and the contents of the page beside it; the headings keep their formulas."""
    env = app.env
    for shown in (env.titles, env.longtitles, env.tocs):
        without_tex(shown[env.docname])


def setup(app) -> None:
    app.connect("doctree-read", plain_titles, priority=900)  # once Sphinx has collected the titles
