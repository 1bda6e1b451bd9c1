"""How far two measurements of one prompt differ, and the smallest gain that so many examples can show.

Binomial standard error: sqrt(p (1 - p) / n). Two answers of a model to the same prompts differ by what repeats show:
per example the variance of its answers is half the mean square of their difference, and the difference of two scores
has twice that over n.

Smallest detectable gain at a two-sided 5 % with 80 % power. Two prompts on the same examples (McNemar's test): the gain
d with n d^2 = (1.96 sqrt(w) + 0.84 sqrt(w - d^2))^2, where w is the share of examples on which the two differ
(Miettinen, "The matched pairs design in the case of all-or-none responses", Biometrics 24, 1968; Connor, "Sample size
for testing differences in proportions for the paired-sample design", Biometrics 43, 1987). On examples of their own:
n d^2 = (1.96 sqrt(2 m (1 - m)) + 0.84 sqrt(p (1 - p) + q (1 - q)))^2 with q = p + d and m their mean (Fleiss, Levin and
Paik, "Statistical Methods for Rates and Proportions", 2003, section 4.2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from asyncopt.forecast.pilot import Pilot
from asyncopt.stats import Z95, wilson_interval
from asyncopt.tasks.task import Task

Z80 = 0.8416212335729143  # the normal quantile of 80 %
_HALVINGS = 60


@dataclass(frozen=True, slots=True)
class Noise:
    """Of ``n`` examples, all as shares from 0 to 1.

    ``score`` is the initial prompt's in the pilot, with its 95 % interval; ``standard_error`` that of a score on n
    examples. ``repeat`` is the standard deviation of the difference of two measurements of one prompt on the same n
    examples, None without repeats. ``paired`` and ``unpaired`` are the smallest detectable gains, 1.0 where even a
    perfect prompt could not be told apart; ``differing`` is the share of examples that ``paired`` was found with.
    """

    n: int
    score: float
    low: float
    high: float
    standard_error: float
    repeat: float | None
    differing: float
    paired: float
    unpaired: float


def noise_of(task: Task, pilot: Pilot) -> Noise:
    """The noise of scores on the held-out examples, or where there are none on the training examples.

    Without a pilot the score is taken to be a half, where noise is largest.
    """
    n = len(task.test) or len(task.train)
    means = [sum(row) / len(row) for row in pilot.scores]
    right, seen = sum(means), len(means)
    low, high = wilson_interval(right, seen)
    score = (right + 1) / (seen + 2)  # Laplace's: a few right answers of a few do not mean that there is no noise
    repeats = [row for row in pilot.scores if len(row) > 1]
    flipped = sum((row[0] - row[1]) ** 2 for row in repeats) / len(repeats) if repeats else None

    def differing(gain: float) -> float:
        """Half of what two prompts that know nothing of each other would differ by: the same examples are hard."""
        other = min(score + gain, 1.0)
        apart = score * (1 - other) + other * (1 - score)
        return min(max(apart / 2, flipped or 0.0, gain), 1.0)

    paired = detectable(n, score, lambda gain: _paired(n, gain, differing(gain)))
    return Noise(
        n,
        right / seen if seen else 0.5,
        low,
        high,
        math.sqrt(score * (1 - score) / n),
        None if flipped is None else math.sqrt(flipped / n),
        differing(paired),
        paired,
        detectable(n, score, lambda gain: _unpaired(n, score, gain)),
    )


def detectable(n: int, score: float, shown: Callable[[float], bool]) -> float:
    """The smallest gain above ``score`` for which ``shown`` holds; 1.0 where none up to a perfect score does."""
    low, high = 0.0, 1.0 - score
    if n < 1 or not shown(high):
        return 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if shown(middle) else (middle, high)
    return high


def _paired(n: int, gain: float, differing: float) -> bool:
    wanted = Z95 * math.sqrt(differing) + Z80 * math.sqrt(max(differing - gain * gain, 0.0))
    return math.sqrt(n) * gain >= wanted


def _unpaired(n: int, score: float, gain: float) -> bool:
    other = score + gain
    mean = (score + other) / 2
    spread = math.sqrt(max(score * (1 - score) + other * (1 - other), 0.0))
    return math.sqrt(n) * gain >= Z95 * math.sqrt(2 * mean * (1 - mean)) + Z80 * spread


def quantile(values: Sequence[float], share: float) -> float:
    """The quantile of these values, between neighbours in a straight line."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
