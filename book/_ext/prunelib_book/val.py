"""``{val}`key```: a number of the run in the text; a missing key fails the build."""

from docutils import nodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxRole

from prunelib.errors import PrunelibError
from prunelib.report import facts
from prunelib_book import inline, run

_logger = logging.getLogger(__name__)


class Val(SphinxRole):
    """``key``, ``key:plain`` (no interval) or ``key:interval`` (no number)."""

    def run(self):
        key, _, form = self.text.partition(":")
        try:
            entry = facts.lookup(run.manifest(self.env), key.strip())
            shown = facts.show(entry, form.strip())
        except PrunelibError as error:
            if run.manifest(self.env).get("not_run"):  # a chapter of this run would have recorded it
                return [nodes.inline("", "not run", classes=["val"])], []
            _logger.warning("val: %s", error, location=self.get_location())
            return [nodes.problematic(self.rawtext, self.rawtext)], []
        if isinstance(entry, dict) and entry.get("fmt") == "m":  # a sentence, with emphasis and formulas
            return inline.nodes_of(shown), []
        return [typeset(shown)], []


def typeset(shown: str) -> nodes.inline:
    """``2.31 (2.10–2.52)`` as a node whose interval a line break cannot split."""
    number, bracket, interval = shown.partition(" (")
    node = nodes.inline("", number + bracket[:1], classes=["val"])
    if interval:
        node += nodes.inline("", "(" + interval, classes=["val-interval"])
    return node


def setup(app) -> None:
    app.add_role("val", Val())
