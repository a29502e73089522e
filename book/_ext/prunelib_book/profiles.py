"""``{profiles-table}``: how much each profile measures, a row a quantity."""

from collections.abc import Mapping

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from prunelib.runs import profiles
from prunelib_book.methods import line


class ProfilesTable(SphinxDirective):
    """One row a field of :class:`prunelib.runs.profiles.Profile`, one column a profile."""

    def run(self):
        names = list(profiles.PROFILES)
        columns = [("what", 40), *((name, 20) for name in names)]
        head = nodes.thead("", line([[nodes.paragraph("", title)] for title, _ in columns]))
        rows = []
        for field, said in profiles.about().items():
            values = (_shown(getattr(profiles.PROFILES[name], field)) for name in names)
            rows.append(line([[nodes.paragraph("", text)] for text in (said, *values)]))
        group = nodes.tgroup("", *(nodes.colspec(colwidth=width) for _, width in columns))
        group["cols"] = len(columns)
        group += [head, nodes.tbody("", *rows)]
        return [nodes.table("", group, classes=["profiles"])]


def _shown(value) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {', '.join(map(str, counts))}" for name, counts in value.items())
    return ", ".join(value) or "none" if isinstance(value, tuple) else str(value)


def setup(app) -> None:
    app.add_directive("profiles-table", ProfilesTable)
