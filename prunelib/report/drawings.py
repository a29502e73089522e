"""Whether a drawing is one: files of a run folder are shown to readers, and may come from anybody."""

import re
from pathlib import Path

from prunelib.errors import PrunelibError

_STARTS = {".svg": (b"<?xml",), ".pdf": (b"%PDF-",), ".png": (b"\x89PNG\r\n\x1a\n",)}
_LARGEST = 50_000_000
# What matplotlib writes, and nothing that runs, loads or takes input.
_ELEMENTS = {"svg", "g", "defs", "path", "use", "rect", "image", "clipPath", "style", "title", "desc", "text", "tspan",
             "linearGradient", "radialGradient", "stop", "pattern", "mask", "polygon", "polyline", "line", "circle",
             "ellipse", "metadata", "RDF", "Work", "type", "description", "date", "format", "creator",
             "rights", "Agent"}  # fmt: skip
_STYLE = re.compile(r"url\(\s*['\"]?(?!#)|@import|expression|javascript:|\\", re.IGNORECASE)


def check(path: Path) -> None:
    """Raises PrunelibError for an SVG, PDF or PNG whose content is not what its suffix says, or that could act.

    Other suffixes are not looked into: they are handed on as files, never shown.
    """
    if path.suffix.lower() not in _STARTS:
        return
    check_start(path)
    if path.suffix.lower() == ".svg" and (problem := _svg_problem(path)):
        raise PrunelibError(f"{path} is not a drawing of ours: it has {problem}")


def check_start(path: Path) -> None:
    """Raises PrunelibError for an SVG, PDF or PNG that does not begin as one, or is larger than any figure."""
    suffix = path.suffix.lower()
    if path.stat().st_size > _LARGEST:
        raise PrunelibError(f"{path} is larger than any figure ({_LARGEST // 1_000_000} MB)")
    with open(path, "rb") as file:
        start = file.read(16)
    if not start.startswith(_STARTS[suffix]):
        raise PrunelibError(f"{path}: not a readable {suffix[1:].upper()} file")


def _svg_problem(path: Path) -> str | None:
    """What an SVG holds that a drawing does not, in words; None if nothing."""
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import ParseError, iterparse

    try:
        path.read_bytes().decode("utf-8")
        for _, node in iterparse(path, events=("start",)):
            if not isinstance(node.tag, str) or node.tag.rpartition("}")[2] not in _ELEMENTS:
                return f"an element <{str(node.tag).rpartition('}')[2][:40]}>"
            for name, value in node.attrib.items():
                plain = name.rpartition("}")[2].lower()
                if plain.startswith("on"):
                    return f"an event handler '{plain[:40]}'"
                if plain in ("href", "src") and not re.match(r"#|data:image/png;base64,", value.strip()):
                    return f"a link to {value.strip()[:60]!r}"
                if plain != "href" and _STYLE.search(value):
                    return f"a style that loads something ({plain[:40]})"
        for _, node in iterparse(path, events=("end",)):
            if node.tag.rpartition("}")[2] == "style" and _STYLE.search(node.text or ""):
                return "a style sheet that loads something"
            node.clear()
    except (DefusedXmlException, ParseError, ValueError) as error:
        return f"something that is not plain XML ({' '.join(str(error).split())[:80]})"
    return None
