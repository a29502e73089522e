"""Measuring: theorems, distances, and the layerwise trace from h to z to p.

The names below are imported on first use: ``measure.stats`` needs no torch.
"""

from importlib import import_module

_EXPORTS = {
    "TraceTables": "trace",
    "compare_states": "trace",
    "sublayer_states": "trace",
    "trace_layers": "trace",
    "kl": "distances",
    "one_minus_cosine": "distances",
}
__all__ = sorted(_EXPORTS)


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module 'prunelib.measure' has no attribute {name!r}")
    return getattr(import_module(f"prunelib.measure.{_EXPORTS[name]}"), name)
