"""What may be true of models and proposals, given a pilot: one draw of everything that a run depends on.

A draw is one world that the pilot leaves possible. A run is played in many of them, and the spread of what it comes to
is the interval. Where there was no pilot the draws come from typical values, and are wide.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import cycle
from typing import TYPE_CHECKING

from asyncopt.forecast.pilot import Answered, Pilot
from asyncopt.forecast.prompts import Sort

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.random import Generator as Random

_SECONDS, _SECONDS_SPREAD = 1.5, 0.8  # median latency of a hosted model, and the log-sd between models
_SPREAD = (0.25, 0.9)  # log-sd of one model's latencies, where none was seen
_OUTLYING = 4.0  # log-sds above the median from which a latency belongs to the tail
_TAILED = 0.5  # of models have a tail: some calls that are much slower than the others
_TAIL_SHARES = (
    (0.9, 60.0),
    (0.1, 3.0),
)  # how likely, and b of Beta(1, b): their share of the calls where there are any
_TAIL_FACTOR = (3.0, 30.0)
_AS_SEEN = 0.25  # of the worlds have the pilot's own latencies, which need not be log-normal
_ENOUGH_SEEN = 16
_LATENCIES = 2048
_REPEATED = (0.3, 15.0)  # Beta: share of proposals that an earlier step has tried
_REPEATED_BY_TWINS = (0.35, 6.0)  # where the pilot's proposals had twins
_USABLE = (0.5, 12.0)  # Beta, beside what the pilot saw: of no use, of use
_SHORT = 4.0  # tokens of the shortest usual answer
_ANSWERS_SPREAD = 0.15  # log-sd of the length of answers under other instructions
_PROMPTS_SPREAD = 0.03  # log-sd of the length of prompts, beside that of their instructions
# Exponent of the length of instructions over the steps, mean and sd: of long ones, and by how much more of short ones,
# which have nowhere to go but up.
_GROWTH, _GROWTH_OF_SHORT = (0.1, 0.2), (0.6, 0.2)
_MIDDLING = 6.0  # tokens of an instruction that is neither
_REFUSED = 0.015  # of calls at most, where the pilot met no refusal; half of those in a pilot are met at its start
_FAILING = 0.8  # of servers fail some attempts
_LOST_SHARES = ((1.0, 10.0),)  # their share on those that do, as above
_PAUSES_SPREAD = 0.8  # log-sd of the pause that a failure costs
_KINDS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 512, 1 << 30)


@dataclass(frozen=True, slots=True)
class Length:
    """Tokens that a server counts for each estimated of a prompt, and tokens of an answer in the mean."""

    ratio: float
    received: float


@dataclass(frozen=True, slots=True)
class Belief:
    """One draw. ``distinct`` is among how many different proposals a step's samples are drawn, and
    ``distinct_hidden`` the hidden texts of an example.

    ``repeated`` and ``unusable`` are shares of proposals; ``instruction`` are tokens of one in the first step, times
    (1 + step / 5) to the power of ``growth`` later. Answers have ``scored`` and ``proposed`` tokens in the mean, and
    prompts ``scoring_ratio`` and ``proposing_ratio`` times as many as estimated; ``lengths`` are those of each sort of
    call that the pilot made. ``pace`` is from 0 to 1, how much of a quota comes out; of calls under a quota that
    nobody stated a share ``refused`` is made again. Of all attempts a share ``lost`` fails and is made again, and each
    of these stops the work for ``pause`` seconds.
    """

    scoring_seconds: Sequence[float]
    proposing_seconds: Sequence[float]
    distinct: int
    distinct_hidden: int
    repeated: float
    unusable: float
    instruction: float
    growth: float
    scored: float
    proposed: float
    scoring_ratio: float
    proposing_ratio: float
    accuracy: float
    refunds: bool
    pace: float
    refused: float
    lost: float
    pause: float
    lengths: Mapping[Sort, Length]
    draws: Random = field(repr=False)

    def instruction_at(self, step: int) -> float:
        """Tokens of an instruction that this step proposes."""
        return self.instruction * float((1 + max(step, 0) / 5) ** self.growth)

    def endless(self, seconds: Sequence[float]) -> Iterator[float]:
        """The latencies again and again, from a random place on."""
        start = int(self.draws.integers(len(seconds)))
        return cycle([*seconds[start:], *seconds[:start]])


def believe(pilot: Pilot, draws: Random, *, scored_at_most: int, proposed_at_most: int) -> Belief:
    """One draw; the limits are the ``max_tokens`` of answers and of proposals, for where no answer was seen."""
    scoring, proposals, texts = pilot.scoring, pilot.proposals, pilot.texts
    usable = [text for text in texts if text is not None]
    right = sum(sum(row) / len(row) for row in pilot.scores)
    instruction = _instruction(draws, usable)
    return Belief(
        _latencies(draws, scoring.seconds or proposals.seconds, ()),
        _latencies(draws, proposals.seconds, scoring.seconds),
        _distinct(draws, usable),
        _distinct(draws, usable if draws.random() < 0.5 else ()),
        float(draws.beta(*(_REPEATED if len(set(usable)) == len(usable) else _REPEATED_BY_TWINS))),
        float(draws.beta(_USABLE[0] + len(texts) - len(usable), _USABLE[1] + len(usable))),
        instruction,
        _growth(draws, instruction),
        length_of(draws, scoring.received, scored_at_most),
        length_of(draws, proposals.received, proposed_at_most),
        _ratio(draws, scoring),
        _ratio(draws, proposals if proposals.sent else scoring),
        float(draws.beta(1 + right, 1 + len(pilot.scores) - right)),
        bool(draws.random() < 0.5),
        float(draws.uniform(0.0, 1.0)),
        _refused(draws, pilot),
        _lost(draws, pilot),
        _pause(draws, pilot),
        {
            sort: Length(_ratio(draws, one.only(sort)), length_of(draws, one.only(sort).received, 0))
            for one in (scoring, proposals)
            for sort in dict.fromkeys(one.sorts)
        },
        draws,
    )


def _refused(draws: Random, pilot: Pilot) -> float:
    """The share of calls that is refused; where the pilot met no refusal, there may be none."""
    most = max(_REFUSED, pilot.throttled / max(pilot.attempts, 1) / 2)
    return max(float(draws.uniform(0.0 if pilot.throttled else -most / 2, most)), 0.0)


def _lost(draws: Random, pilot: Pilot) -> float:
    """The share of attempts that fails; of one in twenty, a pilot of forty sees none in one case of eight."""
    if not pilot.attempts:
        return 0.0
    return _share(draws, pilot.retried, max(pilot.attempts - pilot.retried, 0), _FAILING, _LOST_SHARES)


def _pause(draws: Random, pilot: Pilot) -> float:
    """Seconds that the work stands still for each attempt that failed, as in the pilot."""
    if not pilot.retried:
        return 0.0
    return pilot.paused / (pilot.retried + pilot.throttled) * math.exp(_PAUSES_SPREAD * float(draws.normal()))


def _latencies(draws: Random, own: Sequence[float], others: Sequence[float]) -> list[float]:
    """Latencies of one model: log-normal as those that were seen, and a tail that may not have been seen."""
    import numpy as np

    usual, slow = _parted(own)
    spread, freedom = _spread(usual, _parted(others)[0])
    if usual:
        if spread > 0.0:
            spread *= math.sqrt(freedom / draws.chisquare(freedom))
        centre = float(np.mean(np.log(usual))) + spread * draws.normal() / math.sqrt(len(usual))
    else:
        seen = float(np.mean(np.log(others))) if others else math.log(_SECONDS)
        centre, spread = seen + _SECONDS_SPREAD * draws.normal(), spread or float(draws.uniform(*_SPREAD))
    other_usual, other_slow = _parted(others)
    share = _tail_share(draws, len(slow) + len(other_slow), len(usual) + len(other_usual))
    least, most = (math.log(factor) for factor in _TAIL_FACTOR)
    factor = math.exp(draws.uniform(least, most))
    if slow:
        factor = float(np.mean(np.log(slow))) - centre
        factor = math.exp(factor + 0.4 * draws.normal() / math.sqrt(len(slow)))
    if len(own) >= _ENOUGH_SEEN and draws.random() < _AS_SEEN:
        seconds = draws.choice(draws.choice(own, len(own)), _LATENCIES)
        share = 0.0 if slow else share
    else:
        seconds = np.exp(centre + spread * draws.standard_normal(_LATENCIES))
    seconds[draws.random(_LATENCIES) < share] *= factor
    found: list[float] = seconds.tolist()
    return found


def _tail_share(draws: Random, slow: int, usual: int) -> float:
    """The share of slow calls, 0.0 where there is no tail: the fewer were seen, the likelier."""
    return _share(draws, slow, usual, _TAILED, _TAIL_SHARES)


def _share(draws: Random, seen: int, others: int, existing: float, before: Sequence[tuple[float, float]]) -> float:
    """The share of a sort of calls of which so many were seen beside others.

    It is 0.0 where there are none of the sort, as on all but ``existing`` of the servers: the fewer calls were seen,
    the likelier is that there are some. ``before`` are distributions of the share where there are: Beta(1, b).
    """
    # The chance of what was seen, in one order: b B(1 + seen, b + others).
    chances = [
        math.log(b) + math.lgamma(1 + seen) + math.lgamma(b + others) - math.lgamma(1 + b + seen + others)
        for _, b in before
    ]
    most = max(chances) if seen else 0.0  # of many calls every chance is too small for a number
    weights = [existing * weight * math.exp(chance - most) for (weight, _), chance in zip(before, chances, strict=True)]
    weights.append(0.0 if seen else 1 - existing)
    chosen = int(draws.choice(len(weights), p=[weight / sum(weights) for weight in weights]))
    return float(draws.beta(1 + seen, before[chosen][1] + others)) if chosen < len(before) else 0.0


def _parted(seconds: Sequence[float]) -> tuple[list[float], list[float]]:
    """The usual latencies, and those of the tail."""
    import numpy as np

    positive = sorted(max(value, 1e-6) for value in seconds)
    if len(positive) < 4:
        return positive, []
    logs = np.log(positive)
    low, middle, high = (float(value) for value in np.quantile(logs, (0.25, 0.5, 0.75)))
    limit = math.exp(middle + max(_OUTLYING * (high - low) / 1.349, math.log(1.5)))
    return [value for value in positive if value <= limit], [value for value in positive if value > limit]


def _spread(own: Sequence[float], others: Sequence[float]) -> tuple[float, int]:
    """The log-sd within both groups, and its degrees of freedom."""
    import numpy as np

    groups = [np.log(group) for group in (own, others) if len(group) > 1]
    freedom = sum(len(group) - 1 for group in groups)
    if not freedom:
        return 0.0, 1
    return math.sqrt(sum(float(((group - group.mean()) ** 2).sum()) for group in groups) / freedom), freedom


def _distinct(draws: Random, texts: Sequence[str]) -> int:
    """Among how many different proposals a step draws, by how many of the pilot's were different."""
    weights = [_chance(len(texts), len(set(texts)), kinds) for kinds in _KINDS]
    weights[-1] *= 4.0  # most models hardly ever repeat themselves within a step
    total = sum(weights)
    return int(draws.choice(_KINDS, p=[weight / total for weight in weights]))


