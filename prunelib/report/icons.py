"""The theme's icons, of which the book shows twenty: their font, with no other glyph, in the style sheet itself.

A font of its own is refused by some browsers to a page that is opened from a file, and this one draws 2,000 icons.
"""

import base64
import re
import shutil
from io import BytesIO
from pathlib import Path

from fontTools import subset

_SHEET = "_static/vendor/fontawesome/*/css/all.min.css"
_FONT = "webfonts/fa-solid-900.ttf"
_RULE = re.compile(r"((?:\.fa-[\w-]+:before,?)+)\{content:\"([^\"]+)\"\}")
_FACE = re.compile(r"@font-face\{[^}]*\}")
_NAME = re.compile(r"\bfa-[\w-]+")
_GLYPH = re.compile(r"\\(f[0-9a-f]{3})\b", re.IGNORECASE)


def keep_used(html: Path) -> None:
    """Shrink the icons' style sheet and font to what pages, scripts and other style sheets below ``html`` name."""
    for sheet in html.glob(_SHEET):
        font = sheet.parent.parent / _FONT
        if not font.is_file():  # shrunk by an earlier build
            continue
        others = [file for file in html.rglob("*") if file.suffix in (".html", ".js", ".css") and file != sheet]
        others = [
            file.read_text(encoding="utf-8", errors="replace") for file in others if "fontawesome" not in file.parts
        ]
        used = {name for text in others for name in _NAME.findall(text)}

        def rule(found: re.Match, used=used) -> str:
            return found[0] if used & set(_NAME.findall(found[1])) else ""

        kept = _RULE.sub(rule, sheet.read_text(encoding="utf-8"))
        glyphs = {int(code, 16) for text in (kept, *others) for code in _GLYPH.findall(text)}
        source = f'url(data:font/woff;base64,{base64.b64encode(_only(font, glyphs)).decode()}) format("woff")'

        def face(found: re.Match, source=source) -> str:
            wanted = Path(_FONT).stem in found[0] and "Free" in found[0]  # not the name that version 4 gave it
            return re.sub(r"src:[^;}]*", lambda _: f"src:{source}", found[0]) if wanted else ""

        sheet.write_text(_FACE.sub(face, kept), encoding="utf-8")
        for name in ("js", "webfonts"):
            shutil.rmtree(sheet.parent.parent / name, ignore_errors=True)


def _only(font: Path, glyphs: set[int]) -> bytes:
    options = subset.Options(flavor="woff", layout_features=[], recalc_timestamp=False)
    loaded = subset.load_font(font, options)
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=glyphs)
    subsetter.subset(loaded)
    written = BytesIO()
    subset.save_font(loaded, written, options)
    return written.getvalue()
