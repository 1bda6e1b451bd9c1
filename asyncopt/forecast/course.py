"""A possible course of a run: how many calls of which kind come after each other, with their tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from asyncopt.forecast.clock import Clock, Kind


@dataclass(slots=True)
class Tokens:
    """Calls of one role, and what they take."""

    calls: float = 0.0
    sent: float = 0.0
    received: float = 0.0

    def add(self, calls: float, sent: float, received: float) -> None:
        """Count so many calls, each with so many tokens sent and received."""
        self.calls += calls
        self.sent += calls * sent
        self.received += calls * received


@dataclass(slots=True)
class Spent:
    """What both roles take."""

    scorer: Tokens = field(default_factory=Tokens)
    proposer: Tokens = field(default_factory=Tokens)

    @property
    def calls(self) -> float:
        return self.scorer.calls + self.proposer.calls


@dataclass(frozen=True, slots=True)
class Kinds:
    """The calls of the two roles on the clock."""

    scoring: Kind
    proposing: Kind


class Course(Protocol):
    """One possible course."""

    @property
    def spent(self) -> Spent:
        """What it takes in all."""
        ...

    @property
    def steps(self) -> int:
        """How many steps it has."""
        ...

    @property
    def links(self) -> int:
        """How many calls follow on the first one of an answer."""
        ...

    @property
    def step_calls(self) -> float:
        """Calls of a step, in the mean."""
        ...

    def play(self, clock: Clock, kinds: Kinds, steps: int, ended: Callable[[], None]) -> None:
        """Begin the first so many steps on the clock; ``ended`` is called at the start's end and each step's."""
        ...

    def tests(self) -> list[int]:
        """Calls of each candidate that is measured after the search."""
        ...
