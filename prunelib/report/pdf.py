"""The book as one PDF: the pages of a finished site, printed by an installed Chromium or Chrome."""

import io
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import yaml

from prunelib import paths
from prunelib.errors import PrunelibError, short
from prunelib.files import read_json, sha256, writing
from prunelib.report import cite, printed

NAME = "book.pdf"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge",
            "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")  # fmt: skip
OLDEST = 131
"""The first version of Chromium that prints page numbers of a style sheet."""

_SECONDS = 300
_FLAGS = (
    "--headless",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-extensions",
    "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # nothing comes from a network
    "--window-size=1000,1200",
)


def make(site: Path, root: Path | None = None) -> Path:
    """Print the site to ``site/book.pdf``, link it on the book's first page, and return its path.

    Raises PrunelibError without a browser that can print it, and where a formula cannot be set; the site
    is then as it was.
    """
    site, root = Path(site).expanduser().resolve(), root or paths.project_root()
    browser = _browser()
    with tempfile.TemporaryDirectory(prefix="prunelib-pdf-") as folder:
        page = Path(folder) / "book.html"
        page.write_text(printed.document(site, root), encoding="utf-8")
        dom = _run(browser, page, "--virtual-time-budget=60000", "--dump-dom")
        still, entries, wrong = printed.typeset(dom.decode("utf-8"))
        if wrong:
            raise PrunelibError(f"the PDF was not made: {len(wrong)} formulas were not set, first {wrong[0]!r}")
        content, pages = _with_page_numbers(browser, page, still)
    config, toc = (yaml.safe_load((root / name).read_text(encoding="utf-8")) for name in ("_config.yml", "_toc.yml"))
    with writing(site / NAME) as temporary:
        _finish(content, entries, config["title"], config["author"], record(site, config["title"]), temporary)
    _link(site, f"{toc['root']}.html", pages)
    return site / NAME


def record(site: Path, title: str) -> dict:
    """Which run a site shows, as its PDF says (``prunelib whence``)."""
    manifest = read_json(site / "manifest.json")
    about = {key: manifest.get(key) for key in ("model", "profile", "seed", "code", "created")}
    release = cite.release()["version"]
    return about | {"book": title, "release": release, "manifest_sha256": sha256(site / "manifest.json")}


# ---------------------------------------------------------------- the browser


def _browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        names = ", ".join(Path(name).name for name in BROWSERS)
        raise PrunelibError(f"the PDF was not made: it is printed by a browser, and none of these is there: {names}")
    said = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=60).stdout
    version = re.search(r"(\d+)\.\d+\.\d+", said)
    if version and int(version[1]) < OLDEST:
        raise PrunelibError(f"the PDF was not made: {found} is version {version[1]}, and {OLDEST} or newer is needed")
    return found


def _run(browser: str, page: Path, *options: str) -> bytes:
    """Let the browser open a page without a window; returns what it writes to stdout."""
    flags = [*_FLAGS, f"--user-data-dir={page.parent / 'profile'}"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        flags.append("--no-sandbox")  # Chromium's own does not start for root
    try:
        done = subprocess.run([browser, *flags, *options, page.as_uri()], capture_output=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        raise PrunelibError(f"the PDF was not made: {browser} did not finish in {_SECONDS} s") from None
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise PrunelibError(f"the PDF was not made: {browser} ended with {done.returncode} ({short(last[0], 200)})")
    return done.stdout


def _with_page_numbers(browser: str, page: Path, still: str) -> tuple[bytes, int]:
    """Print until the contents tell the pages that things are on: the first time nobody knows them."""
    told: dict[str, int] = {}
    target = page.with_suffix(".pdf")
    for _ in range(4):
        page.write_text(printed.numbered(still, told), encoding="utf-8")
        target.unlink(missing_ok=True)
        _run(browser, page, f"--print-to-pdf={target}", "--no-pdf-header-footer")
        if not target.is_file():
            raise PrunelibError(f"the PDF was not made: {browser} printed nothing")
        reader = _reader(target.read_bytes())
        places = reader.named_destinations
        found = {name.lstrip("/"): reader.get_destination_page_number(place) + 1 for name, place in places.items()}
        if found == told:
            return target.read_bytes(), len(reader.pages)
        told = found
    raise PrunelibError("the PDF was not made: page numbers move the pages that they tell")


# ---------------------------------------------------------------- the file


def _reader(content: bytes):
    import pypdf

    return pypdf.PdfReader(io.BytesIO(content))


def _finish(content: bytes, entries: list[printed.Entry], title: str, author: str, about: dict, target: Path) -> None:
    """Give a printed file its bookmarks, its title and author, and the record of the run."""
    import pypdf
    from pypdf.generic import Fit

    reader = _reader(content)
    places = reader.named_destinations
    writer = pypdf.PdfWriter(io.BytesIO(content), incremental=True)  # what is printed stays as it is
    above: dict[int, object] = {}
    for entry in entries:
        place = places[f"/{entry.place}"]
        parent = next((above[level] for level in range(entry.level - 1, -1, -1) if level in above), None)
        item = writer.add_outline_item(
            title=entry.title,
            page_number=reader.get_destination_page_number(place),
            parent=parent,
            fit=Fit.xyz(left=0, top=place.top),
            is_open=entry.level == 0,
        )
        above = {level: one for level, one in above.items() if level < entry.level} | {entry.level: item}
    writer.page_mode = "/UseOutlines"
    text = json.dumps(about, sort_keys=True)
    writer.metadata = {"/Title": title, "/Author": author, "/Keywords": text, "/Creator": "prunelib"}
    with open(target, "wb") as file:
        writer.write(file)


def _link(site: Path, first: str, pages: int) -> None:
    """Name the PDF below the first paragraph of the book's first page."""
    page = site / first
    text = page.read_text(encoding="utf-8")
    line = f'<p class="book-pdf"><a href="{"../" * first.count("/")}{NAME}">This book as a PDF</a> ({pages} pages)</p>'
    end = text.find("</p>", text.find("</h1>")) + len("</p>")
    with writing(page) as temporary:
        temporary.write_text(f"{text[:end]}\n{line}{text[end:]}", encoding="utf-8")
