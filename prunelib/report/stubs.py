"""Pages of a run that is not complete: a chapter that was not run says so, and how to run it."""

import json
import re
from collections.abc import Collection
from pathlib import Path

from prunelib.files import read_json
from prunelib.report import pages
from prunelib.runs.commands import command

_FIGURE_NUMBER = re.compile(r"\{numref\}`(?:[^`<]*<)?([^`<>]+)>?`")
_CARD = re.compile(r"(`{3,}|:{3,})\{figcard\}\s*(\S+).*?\1", re.DOTALL)
NOT_RUN = "not run"


def page(name: str, root: Path, run_dir: Path, manifest: dict) -> dict:
    """The page of a chapter that was not run: its title, and the command that runs it."""
    cells = read_json(root / "notebooks" / f"{name}.ipynb").get("cells", [])
    first = next((pages.source_of(cell) for cell in cells if cell["cell_type"] == "markdown"), "")
    title = next((line for line in first.splitlines() if line.startswith("# ")), f"# {name}")
    text = f"{title}\n\nThis chapter was not run for this model. This command runs it; then build the book again:\n"
    cell = {
        "cell_type": "markdown",
        "id": "not-run",
        "metadata": {},
        "source": f"{text}\n```sh\n{command(name, manifest, str(run_dir))}\n```",
    }
    return {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def without_references(content: bytes, drawn: Collection[str], absent: Collection[str]) -> bytes:
    """A page's text (or a notebook's JSON), in UTF-8, without what leads into chapters that were not run.

    Cards and numbers of figures that were not ``drawn`` go, and so do places on the pages of ``absent`` notebooks.
    """
    places = re.compile(rf"((?:{'|'.join(map(re.escape, absent))})\.ipynb)#[\w-]+")

    def plain(text: str) -> str:
        text = places.sub(r"\1", text)
        text = _FIGURE_NUMBER.sub(lambda m: m[0] if m[1] in drawn else "a figure that was not run", text)
        return _CARD.sub(lambda m: m[0] if m[2] in drawn else f"*This figure was {NOT_RUN}.*", text)

    page = content.decode()
    if not page.lstrip().startswith("{"):
        return plain(page).encode()
    notebook = json.loads(page)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = plain(pages.source_of(cell))
    return (json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
