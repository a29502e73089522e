"""Where a figure file comes from, written into the file and read back.

The record is one JSON object. In an SVG it is the Dublin Core description, in a
PDF the document's keywords, in a PNG a text chunk: fields that survive copying
the file anywhere.
"""

import json
from pathlib import Path

from defusedxml import ElementTree

from prunelib.errors import PrunelibError
from prunelib.report import cite, drawings

_DESCRIPTION = "{http://purl.org/dc/elements/1.1/}description"
_CHUNK = "prunelib"


def metadata(kind: str, title: str, record: dict) -> dict:
    """The ``metadata`` argument of ``savefig`` for ``kind`` svg, pdf or png; carries no date.

    The licence stands in the fields that the formats have for it; PDF has none.
    """
    licence = f"{cite.LICENCE}, {cite.LICENCE_URL}"
    text = json.dumps(record, sort_keys=True)
    if kind == "svg":
        return {"Title": title, "Description": text, "Creator": "prunelib", "Rights": licence, "Date": None}
    if kind == "pdf":
        dates = {"CreationDate": None, "ModDate": None}
        return {"Title": title, "Keywords": text, "Creator": "prunelib"} | dates
    return {"Title": title, _CHUNK: text, "Copyright": licence, "Software": "prunelib"}


def read_provenance(path: Path) -> dict:
    """The record embedded in a figure file (SVG, PDF or PNG), or in the book's PDF.

    Raises PrunelibError if the file is missing, is none of these, is damaged,
    or was not made by prunelib.
    """
    path = Path(path)
    readers = {".svg": _from_svg, ".pdf": _from_pdf, ".png": _from_png}
    if path.suffix.lower() not in readers:
        raise PrunelibError(f"{path}: provenance is kept in SVG, PDF and PNG files only")
    if not path.is_file():
        raise PrunelibError(f"no file {path}")
    drawings.check_start(path)
    try:
        text = readers[path.suffix.lower()](path)
    except Exception as error:  # each parser has its own family of errors
        kind = path.suffix[1:].upper()
        raise PrunelibError(f"{path}: not a readable {kind} file ({error})") from error
    try:
        record = json.loads(text or "")
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or not {"figure", "book"} & record.keys():
        raise PrunelibError(f"{path}: holds no prunelib provenance (made by another program?)")
    return record


def _from_svg(path: Path) -> str | None:
    # Entities are refused: a few hundred bytes of them can fill any memory.
    for _, node in ElementTree.iterparse(path):
        if node.tag == _DESCRIPTION:
            return node.text
    return None


def _from_pdf(path: Path) -> str | None:
    import pypdf

    found = pypdf.PdfReader(path).metadata
    return None if found is None else found.get("/Keywords")


def _from_png(path: Path) -> str | None:
    from PIL import Image

    # Of this kind only: whatever else Pillow knows would be opened by another program.
    with Image.open(path, formats=["PNG"]) as image:
        image.load()
        return image.info.get(_CHUNK)
