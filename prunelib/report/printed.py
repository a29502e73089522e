"""All pages of a site as one HTML document to be printed: a title page, contents, and the pages in their order.

What only a screen has (menus, buttons, dark drawings, folds) is left out, and links lead to places in the document.
"""

import json
import re
from dataclasses import dataclass
from html import escape
from pathlib import Path
from posixpath import dirname, join, normpath
from urllib.parse import unquote, urlsplit

import yaml
from bs4 import BeautifulSoup, Tag

from prunelib.files import read_json
from prunelib.report import cite

# Of a figure's drawings (light and dark, wide and for a phone) the light and wide one is left.
_SCREEN_ONLY = (
    "script, style, button, input, nav, template, picture:has(> .only-dark), .only-dark, source, "
    ".headerlink, .figcard-links, .toctree-wrapper"
)
_SCRIPT = """
addEventListener("load", async () => {
  if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
  for (const table of document.querySelectorAll("table")) {
    const room = table.parentElement.clientWidth / table.offsetWidth;
    if (room < 1) table.style.zoom = Math.max(room, 0.55);
    if (room < 0.55) table.classList.add("breaks-words");
  }
});
"""
_UNSEEN = re.compile("[\u2061-\u2064]")  # signs of MathML for "applied to" and "times"


@dataclass(frozen=True)
class Entry:
    """A line of the contents: a part (0), a chapter (1) or a section (2), and where it begins."""

    level: int
    title: str
    place: str


def document(site: Path, root: Path) -> str:
    """The document, whose formulas are still TeX; it refers to drawings and style sheets of ``site`` by address."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    parts = [("", [toc["root"]])]
    parts += [(part["caption"], [one["file"] for one in part["chapters"]]) for part in toc["parts"]]
    pages = {f"{name}.html" for _, names in parts for name in names}
    contents, articles, mathjax = [], [], ""
    for caption, names in parts:
        chapters = []
        for name in names:
            page = BeautifulSoup((site / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
            mathjax = mathjax or _mathjax(page, site / f"{name}.html")
            chapters.append(_article(page.article, site, f"{name}.html", pages, caption))
        if caption:
            contents.append(f'<p class="contents-0"><a href="#{chapters[0]["id"]}">{escape(caption)}</a></p>')
        contents += [line for article in chapters for line in _lines(article)]
        articles += chapters
    _unlink_lost(articles)
    static = (site / "_static").resolve()
    sheets = "".join(f'<link rel="stylesheet" href="{(static / name).as_uri()}">\n'
                     for name in ("pygments.css", "prunelib.css", "print.css"))  # fmt: skip
    return f"""<!doctype html>
<html lang="en" data-theme="light">
<head>
<meta charset="utf-8">
<title>{escape(config["title"])}</title>
{sheets}{mathjax}<script>{_SCRIPT}</script>
</head>
<body class="book">
{_title_page(config, read_json(site / "manifest.json"))}
<nav class="contents"><h1>Contents</h1>
{"".join(contents)}</nav>
{"".join(map(str, articles))}
</body>
</html>
"""


def typeset(html: str) -> tuple[str, list[Entry], list[str]]:
    """A document that a browser has set, made still: without scripts, with a running head on each page.

    Returns it with its contents and with the formulas that were not set.
    """
    soup = BeautifulSoup(html, "html.parser")
    unset = [one for one in soup.select(".math") if not one.select("mjx-container svg")]
    # MathJax shows a command that it does not know in red.
    unset += soup.select('[data-mjx-error], mjx-assistive-mml mtext[mathcolor="red"]')
    wrong = [one.get_text().strip()[:80] for one in unset]
    for script in soup.select("script"):
        script.decompose()
    entries = []
    for line in soup.select("nav.contents p"):
        level = int(line["class"][0].rpartition("-")[2])
        entries.append(Entry(level, _plain(line.a), line.a["href"][1:]))
    sheet = soup.new_tag("style")
    sheet.string = "".join(_running_head(article) for article in soup.select("article"))
    soup.head.append(sheet)
    return str(soup), entries, wrong


def numbered(html: str, pages: dict[str, int]) -> str:
    """A document whose contents tell the ``pages`` (from 1) that places are on."""
    return re.sub(r'(<span class="page" data-of="([^"]*)">)', lambda m: f"{m[1]}{pages.get(m[2], '')}", html)


# ---------------------------------------------------------------- front matter


def _title_page(config: dict, manifest: dict) -> str:
    model, code = manifest["model"], manifest.get("code") or {}
    rows = {
        "Model": model.get("name"),
        "Revision of the model": model.get("revision"),
        "Fingerprint of its weights": (model.get("fingerprint") or "")[:16],
        "Profile and seed": f"{manifest['profile']}, {manifest['seed']}",
        "Date of the run": f"{manifest['created'][:10]} (UTC)",
        "prunelib": cite.release()["version"],
        "Code": (code.get("commit") or code.get("digest") or "")[:12] + (" (changed)" if code.get("dirty") else ""),
    }
    shown = "".join(f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in rows.items()
                    if value)  # fmt: skip
    return (
        f'<section class="title-page"><p class="title">{escape(config["title"])}</p>\n'
        f'<p class="author">{escape(config["author"])}</p>\n<table>{shown}</table></section>'
    )


def _lines(article: Tag) -> list[str]:
    lines = []
    for heading in article.select("h1, h2"):
        if heading.parent.name == "section":
            place = heading.parent["id"]
            lines.append(
                f'<p class="contents-{heading.name[1]}"><a href="#{place}">{heading.decode_contents()}</a>'
                f'<span class="page" data-of="{place}"></span></p>\n'
            )
    return lines


def _running_head(article: Tag) -> str:
    """The rule that puts part and chapter at the top of an article's pages."""
    left, right = (json.dumps(text, ensure_ascii=False).replace("<", r"\3c ")
                   for text in (article["data-part"], _plain(article.h1)))  # fmt: skip
    name = article["id"]
    head = f"@top-left {{ content: {left} }} @top-right {{ content: {right} }}"
    return f"#{name} {{ page: {name} }}\n@page {name} {{ {head} }}\n"


