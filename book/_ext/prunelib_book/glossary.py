"""Terms that explain themselves: the first mention on a page of a word from the glossary shows its definition.

The glossary is the definition list under "Words" in ``book/notation.md``. The explanation opens on hover, focus and
tap by the style sheet alone, so it needs no script and works from a file.
"""

import re
from functools import lru_cache
from html import escape
from pathlib import Path

from docutils import nodes

SOURCE = "book/notation.md"
_ENTRY = re.compile(r"^(?P<terms>[^\s:#|].*)\n: (?P<text>(?:.+\n?)(?:  .+\n?)*)", re.MULTILINE)
_MARKUP = re.compile(r"\s*\{cite\}`[^`]*`|[`*\[]|\]\([^)]*\)")
_CLOSED = (nodes.title, nodes.reference, nodes.literal, nodes.literal_block, nodes.math, nodes.raw, nodes.term,
           nodes.topic, nodes.strong)  # fmt: skip


class term_mention(nodes.Inline, nodes.TextElement):
    """A mention; ``tip`` is its definition as plain text, ``number`` counts those of the page."""


@lru_cache(4)
def _entries(file: Path, _changed: int) -> tuple[tuple[re.Pattern, str], ...]:
    """What each term of the glossary looks like in a text, and its definition."""
    words = file.read_text(encoding="utf-8").partition("## Words")[2].partition("\n## ")[0]
    found = []
    for entry in _ENTRY.finditer(words):
        forms = "|".join(_form(term.strip()) for term in entry["terms"].split(","))
        definition = " ".join(_MARKUP.sub("", entry["text"]).split())
        found.append((re.compile(rf"(?<![\w-])(?:{forms})(?![\w-])"), definition))
    return tuple(found)


def _form(term: str) -> str:
    """A term as a pattern: any case at its start, and any number where it has one (Drop-8A stands for Drop-4A)."""
    first, rest = re.escape(term[0]), re.sub(r"\d+", r"\\d+", re.escape(term[1:]))
    return (f"[{term[0].upper()}{term[0].lower()}]" if term[0].isalpha() else first) + rest


def mark(app, doctree: nodes.document) -> None:
    """Make mentions of the first place where each term stands in a text of the page."""
    source = Path(app.srcdir) / SOURCE
    if not source.is_file() or app.env.docname == SOURCE.removesuffix(".md"):
        return
    app.env.note_dependency(str(source))
    left = list(enumerate(_entries(source, source.stat().st_mtime_ns), 1))
    for text in list(doctree.findall(nodes.Text)):
        if not _is_prose(text):
            continue
        parts: list[nodes.Node] = [text]
        for number, (pattern, tip) in list(left):
            place = next(
                (i for i, part in enumerate(parts) if isinstance(part, nodes.Text) and pattern.search(part)), None
            )
            if place is not None:
                plain = parts[place].astext()
                found = pattern.search(plain)
                mention = term_mention("", found[0], tip=tip, number=number)
                around = [plain[: found.start()], plain[found.end() :]]
                parts[place : place + 1] = [nodes.Text(around[0]), mention, nodes.Text(around[1])]
                left.remove((number, (pattern, tip)))
        if len(parts) > 1:
            text.parent.replace(text, [part for part in parts if part.astext()])


def _is_prose(text: nodes.Text) -> bool:
    """Whether a text stands in a sentence, and not in a heading, a link, a formula, a label or code."""
    parent = text.parent
    while parent is not None and not isinstance(parent, nodes.document):
        if isinstance(parent, _CLOSED) or "pending" in type(parent).__name__ or "desc_" in type(parent).__name__:
            return False
        parent = parent.parent
    return True


def _visit(translator, node) -> None:
    tip = f"term-{node['number']}"
    word = f'<button type="button" class="term" aria-describedby="{tip}">{escape(node.astext())}</button>'
    shown = f'<span role="tooltip" class="term-tip" id="{tip}">{escape(node["tip"])}</span>'
    translator.body.append(f'<span class="term-box">{word}{shown}</span>')
    raise nodes.SkipNode


def setup(app) -> None:
    app.add_node(term_mention, html=(_visit, None))
    app.connect("doctree-read", mark)
