"""The figures of a running study, gathered from its events, its account and its engine."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from asyncopt.engine import Engine
from asyncopt.events import AttemptFailed, CandidateScored, Event, StepFinished, StudyStarted
from asyncopt.study import Study
from asyncopt.tasks.task import Task

RATE_SECONDS = 1.0  # calls a second are those of at least the last so many seconds
_THROTTLED = ("rate_limited", "ramp")


@dataclass
class Figures:
    """One look at a study: counts since its start, ``calls_per_second`` lately, ``eta`` in seconds."""

    step: int
    steps: int
    best_score: float | None
    best: str
    initial_score: float | None
    calls: int
    cache_hits: int
    calls_per_second: float
    in_flight: int
    concurrency: int
    queued: int
    throttled: int
    failed_attempts: int
    usd: float
    seconds: float
    eta: float | None


class Status:
    """Keeps what the events tell, and reads the rest when it is looked at."""

    def __init__(self) -> None:
        self.task = self.optimizer = self.best = ""
        self.step = self.steps = self._first_step = 0
        self.best_score: float | None = None
        self.initial_score: float | None = None
        self.throttled = self.failed_attempts = 0
        self._study: Study | None = None
        self._engine: Engine | None = None
        self._began = self._last_time = self._first_step_at = 0.0
        self._last_calls = 0
        self._rate = 0.0

    def watch(self, study: Study, engine: Engine) -> None:
        self._study, self._engine = study, engine
        self._began = self._last_time = asyncio.get_running_loop().time()

    def see(self, event: Event) -> None:
        if isinstance(event, StudyStarted):
            self.task, self.optimizer = event.task, event.optimizer
            self.step = self._first_step = event.step
            self.steps = event.steps
        elif isinstance(event, CandidateScored) and event.step < 0 and event.score is not None:
            better = max if self._study is None or isinstance(self._study.task, Task) else min
            known = self.initial_score
            self.initial_score = event.score if known is None else better(known, event.score)
        elif isinstance(event, StepFinished):
            self.step, self.best, self.best_score = event.step + 1, event.best, event.best_score
        elif isinstance(event, AttemptFailed):
            self.throttled += event.kind in _THROTTLED
            self.failed_attempts += event.kind not in _THROTTLED

    def look(self) -> Figures:
        now = asyncio.get_running_loop().time()
        account = None if self._study is None else self._study.account
        calls = 0 if account is None else account.calls
        elapsed = now - self._last_time
        if elapsed >= RATE_SECONDS:
            self._rate = (calls - self._last_calls) / elapsed
            self._last_time, self._last_calls = now, calls
        dispatchers = () if self._engine is None else self._engine.dispatchers
        return Figures(
            step=self.step,
            steps=self.steps,
            best_score=self.best_score,
            best=self.best,
            initial_score=self.initial_score,
            calls=calls,
            cache_hits=0 if account is None else account.hits,
            calls_per_second=self._rate,
            in_flight=sum(dispatcher.in_flight for dispatcher in dispatchers),
            concurrency=sum(dispatcher.slots.limit for dispatcher in dispatchers),
            queued=sum(dispatcher.queued for dispatcher in dispatchers),
            throttled=self.throttled,
            failed_attempts=self.failed_attempts,
            usd=0.0 if account is None else account.usd,
            seconds=now - self._began,
            eta=self._eta(now),
        )

    def _eta(self, now: float) -> float | None:
        done = self.step - self._first_step
        return (now - self._began) / done * (self.steps - self.step) if done > 0 else None


def launch_line(study: Study, place: Any) -> dict[str, Any]:
    """What is known before the first call."""
    return {"event": "launch", "directory": str(place), **study.subject()}
