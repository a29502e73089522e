"""Memory that was freed goes back to the system."""

import sys
from pathlib import Path

import pytest

from prunelib.models.memory import give_back


def resident() -> int:
    """KiB of this process that are in memory."""
    return int(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in line))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_heap_with_holes_is_given_back():
    # Blocks of 64 KiB lie in the heap; every second one is freed, so that the heap cannot shrink.
    blocks = [bytearray(2**16) for _ in range(2000)]
    kept = blocks[::2]
    del blocks
    before = resident()
    give_back()
    assert before - resident() > 1000 * 64 * 0.8
    assert len(kept) == 1000


def test_other_systems_keep_their_memory(monkeypatch):
    from prunelib.models import memory

    memory._trim.cache_clear()
    monkeypatch.setattr(sys, "platform", "darwin")
    try:
        assert memory._trim() is None
        give_back()
    finally:
        memory._trim.cache_clear()
