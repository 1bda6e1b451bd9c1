"""What a run will take, with 90 % intervals: possible courses, played on a clock in worlds that the pilot allows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from asyncopt.forecast.asking import asking_of
from asyncopt.forecast.belief import Belief, believe
from asyncopt.forecast.clock import Clock, Kind, Server
from asyncopt.forecast.course import Course, Kinds, Tokens
from asyncopt.forecast.networks import NetworkModel
from asyncopt.forecast.noise import Noise, noise_of, quantile
from asyncopt.forecast.pilot import NO_PILOT, Pilot
from asyncopt.forecast.steps import StepModel
from asyncopt.limits.slots import HOSTED, Slots
from asyncopt.optimizers import DLN1, DLN2
from asyncopt.optimizers.base import AnyTask, Optimizer
from asyncopt.tasks.task import Task
from asyncopt.values import DIMENSIONS, Concurrency, Price, Quota

if TYPE_CHECKING:
    from numpy.random import Generator as Random

DRAWS = 100
LOW, HIGH = 0.05, 0.95
_PLAYED = 1500  # calls of a course that are played on the clock
_FEWEST_STEPS = 4
_NO_TASK_TOKENS = 512
_OF_STATED, _OF_ANNOUNCED = (0.94, 1.01), (0.92, 1.12)
_OF_LEARNED = (0.5, 1.05)  # at the least, as not all of a pilot may have been held up by the rate


@dataclass(frozen=True, slots=True)
class Interval:
    """A median with the 5 % and the 95 % quantile."""

    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        return cls(*(quantile(values, share) for share in (LOW, 0.5, HIGH)))

    def __add__(self, other: Interval) -> Interval:
        """As if both were high together, since what makes one study long makes its neighbour long."""
        return Interval(self.low + other.low, self.middle + other.middle, self.high + other.high)

    def over(self, number: float) -> Interval:
        return Interval(self.low / number, self.middle / number, self.high / number)


@dataclass(frozen=True, slots=True)
class Served:
    """Where a role's model is served: models of one ``place`` share its quota. ``scope`` is the dispatcher's."""

    place: str
    scope: str
    quota: Quota
    price: Price | None


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run will take; ``usd`` is None where a price is not known.

    ``limited`` are shares of the time by what holds the work up in it: concurrency, quota, proposals, or the tail, when
    only stragglers of a step are waited for. ``noise`` is None where solutions have a loss and no examples.
    """

    calls: Interval
    input_tokens: Interval
    output_tokens: Interval
    tokens: Interval
    usd: Interval | None
    seconds: Interval
    limited: Mapping[str, float]
    noise: Noise | None = None
    pilot_calls: int = 0

    @property
    def bound(self) -> str:
        """What holds the run up for most of its time."""
        return max(self.limited, key=lambda name: self.limited[name], default="nothing")


@dataclass(slots=True)
class _Worlds:
    """What was found in each draw."""

    calls: list[float] = field(default_factory=list)
    sent: list[float] = field(default_factory=list)
    received: list[float] = field(default_factory=list)
    usd: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    limited: dict[str, float] = field(default_factory=dict)


