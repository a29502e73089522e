"""``{claims-table}``: what this run says of each claim of the paper."""

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective

from prunelib.report import claims, evidence, facts
from prunelib_book import inline, run, val

_COLUMNS = (
    ("id", 6),
    ("Claim of the paper", 46),
    ("Measured here, and what it must be", 20),
    ("Verdict", 14),
    ("Chapter", 14),
)
_MARKS = {"supported": "✓", "not supported": "✗", "undecided": "?"}


class ClaimsTable(SphinxDirective):
    """One row a claim; a claim without a number in this run reads "not yet".

    Under a number stands that of the committed reference run, where there is one and this is another
    run. With ``:brief:`` the rules that decide, and what stands behind a number (report/evidence.py), are left out.
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
            statement.append(_evidence(row))
        measured = row["status"] == claims.MEASURED
        if row["why"]:
            statement.append(nodes.paragraph("", "", *inline.nodes_of(row["why"]), classes=["claim-why"]))
        later = "not run" if row["notebook"] in run.manifest(self.env).get("not_run", ()) else claims.NOT_YET
        numbers = [*_numbers(row), _rule(row)] if measured else [nodes.paragraph("", "", val.typeset(later))]
        if reference and reference["status"] == claims.MEASURED:
            numbers += _numbers(reference, "reference: ", f", {reference['verdict']}")
        verdict = f"{_MARKS[row['verdict']]} {row['verdict']}" if measured else "–"
        line = _line(
            [
                [nodes.paragraph("", row["id"])],
                statement,
                numbers,
                [nodes.paragraph("", verdict)],
                self._where(row),
            ]
        )
        if "brief" not in self.options:  # one place of a claim to link to
            line["ids"] = [f"claim-{row['id'].lower()}"]
        line["classes"] = ["verdict-" + (row["verdict"] or "none").replace(" ", "-")]
        return line

    def _where(self, row: dict) -> list[nodes.paragraph]:
        """Links to the chapter of a claim and to the figure that shows its number."""
        notebook, figure = row["notebook"], row["figure"]
        if notebook is None or f"notebooks/{notebook}" not in self.env.found_docs:
            return [nodes.paragraph("", "–")]
        links = [inline.link(self.env, "doc", f"/notebooks/{notebook}", f"chapter {int(notebook.split('-')[0])}")]
        if figure in run.manifest(self.env)["figures"]:
            links.append(inline.link(self.env, "numref", figure, "Figure %s"))
        return [nodes.paragraph("", "", link) for link in links]


def _numbers(row: dict, before: str = "", after: str = "") -> list[nodes.paragraph]:
    """The number that decides a claim, or a line for each of its parts, between two words."""
    names = [f"{part['name']}: " for part in row["parts"]] or [""]
    shown = [val.typeset(facts.show(entry | {"fmt": ".3g"})) for entry in row["parts"] or [row]]
    marks = [before, *[""] * (len(shown) - 1)], [*[""] * (len(shown) - 1), after]
    return [
        nodes.paragraph("", first + name, number, nodes.Text(last), classes=["claim-rule"] if before else [])
        for first, name, number, last in zip(marks[0], names, shown, marks[1], strict=True)
    ]


def _evidence(row: dict) -> nodes.paragraph:
    """The paper's number and the command; of what was measured, also the sample and what it cost."""
    text = f"In the paper: {evidence.paper_words(row)}."
    if row["status"] == claims.MEASURED:
        text = f"Sample: {evidence.sample_words(row)}. {text} Computed in: {evidence.cost_words(row)}."
    found = nodes.paragraph("", text, classes=["claim-rule"])
    if row["command"]:
        found += [nodes.Text(" Run with "), nodes.literal("", row["command"])]
    return found


def _rule(row: dict) -> nodes.paragraph:
    """The threshold, in few words: what the number must be for the claim to be supported."""
    needed = "; ".join(f"{part['name']}: {part['rule']}" for part in row["parts"]) or row["rule"]
    return nodes.paragraph("", f"must be {needed.replace('the number is ', '')}", classes=["claim-rule"])


def _line(cells: list[list[nodes.Node]]) -> nodes.row:
    return nodes.row("", *(nodes.entry("", *cell) for cell in cells))


def setup(app) -> None:
    app.add_directive("claims-table", ClaimsTable)
