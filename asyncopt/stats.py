"""Intervals and comparisons: for shares of right answers, for two prompts on the same items, and over repetitions."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import fmean, pstdev, stdev
from typing import Literal, TypeAlias

Verdict: TypeAlias = Literal["better", "worse", "no difference shown"]

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


@dataclass(frozen=True, slots=True)
class Spread:
    """The mean over ``n`` seeds, their sample standard deviation, and Student's 95 % interval for the mean.

    One seed alone has no deviation and no interval: they are None.
    """

    mean: float
    sd: float | None
    n: int
    low: float | None
    high: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        low, high = t_interval(values) or (None, None)
        return cls(*mean_sd(values), len(values), low, high)


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
    centre, error = _with_one_more_each(differences)
    return fmean(differences), max(centre - z * error, -1.0), min(centre + z * error, 1.0)


def _with_one_more_each(differences: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error with one more item won by each side (Bonett and Price 2012)."""
    more = [*differences, 1.0, -1.0]
    return fmean(more), pstdev(more) / math.sqrt(len(more))


def paired_grades(pairs: Sequence[tuple[float, float]]) -> tuple[float, float, float, int, int, float]:
    """What separates two prompts on the items that both have a grade for, each pair the grades of one item.

    That is the mean difference with the ends of its 95 % interval, how many items only the first and only the second
    got right, and the p-value, by :func:`paired_items`.
    """
    counts = Counter(pairs)
    *found, p = paired_items([second - first for first, second in pairs])
    return found[0], found[1], found[2], counts[1.0, 0.0], counts[0.0, 1.0], p


def paired_t(differences: Sequence[float]) -> tuple[float, float, float, float] | None:
    """The mean of the differences, its 95 % interval, and the two-sided p-value of Student's paired test.

    None for one difference, and for ones that are all equal: there is no telling how far others would lie from them.
    """
    interval = t_interval(differences)
    if interval is None or min(differences) == max(differences):
        return None
    from scipy.special import stdtr

    mean, sd = mean_sd(differences)
    assert sd is not None
    p = 2 * float(stdtr(len(differences) - 1, -abs(mean) / sd * math.sqrt(len(differences))))
    return mean, *interval, p


def paired_items(differences: Sequence[float]) -> tuple[float, float, float, float]:
    """The mean of what divides two prompts' grades on the same items, its 95 % interval, and the two-sided p-value.

    The interval leaves 0 out where p is at most 0.05, and only there. Where grades are 0 and 1, p is McNemar's exact
    one, and the interval that of :func:`paired_difference`, which is a little shorter than the exact test allows: where
    the test does not reject, it is drawn out to 0. Of grades between, both are :func:`paired_t`'s, or by
    :func:`paired_difference` where all differences are the same one.
    """
    binary = all(difference in (-1.0, 0.0, 1.0) for difference in differences)
    student = None if binary else paired_t(differences)
    if student is not None:
        mean, low, high, p = student
        return mean, max(low, -1.0), min(high, 1.0), p
    mean, low, high = paired_difference([0.0] * len(differences), differences)
    if not binary:
        centre, error = _with_one_more_each(differences)
        return mean, low, high, math.erfc(abs(centre) / error / math.sqrt(2))
    p = mcnemar_p(differences.count(-1.0), differences.count(1.0))
    return (mean, low, high, p) if p <= 0.05 else (mean, min(low, 0.0), max(high, 0.0), p)


