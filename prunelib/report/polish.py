"""What the theme's pages lack (landmarks, roles and a language for readers who do not see them, valid HTML), and
what they load for nothing.

Checked by axe-core and by the W3C's validator on built pages (tests/book). Each change is made once: a page that
Sphinx did not write again stays as it is.
"""

import re
from pathlib import Path

from prunelib.report import icons

# Fonts come with the style sheet; asked for in advance they are refused to a page that is opened from a file.
# The icons' script draws what the font draws already, and is larger than all other scripts of the theme.
_LOADS = re.compile(r'<link rel="preload" as="font"[^>]*>\n?|<script[^>]*fontawesome/[^>]*></script>\n?')
_UNUSED = "_static/**/*.map"  # for who changes the theme

# What draws cards and tabs, on pages that have none.
_DESIGN = re.compile(r"<link[^>]*sphinx-design[^>]*>\n?|<script[^>]*design-tabs[^>]*></script>\n?")
_DESIGNED = re.compile(r'class="[^"]*\bsd-')

_CHANGES = (
    # The logo and the search stand in no landmark.
    (
        '<div class="sidebar-primary-items__start sidebar-primary__section">',
        '<div class="sidebar-primary-items__start sidebar-primary__section" role="complementary" aria-label="Site">',
    ),
    # A role that the standard has given up, in a list whose items it keeps from being items.
    (' role="doc-biblioentry"', ' role="listitem"'),
    # "auto" until the theme's script runs, and so the drawings for both schemes loaded on a dark page.
    (
        'localStorage.getItem("theme") || "auto"',
        'localStorage.getItem("theme") || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")',
    ),
    # An attribute of one browser.
    ('         autocorrect="off"\n', ""),
)
# A summary may hold no paragraph.
_FOLD = re.compile(r'<p class="((?:collapsed|expanded) admonition-title)">([^<]*)</p>')

# A line may end before a formula or an explained term, not between it and its punctuation.
_BOX = re.compile(
    r'(?<!<span class="keep">)(?<!<span class="keep">\()'
    r'(\(?(?:<span class="math notranslate nohighlight">[^<]*</span>'
    r'|<span class="term-box"><button[^>]*>[^<]*</button><span[^>]*>[^<]*</span></span>))([.,;:!?)’”]+)'
)

# The first page has the book's own title.
_TWICE = re.compile(r"<title>(.+?) &#8212; \1</title>")

# A table without a caption is named for its section.
_TABLE = re.compile(r'<h[1-6]>(.*?)<a class="headerlink"|<table(?![^>]*aria-label)([^>]*)>(?!\s*<caption)', re.DOTALL)

_TAGS = re.compile(r'^<meta (?:property="og:|name="citation_).*$', re.MULTILINE)
_ROOT = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
{tags}
<meta http-equiv="refresh" content="0; url=book/index.html">
</head>
<body><main><h1><a href="book/index.html">{title}</a></h1></main></body>
</html>
"""


def polish(html: Path, title: str) -> None:
    """Change the pages below ``html``, and write its first page, which leads to the book."""
    for file in sorted(html.rglob("*.html")):
        text = file.read_text(encoding="utf-8")
        better = _LOADS.sub("", text)
        if not _DESIGNED.search(text):
            better = _DESIGN.sub("", better)
        for old, new in _CHANGES:
            better = better.replace(old, new)
        better = _FOLD.sub(r'<span class="\1">\2</span>', better)
        better = _BOX.sub(r'<span class="keep">\1\2</span>', better)
        better = _TWICE.sub(r"<title>\1</title>", _name_tables(better))
        first = better.find(' id="search-input"')
        if first >= 0 and better.find(' id="search-input"', first + 1) >= 0:  # the search page has two fields
            better = better[:first] + better[first:].replace(' id="search-input"', "", 1)
        if better != text:
            file.write_text(better, encoding="utf-8")
    icons.keep_used(html)
    for found in html.glob(_UNUSED):
        found.unlink()
    # Links are shared by the site's first address, and who previews them follows no redirection.
    tags = _TAGS.findall((html / "book" / "index.html").read_text(encoding="utf-8"))
    (html / "index.html").write_text(_ROOT.format(title=title, tags="\n".join(tags)), encoding="utf-8")


def _name_tables(text: str) -> str:
    section, count = "", 0

    def name(found: re.Match) -> str:
        nonlocal section, count
        if found[2] is None:
            section, count = re.sub(r"<[^>]+>", "", found[1]).strip().replace('"', "&quot;"), 0
            return found[0]
        count += 1
        label = f"{section}, table {count}" if count > 1 else section
        return f'<table aria-label="{label}"{found[2]}>' if section else found[0]

    return _TABLE.sub(name, text)
