"""The one exception a user is meant to read.

Anything a user can fix (a misspelt name, a full disk, a corrupt cache) is
raised as :class:`PrunelibError` with one clear line; the command line prints
that line and exits with code 2. Everything else is a bug and keeps its
traceback.
"""

import difflib
from collections.abc import Iterable


class PrunelibError(Exception):
    """A problem the user can fix. ``str(error)`` is a single line."""

    def __init__(self, message: str):
        super().__init__(" ".join(str(message).split()))


class NotebookFailed(Exception):
    """A notebook raised something that is not the user's mistake: a failed check or a bug."""


def nearest(name: str, options: Iterable[str]) -> str:
    """``" (did you mean 'x'?)"`` for the closest option, or an empty string."""
    found = difflib.get_close_matches(str(name), list(options), n=1, cutoff=0.5)
    return f" (did you mean '{found[0]}'?)" if found else ""


def short(text: str, most: int = 60) -> str:
    """``text`` as a message quotes it: cut where it is long."""
    return text if len(text) <= most else f"{text[:most]}…"


def refuse_bytes(arguments: list[str]) -> None:
    """Notebooks and records are text: an argument that is none cannot be kept in them."""
    for one in arguments:
        if not one.isprintable() and any("\udc80" <= sign <= "\udcff" for sign in one):
            raise PrunelibError(f"this argument is not UTF-8: {one!r}")
