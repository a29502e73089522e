"""The command that runs a chapter as a run was made, from the run's manifest alone."""

import shlex
from collections.abc import Mapping

from prunelib.runs import sources
from prunelib.runs.options import FLAGS, NAMES, RunOptions

_ALWAYS = ("model", "profile")

_OF_A_MACHINE = ("out", "beside")
"""Folders of whoever made the run: no part of what a number depends on."""


def command(notebook: str, manifest: Mapping, out: str = "") -> str:
    """``prunelib run 08 --model … --profile …`` for the chapter with this id, and with ``--out``, if given.

    Options stand as the chapter was given them; those of a chapter that was not run are another chapter's. The
    chapter's own parameters follow as ``-p name=value``, where they are not its defaults.
    """
    every = manifest.get("parameters", {})
    given = every.get(notebook) or next(iter(every.values()), {})
    options = {"model": manifest["model"]["name"], "profile": manifest["profile"]}
    options |= {name: given[name] for name in FLAGS if given.get(name) not in (None, "")}
    words = ["prunelib", "run", notebook.partition("-")[0]]
    for name in sorted(FLAGS, key=lambda name: name not in _ALWAYS):
        shown = name in _ALWAYS or options.get(name, _default(name)) != _default(name)
        if shown and name not in _OF_A_MACHINE:
            words += [f"--{name}", str(options[name])]
    for name, value in every.get(notebook, {}).items():
        if name not in FLAGS and value != _defaults(notebook).get(name, value):
            words += ["-p", f"{name}={value}"]
    return " ".join(shlex.join([*words, *(["--out", out] if out else [])]).split())


def _default(name: str):
    return RunOptions.__dataclass_fields__[name].default


def _defaults(notebook: str) -> dict:
    """Defaults of a notebook's parameters: of the options that all have, and its own."""
    known = sources.available()
    own = sources.defaults(known[notebook]) if notebook in known else {}
    return {name: _default(name) for name in NAMES} | own
