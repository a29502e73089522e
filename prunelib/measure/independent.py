"""The difference of two numbers that were measured on different things, from their intervals alone."""

import math

from prunelib.measure.stats import Interval


def difference(first: Interval, second: Interval) -> Interval:
    """``first − second`` with its interval; both are ``(value, lo, hi)`` and independent.

    The distances to the ends of both intervals are squared and added (Zou and Donner 2008), so that an interval may be
    lopsided. The ends are NaN where one of the two has none.

    Examples
    --------
    >>> difference((0.75, 0.45, 0.75), (0.5, 0.5, 0.9))
    (0.25, -0.25, 0.25)
    """
    (a, a_lo, a_hi), (b, b_lo, b_hi) = first, second
    value = a - b
    return value, value - math.hypot(a - a_lo, b_hi - b), value + math.hypot(a_hi - a, b - b_lo)
