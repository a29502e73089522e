"""``{families-table}``: what works in each family, as the tests found it (``data/families.json``)."""

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from prunelib.files import read_json
from prunelib.methods import of_kind
from prunelib.models.families import ARCHS
from prunelib.paths import data_dir
from prunelib_book.methods import line

_PARTS = ("trace", "drop", "decode", "tasks", "save")
_COLUMNS = (("model type", 20), ("layout", 18), *((part, 8) for part in _PARTS), ("methods", 15), ("repairs", 25))


class FamiliesTable(SphinxDirective):
    """One row a variant of a family that was tried, and the versions that it was tried with."""

    def run(self):
        found = read_json(data_dir() / "families.json")
        head = nodes.thead("", line([[nodes.paragraph("", title)] for title, _ in _COLUMNS]))
        rows = [line([[nodes.paragraph("", text)] for text in _row(*one)]) for one in sorted(found["families"].items())]
        group = nodes.tgroup("", *(nodes.colspec(colwidth=width) for _, width in _COLUMNS))
        group["cols"] = len(_COLUMNS)
        group += [head, nodes.tbody("", *rows)]
        versions = " and ".join(f"{name} {version}" for name, version in sorted(found["versions"].items()))
        return [nodes.table("", group, classes=["families"]), nodes.paragraph("", f"Tried with {versions}.")]


def _row(variant: str, works: dict[str, str]) -> list[str]:
    family, _, which = variant.partition("-")
    row = ARCHS[family]
    layout = "mixture of experts" if row.mixture else "text of a wrapper" if "language_model" in row.layers else "dense"
    parts = ("yes" if works.get(part) == "passed" else works.get(part, "not tried") for part in _PARTS)
    repairs = {method.name for method in of_kind("recover")}
    methods = set(works) - repairs - set(_PARTS)
    return [
        f"{family} ({which})" if which else family,
        layout,
        *parts,
        _all_but(works, methods),
        _all_but(works, repairs),
    ]


def _all_but(works: dict[str, str], names: set[str]) -> str:
    missing = sorted(name for name in names if works.get(name) != "passed")
    return f"all but {', '.join(missing)}" if missing else "all"


def setup(app) -> None:
    app.add_directive("families-table", FamiliesTable)
