"""``{figure-index}``: every figure of the run by chapter, small, with a link to its place."""

import json
from itertools import groupby

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from prunelib_book import figcard, inline, run


class FigureIndex(SphinxDirective):
    """A section for each chapter that was run; a figure without a page in this book is left out."""

    def run(self):
        manifest = run.manifest(self.env)
        shown = {f"notebooks/{name}" for name in manifest["notebooks"]} & self.env.found_docs
        cards = [self._card(name) for name, entry in manifest["figures"].items()]
        cards = [card for card in cards if f"notebooks/{card['notebook']}" in shown]
        cards.sort(key=lambda card: [int(part) for part in card["number"].split(".")])
        return [self._chapter(name, list(own)) for name, own in groupby(cards, lambda card: card["notebook"])]

    def _card(self, figure_id: str) -> dict:
        file = run.extra(self.env) / "figures" / f"{figure_id}.json"
        self.env.note_dependency(str(file))
        return json.loads(file.read_text())

    def _chapter(self, name: str, cards: list[dict]) -> nodes.section:
        number = int(name.split("-")[0])
        title = nodes.title("", f"Chapter {number}")
        section = nodes.section("", title, ids=[f"chapter-{number}"], names=[f"chapter {number}"])
        # Without words of its own: it gets the title of the page, which may not have been read yet.
        page = inline.link(self.env, "doc", f"/notebooks/{name}", "")
        page["refexplicit"] = False
        section += nodes.paragraph("", "", page)
        section += nodes.bullet_list("", *map(self._entry, cards), classes=["figure-index"])
        return section

    def _entry(self, card: dict) -> nodes.list_item:
        place = inline.link(self.env, "numref", card["id"], "Figure %s")
        words = nodes.paragraph("", "", place, nodes.Text(" "), *inline.nodes_of(card["title"]))
        return nodes.list_item("", figcard.card_thumbnail("", card=card), words)


def setup(app) -> None:
    app.add_directive("figure-index", FigureIndex)
