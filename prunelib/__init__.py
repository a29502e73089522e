"""Executable companion to "Demystifying When Pruning Works via Representation Hierarchies".

Importing the package is light: torch is imported when a model is loaded.
"""

from importlib import import_module

__version__ = "0.1.0"

# Public names: where each is defined, or the module that it is.
_EXPORTS = {
    "LM": "prunelib.models.lm:LM",
    "compress": "prunelib.methods.apply:compress",
    "load": "prunelib.models.load:load",
    "methods": "prunelib.methods",
    "theory": "prunelib.measure.theory",
    "trace_layers": "prunelib.measure.trace:trace_layers",
}
__all__ = ["LM", "__version__", "compress", "load", "methods", "theory", "trace_layers"]


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module 'prunelib' has no attribute {name!r}")
    module, _, attribute = _EXPORTS[name].partition(":")
    found = import_module(module)
    return getattr(found, attribute) if attribute else found


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
