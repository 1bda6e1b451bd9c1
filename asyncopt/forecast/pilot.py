"""Some forty calls before a run: how long answers take, how long they are, and how far scores of one prompt vary.

The first answer to each example is the one that the run will ask for, so that the cache has it then; a second answer to
the same prompt is a draw of its own. The proposals are asked for as in the first step, and are not used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from asyncopt.engine import Engine, Model
from asyncopt.errors import CallFailed, EndpointUnusable
from asyncopt.events import CallEnded, Event
from asyncopt.forecast.asking import Reader, asking_of
from asyncopt.forecast.prompts import Sort, first_candidate, likelihoods, network_requests
from asyncopt.limits.estimate import TokenEstimate
from asyncopt.metrics import MetricFailed, graded
from asyncopt.optimizers import DLN1, DLN2
from asyncopt.optimizers.base import AnyTask, Optimizer, derived_seed
from asyncopt.optimizers.dln.proposals import read_prompt
from asyncopt.tasks.task import Example, Task
from asyncopt.values import Completion, Generate, Request

PROPOSED = 8  # of the calls, and at most a fifth of them: proposals, as many as a step has
WEIGHED = 2  # of the calls: likelihoods of each sort that a network asks for, and none where calls are few
_AGAIN = 1_000_003  # the draw of a second answer, which no run asks for


@dataclass(frozen=True, slots=True)
class Answered:
    """What the answers of one role took: seconds a call, and by call its sort and the tokens sent, as estimated, and
    received."""

    seconds: tuple[float, ...] = ()
    sent: tuple[int, ...] = ()
    estimated: tuple[float, ...] = ()
    received: tuple[int, ...] = ()
    sorts: tuple[Sort, ...] = ()

    def only(self, sort: Sort) -> Answered:
        """The calls of one sort, without their seconds."""
        rows = zip(self.sent, self.estimated, self.received, self.sorts, strict=True)
        kept = [row for row in rows if row[3] == sort]
        return Answered((), *zip(*kept, strict=True)) if kept else Answered()


@dataclass(frozen=True, slots=True)
class Pilot:
    """What the calls have shown.

    ``scores`` has a row for every example: the grades of its answers. ``texts`` are the proposals as they were read,
    None for those of no use. ``rates`` are permits a second by scope and dimension, as announced or learned, and
    ``granted`` what came through of those that refusals taught; ``refunds`` says of a scope whether it gives unused
    tokens back, None where that is not known. ``calls`` were answered by a server, not by the cache; ``failed`` had no
    answer; the run will not pay for the ``cached`` answers. Of the ``attempts`` that these calls took ``throttled`` met
    a rate limit and ``retried`` failed otherwise, and were made again; nothing was sent for ``paused`` seconds.
    """

    scoring: Answered = Answered()
    proposals: Answered = Answered()
    scores: tuple[tuple[float, ...], ...] = ()
    texts: tuple[str | None, ...] = ()
    rates: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    refunds: Mapping[str, bool | None] = field(default_factory=dict)
    calls: int = 0
    cached: int = 0
    failed: int = 0
    granted: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    attempts: int = 0
    throttled: int = 0
    retried: int = 0
    paused: float = 0.0


NO_PILOT = Pilot()


class Listener:
    """An observer of the engine that keeps how long calls took."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.failed = 0

    def notify(self, event: Event) -> None:
        if not isinstance(event, CallEnded):
            return
        if event.outcome == "completed":
            self.seconds.append(event.service)
        else:
            self.failed += 1

    def taken(self) -> tuple[float, ...]:
        """The seconds since the last look."""
        taken, self.seconds = tuple(self.seconds), []
        return taken


