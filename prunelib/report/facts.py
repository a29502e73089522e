"""Numbers of a run, looked up by key and written for prose.

The book's ``{val}`` role and the publication gate read a manifest only through
these two functions, so what the gate lets pass is what the page can show.
"""

import math
import re
from collections.abc import Mapping

from prunelib.errors import PrunelibError, nearest

FORMS = ("", "plain", "interval")
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def lookup(manifest: Mapping, key: str):
    """What a manifest says under ``key``.

    A recorded value (``"layerwise.n_points"``) gives its entry
    ``{value, lo, hi, exact, fmt, ...}``; any other key is a dotted path into
    the manifest (``"model.name"``, ``"claims.C4.verdict"``, ``"profile"``).
    Raises PrunelibError with the nearest key.
    """
    values = manifest.get("values", {})
    if key in values:
        return values[key]
    found = manifest
    for step in key.split("."):
        if not isinstance(found, Mapping) or step not in found:
            fields = [f"model.{name}" for name in manifest.get("model", {})]
            raise PrunelibError(f"the run has no value '{key}'{nearest(key, [*values, *fields])}")
        found = found[step]
    if isinstance(found, Mapping) and "value" not in found:
        raise PrunelibError(f"'{key}' is a group, not a value; it has {', '.join(found)}")
    if key.startswith("model.") and isinstance(found, int):  # sizes, unlike a seed
        return {"value": found, "exact": True, "fmt": ",d"}
    return found


def show(entry, form: str = "") -> str:
    """A looked-up value as text: ``"2.31 (2.10–2.52)"``.

    ``form`` is ``"plain"`` for the number alone, ``"interval"`` for the
    interval alone; an exact value has none and shows the number in each form
    but ``"interval"``, which is a PrunelibError. An estimate without one (of a single
    prompt or passage) says so, so that it does not read as exact. Numbers that the run could
    not define (no such tokens, for instance) read "not defined"; a field that
    is None (a licence) reads "not stated".

    Examples
    --------
    >>> entry = {"value": 2.314, "lo": 2.1, "hi": 2.52, "exact": False, "fmt": ".3g"}
    >>> show(entry), show(entry, "plain"), show({"value": 1200, "exact": True, "fmt": ",d"})
    ('2.31 (2.10–2.52)', '2.31', '1,200')
    >>> show({"value": 0.176, "lo": 0.00403, "hi": 0.349, "exact": False, "fmt": ".3g"})
    '0.176 (0.004–0.349)'
    """
    if form not in FORMS:
        raise PrunelibError(f"unknown form ':{form}'{nearest(form, FORMS)}; use :plain or :interval")
    if entry is None:
        return "not stated"
    if not isinstance(entry, Mapping):
        entry = {"value": entry, "exact": True, "fmt": ""}
    fmt = entry.get("fmt", ".3g")
    if fmt.endswith("g") and not entry.get("exact"):
        fmt = "#" + fmt  # an estimate keeps its last zeros: 2.31 (2.10–2.52)
    middle = number(entry.get("value"), fmt)
    ends = [entry.get("lo"), entry.get("hi")]
    has_interval = not entry.get("exact") and None not in ends
    if form == "interval" and not has_interval:
        raise PrunelibError("the value is exact and has no interval")
    if form == "plain" or not has_interval:
        estimate = not entry.get("exact", True) and "not" not in middle
        return f"{middle} (interval not defined)" if estimate and form != "plain" else middle
    span = _span(*(_coarser(end, number(end, fmt), middle) for end in ends))
    return span if form == "interval" else f"{middle} ({span})"


def number(value, fmt: str = ".3g") -> str:
    """One number as typeset text: a true minus sign, and powers of ten written out."""
    if isinstance(value, str):
        return value
    if value is None or not math.isfinite(value):
        return "not defined"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if fmt.endswith("d") and float(value).is_integer():
        value = int(value)
    try:
        text = format(value, fmt).rstrip(".")
        if fmt.endswith("g") and "e+0" in text and abs(value) < 1e6:
            text = format(float(text), ",.0f")  # 1,230, not 1.23e+03
    except ValueError as error:
        raise PrunelibError(f"cannot write {value} as '{fmt}': {error}") from None
    text = re.sub(r"e([+-])0*(\d+)", lambda m: " × 10" + _power(m[1], m[2]), text)
    return text.replace("-", "−")


def _coarser(end: float, text: str, middle: str) -> str:
    """The end of an interval, with no more decimals than the number that it surrounds."""
    decimals, most = (len(shown.partition(".")[2]) for shown in (text, middle))
    plain = re.fullmatch(r"−?[\d.]+", text) and re.fullmatch(r"−?[\d.]+", middle)
    return number(end, f"z.{most}f") if plain and decimals > most else text


def _power(sign: str, digits: str) -> str:
    return (digits if sign == "+" else "-" + digits).translate(_SUPERSCRIPT)


def _span(low: str, high: str) -> str:
    """``2.10–2.52``, ``10–14%``, but ``−1 to 2`` and ``2 × 10⁻⁵ to 3 × 10⁻⁵``."""
    if any(mark in low + high for mark in ("−", "×", "not")):
        return f"{low} to {high}"
    if low.endswith("%") and high.endswith("%"):
        low = low[:-1]
    return f"{low}–{high}"
