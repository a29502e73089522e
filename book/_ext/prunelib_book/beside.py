"""``{runs-beside}``: the claims of this run and of those beside it, and their curves with the paper's."""

import json

import pandas as pd
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from prunelib.report import side_by_side
from prunelib_book import figcard, inline, run, val
from prunelib_book.methods import line

_FILES = (("SVG", ".light.svg"), ("PDF", ".pdf"), ("PNG", ".png"), ("CSV", ".csv"), ("cite", ".bib"))


class RunsBeside(SphinxDirective):
    """A table with a row a claim and a column a run, and the figures that ``prunelib book`` drew of them."""

    def run(self):
        file = run.extra(self.env) / "comparison.json"
        self.env.note_dependency(str(file))
        found = json.loads(file.read_text())
        parts = [self._table(found["claims"])]
        if found["gone"]:
            text = f"Named when this run was made and not found any more: {found['gone']} of the runs beside it."
            parts.append(nodes.paragraph("", text))
        return parts + [self._figure(figure_id) for figure_id in found["figures"]]

    def _table(self, rows: list[dict]) -> nodes.table:
        table = side_by_side.wide(pd.DataFrame(rows).astype({"value": float, "lo": float, "hi": float}))
        statements = {row["claim"]: row["statement"] for row in rows}
        names = list(table)[2:]
        head = nodes.thead("", line([[nodes.paragraph("", name)] for name in ("claim", *names)]))
        body = []
        for claim, part, *cells in table.itertuples(index=False):
            if part:
                first = nodes.paragraph("", part, classes=["claim-rule"])
            else:
                first = nodes.paragraph("", "", nodes.strong("", claim), nodes.Text(f" {statements[claim]}"))
            body.append(line([[first], *([nodes.paragraph("", "", val.typeset(one))] for one in cells)]))
        group = nodes.tgroup("", *(nodes.colspec(colwidth=width) for width in (40, *(20 for _ in names))))
        group["cols"] = 1 + len(names)
        group += [head, nodes.tbody("", *body)]
        return nodes.table("", group, classes=["beside"])

    def _figure(self, figure_id: str) -> nodes.container:
        file = run.extra(self.env) / "figures" / f"{figure_id}.json"
        self.env.note_dependency(str(file))
        card = json.loads(file.read_text())
        up = "../" * self.env.docname.count("/")
        links = nodes.paragraph("", classes=["figcard-links"])
        for text, suffix in _FILES:
            links += [nodes.reference("", text, refuri=f"{up}figures/{figure_id}{suffix}"), nodes.Text(" ")]
        caption = nodes.paragraph("", "", *inline.nodes_of(card["caption"]))
        return nodes.container(
            "", figcard.card_image("", card=card), caption, links, classes=["figcard", "figcard-again"]
        )


def setup(app) -> None:
    app.add_directive("runs-beside", RunsBeside)
