"""``{methods-table}``: every registered method, how it is written, what it does and where it is from."""

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

from prunelib.methods import registry

_COLUMNS = (("method", 16), ("written as", 28), ("what it does", 56))


class MethodsTable(SphinxDirective):
    """One row a method of :func:`prunelib.methods.registry`; the dense model is none."""

    def run(self):
        rows = [self._row(method) for method in registry().values() if method.kind != "dense"]
        head = nodes.thead("", line([[nodes.paragraph("", title)] for title, _ in _COLUMNS]))
        group = nodes.tgroup("", *(nodes.colspec(colwidth=width) for _, width in _COLUMNS))
        group["cols"] = len(_COLUMNS)
        group += [head, nodes.tbody("", *rows)]
        return [nodes.table("", group, classes=["methods"])]

    def _row(self, method) -> nodes.row:
        what = nodes.paragraph("", f"{method.__doc__.splitlines()[0]} ")
        if method.source:
            holder = nodes.Element()
            self.state.nested_parse(StringList([f"{{cite}}`{method.source}`"], self.env.docname), 0, holder)
            what += holder[0].children
        title = "Drop-n, sites" if method.title == "Drop" else method.title
        return line([[nodes.paragraph("", title)], [nodes.paragraph("", "", nodes.literal("", method.usage))], [what]])


def line(cells: list[list[nodes.Node]]) -> nodes.row:
    return nodes.row("", *(nodes.entry("", *cell) for cell in cells))


def setup(app) -> None:
    app.add_directive("methods-table", MethodsTable)