async def run_pilot(
    task: AnyTask,
    optimizer: Optimizer,
    engine: Engine,
    models: Mapping[str, Model],
    listener: Listener,
    *,
    calls: int,
    seed: int = 0,
) -> Pilot:
    """What at most ``calls`` calls on the initial prompt show; ``listener`` observes the engine.

    Raises :class:`EndpointUnusable` where an endpoint will serve nobody.
    """
    proposer, scorer = models.get("proposer"), models.get("scorer")
    scored = isinstance(task, Task) and scorer is not None
    proposed = 0 if proposer is None else min(PROPOSED, calls // 5 if scored else calls)
    listener.taken()
    failed = listener.failed
    before, begun = _Traffic.of(engine), asyncio.get_running_loop().time()
    scoring, cached = _Scored((), (), Answered()), 0
    if isinstance(task, Task) and scorer is not None:
        chain = 2 if task.final_answer_cue or isinstance(optimizer, DLN2) else 1
        weighed = _weighed(task, optimizer, scorer) if calls - proposed >= 8 * WEIGHED else 0
        examples = task.train[: max(1, (calls - proposed - weighed * WEIGHED) // (2 * chain))]
        scoring = await _scored(task, optimizer, scorer, examples, listener, weighed=WEIGHED if weighed else 0)
        cached = len(scoring.done)
    proposals = Answered()
    texts: list[str | None] = []
    if proposed and proposer is not None:
        requests = _requests(task, optimizer, proposer, scoring.done, proposed, seed)
        proposals, texts = await _proposed(requests, proposer, listener)
    scopes = {dispatcher.control.scope: dispatcher for dispatcher in engine.dispatchers}
    after, seconds = _Traffic.of(engine), asyncio.get_running_loop().time() - begun
    failed = listener.failed - failed
    return Pilot(
        scoring.answered,
        proposals,
        scoring.scores,
        tuple(texts),
        {name: {lane.dimension: lane.rate for lane in one.control.lanes if lane.rate} for name, one in scopes.items()},
        {name: one.control.lanes.tokens.refunds.given for name, one in scopes.items()},
        len(scoring.answered.seconds) + len(proposals.seconds),
        cached,
        failed,
        {
            name: {
                lane.dimension: (after.granted[name, lane.dimension] - before.granted[name, lane.dimension]) / seconds
                for lane in one.control.lanes
                if lane.rate and lane.rate != lane.known and seconds
            }
            for name, one in scopes.items()
        },
        after.attempts - before.attempts,
        after.throttled - before.throttled,
        max(after.failed - before.failed - failed, 0),
        after.paused - before.paused,
    )


@dataclass(frozen=True, slots=True)
class _Traffic:
    """What an engine has sent until now; ``granted`` are permits by scope and dimension."""

    attempts: int
    throttled: int
    failed: int
    paused: float
    granted: Mapping[tuple[str, str], float]

    @classmethod
    def of(cls, engine: Engine) -> _Traffic:
        every = engine.dispatchers
        return cls(
            sum(one.counts.attempts for one in every),
            sum(one.counts.throttled for one in every),
            sum(one.counts.failed_attempts - one.counts.throttled for one in every),
            sum(one.ticker.limited.get("pause", 0.0) for one in every),
            {
                (one.control.scope, lane.dimension): lane.spent - lane.refused
                for one in every
                for lane in one.control.lanes
            },
        )


@dataclass(frozen=True, slots=True)
class _Scored:
    """The grades of each example's answers, the first answers with the calls that led to them, and what they took."""

    scores: tuple[tuple[float, ...], ...]
    done: tuple[tuple[Example, list[Completion]], ...]
    answered: Answered


async def _scored(
    task: Task, optimizer: Optimizer, model: Model, examples: Sequence[Example], listener: Listener, *, weighed: int
) -> _Scored:
    """Two answers to each example, and the likelihoods that a network asks for of the first ``weighed`` of them."""
    program, candidate = optimizer.program(task), first_candidate(task, optimizer)
    pairs: list[_Pair] = []
    layers = 2 if isinstance(optimizer, DLN2) else 1

    async def answer(example: Example, draw: int) -> list[Completion] | None:
        request: Generate | None = program.first(task, candidate, example)
        done: list[Completion] = []
        while request is not None:
            request = replace(request, sampling=replace(request.sampling, draw=draw)) if draw else request
            completion = await _completion(model, request)
            if completion is None:
                return None
            done.append(completion)
            pairs.append((request, completion, "hidden" if len(done) < layers else "answer"))
            request = program.after(task, candidate, example, done)
        return done

    found = await asyncio.gather(*(answer(one, draw) for draw in (0, _AGAIN) for one in examples))
    first, second = found[: len(examples)], found[len(examples) :]
    for example, done in [(one, calls) for one, calls in zip(examples, first, strict=True) if calls][:weighed]:
        for asked, sort in likelihoods(task, optimizer, example, done):
            completion = await _completion(model, asked)
            if completion is not None:
                pairs.append((asked, completion, sort))
    answered = _answered(pairs, listener)
    rows = []
    for example, both in zip(examples, zip(first, second, strict=True), strict=True):
        grades = [await _grade(task, program.answer(task, done), example) for done in both if done is not None]
        rows.append(tuple(grade for grade in grades if grade is not None))
    known = tuple((example, calls) for example, calls in zip(examples, first, strict=True) if calls is not None)
    return _Scored(tuple(row for row in rows if row), known, answered)


def _weighed(task: Task, optimizer: Optimizer, model: Model) -> int:
    """How many sorts of likelihoods a run asks for."""
    return len(likelihoods(task, optimizer, task.train[0], ())) if task.train and model.supports.prompt_logprobs else 0


async def _completion(model: Model, request: Request) -> Completion | None:
    """The answer; None where this call failed for good."""
    try:
        return await model.submit(request)
    except EndpointUnusable:
        raise
    except CallFailed:
        return None


async def _grade(task: Task, answer: str, example: Example) -> float | None:
    try:
        return await graded(task, answer, example) if task.metric is not None else task.grade(answer, example)
    except MetricFailed:
        return None


def _requests(
    task: AnyTask,
    optimizer: Optimizer,
    model: Model,
    done: Sequence[tuple[Example, Sequence[Completion]]],
    count: int,
    seed: int,
) -> list[tuple[Generate, Reader | None]]:
    """Requests for proposals as the first step makes them, each with how its answer is read."""
    if isinstance(task, Task) and isinstance(optimizer, DLN1 | DLN2):
        stop = optimizer.texts().stop("proposal")
        asked = network_requests(task, optimizer, done, count)
        return [
            (_drawn(request, model, index, seed), (lambda text: read_prompt(text, stop)) if wanted else None)
            for index, (request, wanted) in enumerate(asked)
        ]
    asking = asking_of(task, optimizer)
    firsts = [] if asking is None else [asking.first(index, seed) for index in range(count)]
    return [(_drawn(request, model, index, seed), read) for index, (request, read) in enumerate(firsts)]


def _drawn(request: Generate, model: Model, index: int, seed: int) -> Generate:
    """The request as a draw of its own, which no run asks for, and as this model can be asked."""
    number, supports, sampling = derived_seed(seed, 0, "pilot", index), model.supports, request.sampling
    own = number if supports.seed else None
    grammar = sampling.grammar if supports.grammar else None
    return replace(request, sampling=replace(sampling, draw=number, seed=own, grammar=grammar))


async def _proposed(
    requests: Sequence[tuple[Generate, Reader | None]], model: Model, listener: Listener
) -> tuple[Answered, list[str | None]]:
    """What the answers took, and the proposals as they were read, where they are read."""
    completions = await asyncio.gather(*(_completion(model, request) for request, _ in requests))
    pairs: list[_Pair] = [
        (request, one, "posterior" if read is None else "proposal")
        for (request, read), one in zip(requests, completions, strict=True)
        if one is not None
    ]
    texts = [
        read(one.text)
        for (_, read), one in zip(requests, completions, strict=True)
        if one is not None and read is not None
    ]
    return _answered(pairs, listener), texts


_Pair: TypeAlias = tuple[Request, Completion, Sort]


def _answered(pairs: Sequence[_Pair], listener: Listener) -> Answered:
    estimate = TokenEstimate()
    return Answered(
        listener.taken(),
        tuple(completion.usage.input_tokens for _, completion, _ in pairs),
        tuple(estimate.of(request)[0] for request, _, _ in pairs),
        tuple(completion.usage.output_tokens for _, completion, _ in pairs),
        tuple(sort for _, _, sort in pairs),
    )