def forecast(
    task: AnyTask,
    optimizer: Optimizer,
    served: Mapping[str, Served],
    pilot: Pilot = NO_PILOT,
    *,
    seed: int = 0,
    use_cache: bool = True,
    draws: int = DRAWS,
) -> Forecast:
    """The forecast of a study whose roles are ``served`` so, from ``draws`` possible courses; the same each time.

    Where answers are kept (``use_cache``), those of the pilot are not counted again.
    """
    from numpy.random import default_rng

    random = default_rng(seed)
    model = _model(task, optimizer, pilot.cached if use_cache else 0, keeps=use_cache)
    limits = _limits(task, optimizer)
    worlds = _Worlds()
    for _ in range(draws if served else 1):  # without a model there is nothing to ask and nothing to wait for
        belief = believe(pilot, random, scored_at_most=limits[0], proposed_at_most=limits[1])
        course = model.draw(belief)
        _count(worlds, course, served, 1 + belief.refused * _found_out(served, pilot) + _failures(belief))
        _play(worlds, course, belief, served, pilot, limits)
    total = sum(worlds.limited.values()) or 1.0
    tokens = [sent + received for sent, received in zip(worlds.sent, worlds.received, strict=True)]
    return Forecast(
        Interval.of(worlds.calls),
        Interval.of(worlds.sent),
        Interval.of(worlds.received),
        Interval.of(tokens),
        Interval.of(worlds.usd) if worlds.usd else None,
        Interval.of(worlds.seconds),
        {name: seconds / total for name, seconds in sorted(worlds.limited.items(), key=lambda pair: -pair[1])}
        if total
        else {},
        noise_of(task, pilot) if isinstance(task, Task) else None,
        pilot.calls,
    )


def _model(task: AnyTask, optimizer: Optimizer, cached: int, *, keeps: bool) -> StepModel | NetworkModel:
    if isinstance(optimizer, DLN1 | DLN2):
        assert isinstance(task, Task)
        return NetworkModel(task, optimizer, cached=cached, keeps=keeps)
    return StepModel(task, optimizer, cached=cached, keeps=keeps)


def _limits(task: AnyTask, optimizer: Optimizer) -> tuple[int, int]:
    """The most tokens of an answer and of a proposal."""
    if isinstance(optimizer, DLN1 | DLN2):
        classes = isinstance(task, Task) and task.classes and optimizer.output_scoring == "logprobs"
        return 1 if classes else optimizer.forward_tokens, optimizer.proposal_tokens
    asking = asking_of(task, optimizer)
    scored = task.max_tokens if isinstance(task, Task) else _NO_TASK_TOKENS
    return scored, 1 if asking is None else asking.most


def _found_out(served: Mapping[str, Served], pilot: Pilot) -> bool:
    """Whether some quota has to be found out, by a few refusals."""
    unstated = (
        one.quota.requests_per_minute is None and one.quota.tokens_per_minute is None for one in served.values()
    )
    return any(unstated) or pilot.throttled > 0


def _failures(belief: Belief) -> float:
    """Attempts that fail and are made again, for each call that is answered."""
    return belief.lost / (1 - belief.lost)


def _count(worlds: _Worlds, course: Course, served: Mapping[str, Served], again: float) -> None:
    roles = {"scorer": course.spent.scorer, "proposer": course.spent.proposer}
    worlds.calls.append(course.spent.calls * again)
    worlds.sent.append(sum(one.sent for one in roles.values()))
    worlds.received.append(sum(one.received for one in roles.values()))
    used = {role: tokens for role, tokens in roles.items() if tokens.calls}
    prices = {role: served[role].price if role in served else None for role in used}
    if None not in prices.values():
        worlds.usd.append(sum(_dollars(used[role], price) for role, price in prices.items() if price is not None))


def _dollars(tokens: Tokens, price: Price) -> float:
    return (tokens.sent * price.input + tokens.received * price.output) / 1e6


# -- time --------------------------------------------------------------------------------------------------------------


def _play(
    worlds: _Worlds,
    course: Course,
    belief: Belief,
    served: Mapping[str, Served],
    pilot: Pilot,
    limits: tuple[int, int],
) -> None:
    """Play the course's first steps and add what its time comes to.

    The steps that are left take as long as those played after the first, each with its chance.
    """
    steps = min(course.steps, max(_FEWEST_STEPS, int(_PLAYED / max(course.step_calls, 1.0))))
    servers = _servers(served, pilot, belief)
    kinds = _kinds(course, belief, served, servers, pilot, limits)
    clock = Clock(list(servers.values()))
    ends: list[float] = []
    course.play(clock, kinds, steps, lambda: ends.append(clock.now))
    clock.run()
    searched = clock.now
    if course.steps > steps:
        searched += _rest(ends, course.steps - steps, belief.draws)
    scale = searched / clock.now if clock.now else 1.0
    limited, clock.limited = clock.limited, {}
    begun = clock.now
    _test(clock, kinds, course)
    paused = course.spent.calls * _failures(belief) * belief.pause
    worlds.seconds.append(searched + clock.now - begun + paused)
    if paused:
        clock.limited["pauses"] = paused
    for name in {**limited, **clock.limited}:
        seconds = scale * limited.get(name, 0.0) + clock.limited.get(name, 0.0)
        worlds.limited[name] = worlds.limited.get(name, 0.0) + seconds


