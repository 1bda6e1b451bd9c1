"""Intervals and comparisons for scores that are shares of right answers."""

from __future__ import annotations

import math
from fractions import Fraction

Z95 = 1.959963984540054  # the normal quantile of a two-sided 95 % interval


def wilson_interval(correct: float, n: int, z: float = Z95) -> tuple[float, float]:
    """The Wilson score interval of a share of ``correct`` out of ``n`` (Wilson 1927), within [0, 1].

    Written out, because scipy's takes seconds to import and this is one line of arithmetic; a test compares the two.
    """
    if n <= 0:
        return 0.0, 1.0
    p = correct / n
    centre = p + z * z / (2 * n)
    spread = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max((centre - spread) / scale, 0.0), min((centre + spread) / scale, 1.0)


def mcnemar_p(only_first: int, only_second: int) -> float:
    """The exact two-sided McNemar p-value of two prompts graded on the same items.

    The arguments count the items that only the one, and only the other, got right.
    """
    n = only_first + only_second
    if n == 0:
        return 1.0
    tail = sum(math.comb(n, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, float(Fraction(2 * tail, 1 << n)))
