"""A possible course of a network's training on the clock: what waits for what (``optimizers/dln``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from asyncopt.forecast.clock import Clock
from asyncopt.forecast.course import Kinds, Spent


@dataclass(frozen=True, slots=True)
class Stage:
    """Calls that are asked for together when the stages of these numbers have ended; ``links`` follow on each.

    ``first`` ones go before those that score candidates. A stage without calls is where others meet.
    """

    after: tuple[int, ...]
    scored: int = 0
    proposed: int = 0
    links: int = 0
    first: bool = False

    @property
    def calls(self) -> int:
        return self.proposed + self.scored * (1 + self.links)


@dataclass(slots=True)
class Iteration:
    """How prompts are improved, then those ``validated`` beside the ``forward`` pass: examples, each with its layers.

    The stages are those of ``optimizers/dln``: an example's hidden texts are weighed when its own are there, and a
    candidate is scored when its own proposal is.
    """

    stages: list[Stage] = field(default_factory=list)
    forward: int = 0
    validated: int = 0

    def add(self, *after: int, scored: float = 0, proposed: int = 0, links: int = 0, first: bool = False) -> int:
        """Add a stage, and return its number."""
        self.stages.append(Stage(after, round(scored), proposed, links, first))
        return len(self.stages) - 1


@dataclass(slots=True)
class Network:
    """A course: what comes before the first iteration, then the iterations. ``links`` are layers after the first."""

    iterations: list[Iteration]
    waits: bool  # for its validation, before the next iteration
    links: int
    tested: list[int] = field(default_factory=list)
    spent: Spent = field(default_factory=Spent)

    @property
    def steps(self) -> int:
        return len(self.iterations) - 1

    @property
    def step_calls(self) -> float:
        later = self.iterations[1:]
        examples = sum(one.forward + one.validated for one in later)
        calls = sum(stage.calls for one in later for stage in one.stages) + examples * (1 + self.links)
        return calls / max(len(later), 1)

    def tests(self) -> list[int]:
        return self.tested

    def play(self, clock: Clock, kinds: Kinds, steps: int, ended: Callable[[], None]) -> None:
        _Play(self, clock, kinds, steps, ended).begin()


class _Play:
    def __init__(self, course: Network, clock: Clock, kinds: Kinds, steps: int, ended: Callable[[], None]) -> None:
        self._course, self._clock, self._kinds, self._tell = course, clock, kinds, ended
        self._left = course.iterations[: steps + 1]
        self._present = Iteration()
        self._awaited: list[int] = []  # by stage: how many of those before it have not ended
        self._open = 0  # stages that have not ended
        self._forward = False
        self._validating = 0

    def begin(self) -> None:
        """Begin the next iteration, if it may."""
        if self._forward or self._open or not self._left or (self._validating and self._course.waits):
            return
        self._present = self._left.pop(0)
        stages = self._present.stages
        self._awaited = [len(stage.after) for stage in stages]
        self._open = len(stages) + 1
        for number, stage in enumerate(stages):
            if not stage.after:
                self._ask(number, stage)
        self._close()

    def _ask(self, number: int, stage: Stage) -> None:
        kind = self._kinds.proposing if stage.proposed else self._kinds.scoring
        size = stage.proposed or stage.scored
        self._clock.ask(kind, size, lambda: self._ended(number), links=stage.links, first=stage.first)

    def _ended(self, number: int) -> None:
        for later, stage in enumerate(self._present.stages):
            if number in stage.after:
                self._awaited[later] -= 1
                if not self._awaited[later]:
                    self._ask(later, stage)
        self._close()

    def _close(self) -> None:
        """One stage less; after the last of them the prompts of the iteration are known."""
        self._open -= 1
        if self._open:
            return
        links, scoring = self._course.links, self._kinds.scoring
        self._forward = True
        if self._present.validated:
            self._validating += 1
            self._clock.ask(scoring, self._present.validated, self._settled, links=links)
        self._clock.ask(scoring, self._present.forward, self._passed, links=links, first=True)

    def _passed(self) -> None:
        self._forward = False
        self._tell()
        self.begin()

    def _settled(self) -> None:
        self._validating -= 1
        self.begin()
