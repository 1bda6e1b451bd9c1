"""What happens, as values, and who may watch: observers read events and can never hurt a run."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from asyncopt.values import Completion, Request

_log = logging.getLogger("asyncopt")
_FAILURES_FORGIVEN = 3


@dataclass(frozen=True, slots=True)
class CallEnded:
    """One call has its final answer. ``outcome`` is "completed" or a fault kind; times are in seconds.

    ``service`` and ``usd`` are of the last attempt; the latter is 0 where the model has no price. ``server`` is the
    endpoint's base URL, or its identity where it has none. A failed call has no ``completion``.
    """

    model: str
    outcome: str
    attempts: int
    queued: float
    service: float
    input_tokens: int
    output_tokens: int
    server: str = ""
    usd: float = 0.0
    request: Request | None = field(default=None, repr=False, compare=False)
    completion: Completion | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """One attempt failed; ``retry_in`` is None if it was the last."""

    model: str
    kind: str
    detail: str
    retry_in: float | None


@dataclass(frozen=True, slots=True)
class CacheDegraded:
    """The persistent cache cannot be used as asked; the run goes on without it."""

    reason: str


@dataclass(frozen=True, slots=True)
class LimitChanged:
    """The engine has changed what it lets through: ``what`` is "concurrency", "gate", or a dimension of the quota.

    ``value`` is calls in flight, seconds that the gate stays closed, or permits a second; None is no limit.
    """

    scope: str
    what: str
    value: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class Utilisation:
    """What an endpoint's dispatcher is doing: ``limiting`` says why not more calls are in flight."""

    scope: str
    limiting: str
    in_flight: int
    concurrency: int
    queued: int


@dataclass(frozen=True, slots=True)
class StudyStarted:
    """A study begins, or goes on from ``step``."""

    task: str
    optimizer: str
    step: int
    steps: int


@dataclass(frozen=True, slots=True)
class CandidateScored:
    """A candidate has its score on the training examples; ``score`` is None if not one example could be scored.

    ``stopped`` says after how many examples it lost its race; a ``provisional`` score rests on a quorum of them. A
    ``partial`` one lacks examples that ended without a score, and is compared on those that it has.
    """

    step: int
    index: int
    candidate: str
    score: float | None
    examples: int
    source: str
    stopped: int | None = None
    provisional: bool = False
    partial: bool = False


@dataclass(frozen=True, slots=True)
class ExampleEnded:
    """One example of a candidate has its outcome; a failure says its class, as ``failed:transient``.

    ``example`` is its number in the ``fold`` of the task.
    """

    outcome: str
    candidate: str
    example: int
    fold: str


@dataclass(frozen=True, slots=True)
class StepFinished:
    """A step's candidates are all decided."""

    step: int
    steps: int
    best: str
    best_score: float | None


@dataclass(frozen=True, slots=True)
class StepValidated:
    """Candidates of a step have their scores on the validation examples; ``score`` is the best of all so far."""

    step: int
    candidates: int
    best: str
    score: float | None


@dataclass(frozen=True, slots=True)
class Note:
    """Something worth a line for people."""

    text: str


@dataclass(frozen=True, slots=True)
class StudyFinished:
    """A study's result, as in ``result.json``."""

    result: dict[str, Any]


@dataclass(frozen=True, slots=True)
class StudyStopped:
    """A study ended without a result; ``error`` is the name of what was raised, such as BudgetExhausted."""

    error: str


Event: TypeAlias = (
    CallEnded
    | AttemptFailed
    | CacheDegraded
    | LimitChanged
    | Utilisation
    | StudyStarted
    | CandidateScored
    | ExampleEnded
    | StepFinished
    | StepValidated
    | Note
    | StudyFinished
    | StudyStopped
)


class Observer(Protocol):
    """Something that watches. One that raises is ignored, and off after three times.

    Called on the loop, where nothing can stop it: it must return at once. While one blocks, no call is sent and no
    answer is read; the run goes on behind it, and says how long the loop stood still. What takes time belongs into a
    thread that is fed from here.
    """

    def notify(self, event: Event) -> None:
        """Take note of what has happened; nothing that is returned or raised changes it."""
        ...


class Events:
    """Passes events on to observers; one that raises three times is no longer asked."""

    __slots__ = ("_failures", "_observers")

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        self._observers = list(observers)
        self._failures: dict[int, int] = {}

    def __bool__(self) -> bool:
        """Whether anyone watches; on the path of every call nothing is built for nobody."""
        return bool(self._observers)

    def add(self, observer: Observer) -> None:
        self._observers.append(observer)

    def remove(self, observer: Observer) -> None:
        if observer in self._observers:
            self._observers.remove(observer)

    def emit(self, event: Event) -> None:
        for observer in tuple(self._observers):
            try:
                observer.notify(event)
            except Exception as error:  # whatever an observer does, the run goes on
                self._count_failure(observer, error)

    def _count_failure(self, observer: Observer, error: Exception) -> None:
        failures = self._failures[id(observer)] = self._failures.get(id(observer), 0) + 1
        if failures >= _FAILURES_FORGIVEN:
            self.remove(observer)
            _log.warning(
                "observer %s failed %d times (%s) and is off", type(observer).__name__, failures, type(error).__name__
            )
