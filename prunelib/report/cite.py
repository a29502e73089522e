"""BibTeX for a figure and for the software (cffconvert knows nothing of figures)."""

import re
from functools import cache
from importlib import metadata

import yaml

from prunelib import paths

_SPECIAL = re.compile(r"([&%#_])")


@cache
def release() -> dict:
    """Author names, version, year and address of this release, from ``CITATION.cff``.

    Fields that the file does not state are None; nothing is made up.
    """
    file = paths.project_root() / "CITATION.cff"
    cff = yaml.safe_load(file.read_text()) if file.is_file() else {}
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
    }


def _name(author: dict) -> str:
    if "name" in author:
        return "{" + author["name"] + "}"
    return f"{author['family-names']}, {author['given-names']}"


def figure_entry(figure_id: str, number: str, title: str, record: dict) -> str:
    """``@misc`` entry for one figure: number, title, release, year, address, model and run."""
    known = release()
    version = f"prunelib {known['version']}" if known["version"] else "prunelib"
    address = rf", \url{{{known['url']}}}" if known["url"] else ""
    fields = {
        "author": " and ".join(known["authors"]) or "{The prunelib authors}",
        "title": "{Figure " + number + ": " + _escape(title) + "}",
        "year": known["year"],
        "howpublished": f"{version}, file \\texttt{{figures/{_escape(figure_id)}.pdf}}{address}",
        "note": _escape(describe(record)),
    }
    lines = [f"  {name} = {{{text}}}," for name, text in fields.items() if text]
    return "\n".join([f"@misc{{prunelib-{figure_id},", *lines, "}", ""])


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
