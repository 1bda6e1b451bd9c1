"""A possible course of a search in steps on the clock: the loop of ``optimizers/steps.py`` without its contents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil

from asyncopt.evaluation import AHEAD
from asyncopt.forecast.clock import Clock
from asyncopt.forecast.course import Kinds, Spent
from asyncopt.optimizers.overlap import START, Overlap


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of a step: how often it is asked for, and on how many examples it is scored, 0 for a known one.

    ``used`` is what it takes of the search's scoring calls.
    """

    asked: int
    scored: int
    used: int


@dataclass(frozen=True, slots=True)
class Allowance:
    """How many samples a step may have, when so many scoring calls are used; ``examples`` are those of a candidate."""

    samples: int
    examples: int
    limit: int | None

    def after(self, used: int) -> int:
        """What ``scoring_calls`` still covers, and without such a limit a step's samples."""
        return self.samples if self.limit is None else max(self.limit - used, 0) // max(self.examples, 1)


@dataclass(slots=True)
class Steps:
    """A course: the starting points, the samples of each step, and the candidates validated after it."""

    options: Overlap
    links: int
    start: list[int]
    budget: Allowance
    again: int  # calls of the scorer before each request for a proposal
    samples: list[list[Sample]] = field(default_factory=list)
    validated: list[int] = field(default_factory=list)  # calls, after the start and after each step
    tested: list[int] = field(default_factory=list)
    spent: Spent = field(default_factory=Spent)

    @property
    def steps(self) -> int:
        return len(self.samples)

    @property
    def step_calls(self) -> float:
        each = 1 + self.links
        calls = sum(
            sample.asked * (1 + self.again * each) + sample.scored * each for step in self.samples for sample in step
        )
        return (calls + sum(self.validated)) / max(self.steps, 1)

    def tests(self) -> list[int]:
        return self.tested

    def play(self, clock: Clock, kinds: Kinds, steps: int, ended: Callable[[], None]) -> None:
        _Play(self, clock, kinds, steps, ended).advance()


class _Play:
    """The loop of ``optimizers/steps.py`` without its contents."""

    def __init__(self, course: Steps, clock: Clock, kinds: Kinds, steps: int, ended: Callable[[], None]) -> None:
        self._course, self._clock, self._kinds = course, clock, kinds
        self._steps, self._tell = steps, ended
        self._next = START
        self._undecided: dict[int, int] = {}
        self._used = len(course.start) * course.budget.examples
        self._validating = False
        self._busy = False

    def advance(self) -> None:
        """Make every decision that can be made now."""
        if self._busy:  # a decision is being made, which goes on afterwards
            return
        self._busy = True
        while self._finish() or self._begin():
            pass
        self._busy = False

    def _finish(self) -> bool:
        earliest = min(self._undecided, default=None)
        if earliest is None or self._undecided[earliest] or self._validating:
            return False
        del self._undecided[earliest]
        self._tell()
        calls = self._course.validated[earliest + 1]
        if calls:
            self._validating = True
            self._clock.ask(self._kinds.scoring, calls, self._validated, links=self._course.links)
        return True

    def _validated(self) -> None:
        self._validating = False
        self.advance()

    def _begin(self) -> bool:
        lag = self._course.options.lag
        started = self._next == START or START not in self._undecided
        undecided = sum(self._undecided.values())
        may = started and (lag > 0 or not self._undecided) and undecided <= lag
        if self._next >= self._steps or not may or self._scarce(undecided):
            return False
        step, self._next = self._next, self._next + 1
        if step == START:
            self._undecided[step] = len(self._course.start)
            for calls in self._course.start:
                self._score(step, calls)
        else:
            self._undecided[step] = len(self._course.samples[step])
            for sample in self._course.samples[step]:
                self._propose(step, sample)
        return True

    def _scarce(self, undecided: int) -> bool:
        """Whether the next step waits for what the candidates under way take of the scoring calls."""
        budget = self._course.budget
        return undecided > 0 and budget.limit is not None and budget.after(self._used) < budget.samples + undecided

    def _propose(self, step: int, sample: Sample) -> None:
        """Ask for what the request shows, then for the proposal, then for its score."""
        if not sample.asked:
            self._decide(step)
        elif self._course.again:
            calls, links = self._course.again, self._course.links
            self._clock.ask(self._kinds.scoring, calls, lambda: self._request(step, sample), links=links, first=True)
        else:
            self._request(step, sample)

    def _request(self, step: int, sample: Sample) -> None:
        def proposed() -> None:
            if sample.scored:
                self._score(step, sample.scored, sample.used)
            else:
                self._decide(step)

        self._clock.ask(self._kinds.proposing, 1, proposed, links=sample.asked - 1, first=True)

    def _score(self, step: int, calls: int, used: int = 0) -> None:
        options = self._course.options
        race = options.racing is not None and step != START
        due = calls if options.quorum is None or step == START else ceil(options.quorum * calls)
        if due == calls:
            window = 2 * AHEAD if race else 0
            self._clock.ask(
                self._kinds.scoring, calls, lambda: self._decide(step, used), links=self._course.links, window=window
            )
            return
        batch = self._clock.ask(self._kinds.scoring, calls, self.advance, links=self._course.links)
        batch.marks[due] = lambda: self._decide(step, used)

    def _decide(self, step: int, used: int = 0) -> None:
        self._undecided[step] -= 1
        self._used += used
        self.advance()
