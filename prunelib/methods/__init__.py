"""Compression methods, one file each; contexts carry out what they decide.

``parse("wanda:2:4")`` gives the method of a specification (:mod:`prunelib.methods.base`);
:func:`prunelib.methods.apply.compress` applies any number of them to one model.
"""

from prunelib.methods.base import Method, default_specs, of_kind, parse, parse_list, registry

__all__ = ["Method", "default_specs", "of_kind", "parse", "parse_list", "registry"]
