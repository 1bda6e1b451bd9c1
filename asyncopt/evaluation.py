"""Scoring one instruction on examples: each with exactly one outcome, and in a race only those that are needed."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from asyncopt.engine import Model
from asyncopt.errors import BudgetExhausted, CallFailed, ConfigError, EndpointUnusable, StudyFailed
from asyncopt.events import Events, ExampleEnded
from asyncopt.metrics import MetricFailed, graded
from asyncopt.racing import Floor, Race
from asyncopt.tasks.task import Example, Task
from asyncopt.values import Completion, FaultKind, Generate, Message, Outcome, Priority, Sampling

FINAL_ANSWER_TOKENS = 50  # as in OPRO's reference code: an answer, and the little sum that may stand before it
AHEAD = 8  # calls beyond those that will be needed in any case; benchmarks/racing.py weighs them against time
_ROUNDING = 1e-9

_OUTCOME_OF = {
    FaultKind.REFUSED: Outcome.REFUSED,
    FaultKind.TRUNCATED: Outcome.TRUNCATED,
    FaultKind.TOO_LARGE: Outcome.TOO_LARGE,
}


@dataclass(frozen=True, slots=True)
class Item:
    """How one example ended; ``score`` is None unless the outcome is SCORED. ``detail`` says why not.

    ``fault`` is what kind of failure the call ended with, where it was the call that failed. ``answer`` is what was
    graded; where it took several calls, ``first_answer`` is the text of the first.
    """

    example: int
    outcome: Outcome
    score: float | None = None
    answer: str = ""
    detail: str = ""
    first_answer: str = ""
    fault: FaultKind | None = None

    @property
    def label(self) -> str:
        """The outcome as it is counted and journalled; a failure says its class, as ``failed:transient``."""
        if self.outcome is Outcome.FAILED and self.fault is not None:
            return f"{self.outcome.value}:{self.fault.value}"
        return self.outcome.value


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One instruction on some examples, in their order.

    ``stopped`` says after how many examples a race was lost, if one was: exactly those have their items, the others are
    WITHDRAWN, whatever else had been answered by then. ``pending`` examples have not ended yet and have no item.
    """

    instruction: str
    items: tuple[Item, ...]
    stopped: int | None = None
    pending: int = 0

    @property
    def scores(self) -> list[float]:
        return [item.score for item in self.items if item.score is not None]

    @property
    def score(self) -> float | None:
        """The mean over the scored examples: a failed call is never a 0.

        None if there is none, or the candidate was stopped: those are stopped where they look bad.
        """
        scores = self.scores
        return sum(scores) / len(scores) if scores and self.stopped is None else None

    @property
    def complete(self) -> bool:
        """Whether every example was scored; only complete evaluations are compared by their means."""
        return not self.pending and all(item.outcome is Outcome.SCORED for item in self.items)

    @property
    def unscored(self) -> dict[str, int]:
        """How many of the items ended in each way that is no score, the most common first."""
        return dict(Counter(item.label for item in self.items if item.score is None).most_common())

    def complaint(self) -> str:
        """The most common reason why examples were not scored."""
        reasons = Counter(f"{item.outcome.value}: {item.detail}" for item in self.items if item.score is None)
        return reasons.most_common(1)[0][0] if reasons else ""


class Program(Protocol):
    """How a candidate answers an example: in one call, or in several of which each sees the answers before it."""

    def first(self, task: Task, candidate: str, example: Example) -> Generate:
        """The first call."""
        ...

    def after(self, task: Task, candidate: str, example: Example, completions: Sequence[Completion]) -> Generate | None:
        """The call that follows on these answers, or None where the last of them ends the example."""
        ...

    def answer(self, task: Task, completions: Sequence[Completion]) -> str:
        """The text that is graded."""
        ...


class Prompted:
    """The candidate is an instruction in the task's template; a cue for the final answer is a second call."""

    def first(self, task: Task, candidate: str, example: Example) -> Generate:
        return scoring_request(task, candidate, example)

    def after(self, task: Task, candidate: str, example: Example, completions: Sequence[Completion]) -> Generate | None:
        if not task.final_answer_cue or len(completions) > 1:
            return None
        return final_answer_request(task, candidate, example, completions[0].text)

    def answer(self, task: Task, completions: Sequence[Completion]) -> str:
        return completions[-1].text


PROMPTED = Prompted()


def scoring_request(task: Task, instruction: str, example: Example) -> Generate:
    """The scorer's request, at the task's temperature: by default greedy, as in the paper (section 5.1)."""
    sampling = Sampling(temperature=task.temperature, max_tokens=task.max_tokens, stop=task.stop)
    return _asked(task, task.render(instruction, example.input), sampling)


