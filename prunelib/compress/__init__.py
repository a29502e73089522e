"""Compression methods: each decides what to remove or to round; contexts carry it out.

``parse("wanda:2:4")`` gives the method of a specification;
:func:`prunelib.compress.apply.compress` applies any number of them to one model.
"""

from prunelib.compress.drop import DropPlan, Site, from_spec, plan
from prunelib.compress.importance import DropSpec, importance
from prunelib.compress.quantize import AWQ, GPTQ, RTN, Grid
from prunelib.compress.sparsify import Magnitude, Pattern, SparseGPT, Wanda
from prunelib.compress.spec import parse

__all__ = [
    "AWQ",
    "GPTQ",
    "RTN",
    "DropPlan",
    "DropSpec",
    "Grid",
    "Magnitude",
    "Pattern",
    "Site",
    "SparseGPT",
    "Wanda",
    "from_spec",
    "importance",
    "parse",
    "plan",
]