@lru_cache(maxsize=256)
def _chance(drawn: int, different: int, kinds: int) -> float:
    """The probability of so many different ones among ``drawn`` uniform draws from ``kinds`` (occupancy)."""
    chances = {0: 1.0}
    for _ in range(drawn):
        later: dict[int, float] = {}
        for seen, chance in chances.items():
            later[seen] = later.get(seen, 0.0) + chance * seen / kinds
            later[seen + 1] = later.get(seen + 1, 0.0) + chance * max(kinds - seen, 0) / kinds
        chances = later
    return chances.get(different, 0.0)


def _instruction(draws: Random, texts: Sequence[str]) -> float:
    """Tokens of an instruction in the first step, by the usual ratio of bytes."""
    lengths = [len(text.encode("utf-8", "replace")) / 4 for text in texts]
    if not lengths:
        return float(40.0 * math.exp(0.5 * draws.normal()))
    return max(float(draws.choice(lengths, len(lengths)).mean()), 1.0)


def _growth(draws: Random, instruction: float) -> float:
    """The exponent with which instructions grow that have so many tokens in the first step."""
    short = 1 / (1 + (instruction / _MIDDLING) ** 2)
    mean, sd = (long + short * more for long, more in zip(_GROWTH, _GROWTH_OF_SHORT, strict=True))
    return float(draws.normal(mean, sd))


def length_of(draws: Random, received: Sequence[int], most: int) -> float:
    """Mean tokens of answers: a bootstrap of those that were seen, or some part of the most."""
    if not received:
        return float(min(math.exp(draws.uniform(math.log(_SHORT), math.log(max(most, _SHORT)))), most))
    return float(draws.choice(received, len(received)).mean() * math.exp(_ANSWERS_SPREAD * draws.normal()))


def _ratio(draws: Random, answered: Answered) -> float:
    """Tokens that the server counts, for each estimated."""
    if not answered.sent or not sum(answered.estimated):
        return float(math.exp(0.15 * draws.normal()))
    return float(sum(answered.sent) / sum(answered.estimated) * math.exp(_PROMPTS_SPREAD * draws.normal()))