def _rest(ends: Sequence[float], steps: int, draws: Random) -> float:
    """Seconds of so many more steps, by the later ones of those that were played."""
    import numpy as np

    spans = np.diff(ends)
    later = spans[len(spans) // 3 :] if len(spans) > 2 else spans
    if not len(later):
        return 0.0
    mean, spread = float(later.mean()), float(later.std())
    return max(steps * mean + spread * math.sqrt(steps) * float(draws.normal()), 0.0)


def _test(clock: Clock, kinds: Kinds, course: Course) -> None:
    for size in course.tests():
        clock.ask(kinds.scoring, size, lambda: None, links=course.links)
        clock.run()


def _servers(served: Mapping[str, Served], pilot: Pilot, belief: Belief) -> dict[str, Server]:
    """A server for each place: with its own places for calls, and paces where rates are stated or known."""
    found: dict[str, Server] = {}
    for one in served.values():
        rates = _rates(one, pilot, belief)
        concurrency = HOSTED if one.quota.concurrency is None else Concurrency.of(one.quota.concurrency)
        slots = Slots(concurrency, careful=all(math.isinf(rate) for rate in rates))
        if pilot.rates.get(one.scope):
            slots.spoke()
        found.setdefault(one.place, Server(slots, rates))
    return found


def _rates(one: Served, pilot: Pilot, belief: Belief) -> list[float]:
    known = pilot.rates.get(one.scope, {})
    rates = []
    for dimension in DIMENSIONS:
        stated = one.quota.per_minute(dimension)
        rate = known.get(dimension) if stated is None else stated / 60
        # A stated rate is the user's word and is kept; an announced one lets a reserve be spent beside it.
        least, most = _OF_STATED if stated is not None else _OF_ANNOUNCED
        granted = pilot.granted.get(one.scope, {}).get(dimension)
        if granted is not None:  # what refusals have taught so far is no more than a hint of it
            rate = known[dimension]
            least, most = min(max(granted / rate, _OF_LEARNED[0]), _OF_STATED[0]), _OF_LEARNED[1]
        rates.append(math.inf if rate is None else rate * (least + belief.pace * (most - least)))
    return rates


def _kinds(
    course: Course,
    belief: Belief,
    served: Mapping[str, Served],
    servers: Mapping[str, Server],
    pilot: Pilot,
    limits: tuple[int, int],
) -> Kinds:
    spent = {"scorer": course.spent.scorer, "proposer": course.spent.proposer}
    seconds = {"scorer": belief.scoring_seconds, "proposer": belief.proposing_seconds}
    kinds = {}
    for role, most in zip(("scorer", "proposer"), limits, strict=True):
        one = served.get(role) or next(iter(served.values()), None)
        if one is None:
            one, server = Served("", "", Quota(), None), Server(Slots(), ())
            permits: tuple[float, ...] = ()
        else:
            server, tokens = servers[one.place], spent[role]
            sent = tokens.sent / tokens.calls if tokens.calls else 0.0
            used = tokens.received / tokens.calls if tokens.calls else 0.0
            refunds = pilot.refunds.get(one.scope)
            received = used if (belief.refunds if refunds is None else refunds) else float(max(most, used))
            permits = (1.0, sent + received, sent, received)
        kinds[role] = Kind(server, permits, belief.endless(seconds[role]), role == "proposer")
    return Kinds(kinds["scorer"], kinds["proposer"])
