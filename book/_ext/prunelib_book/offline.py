"""MathJax from an installed package, so that pages typeset with no network."""

import shutil
from importlib import metadata
from pathlib import Path

from sphinx.errors import ExtensionError

# One file with every TeX extension and its own glyph outlines: it loads nothing else.
_WANTED = "static/mathjax/tex-svg-full.js"


def copy_mathjax(app) -> None:
    """Put MathJax where ``mathjax_path`` points.

    Not through ``html_static_path``: every script there would be added to every
    page, and this one belongs only to pages with formulas.
    """
    if app.builder.format != "html":
        return
    found = [f for f in metadata.files("sphinx-mathjax-offline") or () if str(f).endswith(_WANTED)]
    if not found:
        raise ExtensionError("sphinx-mathjax-offline has no tex-svg-full.js; reinstall it")
    source = Path(found[0].locate())
    target = Path(app.outdir) / "_static" / app.config.mathjax_path
    if not target.is_file() or target.stat().st_size != source.stat().st_size:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def setup(app) -> None:
    app.connect("builder-inited", copy_mathjax)
