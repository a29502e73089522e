"""Compression methods: each decides what to remove; ``prunelib.hooks`` carries it out."""

from prunelib.compress.drop import DropPlan, Site, from_spec, importance, plan

__all__ = ["DropPlan", "Site", "from_spec", "importance", "plan"]