def crossed_difference(rows: Sequence[Mapping[int, float]]) -> tuple[float, float, float, float]:
    """By how much one optimizer scores more than another: the mean, its 95 % interval, and the two-sided p-value.

    A row is a repetition of both searches (a seed): the differences in [-1, 1] of the grades that the two chosen
    prompts got, by held-out item. What is stated holds for new seeds and new items: both are random effects. The half
    width at any level is sqrt(S^2 + I^2 - E^2), never less than S or I, where S, I and E are Student's half widths by
    what the mean varies with seeds, with items, and with the rest, which is in both. Where all rows have the same
    items, the variances are the mean squares of the two-way table over its entries; where not, an item counts as often
    as it comes, as in the two-way clustered variance of Cameron, Gelbach and Miller (2011). With items of its own in
    every row this is Student's test over the seeds. To join half widths instead of variances is the idea of Zou and
    Donner (2008).

    It was chosen by simulation (``benchmarks/false_claims.py``). Student's interval for the joined variance, with
    Satterthwaite's degrees of freedom, calls up to 11 % of equal optimizers different from two seeds and 7 % from
    three: the mean square of few seeds may be small by luck. Student over the seeds alone does so in up to 30 %, where
    optimizers differ item by item. With seeds - 1 degrees of freedom throughout, half of the power is lost from three
    seeds.

    One row says nothing of seeds: it is about these two prompts, by :func:`paired_items`.
    """
    if not rows or not all(rows):
        raise ValueError(f"{len(rows)} rows, {sum(map(bool, rows))} with items; wanted one or more, each with some")
    items = sorted(set().union(*rows))
    means = [fmean(row.values()) for row in rows]
    mean = fmean(means)
    if len(rows) == 1 or len({difference for row in rows for difference in row.values()}) == 1:
        return paired_items([next(row[item] for row in rows if item in row) for item in items])
    if len(items) == 1:
        _, low, high, p = paired_t(means) or (mean, -1.0, 1.0, 1.0)
        return mean, max(low, -1.0), min(high, 1.0), p
    parts = _parts(rows, means)
    half = _half_width(parts, 0.05)
    return mean, max(mean - half, -1.0), min(mean + half, 1.0), _p_of(parts, abs(mean))


def _parts(rows: Sequence[Mapping[int, float]], means: Sequence[float]) -> list[tuple[int, float]]:
    """The degrees of freedom and the variance of the mean by seeds, by items, and by the rest."""
    k, mean = len(rows), fmean(means)
    pulls: dict[int, float] = defaultdict(float)  # by how much each item moves the mean
    own: dict[int, list[float]] = defaultdict(list)  # what each item is above the mean of its row
    for row, of_row in zip(rows, means, strict=True):
        for item, difference in row.items():
            pulls[item] += (difference - mean) / (k * len(row))
            own[item].append(difference - of_row)
    n, entries = len(own), sum(map(len, rows))
    seeds = (k - 1, sum((of_row - mean) ** 2 for of_row in means) / (k * (k - 1)))
    items = (n - 1, sum(pull * pull for pull in pulls.values()) * n / (n - 1))
    df = entries - k - n + 1
    if df < 1:  # no item comes twice: what items add is in every row's mean
        return [seeds, items, items]
    squares = sum((value - fmean(values)) ** 2 for values in own.values() for value in values)
    return [seeds, items, (df, squares / df * sum(1 / len(row) for row in rows) / k**2)]


def _half_width(parts: Sequence[tuple[int, float]], p: float) -> float:
    """The half width at the level 1 - p, of the degrees of freedom and variances of seeds, items and the rest."""
    from scipy.special import stdtrit

    seeds, items, rest = (float(stdtrit(df, p / 2)) ** 2 * variance for df, variance in parts)
    return math.sqrt(max(seeds + items - rest, seeds, items))


def _p_of(parts: Sequence[tuple[int, float]], distance: float) -> float:
    """The p at which the interval just reaches as far as ``distance``; by bisection of its logarithm."""
    low, high = math.log(1e-30), 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _half_width(parts, math.exp(middle)) > distance else (low, middle)
    return math.exp(high)


def holm(ps: Sequence[float]) -> list[float]:
    """The p-values adjusted for being so many, in their order (Holm 1979).

    Where all differences are luck, the chance that any of these is at most 0.05 is at most 0.05.
    """
    adjusted, largest = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = max(largest, min((len(ps) - rank) * ps[place], 1.0))
        adjusted[place] = largest
    return adjusted


def judged(compared: Sequence[tuple[float, float]], level: float = 0.05) -> list[tuple[float, Verdict]]:
    """The p-value by Holm over all that are compared, and the verdict, for each (difference, p)."""
    adjusted = holm([p for _, p in compared])
    return [(p, verdict(difference, p, level)) for (difference, _), p in zip(compared, adjusted, strict=True)]


def verdict(difference: float, p: float, level: float = 0.05) -> Verdict:
    """What a two-sided ``p``, adjusted where several are compared, lets one say of who leads by ``difference``."""
    if p > level or difference == 0:
        return "no difference shown"
    return "better" if difference > 0 else "worse"
