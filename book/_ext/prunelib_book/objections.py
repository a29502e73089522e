"""``{objections}``: what readers of the paper doubted, and the numbers of this run that answer it."""

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from prunelib.report import objections
from prunelib_book import inline, run, val


class Objections(SphinxDirective):
    """A section for each objection; one whose chapter was not run says so, with the command that runs it."""

    def run(self):
        manifest = run.manifest(self.env)
        return [self._section(row, manifest) for row in objections.rows(manifest)]

    def _section(self, row: dict, manifest: dict) -> nodes.section:
        title = f"{row['number']}. {row['title']}"
        found = nodes.section("", nodes.title("", title), ids=[f"objection-{row['number']}"], names=[title.lower()])
        found += nodes.paragraph("", "", nodes.strong("", "Doubted. "), nodes.Text(row["doubted"]))
        found += nodes.paragraph("", "", nodes.strong("", "Tried here. "), nodes.Text(row["experiment"]))
        if row["status"] == objections.LATER:
            found += nodes.paragraph("", f"The chapter that answers this is {objections.LATER}.")
        elif row["status"] == objections.NOT_RUN:
            text = f"That chapter was {objections.NOT_RUN} for this model. This command runs it: "
            found += nodes.paragraph("", "", nodes.Text(text), nodes.literal("", row["command"]))
        items = [self._number(one) for one in row["numbers"]]
        if items:
            found += nodes.bullet_list("", *items)
        for sentence in row["said"]:
            found += nodes.paragraph("", "", *inline.nodes_of(sentence))
        if links := self._links(row, manifest):
            found += links
        return found

    def _number(self, one: dict) -> nodes.list_item:
        return nodes.list_item("", nodes.paragraph("", "", nodes.Text(f"{one['label']}: "), val.typeset(one["shown"])))

    def _links(self, row: dict, manifest: dict) -> nodes.paragraph | None:
        notebook, found = row["notebook"], []
        if notebook and f"notebooks/{notebook}" in self.env.found_docs:
            found.append(inline.link(self.env, "doc", f"/notebooks/{notebook}", f"chapter {int(notebook[:2])}"))
            if row["figure"]:
                found += [nodes.Text(", "), inline.link(self.env, "numref", row["figure"], "Figure %s")]
        return nodes.paragraph("", "", nodes.Text("See "), *found, nodes.Text(".")) if found else None


def setup(app) -> None:
    app.add_directive("objections", Objections)
