"""Means over random draws, such as drops of random sublayers: what varies is the draw as well as the text.

NumPy and SciPy only, float64.
"""

from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

from prunelib.measure.stats import LEVEL, Interval


def over_draws(found: Interval, by_draw: Sequence[float]) -> Interval:
    """The mean over draws with a 95 % interval over draws and clusters.

    ``found`` is that mean with its interval over clusters (passages), the draws taken as given; ``by_draw`` are the
    values of the single draws, whose mean has Student's t of draws − 1 degrees of freedom. The distances of the ends
    are combined as of two independent errors (Zou and Donner 2008). One draw gives no interval.

    Examples
    --------
    >>> over_draws((0.2, 0.1, 0.3), [0.2, 0.2, 0.2])
    (0.2, 0.1, 0.3)
    """
    value, lo, hi = found
    draws = np.asarray(by_draw, dtype=np.float64)
    if len(draws) < 2:
        return value, float("nan"), float("nan")
    spread = float(stdtrit(len(draws) - 1, (1 + LEVEL) / 2)) * float(draws.std(ddof=1)) / len(draws) ** 0.5
    if spread == 0:
        return value, lo, hi
    return value, value - float(np.hypot(value - lo, spread)), value + float(np.hypot(hi - value, spread))
