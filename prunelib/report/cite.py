"""BibTeX for a figure and for the software (cffconvert knows nothing of figures)."""

import re
from functools import cache
from importlib import metadata
from pathlib import Path

import yaml

from prunelib import paths
from prunelib.runs.tables import read_csv

LICENCE = "CC BY 4.0"
"""Licence of the figures; that of the code is in ``CITATION.cff``."""

LICENCE_URL = "https://creativecommons.org/licenses/by/4.0/"

_SPECIAL = re.compile(r"([&%#_])")


@cache
def release() -> dict:
    """Author names, version, year, address and licence of this release, from ``CITATION.cff``.

    Fields that the file does not state are None; nothing is made up.
    """
    cff = _cff()
    try:
        installed = metadata.version("prunelib")
    except metadata.PackageNotFoundError:
        installed = None
    date = cff.get("date-released")
    return {
        "authors": [_name(author) for author in cff.get("authors", [])],
        "version": str(cff.get("version") or installed or "") or None,
        "year": str(date)[:4] if date else None,
        "url": cff.get("url") or cff.get("repository-code"),
        "licence": cff.get("license"),
    }


@cache
def paper() -> dict:
    """Title, author names ("family, given"), year and arXiv id of the paper, from ``CITATION.cff``."""
    known = _cff()["references"][0]
    numbers = [entry["value"] for entry in known["identifiers"]]
    return {
        "title": known["title"],
        "authors": [_name(author) for author in known["authors"]],
        "year": str(known["year"]),
        "arxiv": next(number.removeprefix("arXiv:") for number in numbers if number.startswith("arXiv:")),
    }


def source() -> Path:
    """The file that says how to cite the release and the paper."""
    return paths.project_root() / "CITATION.cff"


def _cff() -> dict:
    return yaml.safe_load(source().read_text()) if source().is_file() else {}


def _name(author: dict) -> str:
    if "name" in author:
        return "{" + author["name"] + "}"
    return f"{author['family-names']}, {author['given-names']}"


def figure_entry(figure_id: str, number: str, title: str, record: dict, data: Path) -> str:
    """``@misc`` entry for one figure: number, title, release, address, licence, model and run.

    ``data`` is its CSV: a figure that shows numbers of the paper says so.
    """
    known = release()
    code = f" (figure), {known['licence']} (code)" if known["licence"] else ""
    notes = [describe(record), *([_of_paper()] if shows_paper(data) else [])]
    fields = {
        "author": " and ".join(known["authors"]) or "{The prunelib authors}",
        "title": "{Figure " + number + ": " + _escape(title) + "}",
        "year": known["year"],
        "howpublished": f"prunelib, file \\texttt{{figures/{_escape(figure_id)}.pdf}}",
        "version": known["version"],
        "url": known["url"],
        "license": LICENCE + code,
        "note": _escape(". ".join(notes)),
    }
    lines = [f"  {name} = {{{text}}}," for name, text in fields.items() if text]
    return "\n".join([f"@misc{{prunelib-{figure_id},", *lines, "}", ""])


def shows_paper(data: Path) -> bool:
    """Whether a figure's CSV has rows whose ``source`` is the paper."""
    drawn = read_csv(data)
    return "source" in drawn and bool((drawn["source"] == "paper").any())


def _of_paper() -> str:
    known = paper()
    family = known["authors"][0].split(",")[0]
    return f"With numbers of {family} et al. ({known['year']}), {known['title']}, arXiv:{known['arxiv']}"


def describe(record: dict) -> str:
    """One line that says which model and run a figure shows, as far as ``record`` knows."""
    model = record.get("model") or {}
    code = record.get("code") or {}
    parts = [
        f"model {model['name']}" if model.get("name") else None,
        f"revision {model['revision']}" if model.get("revision") else None,
        f"weights {model['fingerprint'][:12]}" if model.get("fingerprint") else None,
        f"profile {record['profile']}" if record.get("profile") else None,
        f"seed {record['seed']}" if "seed" in record else None,
        f"notebook {record['notebook']}" if record.get("notebook") else None,
        f"code {(code.get('commit') or code['digest'])[:12]}" if code.get("digest") else None,
        f"data {record['data_sha256'][:12]}" if record.get("data_sha256") else None,
    ]
    return ", ".join(part for part in parts if part)


def _escape(text: str) -> str:
    """LaTeX specials outside ``$…$`` escaped."""
    pieces = re.split(r"(\$[^$]*\$)", text)
    return "".join(p if p.startswith("$") else _SPECIAL.sub(r"\\\1", p) for p in pieces)
