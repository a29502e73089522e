"""How far a notebook is, told to whoever started it."""

import contextlib
import json
import os
import sys
from pathlib import Path


def report_progress(what: str, done: int, total: int) -> None:
    """Tell whoever started this notebook how far it is.

    A notebook's own output must stay clean (a bar floods a page), so progress
    goes to the file named by ``PRUNELIB_PROGRESS``, which the command line
    reads, or to a terminal when there is one.
    """
    target = os.environ.get("PRUNELIB_PROGRESS")
    if target:
        with contextlib.suppress(OSError):
            Path(target).write_text(json.dumps({"what": what, "done": done, "total": total}))
    elif sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r{what}: {done}/{total}", end=end, file=sys.stderr, flush=True)


class Screen:
    """Progress on stderr: one living line on a terminal, plain lines elsewhere."""

    def __init__(self):
        self.live = sys.stderr.isatty()

    def status(self, text: str) -> None:
        if self.live:
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)

    def line(self, text: str) -> None:
        start = "\r\033[K" if self.live else ""
        print(f"{start}{text}", file=sys.stderr, flush=True)
