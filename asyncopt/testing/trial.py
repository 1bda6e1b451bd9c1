"""One study on a virtual clock, under circumstances that must not decide anything, and all that was seen of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from asyncopt.cache import Cache
from asyncopt.endpoints.llamacpp import LlamaChat
from asyncopt.endpoints.protocol import Answer
from asyncopt.engine import Engine
from asyncopt.events import CallEnded, Event, StepFinished
from asyncopt.files import Disk
from asyncopt.identity import RequestKeys
from asyncopt.limits.budget import UNLIMITED, Budget
from asyncopt.optimizers.base import AnyTask, Optimizer
from asyncopt.result import Result
from asyncopt.study import Study
from asyncopt.tasks.task import Example, Task
from asyncopt.testing.abilities import Abilities
from asyncopt.testing.answers import AnswerModel, items_of
from asyncopt.testing.clock import run_virtual
from asyncopt.testing.faults import FaultPlan, Kind
from asyncopt.testing.inloop import SimulatedEndpoint
from asyncopt.testing.latency import LogNormal
from asyncopt.testing.simulated import SimulatedAPI
from asyncopt.values import Fault, Generate, Quota, Request

LONGEST = 40_000.0  # virtual seconds, after which a study counts as stuck
MOST_REQUESTS = 3_000  # and requests, for one that asks for ever without waiting
_CANCELLING = 60.0  # virtual seconds within which a cancelled study has to end

_EVERYTHING = Abilities(top_logprobs=100, prompt_logprobs="llamacpp", silent_echo=True)


@dataclass(frozen=True)
class Course:
    """What happens to a study: ``seed`` is the study's own, everything else must not decide what it finds.

    ``arrival`` seeds the latencies and the faults, which hit a share of ``faults`` of the requests. ``calls`` is the
    budget, ``stop_at`` the virtual second at which the study is cancelled. The proposer ``says`` this text whatever it
    is asked, or ``loses`` every request by this fault. ``scramble`` seeds Python's global generator, which nobody may
    use.
    """

    seed: int = 0
    arrival: int = 0
    concurrency: int = 64
    faults: float = 0.0
    calls: int | None = None
    stop_at: float | None = None
    says: str | None = None
    loses: Kind | None = None
    scramble: int | None = None

    def __str__(self) -> str:
        """The call that makes it, without what is as usual; long texts are cut."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if getattr(self, one.name) != one.default}
        return f"Course({', '.join(f'{name}={str_of(value)}' for name, value in values.items())})"

    def plan(self, *, proposer: bool) -> FaultPlan | None:
        """What goes wrong at the server of this role."""
        if proposer and self.loses is not None:
            return FaultPlan(after=(0, self.loses))
        return FaultPlan(self.arrival, self.faults) if self.faults else None


@dataclass
class Trial:
    """How a study went: its result or its error (neither where it was cancelled or is ``stuck``), and what was seen.

    ``asked`` are the keys of all requests in their order, ``answered`` of those that got an answer; ``sampled`` are
    the proposer's at a temperature above 0, and ``to_scorer`` what the scorer was asked. ``by_steps`` counts the
    requests until the end of every step. ``left`` names the tasks that lived on when everything was closed.
    """

    course: Course
    study: Study = field(init=False)
    events: list[Event] = field(default_factory=list)
    asked: list[bytes] = field(default_factory=list)
    answered: list[bytes] = field(default_factory=list)
    sampled: set[bytes] = field(default_factory=set)
    to_scorer: dict[bytes, str] = field(default_factory=dict)
    result: Result | None = None
    error: BaseException | None = None
    stuck: str | None = None
    left: Sequence[str] = ()
    by_steps: list[int] = field(default_factory=list)
    too_many: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def history(self) -> list[tuple[Any, ...]]:
        """Step, place, candidate, score, examples and the end of a race of every entry, in their order."""
        entries = self.study.history.entries
        return [(one.step, one.index, one.candidate, one.score, one.examples, one.stopped) for one in entries]

    @property
    def finished_steps(self) -> list[StepFinished]:
        return [event for event in self.events if isinstance(event, StepFinished)]

    @property
    def whole(self) -> bool:
        """Whether no call was given up."""
        return all(event.outcome == "completed" for event in self.events if isinstance(event, CallEnded))

    def notify(self, event: Event) -> None:
        """Keep the event."""
        self.events.append(event)
        if isinstance(event, StepFinished):
            self.by_steps.append(len(self.asked))


def try_out(
    optimizer: Optimizer,
    task: AnyTask,
    course: Course,
    *,
    directory: Path | None = None,
    cache: Cache | None = None,
    replay: Path | None = None,
) -> Trial:
    """The trial of a study on a simulated API, from its beginning or from where its directory ends."""
    before = random.getstate()
    try:
        if course.scramble is not None:
            random.seed(course.scramble)
        return run_virtual(lambda: _Bench(optimizer, task, course).run(cache, directory, replay))
    finally:
        random.setstate(before)


