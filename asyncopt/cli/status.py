"""The figures of a running study, gathered from its events, its account and its engine."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from asyncopt.engine import Engine
from asyncopt.events import AttemptFailed, CandidateScored, Event, ExampleEnded, StepFinished, StudyStarted
from asyncopt.stats import wilson_interval
from asyncopt.study import Study
from asyncopt.tasks.task import Task

RATE_SECONDS = 1.0  # calls a second are those of at least the last so many seconds
_FIRST_SECONDS = 0.2  # before there are as many: of less, a single call would look like a thousand a second
_THROTTLED = ("rate_limited", "ramp")


@dataclass
class Figures:
    """One look at a study: counts since its start, rates lately, ``eta`` in seconds.

    ``low`` and ``high`` are the 95 % interval of a best score that is a share; ``best_only`` is the number of its
    examples where others ended without a score, so that a later best on all of them may be lower. ``scored`` examples
    of the step, or of the ``fold`` after the last one, have ended. ``usd_left`` is what the study's budget still has,
    if it has one.
    """

    step: int
    steps: int
    best_score: float | None
    best: str
    low: float | None
    high: float | None
    best_only: int | None
    initial_score: float | None
    fold: str
    scored: int
    calls: int
    cache_hits: int
    calls_per_second: float
    tokens: int
    tokens_per_second: float
    in_flight: int
    concurrency: int
    queued: int
    throttled: int
    failed_attempts: int
    retries: int
    usd: float
    usd_left: float | None
    seconds: float
    eta: float | None


class Status:
    """Keeps what the events tell, and reads the rest when it is looked at."""

    def __init__(self) -> None:
        self.task = self.optimizer = self.best = ""
        self.step = self.steps = self._first_step = 0
        self.best_score: float | None = None
        self.initial_score: float | None = None
        self.throttled = self.failed_attempts = self.retries = 0
        self.fold, self.scored = "train", 0
        self._scored: dict[str, tuple[int, bool]] = {}  # behind each score: its examples, and whether some are missing
        self._study: Study | None = None
        self._engine: Engine | None = None
        self._began = self._last_time = self._first_step_at = 0.0
        self._last_calls = self._last_tokens = 0
        self._rate = self._token_rate = 0.0

    def watch(self, study: Study, engine: Engine) -> None:
        self._study, self._engine = study, engine
        self._began = self._last_time = asyncio.get_running_loop().time()

    def see(self, event: Event) -> None:
        if isinstance(event, StudyStarted):
            self.task, self.optimizer = event.task, event.optimizer
            self.step = self._first_step = event.step
            self.steps = event.steps
            self._last_calls, self._last_tokens = self._counted()  # what earlier sittings took is no speed of this one
            self._recall()
        elif isinstance(event, CandidateScored) and event.score is not None:
            self._see_score(event, event.score)
        elif isinstance(event, ExampleEnded):
            self.scored = self.scored + 1 if event.fold == self.fold else 1
            self.fold = event.fold
        elif isinstance(event, StepFinished):
            self.step, self.best, self.best_score = event.step + 1, event.best, event.best_score
            self.scored = 0
        elif isinstance(event, AttemptFailed):
            self.throttled += event.kind in _THROTTLED
            self.failed_attempts += event.kind not in _THROTTLED
            self.retries += event.retry_in is not None

    def _recall(self) -> None:
        """Begin with what earlier sittings found."""
        history = None if self._study is None else self._study.history
        for entry in () if history is None else history.entries:
            self._scored[entry.candidate] = entry.examples, entry.partial
            if entry.step < 0 and entry.score is not None:
                self._see_initial(entry.score)
        if history is not None and (best := history.best()) is not None:
            self.best, self.best_score = best.candidate, best.score

    def _see_score(self, event: CandidateScored, score: float) -> None:
        self._scored[event.candidate] = event.examples, event.partial
        if event.step < 0:
            self._see_initial(score)

    def _see_initial(self, score: float) -> None:
        better = max if self._counts_right_answers() else min
        self.initial_score = score if self.initial_score is None else better(self.initial_score, score)

    def _counts_right_answers(self) -> bool:
        return self._study is None or isinstance(self._study.task, Task)

    def _interval(self) -> tuple[float, float] | tuple[None, None]:
        examples, _ = self._scored.get(self.best, (0, False))
        if self.best_score is None or not examples or not self._counts_right_answers():
            return None, None
        return wilson_interval(self.best_score * examples, examples)

    def _only(self) -> int | None:
        """On how many examples the best was scored, where that is only a part of them."""
        examples, partial = self._scored.get(self.best, (0, False))
        return examples if partial else None

    def look(self) -> Figures:
        now = asyncio.get_running_loop().time()
        account = None if self._study is None else self._study.account
        calls, tokens = self._counted()
        elapsed = now - self._last_time
        first = self._last_time == self._began
        if elapsed >= (_FIRST_SECONDS if first else RATE_SECONDS):
            self._rate = (calls - self._last_calls) / elapsed
            self._token_rate = (tokens - self._last_tokens) / elapsed
        if elapsed >= RATE_SECONDS:
            self._last_time, self._last_calls, self._last_tokens = now, calls, tokens
        low, high = self._interval()
        dispatchers = () if self._engine is None else self._engine.dispatchers
        return Figures(
            step=self.step,
            steps=self.steps,
            best_score=self.best_score,
            best=self.best,
            low=low,
            high=high,
            best_only=self._only(),
            initial_score=self.initial_score,
            fold=self.fold,
            scored=self.scored,
            calls=calls,
            cache_hits=0 if account is None else account.hits,
            calls_per_second=self._rate,
            tokens=tokens,
            tokens_per_second=self._token_rate,
            in_flight=sum(dispatcher.in_flight for dispatcher in dispatchers),
            concurrency=sum(dispatcher.slots.limit for dispatcher in dispatchers),
            queued=sum(dispatcher.queued for dispatcher in dispatchers),
            throttled=self.throttled,
            failed_attempts=self.failed_attempts,
            retries=self.retries,
            usd=0.0 if account is None else account.usd,
            usd_left=None if account is None or account.budget.usd is None else account.budget.usd - account.usd,
            seconds=now - self._began,
            eta=self._eta(now),
        )

    def _counted(self) -> tuple[int, int]:
        """Calls and tokens of the study, over all of its sittings."""
        return (0, 0) if self._study is None else (self._study.account.calls, self._study.account.tokens)

    def _eta(self, now: float) -> float | None:
        done = self.step - self._first_step
        return (now - self._began) / done * (self.steps - self.step) if done > 0 else None


def launch_line(study: Study, place: Any) -> dict[str, Any]:
    """What is known before the first call."""
    return {"event": "launch", "directory": str(place), **study.subject()}