def final_answer_request(task: Task, instruction: str, example: Example, answer: str) -> Generate:
    """The second request to a pre-trained scorer: its prompt, its first answer and the task's cue, a space between.

    Such a model goes on with questions of its own, so its answer ends where the next ``Q:`` begins (reference code).
    """
    answer = answer.partition("Q:")[0].strip()
    sampling = Sampling(temperature=task.temperature, max_tokens=FINAL_ANSWER_TOKENS, stop=task.stop)
    return _asked(task, f"{task.render(instruction, example.input)} {answer} {task.final_answer_cue}", sampling)


def _asked(task: Task, prompt: str, sampling: Sampling) -> Generate:
    system = (Message("system", task.system),) if task.system else ()
    return Generate.of((*system, Message("user", prompt)), sampling)


async def evaluate(
    model: Model,
    task: Task,
    instruction: str,
    examples: Sequence[Example],
    *,
    priority: Priority = Priority.SCORE,
    events: Events | None = None,
    floor: Floor | None = None,
    quorum: float | None = None,
    on_quorum: Callable[[Evaluation], None] | None = None,
    on_left: Callable[[Evaluation], None] | None = None,
    program: Program = PROMPTED,
    fold: str = "",
) -> Evaluation:
    """The candidate's evaluation on these examples; ``program`` says how it answers one.

    All calls are submitted at once; with a ``floor``, those that will be needed in any case and a few more, until the
    candidate is stopped because it does not reach the floor. ``on_quorum`` is called once, with what there is, as soon
    as the share ``quorum`` of the examples has ended; the evaluation then goes on. Raises when the endpoint will serve
    nobody, or the budget does not cover the rest; leaving early, by an error or by cancellation, withdraws what has not
    started, and ``on_left`` is given how every example ended until then. ``fold`` is for the events.
    """
    due = 0 if quorum is None else _share_of(quorum, len(examples))
    race = None if floor is None else Race(floor, [example.id for example in examples], instruction)
    scoring = _Scoring(model, task, instruction, examples, priority, events, race, program, fold)
    try:
        scoring.submit()
        while scoring.pending:
            await scoring.next_end()
            if race is not None and race.stopped is not None:
                return scoring.stopped(race.stopped)
            if on_quorum is not None and len(scoring.items) == due:
                on_quorum(scoring.evaluation())
            scoring.submit()
        return scoring.evaluation()
    except BaseException:
        left = scoring.left()
        if on_left is not None:
            on_left(left)
        raise
    finally:
        scoring.withdraw()


def most_asked(stopped: int | None, examples: int) -> int:
    """How many of the examples were asked at most for a candidate that was stopped after so many; None was not.

    How many answers were still to come then is for latencies to say, and so nothing to decide by.
    """
    return examples if stopped is None else min(stopped + AHEAD, examples)


def _share_of(quorum: float, examples: int) -> int:
    if not 0 < quorum <= 1:
        raise ConfigError(f"the quorum is {quorum!r}; it is a share of the examples, above 0 and at most 1")
    return math.ceil(quorum * examples - _ROUNDING)


