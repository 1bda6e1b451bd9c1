"""Intervals and comparisons: for shares of right answers, for two prompts on the same items, and over repetitions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from statistics import fmean, pstdev, stdev

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
    # The ends are exact there, and rounding would give 3e-17.
    low = 0.0 if correct == 0 else max((centre - spread) / scale, 0.0)
    return low, 1.0 if correct == n else min((centre + spread) / scale, 1.0)


def mcnemar_p(only_first: int, only_second: int) -> float:
    """The exact two-sided McNemar p-value of two prompts graded on the same items.

    The arguments count the items that only the one, and only the other, got right.
    """
    n = only_first + only_second
    if n == 0:
        return 1.0
    tail = sum(math.comb(n, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, float(Fraction(2 * tail, 1 << n)))


def mean_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean and the sample standard deviation (n - 1); None instead of the latter for one value, which has none."""
    return fmean(values), stdev(values) if len(values) > 1 else None


def t_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Student's interval for the mean of what repetitions gave; None for one value, from which there is no telling."""
    mean, sd = mean_sd(values)
    if sd is None:
        return None
    from scipy.special import stdtrit  # `import asyncopt` stays light; scipy.stats takes thrice as long

    half = float(stdtrit(len(values) - 1, (1 + level) / 2)) * sd / math.sqrt(len(values))
    return mean - half, mean + half


def top_k(validation: Sequence[float], test: Sequence[float], k: int) -> tuple[float, float]:
    """The mean and the standard deviation of the test score if the best of ``k`` seeds by validation were kept.

    Taken over all k-subsets of the seeds, equally likely, so nothing is estimated and the divisor is their number; on
    equal validation scores the earlier seed wins (DLN, reference code). ``k = 1`` gives the plain mean over seeds.
    """
    n = len(validation)
    if len(test) != n or not 1 <= k <= n:
        raise ValueError(
            f"{n} validation scores, {len(test)} test scores, k = {k}; wanted as many of both, and k of them"
        )
    ranked = sorted(range(n), key=lambda seed: -validation[seed])
    # The seed at a rank is the winner of the subsets whose others all come after it: no subset need be looked at.
    weights = [math.comb(n - 1 - rank, k - 1) for rank in range(n)]
    mean = sum(w * test[seed] for w, seed in zip(weights, ranked, strict=True)) / math.comb(n, k)
    squares = sum(w * (test[seed] - mean) ** 2 for w, seed in zip(weights, ranked, strict=True))
    return mean, math.sqrt(squares / math.comb(n, k))


def paired_difference(first: Sequence[float], second: Sequence[float], z: float = Z95) -> tuple[float, float, float]:
    """By how much ``second`` scores more than ``first`` on the same items, as (mean difference, low, high) in [-1, 1].

    Scores are in [0, 1] and stand in the order of the items. The interval is Bonett and Price's (2012): Wald's with one
    more item won by each side. It needs no iteration as Tango's does, and holds its level where the plain one collapses
    to a point: when no item, or hardly any, divides the two. :func:`mcnemar_p` is the test beside it.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"{len(first)} and {len(second)} scores; wanted the same items, and at least one")
    differences = [b - a for a, b in zip(first, second, strict=True)]
    more = [*differences, 1.0, -1.0]
    centre, half = fmean(more), z * pstdev(more) / math.sqrt(len(more))
    return fmean(differences), max(centre - half, -1.0), min(centre + half, 1.0)


def paired_grades(pairs: Sequence[tuple[float, float]]) -> tuple[float, float, float, int, int, float | None]:
    """What separates two prompts on the items that both have a grade for, each pair the grades of one item.

    That is the mean difference with the ends of its 95 % interval, how many items only the first and only the second
    got right, and the p-value of :func:`mcnemar_p`: None where grades between 0 and 1 make that test meaningless.
    """
    counts = Counter(pairs)
    only_first, only_second = counts[1.0, 0.0], counts[0.0, 1.0]
    binary = all(grade in (0.0, 1.0) for pair in counts for grade in pair)
    return (
        *paired_difference([first for first, _ in pairs], [second for _, second in pairs]),
        only_first,
        only_second,
        mcnemar_p(only_first, only_second) if binary else None,
    )
