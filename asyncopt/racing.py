"""Stopping a candidate early when it cannot, or almost surely does not, reach another one: pure arithmetic, no calls.

The examples are a finite population, looked at in an order drawn at random. The claim under test is that the
candidate's scores on all of them sum to no less than the floor's. Two things end it. The certain bound: it stays below
the floor even if all that is left is right. And a bet against the claim, without replacement: a wealth that starts at
1, cannot grow on average while the claim is true, and so reaches ``1 / alpha`` with a probability of at most ``alpha``,
however often one looks (Ville's inequality; Waudby-Smith and Ramdas, "Confidence sequences for sampling without
replacement", 2020, and "Estimating means of bounded random variables by betting", 2024).

The floor's scores are all known, so they pair the comparison: where an example is hard for both, little is learnt from
a miss. The claim says that the examples to come score at least ``needed`` on average; the floor's own average on them,
``known``, is a fact. A bet loses by ``(score - needed) - share * (floor's score - known)``, whose mean is at least 0
under the claim for every ``share``; 1 is the plain paired difference. The wealth is the average over a grid of stakes
and shares, so that there is nothing to tune.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from random import Random

from asyncopt.errors import ConfigError

# Chosen with benchmarks/racing.py; wider and finer grids save no more (within a hundredth of the calls).
STAKES = (0.4, 0.6, 0.8, 0.95)  # parts of the largest stake that cannot ruin the bettor
SHARES = (0.25, 0.75)
_ROUNDING = 1e-9  # sums in another order differ by less; a tie reaches the floor


@dataclass(frozen=True, slots=True)
class Floor:
    """What a candidate is held against: another candidate's scores by example id, and the error allowed.

    ``alpha`` is the probability of stopping the candidate although its score on all these examples reaches the floor's.
    ``seed`` is the same for all candidates of a study: with the instruction it decides the order of the examples.
    """

    scores: Mapping[int, float]
    alpha: float
    seed: int

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise ConfigError(f"racing's alpha is {self.alpha!r}; it must lie between 0 and 1")
        for example, score in self.scores.items():
            if not 0 <= score <= 1:
                raise ConfigError(
                    f"example {example} of the floor has the score {score!r}; racing needs scores in [0, 1]"
                )


def alpha_of(study_alpha: float, planned_candidates: int) -> float:
    """The error to allow each candidate, so that a study stops any wrongly with probability ``study_alpha`` at most.

    The union bound: it holds however the candidates depend on each other and on those that were stopped before. Uneven
    shares have little to offer: four times the error for each saves 0 to 2 % of the calls more.
    """
    if not 0 < study_alpha < 1:
        raise ConfigError(
            f"racing's error is {study_alpha!r}; it is the share of studies with a wrong stop, such as 0.05"
        )
    if planned_candidates < 1:
        raise ConfigError(f"{planned_candidates} candidates are planned; racing needs at least one")
    return study_alpha / planned_candidates


class Bet:
    """The test itself, example by example, against the floor's scores in the order in which they are looked at.

    Plain floats in a fixed order: the same scores give the same decision on every machine and Python.
    """

    __slots__ = ("_alpha", "_floors", "_known", "_left", "_missing", "_smallest", "_wealth")

    def __init__(self, floors: Sequence[float], alpha: float) -> None:
        self._floors = floors
        self._alpha = alpha
        self._left = len(floors)
        self._known = self._missing = math.fsum(floors)
        self._smallest = 1 / max(self._left, 1)
        self._wealth = [1.0] * (len(SHARES) * len(STAKES))

    @property
    def wealth(self) -> float:
        """What a bet of 1 against the claim has become."""
        total = 0.0
        for part in self._wealth:  # not sum(), which rounds in another way from Python 3.12 on
            total += part
        return total / len(self._wealth)

    def lost(self, score: float) -> bool:
        """Whether the candidate is to be stopped after this score on the next example."""
        floor = self._floors[-self._left]
        needed, known = self._missing / self._left, self._known / self._left
        wealth = iter(self._wealth)
        grown = []
        for share in SHARES:
            # The loss is at most `most`, so that a stake of any part of 1 / most leaves something.
            most = max(1 - needed + share * known, self._smallest)
            loss = ((score - needed) - share * (floor - known)) / most
            grown += [next(wealth) * (1 - stake * loss) for stake in STAKES]
        self._wealth = grown
        self._left -= 1
        self._known -= floor
        self._missing -= score
        if not self._left:
            return False  # all is known, and nothing is left to save
        return self._missing > self._left + _ROUNDING or self.wealth * self._alpha >= 1


class Race:
    """Which examples one candidate needs, given which have ended; ``order`` holds places in ``examples``.

    Only the scores of the contiguous finished part of the order decide, so ``stopped`` (after how many examples, or
    None) is a function of scores alone, whatever ended first.
    """

    def __init__(self, floor: Floor, examples: Sequence[int], instruction: str) -> None:
        # Each candidate has an order of its own. What is proposed depends on what was stopped before, and so on the
        # orders drawn for that; a fresh order is independent of it, and the error is bounded for any proposer.
        self.order = list(range(len(examples)))
        Random(f"{floor.seed}:race:{instruction!a}").shuffle(self.order)
        self.stopped: int | None = None
        self._ended: list[float | None] = [None] * len(examples)
        self._prefix = 0
        # An example that the floor lacks is taken as a miss of the floor, in favour of the candidate.
        self._bet = Bet([floor.scores.get(examples[place], 0.0) for place in self.order], floor.alpha)

    def end(self, turn: int, score: float | None) -> None:
        """Take the score of the example whose turn this is, in any order; None where there is no score.

        What has no score counts as right, the best for the candidate: a failed call must not stop anybody.
        """
        if score is not None and not 0 <= score <= 1:
            raise ConfigError(f"an example has the score {score!r}; racing needs scores in [0, 1], so turn it off")
        self._ended[turn] = 1.0 if score is None else score
        while self.stopped is None and self._prefix < len(self._ended):
            value = self._ended[self._prefix]
            if value is None:
                return
            self._prefix += 1
            if self._bet.lost(value):
                self.stopped = self._prefix

    def horizon(self) -> int:
        """How many turns will be looked at in any case: until the candidate is stopped if all that is open misses."""
        bet = copy(self._bet)
        for turn in range(self._prefix, len(self._ended)):
            value = self._ended[turn]
            if bet.lost(0.0 if value is None else value):
                return turn + 1
        return len(self._ended)
