"""``{claims-table}``: what this run says of each claim of the paper."""

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx import addnodes
from sphinx.util.docutils import SphinxDirective

from prunelib.report import claims, facts
from prunelib_book import run, val

_COLUMNS = (
    ("", 6),
    ("Claim of the paper", 46),
    ("Measured here", 20),
    ("Verdict", 14),
    ("Chapter", 14),
)
_MARKS = {"supported": "✓", "not supported": "✗", "undecided": "?"}


class ClaimsTable(SphinxDirective):
    """One row a claim; a claim without a number in this run reads "not yet".

    Under a number stands that of the committed reference run, where there is one and this is another
    run. With ``:brief:`` the numbers and rules that decide are left out.
    """

    option_spec = {"brief": directives.flag}

    def run(self):
        reference = run.reference(self.env)
        rows = [self._row(row, reference.get(row["id"])) for row in claims.ledger(run.manifest(self.env))]
        head = nodes.thead("", _line([[nodes.paragraph("", title)] for title, _ in _COLUMNS]))
        group = nodes.tgroup("", *(nodes.colspec(colwidth=width) for _, width in _COLUMNS))
        group["cols"] = len(_COLUMNS)
        group += [head, nodes.tbody("", *rows)]
        return [nodes.table("", group, classes=["claims"])]

    def _row(self, row: dict, reference: dict | None) -> nodes.row:
        statement = [nodes.paragraph("", row["statement"])]
        if "brief" not in self.options:
            decided = "; ".join(f"{part['name']}: {part['measure']}" for part in row["parts"])
            text = f"Decided by: {row['measure']}{f' ({decided})' if decided else ''}. Supported if {row['rule']}."
            statement.append(nodes.paragraph("", text, classes=["claim-rule"]))
        measured = row["status"] == claims.MEASURED
        later = "not run" if row["notebook"] in run.manifest(self.env).get("not_run", ()) else claims.NOT_YET
        numbers = _numbers(row) if measured else [nodes.paragraph("", "", val.typeset(later))]
        if reference and reference["status"] == claims.MEASURED:
            numbers += _numbers(reference, "reference: ", f", {reference['verdict']}")
        verdict = f"{_MARKS[row['verdict']]} {row['verdict']}" if measured else "–"
        line = _line(
            [
                [nodes.paragraph("", row["id"])],
                statement,
                numbers,
                [nodes.paragraph("", verdict)],
                [nodes.paragraph("", "", self._chapter(row["notebook"]))],
            ]
        )
        line["classes"] = ["verdict-" + (row["verdict"] or "none").replace(" ", "-")]
        return line

    def _chapter(self, notebook: str | None) -> nodes.Node:
        if notebook is None or f"notebooks/{notebook}" not in self.env.found_docs:
            return nodes.Text("–")
        text = nodes.inline("", f"chapter {int(notebook.split('-')[0])}")
        options = {"refdomain": "std", "reftype": "doc", "refexplicit": True, "refwarn": True}
        link = addnodes.pending_xref("", text, reftarget=f"/notebooks/{notebook}", **options)
        link["refdoc"] = self.env.docname
        return link


def _numbers(row: dict, before: str = "", after: str = "") -> list[nodes.paragraph]:
    """The number that decides a claim, or a line for each of its parts, between two words."""
    names = [f"{part['name']}: " for part in row["parts"]] or [""]
    shown = [val.typeset(facts.show(entry | {"fmt": ".3g"})) for entry in row["parts"] or [row]]
    marks = [before, *[""] * (len(shown) - 1)], [*[""] * (len(shown) - 1), after]
    return [
        nodes.paragraph("", first + name, number, nodes.Text(last), classes=["claim-rule"] if before else [])
        for first, name, number, last in zip(marks[0], names, shown, marks[1], strict=True)
    ]


def _line(cells: list[list[nodes.Node]]) -> nodes.row:
    return nodes.row("", *(nodes.entry("", *cell) for cell in cells))


def setup(app) -> None:
    app.add_directive("claims-table", ClaimsTable)
