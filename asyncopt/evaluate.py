"""Scoring one instruction on examples: all calls at once, each example with exactly one outcome."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from asyncopt.engine import Model
from asyncopt.errors import CallFailed, EndpointRefused, QuotaExhausted
from asyncopt.events import Events, ExampleEnded
from asyncopt.tasks.task import Example, Task
from asyncopt.values import Completion, FaultKind, Generate, Outcome, Priority, Sampling

_OUTCOME_OF = {
    FaultKind.REFUSED: Outcome.REFUSED,
    FaultKind.TRUNCATED: Outcome.TRUNCATED,
    FaultKind.TOO_LARGE: Outcome.TOO_LARGE,
}


@dataclass(frozen=True, slots=True)
class Item:
    """How one example ended; ``score`` is None unless the outcome is SCORED. ``detail`` says why not."""

    example: int
    outcome: Outcome
    score: float | None = None
    answer: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One instruction on some examples, in their order."""

    instruction: str
    items: tuple[Item, ...]

    @property
    def scores(self) -> list[float]:
        return [item.score for item in self.items if item.score is not None]

    @property
    def score(self) -> float | None:
        """The mean over the scored examples, or None if there is none: a failed call is never a 0."""
        scores = self.scores
        return sum(scores) / len(scores) if scores else None

    @property
    def complete(self) -> bool:
        """Whether every example was scored; only complete evaluations are compared by their means."""
        return all(item.outcome is Outcome.SCORED for item in self.items)

    def complaint(self) -> str:
        """The most common reason why examples were not scored."""
        reasons = Counter(f"{item.outcome.value}: {item.detail}" for item in self.items if item.score is None)
        return reasons.most_common(1)[0][0] if reasons else ""


def scoring_request(task: Task, instruction: str, example: Example) -> Generate:
    """The scorer's request: greedy, as in the paper (temperature 0, section 5.1)."""
    sampling = Sampling(temperature=0.0, max_tokens=task.max_tokens, stop=task.stop)
    return Generate.of(task.render(instruction, example.input), sampling)


async def evaluate(
    model: Model,
    task: Task,
    instruction: str,
    examples: Sequence[Example],
    *,
    priority: Priority = Priority.SCORE,
    events: Events | None = None,
) -> Evaluation:
    """The instruction's evaluation on these examples.

    All calls are submitted at once. Raises when the endpoint will serve nobody, or the budget does not cover the rest;
    leaving early, by an error or by cancellation, withdraws what has not started.
    """
    futures = [model.submit(scoring_request(task, instruction, example), priority=priority) for example in examples]
    try:
        items = []
        for example, future in zip(examples, futures, strict=True):
            items.append(await _item(task, example, future))
            if events:
                events.emit(ExampleEnded(items[-1].outcome.value))
        return Evaluation(instruction, tuple(items))
    finally:
        for future in futures:
            future.cancel()


async def _item(task: Task, example: Example, future: asyncio.Future[Completion]) -> Item:
    try:
        completion = await future
    except (EndpointRefused, QuotaExhausted):
        raise
    except CallFailed as error:
        fault = error.fault
        return Item(
            example.id, _OUTCOME_OF.get(fault.kind, Outcome.FAILED), detail=f"{fault.kind.value}: {fault.detail}"
        )
    return _graded(task, example, completion.text)


def _graded(task: Task, example: Example, answer: str) -> Item:
    try:
        return Item(example.id, Outcome.SCORED, task.grade(answer, example), answer)
    except Exception as error:  # a metric may be anybody's code, and is not the candidate's fault
        return Item(example.id, Outcome.METRIC_ERROR, answer=answer, detail=type(error).__name__)
