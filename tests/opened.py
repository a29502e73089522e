"""A chapter of a model that is in memory, as a notebook would have opened it."""

from dataclasses import replace

from prunelib.chapters.chapter import Chapter
from prunelib.runs.options import RunOptions
from prunelib.runs.profiles import PROFILES
from prunelib.runs.record import Record

SMALL = replace(
    PROFILES["smoke"], prompts=2, new_tokens=4, layer_positions=1, calibration=3, calibration_tokens=12, synthetic=1,
    seeds=2, texts=3, passages=3, long_prompts=2, long_tokens=8,
)  # fmt: skip


def open_chapter(folder, notebook, lm=None, card=None, settings=SMALL, beside=(), **options) -> Chapter:
    """``notebook`` of the model ``lm``, or of one that only its ``card`` describes; ``settings`` are the profile."""
    ch = Chapter.__new__(Chapter)
    ch.options = RunOptions(profile="smoke", **options)
    ch.options.__dict__["settings"] = settings
    ch.model = lm.describe() if lm else card
    ch._loader = lambda: lm
    ch.__dict__["beside"] = list(beside)
    common = {"profile": "smoke", "parameters": {}, "model": ch.model, "seed": ch.options.seed, "code": {}}
    ch.record = Record(folder, notebook, common)
    return ch
