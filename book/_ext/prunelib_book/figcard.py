"""``{figcard} <figure id>``: a numbered, captioned figure with all its files; with ``:again:`` a second showing
of it on another page, which sends the reader to its place.

The light and the dark drawing are shown by the page's colour scheme, a narrow one on a phone; readings.js shows the
values of curves to whoever points at them. Images and links point to the permanent addresses
``figures/<id>.*`` of the site, so the page holds no hashed copies. The number that Sphinx gives must be the one
printed in the files and in the citation; the build fails otherwise.
"""

import json
from html import escape

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx.util.osutil import relative_uri

from prunelib.report import cite
from prunelib_book import inline, run

_logger = logging.getLogger(__name__)
_PIXELS = 96  # CSS pixels an inch
_PHONE = "(max-width: 600px)"
_FILES = (
    ("SVG", ".light.svg", "vector graphic for light pages"),
    ("SVG dark", ".dark.svg", "vector graphic for dark pages"),
    ("PDF", ".pdf", "vector graphic in the width of a two-column paper"),
    ("PDF, one column", ".column.pdf", "vector graphic drawn for one column of a two-column paper"),
    ("PNG", ".png", "bitmap, 200 dots an inch"),
    ("CSV", ".csv", "the data that is drawn"),
    ("code", ".py.txt", "the function that draws it"),
    ("cite", ".bib", "BibTeX entry"),
)


class card_image(nodes.General, nodes.Element):
    """The light and the dark drawing."""


class card_links(nodes.General, nodes.Element):
    """The row of links below the caption."""


class FigCard(SphinxDirective):
    """Shows the figure whose id is the argument."""

    required_arguments = 1
    option_spec = {"again": directives.flag}

    def run(self):
        figure_id = self.arguments[0]
        file = run.extra(self.env) / "figures" / f"{figure_id}.json"
        if "again" in self.options:
            return self._again(figure_id, file)
        if not file.is_file():
            raise self.error(f"figcard: the run has no figure '{figure_id}'")
        self.env.note_dependency(str(file))
        card = json.loads(file.read_text())
        figure = nodes.figure("", classes=["figcard"])
        figure["names"] = [figure_id]
        figure["card_number"] = card["number"]
        self.state.document.note_explicit_target(figure, figure)
        self.set_source_info(figure)
        figure += card_image("", card=card)
        figure += nodes.caption(card["caption"], "", *inline.nodes_of(card["caption"]))
        legend = nodes.legend("")
        legend += card_links("", card={"id": figure_id, "notebook": card["notebook"]})
        figure += legend
        return [figure]

    def _again(self, figure_id: str, file) -> list[nodes.Node]:
        """The drawing and its caption, without a number of its own; nothing where the run does not have it."""
        if not file.is_file():
            return []
        self.env.note_dependency(str(file))
        card = json.loads(file.read_text())
        place = inline.link(self.env, "numref", figure_id, "Figure %s")
        text = nodes.paragraph("", "", place, nodes.Text(": "), *inline.nodes_of(card["caption"]))
        return [nodes.container("", card_image("", card=card), text, classes=["figcard", "figcard-again"])]


def _address(translator, path: str) -> str:
    """The link from the page being written to ``path`` in the site."""
    builder = translator.builder
    return relative_uri(builder.get_target_uri(builder.current_docname), path)


def _visit_image(translator, node) -> None:
    card = node["card"]
    alt = escape(card["alt"])
    # In a box of their own: the theme hides a caption that follows a hidden image.
    translator.body.append('<div class="figcard-images">\n')
    for scheme in ("light", "dark"):
        wide, narrow = (
            escape(_address(translator, f"figures/{card['id']}{form}.{scheme}.svg")) for form in ("", ".column")
        )
        # A phone gets the drawing that was made for one column, with its panels below each other.
        translator.body.append(
            f'<picture><source media="{_PHONE}" srcset="{narrow}" {_pixels(card["column_size"])}>'
            f'<img class="only-{scheme}" src="{wide}" alt="{alt}" {_pixels(card["size"])} loading="lazy"></picture>\n'
        )
    if card["readings"]:
        values = {"wide": card["readings"], "narrow": card["column_readings"], "narrowWhen": _PHONE}
        text = json.dumps(values, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
        translator.body.append(f'<script type="application/json" class="figcard-readings">{text}</script>\n')
    translator.body.append("</div>\n")
    raise nodes.SkipNode


def _pixels(size: list[float]) -> str:
    width, height = (round(inches * _PIXELS) for inches in size)
    return f'width="{width}" height="{height}"'


def _visit_links(translator, node) -> None:
    card = node["card"]
    files = [(text, f"figures/{card['id']}{suffix}", why) for text, suffix, why in _FILES]
    files.insert(-2, ("notebook", f"notebooks/{card['notebook']}.ipynb", "the executed notebook"))
    links = [
        f'<a href="{escape(_address(translator, path))}" title="{escape(why)}">{text}</a>' for text, path, why in files
    ]
    links.append(f'<a href="{cite.LICENCE_URL}" rel="license" title="licence of the figure">{cite.LICENCE}</a>')
    # Shown by figcard.js, without which the buttons do nothing.
    buttons = (
        f'<button type="button" data-bibtex="{escape(node["bibtex"])}">copy BibTeX</button> '
        '<button type="button">copy link</button> <span role="status"></span>'
    )
    translator.body.append(
        f'<p class="figcard-links">{" ".join(links)}</p>\n<p class="figcard-copy" hidden>{buttons}</p>\n'
    )
    raise nodes.SkipNode


def add_entries(app, doctree) -> None:
    """Give each row of links the BibTeX entry of its figure; the page is read again when the entry changes."""
    for row in doctree.findall(card_links):
        file = run.extra(app.env) / "figures" / f"{row['card']['id']}.bib"
        app.env.note_dependency(str(file))
        row["bibtex"] = file.read_text()


class card_thumbnail(nodes.General, nodes.Element):
    """Both drawings, small, for a place where words stand beside them (figindex.py)."""


def _visit_thumbnail(translator, node) -> None:
    card = node["card"]
    for scheme in ("light", "dark"):
        source = escape(_address(translator, f"figures/{card['id']}.{scheme}.svg"))
        image = f'<img class="only-{scheme}" src="{source}" alt="" {_pixels(card["size"])} loading="lazy">\n'
        translator.body.append(image)
    raise nodes.SkipNode


def _skip(_translator, _node) -> None:
    raise nodes.SkipNode


def check_numbers(app, env) -> list:
    """Sphinx's figure numbers against those printed in the figures' own files."""
    for docname in sorted(env.found_docs):
        numbers = env.toc_fignumbers.get(docname, {}).get("figure", {})
        for figure in env.get_doctree(docname).findall(nodes.figure):
            printed = figure.get("card_number")
            given = ".".join(map(str, numbers.get(figure["ids"][0], ())))
            if printed and printed != given:
                name = figure["names"][0]
                _logger.warning(
                    "figcard: %s is figure %s on the page but %s in its files; show the figures "
                    "of a notebook in the order in which they are registered",
                    *(name, given or "without number", printed),
                    location=figure,
                )
    return []


def setup(app) -> None:
    app.add_directive("figcard", FigCard)
    for node, visit in (
        (card_image, _visit_image),
        (card_links, _visit_links),
        (card_thumbnail, _visit_thumbnail),
    ):
        app.add_node(node, html=(visit, None), text=(_skip, None), latex=(_skip, None))
    app.connect("doctree-read", add_entries)
    app.connect("env-check-consistency", check_numbers)
