"""MathJax from an installed package, so that pages typeset with no network, and a search of words, not of code."""

import shutil
from importlib import metadata
from pathlib import Path

from docutils import nodes
from sphinx.errors import ExtensionError

# Input and output alone: the combined files carry a menu and a speech engine of 0.8 MB, which no page here needs.
_PARTS = (
    "startup.js",
    "core.js",
    "input/tex-full.js",
    "output/svg.js",
    "output/svg/fonts/tex.js",
    "a11y/assistive-mml.js",
)
_LOADED = ["core", "input/tex-full", "output/svg", "a11y/assistive-mml"]  # the output loads its font itself


def copy_mathjax(app) -> None:
    """Put MathJax where ``mathjax_path`` points.

    Not through ``html_static_path``: every script there would be added to every
    page, and this one belongs only to pages with formulas.
    """
    if app.builder.format != "html":
        return
    files = {str(file).partition("static/mathjax/")[2]: file for file in metadata.files("sphinx-mathjax-offline") or ()}
    if lacking := [part for part in _PARTS if part not in files]:
        raise ExtensionError(f"sphinx-mathjax-offline has no {lacking[0]}; reinstall it")
    folder = (Path(app.outdir) / "_static" / app.config.mathjax_path).parent
    for part in _PARTS:
        source, target = Path(files[part].locate()), folder / part
        if not target.is_file() or target.stat().st_size != source.stat().st_size:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def set_mathjax(app, config) -> None:
    """Tell MathJax which of its parts to load, and that a formula is no place to stop at with the tab key."""
    given = dict(config.mathjax3_config or {})
    given["loader"] = {"load": _LOADED}
    given["options"] = {**given.get("options", {}), "enableMenu": False}
    config.mathjax3_config = given


def search_words(app) -> None:
    """Keep code out of the search: the first cells of all chapters name the same parameters."""
    index_page = getattr(app.builder, "index_page", None)
    if index_page is None:
        return

    def without_code(pagename: str, doctree: nodes.document, title: str) -> None:
        words = doctree.deepcopy()
        for block in [*words.findall(nodes.literal_block)]:
            block.parent.remove(block)
        index_page(pagename, words, title)

    app.builder.index_page = without_code


def setup(app) -> None:
    app.connect("config-inited", set_mathjax)
    app.connect("builder-inited", search_words)
    app.connect("builder-inited", copy_mathjax)
