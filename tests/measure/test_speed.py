"""Speed in turns: what is counted, who is first, and intervals by hand."""

import math
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest

from prunelib.measure import speed


class Clock:
    """A clock that goes by what is written: a second a batch of the dense model, less of a faster one."""

    def __init__(self, gain):
        self.now, self.gain, self.changed, self.order = 0.0, gain, False, []

    @contextmanager
    def within(self):
        self.changed = True
        yield
        self.changed = False

    def __call__(self):
        return self.now


@pytest.fixture
def written(monkeypatch):
    """Makes ``decode`` a clock's tick; returns what it was asked to write."""

    def using(clock):
        asked = []

        def decode(lm, prompts, tokens, **options):
            clock.now += 1 / (clock.gain if clock.changed else 1)
            clock.order.append("changed" if clock.changed else "dense")
            asked.append((len(prompts), tokens, options))

        monkeypatch.setattr(speed, "decode", decode)
        return asked

    return using


@pytest.mark.parametrize("gain", [2.0, 1.0, 0.5])
def test_a_model_that_is_faster_or_slower_is_told(tiny, written, gain):
    clock = Clock(gain)
    asked = written(clock)
    times = speed.alternating(tiny("llama"), clock.within, [[3, 4], [5]], 8, 6, clock)
    assert speed.faster(times) == pytest.approx((gain, gain, gain))
    assert speed.rate(times) == pytest.approx((16 * gain,) * 3) and speed.rate(times, "dense")[0] == pytest.approx(16)
    assert {one[:2] for one in asked} == {(2, 8)} and all(one[2]["end"] == () for one in asked)
    # A warm-up of each, then in turns.
    assert clock.order == ["dense", "changed"] + ["dense", "changed", "changed", "dense"] * 3


def test_a_machine_that_slows_down_leaves_the_ratio(tiny, written):
    clock = Clock(2.0)
    written(clock)
    times = speed.alternating(tiny("llama"), clock.within, [[3]], 4, 8, clock)
    load = 1 + np.arange(8)
    slowed = times.assign(dense=times["dense"] * load, changed=times["changed"] * load)
    assert speed.faster(slowed) == speed.faster(times) and speed.rate(slowed)[0] < speed.rate(times)[0]


def test_real_times_are_positive_and_every_text_is_written_to_its_end(tiny):
    from prunelib.methods.apply import compress

    lm = tiny("llama")
    made = compress(lm, ["sites:block:1"])["sites:block:1"]
    times = speed.alternating(lm, lambda: made.applied(lm), [[3, 4, 5], [6]], 3, 2)
    assert (times[["dense", "changed"]] > 0).all().all() and times["tokens"].tolist() == [6, 6]


def test_the_interval_of_a_median_by_hand():
    assert speed.median(range(1, 7)) == (3.5, 1, 6)  # outside with probability 2/64
    assert speed.median([9, 1, 8, 2, 7, 3, 6, 4, 5]) == (5, 2, 8)  # 2·10/512 = 0.039
    assert speed.median([4, 4, 4]) == pytest.approx((4, math.nan, math.nan), nan_ok=True)
    assert np.isnan(speed.median([])).all()


def test_the_interval_of_a_median_covers_it():
    draw = np.random.default_rng(0)
    for n in (6, 10):
        held = [lo <= math.log(2) <= hi for _, lo, hi in (speed.median(draw.exponential(size=n)) for _ in range(2000))]
        assert np.mean(held) >= 0.945


def test_ratios_of_a_model_and_itself_are_around_one():
    draw = np.random.default_rng(1)
    times = pd.DataFrame(draw.lognormal(0, 0.1, (10, 2)), columns=["dense", "changed"]).assign(tokens=8)
    value, lo, hi = speed.faster(times)
    assert lo < 1 < hi and lo <= value <= hi
