"""One function a question: a chapter in, tidy tables out.

A notebook does ``ch = experiments.start("05-layerwise", ...)`` and then calls
the functions of the module that belongs to it (``theorems``, ``head``,
``layerwise``, ``middle``, ``methods``).
"""

from prunelib.experiments import head, layerwise, methods, middle, theorems
from prunelib.experiments.chapter import DEFAULT_MODEL, PROFILES, Chapter, Profile, run_folder, start

__all__ = [
    "DEFAULT_MODEL",
    "PROFILES",
    "Chapter",
    "Profile",
    "head",
    "layerwise",
    "methods",
    "middle",
    "run_folder",
    "start",
    "theorems",
]
