"""Executable companion to "Demystifying When Pruning Works via Representation Hierarchies".

Importing the package is light: torch is imported when a model is loaded.
"""

from importlib import import_module

__version__ = "0.1.0"

_EXPORTS = {
    "load": "prunelib.lm",
    "LM": "prunelib.lm",
    "compress": "prunelib.methods.apply",
}
__all__ = ["LM", "__version__", "compress", "load"]


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module 'prunelib' has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
