"""MathJax from an installed package, so that pages typeset with no network."""

import re
from importlib import metadata
from pathlib import Path

from docutils import nodes
from sphinx.errors import ExtensionError
from sphinx.util import logging

_logger = logging.getLogger(__name__)
# Input and output alone: the combined files carry a menu and a speech engine of 0.8 MB, which no page here needs.
_LOADED = ["core", "input/tex", "output/svg", "a11y/assistive-mml"]
_FONT = (
    "output/svg/fonts/tex.js"  # the output loads it itself, as the input does with an extension that a formula needs
)
_PARTS = re.compile(
    r"(startup|core|input/tex|input/tex/extensions/[\w-]+|output/svg|output/svg/fonts/tex|a11y/assistive-mml)\.js"
)
# A quarter of the font is Fraktur, sans serif, bold script and old figures: the book shows none (no_rare).
_RARE = re.compile(r"fraktur\w*|sansSerif\w*|texOldstyle\w*|texCalligraphicBold")
_RARE_COMMANDS = re.compile(r"\\(math(bf)?frak|frak|mathsf|textsf|sf|oldstyle|mathbfcal)\b")
_RARE_LETTERS = [*range(0x1D504, 0x1D538), *range(0x1D56C, 0x1D670), *range(0x1D756, 0x1D7CC)]
_ALPHABET = re.compile(r"(?<=\.AddPaths\)\()(\w+)\.(\w+),\{[^}]*\}")
_OUTLINE = re.compile(r'(\d+):"[^"]*",?')


def copy_mathjax(app) -> None:
    """Put MathJax where ``mathjax_path`` points.

    Not through ``html_static_path``: every script there would be added to every
    page, and this one belongs only to pages with formulas.
    """
    if app.builder.format != "html":
        return
    files = {str(file).partition("static/mathjax/")[2]: file for file in metadata.files("sphinx-mathjax-offline") or ()}
    parts = [name for name in files if _PARTS.fullmatch(name)]
    if lacking := {"startup.js", _FONT, *(f"{name}.js" for name in _LOADED)}.difference(parts):
        raise ExtensionError(f"sphinx-mathjax-offline has no {min(lacking)}; reinstall it")
    folder = (Path(app.outdir) / "_static" / app.config.mathjax_path).parent
    for part in parts:
        text, target = Path(files[part].locate()).read_text(encoding="utf-8"), folder / part
        text = _ALPHABET.sub(_without_rare, text) if part == _FONT else text
        if not target.is_file() or target.read_text(encoding="utf-8") != text:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")


def _without_rare(alphabet: re.Match) -> str:
    """An alphabet of the font without the outlines of rare letters."""
    everything = bool(_RARE.fullmatch(alphabet[2]))
    return _OUTLINE.sub(lambda one: "" if everything or int(one[1]) in _RARE_LETTERS else one[0], alphabet[0])


def set_mathjax(app, config) -> None:
    """Tell MathJax which of its parts to load. Without its menu a formula is no place to stop at with the tab key."""
    config.mathjax3_config = {**(config.mathjax3_config or {}), "loader": {"load": _LOADED}}


def no_rare(app, doctree: nodes.document) -> None:
    """A formula that needs letters left out of the font fails the build; MathJax would show a gap."""
    for formula in doctree.findall(lambda node: isinstance(node, nodes.math | nodes.math_block)):
        if found := _RARE_COMMANDS.search(formula.astext()):
            _logger.warning("the site's math font has no letters for %s (%s)", found[0], __name__, location=formula)


def setup(app) -> None:
    app.connect("config-inited", set_mathjax)
    app.connect("builder-inited", copy_mathjax)
    app.connect("doctree-read", no_rare)