class _Scoring:
    """The calls of one evaluation in the order of their turns, and the items by their places in ``examples``."""

    def __init__(
        self,
        model: Model,
        task: Task,
        instruction: str,
        examples: Sequence[Example],
        priority: Priority,
        events: Events | None,
        race: Race | None,
        program: Program,
        fold: str,
    ) -> None:
        self._model = model
        self._task = task
        self._instruction = instruction
        self._examples = examples
        self._priority = priority
        self._events = events
        self._race = race
        self._program = program
        self._fold = fold
        self._order = range(len(examples)) if race is None else race.order
        self._futures: list[asyncio.Future[Completion]] = []
        self._completions: list[list[Completion]] = []  # by turns, those of the calls that have ended
        self._grades: dict[int, asyncio.Task[float]] = {}  # by turns, where a metric takes its time
        self._ended: asyncio.Queue[int] = asyncio.Queue()
        self.items: dict[int, Item] = {}

    @property
    def pending(self) -> int:
        return len(self._examples) - len(self.items)

    def submit(self) -> None:
        """Submit what is to be asked by now."""
        for turn in range(len(self._futures), self._wanted()):
            request = self._program.first(self._task, self._instruction, self._examples[self._order[turn]])
            self._futures.append(self._future(turn, request, self._priority))
            self._completions.append([])

    def _future(self, turn: int, request: Generate, priority: Priority) -> asyncio.Future[Completion]:
        future = self._model.submit(request, priority=priority)
        future.add_done_callback(partial(self._end, turn))
        return future

    def _wanted(self) -> int:
        submitted = len(self._futures)
        if self._race is None or submitted == len(self._examples):
            return len(self._examples)
        if submitted - len(self.items) >= 2 * AHEAD:
            return submitted  # enough to do for now; looking ahead is not free
        return min(self._race.horizon() + AHEAD, len(self._examples))

    def _end(self, turn: int, future: asyncio.Future[Completion] | asyncio.Task[float]) -> None:
        if not future.cancelled():
            future.exception()  # else asyncio complains of those that nobody waits for any more
        self._ended.put_nowait(turn)

    async def next_end(self) -> None:
        """Wait until another example has ended, and keep its item."""
        turn = await self._ended.get()
        while self._asks_again(turn) or self._grades_apart(turn):
            turn = await self._ended.get()
        place = self._order[turn]
        item = self._item(turn, self._examples[place], self._futures[turn], self._completions[turn])
        self.items[place] = item
        self._tell(item)
        if self._race is not None:
            self._race.end(turn, item.score)

    def _asks_again(self, turn: int) -> bool:
        """Whether another call follows the one that ended; it is then on its way in its place."""
        future = self._futures[turn]
        if turn in self._grades or future.exception() is not None:
            return False
        completions = self._completions[turn]
        completions.append(future.result())
        example = self._examples[self._order[turn]]
        request = self._program.after(self._task, self._instruction, example, completions)
        if request is None:
            return False
        # Before all first calls that wait: what ends an example goes before what begins another.
        self._futures[turn] = self._future(turn, request, Priority.PROPOSE)
        return True

    def _grades_apart(self, turn: int) -> bool:
        """Whether the answer that ended the example is now being graded by the task's metric, beside the loop."""
        if self._task.metric is None or turn in self._grades or self._futures[turn].exception() is not None:
            return False
        answer = self._program.answer(self._task, self._completions[turn])
        grading = asyncio.get_running_loop().create_task(graded(self._task, answer, self._examples[self._order[turn]]))
        grading.add_done_callback(partial(self._end, turn))
        self._grades[turn] = grading
        return True

    def _item(
        self, turn: int, example: Example, future: asyncio.Future[Completion], completions: list[Completion]
    ) -> Item:
        first = completions[0].text if completions else ""
        try:
            future.result()
        except EndpointUnusable:
            raise
        except CallFailed as error:
            return unanswered(example, error, first)
        answer = self._program.answer(self._task, completions)
        first = first if len(completions) > 1 else ""
        try:
            grade = self._grades[turn].result() if turn in self._grades else self._grade(example, answer)
            return Item(example.id, Outcome.SCORED, grade, answer, first_answer=first)
        except StudyFailed:
            raise
        except MetricFailed as failure:
            return Item(example.id, Outcome.METRIC_ERROR, None, answer, str(failure), first)
        except Exception as error:  # whatever the rules of grading stumble over is not the candidate's fault
            return Item(example.id, Outcome.METRIC_ERROR, None, answer, type(error).__name__, first)

    def _grade(self, example: Example, answer: str) -> float:
        if self._task.answers == "opro_compat":  # its rules read the options out of the whole prompt
            request = self._program.first(self._task, self._instruction, example)
            return self._task.grade(answer, example, request.prompt[-1].content)
        return self._task.grade(answer, example)

    def evaluation(self) -> Evaluation:
        """What has ended so far."""
        items = tuple(self.items[place] for place in sorted(self.items))
        return Evaluation(self._instruction, items, pending=self.pending)

    def stopped(self, after: int) -> Evaluation:
        """The items on which the candidate was stopped; what else has ended depends on latencies and is left out."""
        used = set(self._order[:after])
        items = []
        for place, example in enumerate(self._examples):
            items.append(self.items[place] if place in used else Item(example.id, Outcome.WITHDRAWN))
            if place not in self.items:
                self._tell(items[-1])
        return Evaluation(self._instruction, tuple(items), stopped=after)

    def left(self) -> Evaluation:
        """How every example ended for an evaluation that cannot be finished: each has an outcome, and is told once."""
        ends = {self._order[turn]: _error_of(future) for turn, future in enumerate(self._futures)}
        spent = any(isinstance(error, BudgetExhausted) for error in ends.values())
        for place, example in enumerate(self._examples):
            if place in self.items:
                continue
            error = ends.get(place)
            if isinstance(error, CallFailed):
                self.items[place] = unanswered(example, error)
            elif isinstance(error, BudgetExhausted) or (spent and place not in ends):
                self.items[place] = Item(example.id, Outcome.SKIPPED_BUDGET)
            else:
                self.items[place] = Item(example.id, Outcome.WITHDRAWN)
            self._tell(self.items[place])
        return self.evaluation()

    def withdraw(self) -> None:
        """Withdraw what has not started."""
        for future in self._futures:
            future.cancel()
        for grading in self._grades.values():
            grading.cancel()

    def _tell(self, item: Item) -> None:
        if self._events:
            self._events.emit(ExampleEnded(item.label, self._instruction, item.example, self._fold))


def unanswered(example: Example, error: CallFailed, first_answer: str = "") -> Item:
    """How an example ended whose call failed for good."""
    fault = error.fault
    outcome, detail = _OUTCOME_OF.get(fault.kind, Outcome.FAILED), f"{fault.kind.value}: {fault.detail}"
    return Item(example.id, outcome, detail=detail, first_answer=first_answer, fault=fault.kind)


def _error_of(future: asyncio.Future[Completion]) -> BaseException | None:
    return future.exception() if future.done() and not future.cancelled() else None
