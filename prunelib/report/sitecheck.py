"""Checks of a rendered site: it loads nothing from a network, and its links lead somewhere."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "object": "data"}
_LOADED_LINKS = {"stylesheet", "preload", "prefetch", "modulepreload", "preconnect", "icon"}
_TEX = re.compile(r"\\[a-zA-Z]{2,}|\\[()\[\]]|\$[^$]*\$")
_SET = (
    "math",
    "script",
    "style",
    "pre",
    "code",
    "textarea",
    "button",
)  # MathJax or the reader's eye takes these as they are
_CSS_ADDRESS = re.compile(r"(?:url\(\s*|@import\s+)['\"]?\s*(?:https?:)?//", re.IGNORECASE)


class _Page(HTMLParser):
    """Collects what a page loads, what it links to, and the ids it defines."""

    def __init__(self, text: str):
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.tex: list[str] = []
        self._set: list[str] = []  # open elements inside one whose text is left to others
        self.feed(text)

    def handle_endtag(self, tag):
        if self._set and tag == self._set[-1]:
            self._set.pop()

    def handle_data(self, data):
        if not self._set and _TEX.search(data):
            self.tex.append(" ".join(data.split())[:80])

    def handle_starttag(self, tag, attributes):
        found = {name: value or "" for name, value in attributes}
        if self._set and tag == self._set[0] or tag in _SET or "math" in found.get("class", "").split():
            self._set.append(tag)
        elif _TEX.search(found.get("title", "") + found.get("alt", "")):
            self.tex.append(found.get("title") or found["alt"][:80])
        self.ids |= {found[name] for name in ("id", "name") if name in found}
        if tag in _LOADED and _LOADED[tag] in found:
            self.loads.append(found[_LOADED[tag]])
        if tag == "link" and _LOADED_LINKS & set(found.get("rel", "").split()):
            self.loads.append(found.get("href", ""))
        if tag == "a" and "href" in found:
            self.links.append(found["href"])


def problems(site: Path) -> list[str]:
    """What is wrong with a site, one line each; empty when all is well.

    Reported are scripts, styles, fonts and images with an outside address, links to a file or a
    place on a page that does not exist, and TeX where nothing sets it: in titles, the navigation and the search.
    """
    site = Path(site).resolve()
    files = [file for file in sorted(site.rglob("*.html")) if "_static" not in file.parts]
    pages = {file: _Page(file.read_text()) for file in files}
    found = []
    for file, page in pages.items():
        name = file.relative_to(site)
        found += [f"{name} loads {load} from a network" for load in page.loads if _is_outside(load)]
        inside = [link for link in page.loads + page.links if not urlsplit(link).scheme and link]
        found += [
            f"{name} links to {link}, which does not exist"
            for link in inside
            if not _is_outside(link) and not _leads_somewhere(link, file, pages)
        ]
        found += [f"{name} shows the TeX source {text!r} as text" for text in page.tex]
    if (index := site / "searchindex.js").is_file():
        titles = json.loads(index.read_text().removeprefix("Search.setIndex(").removesuffix(")"))["alltitles"]
        found += [f"the search shows the TeX source {title!r} as text" for title in titles if _TEX.search(title)]
    for file in sorted(site.rglob("*.css")):
        if _CSS_ADDRESS.search(file.read_text(errors="replace")):
            found.append(f"{file.relative_to(site)} loads from a network")
    return list(dict.fromkeys(found))


def _is_outside(address: str) -> bool:
    return address.startswith("//") or urlsplit(address).scheme in ("http", "https")


def _leads_somewhere(link: str, page: Path, pages: dict[Path, _Page]) -> bool:
    parts = urlsplit(link)
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if target not in pages:
        return target.exists()
    place = unquote(parts.fragment)
    return place in ("", "top") or place in pages[target].ids
