"""Checks of a rendered site: it loads nothing from a network, and its links lead somewhere."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "object": "data"}
_LOADED_LINKS = {"stylesheet", "preload", "prefetch", "modulepreload", "preconnect", "icon"}
_CSS_ADDRESS = re.compile(r"(?:url\(\s*|@import\s+)['\"]?\s*(?:https?:)?//", re.IGNORECASE)


class _Page(HTMLParser):
    """Collects what a page loads, what it links to, and the ids it defines."""

    def __init__(self, text: str):
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = {name: value or "" for name, value in attributes}
        self.ids |= {found[name] for name in ("id", "name") if name in found}
        if tag in _LOADED and _LOADED[tag] in found:
            self.loads.append(found[_LOADED[tag]])
        if tag == "link" and _LOADED_LINKS & set(found.get("rel", "").split()):
            self.loads.append(found.get("href", ""))
        if tag == "a" and "href" in found:
            self.links.append(found["href"])


def problems(site: Path) -> list[str]:
    """What is wrong with a site, one line each; empty when all is well.

    Reported are scripts, styles, fonts and images with an outside address, and
    links to a file or a place on a page that does not exist.
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