def str_of(value: object) -> str:
    """The value as a short text."""
    if isinstance(value, str) and len(value) > 40:
        return f"{value[:40]!r} and so on for {len(value)} characters"
    return f"{value:.6g}" if isinstance(value, float) else repr(value)


def sums(train: int = 6, held_out: int = 3) -> Task:
    """A small task with examples in all three folds, whose answers the simulated model knows."""
    count = train + 2 * held_out
    examples = tuple(
        Example(number, f"What is {37 * number + 11} plus {number}?", str(38 * number + 11)) for number in range(count)
    )
    return Task(
        "sums",
        "number",
        train=examples[:train],
        validation=examples[train : train + held_out],
        test=examples[train + held_out :],
        initial=("Answer.",),
        max_tokens=64,
    )


class _Unsynced(Disk):
    """A disk that takes no time: what a study that is killed finds there is cut from the journal by the record."""

    def sync(self, file: int) -> None:
        return


class _Parrot(AnswerModel):
    """Says one thing to everybody."""

    def __init__(self, text: str) -> None:
        super().__init__(0)
        self._text = text

    def judged(self, prompt: str, draw: str = "", *, bare: bool = False) -> tuple[str, bool]:
        return self._text, False


class _Recorded(SimulatedEndpoint):
    """Notes every request; a sample is drawn by its seed or else its draw, so that nothing hangs on what came first."""

    def __init__(self, role: str, trial: Trial, answers: AnswerModel) -> None:
        course, proposer = trial.course, role == "proposer"
        api = SimulatedAPI(
            seed=course.arrival,
            latency=LogNormal(0.5, 1.0),
            answers=answers,
            faults=course.plan(proposer=proposer),
            abilities=_EVERYTHING,
        )
        super().__init__(api, role, LlamaChat(), _EVERYTHING)
        # Simulated proposals have the right form without any, and a free grammar is not simulated.
        self.supports = replace(self.supports, grammar=False)
        self._trial = trial
        self._proposer = proposer
        self._keys = RequestKeys("", role)

    async def send(self, model: str, request: Request) -> Answer:
        trial, key = self._trial, self._keys.of(request)
        trial.asked.append(key)
        if not self._proposer:
            trial.to_scorer[key] = request.prompt[-1].content
        if len(trial.asked) >= MOST_REQUESTS:
            trial.too_many.set()
        if isinstance(request, Generate) and request.sampling.temperature:
            if self._proposer:
                trial.sampled.add(key)
            if request.sampling.seed is None:
                request = replace(request, sampling=replace(request.sampling, seed=request.sampling.draw))
        answer = await super().send(model, request)
        if not isinstance(answer, Fault):
            trial.answered.append(key)
        return answer


class _Bench:
    def __init__(self, optimizer: Optimizer, task: AnyTask, course: Course) -> None:
        self._optimizer = optimizer
        self._task = task
        self._course = course

    async def run(self, cache: Cache | None, directory: Path | None, replay: Path | None) -> Trial:
        trial, course = Trial(self._course), self._course
        async with Engine(cache=cache, observers=[trial], grace=0.0) as engine:
            quota = Quota(concurrency=course.concurrency)
            models = {
                role: engine.model(role, endpoint=_Recorded(role, trial, self._answers(role)), quota=quota)
                for role in ("scorer", "proposer")
            }
            trial.study = Study(
                task=self._task,
                optimizer=self._optimizer,
                scorer=models["scorer"] if isinstance(self._task, Task) else None,
                proposer=models["proposer"],
                budget=UNLIMITED if course.calls is None else Budget(calls=course.calls),
                seed=course.seed,
                directory=directory,
                replay=replay,
                observers=[trial],
                disk=_Unsynced(),
            )
            await _sit(trial)
        trial.left = [task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        return trial

    def _answers(self, role: str) -> AnswerModel:
        if role == "proposer" and self._course.says is not None:
            return _Parrot(self._course.says)
        return AnswerModel(0, items_of([self._task]) if isinstance(self._task, Task) else {})


async def _sit(trial: Trial) -> None:
    """Run the study until it ends, is stopped as its course says, or has gone on for too long."""
    running = asyncio.ensure_future(trial.study.run())
    noticing = asyncio.ensure_future(trial.too_many.wait())
    seconds = LONGEST if trial.course.stop_at is None else trial.course.stop_at
    await asyncio.wait([running, noticing], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    if not running.done():
        if noticing.done():
            trial.stuck = f"it has not ended after {MOST_REQUESTS} requests"
        elif trial.course.stop_at is None:
            trial.stuck = f"it has not ended after {LONGEST:g} virtual seconds"
        running.cancel()
        if not (await asyncio.wait([running], timeout=_CANCELLING))[0]:
            trial.stuck = f"it goes on {_CANCELLING:g} virtual seconds after it was cancelled"
    noticing.cancel()
    await asyncio.wait([noticing])
    if running.done() and not running.cancelled():
        trial.error = running.exception()
        trial.result = None if trial.error else running.result()
