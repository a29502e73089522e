"""Captions: emphasis, formulas and code in a line, and nothing else that markup can do.

A caption comes from a run folder, which may be anybody's; a Markdown parser would follow its roles,
directives and HTML.
"""

import re
from collections.abc import Iterator

from docutils import nodes
from sphinx import addnodes

_PARTS = re.compile(
    r"(?<!\\)\$(?P<math>[^$]+)\$|`(?P<code>[^`]+)`|\*\*(?P<strong>.+?)\*\*(?!\*)|\*(?P<em>[^*\s][^*]*)\*"
)
_ESCAPED = re.compile(r"\\([\\$*`_])")


def nodes_of(text: str) -> list[nodes.Node]:
    """The docutils nodes of ``$math$``, ``**strong**``, ``*emphasis*`` and code in backticks."""
    return list(_nodes(text))


def _nodes(text: str) -> Iterator[nodes.Node]:
    end = 0
    for found in _PARTS.finditer(text):
        if found.start() > end:
            yield nodes.Text(_plain(text[end : found.start()]))
        end = found.end()
        if found["math"]:
            yield nodes.math(found["math"], found["math"])
        elif found["code"]:
            yield nodes.literal(found["code"], found["code"])
        else:
            kind, inner = (nodes.strong, found["strong"]) if found["strong"] else (nodes.emphasis, found["em"])
            yield kind(inner, "", *_nodes(inner))
    if end < len(text):
        yield nodes.Text(_plain(text[end:]))


def _plain(text: str) -> str:
    return _ESCAPED.sub(r"\1", text)


def link(env, kind: str, target: str, text: str) -> addnodes.pending_xref:
    """A link to a page (``doc``), or to a figure (``numref``), whose number takes the place of ``%s``."""
    options = {"refdomain": "std", "reftype": kind, "refexplicit": True, "refwarn": True, "refdoc": env.docname}
    return addnodes.pending_xref(text, nodes.inline("", text), reftarget=target, **options)