def _plain(heading: Tag) -> str:
    """A heading's text; a formula gives its signs (MathJax puts them beside its drawing for readers who hear)."""
    return " ".join(_UNSEEN.sub(" ", heading.get_text()).split())


# ---------------------------------------------------------------- pages


def _mathjax(page: BeautifulSoup, file: Path) -> str:
    """The scripts by which a page sets its formulas; nothing for a page that has none."""
    if not (loaded := page.select_one('script[src*="/mathjax/"]')):
        return ""
    loaded["src"] = (file.parent / urlsplit(loaded["src"]).path).resolve().as_uri()
    settings = [one for one in page.select("script:not([src])") if "window.MathJax" in (one.string or "")]
    return "".join(map(str, [*settings, loaded]))


def _article(article: Tag, site: Path, page: str, pages: set[str], part: str) -> Tag:
    """A page's article as it is printed, its ids made unique in the document."""
    for box in article.select(".term-box"):  # a term that explains itself is a button; on paper it is a word
        box.replace_with(box.button.get_text())
    for one in article.select(_SCREEN_ONLY):
        one.decompose()
    for fold in article.select("details"):
        if "hide" in fold.get("class", ()):  # parameters and code: printed
            fold.summary.decompose()
            fold.unwrap()
        else:
            section = fold.find_parent("section")
            if not section.select(":scope > .left-out"):
                note = Tag(name="p", attrs={"class": "left-out"})
                note.string = "What can be unfolded on this chapter's page of the site is left out here."
                section.append(note)
            fold.decompose()
    name = _name(page)
    for one in article.select("[id]"):
        one["id"] = f"{name}-{one['id']}"
    for one in article.select("img[src]"):
        del one["loading"]
        if not urlsplit(one["src"]).scheme:
            one["src"] = (site / dirname(page) / unquote(one["src"])).resolve().as_uri()
    for link in article.select("a[href]"):
        if place := _place(link["href"], page, pages):
            link["href"] = place
        else:
            link.unwrap()
    article["id"], article["data-part"] = name, part
    return article


def _name(page: str) -> str:
    return re.sub(r"[^\w-]+", "-", page.removesuffix(".html"))


def _place(address: str, page: str, pages: set[str]) -> str | None:
    """Where a link of ``page`` leads in the document, or outside; None for a file of the site."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return address if parts.scheme in ("http", "https", "mailto") else None
    target = normpath(join(dirname(page), unquote(parts.path))) if parts.path else page
    if target not in pages:
        return None
    return f"#{_name(target)}" + (f"-{unquote(parts.fragment)}" if parts.fragment else "")


def _unlink_lost(articles: list[Tag]) -> None:
    """Links to what is not printed become plain text."""
    ids = {article["id"] for article in articles}
    ids |= {one["id"] for article in articles for one in article.select("[id]")}
    for article in articles:
        for link in article.select('a[href^="#"]'):
            if link["href"][1:] not in ids:
                link.unwrap()
