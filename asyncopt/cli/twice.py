"""One instruction asked twice: how much scores differ where not even the instruction does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from asyncopt.engine import Model
from asyncopt.evaluation import PROMPTED, Evaluation, evaluate
from asyncopt.records.contest import Grades
from asyncopt.tasks.task import Example, Task
from asyncopt.values import Completion, Generate

_AGAIN = 1  # the draw of the second asking; the search's own calls have none


class _Again:
    """An instruction in the task's template, drawn anew: no answer that a search has paid for is taken for a second."""

    def first(self, task: Task, candidate: str, example: Example) -> Generate:
        return _drawn_anew(PROMPTED.first(task, candidate, example))

    def after(self, task: Task, candidate: str, example: Example, completions: Sequence[Completion]) -> Generate | None:
        following = PROMPTED.after(task, candidate, example, completions)
        return None if following is None else _drawn_anew(following)

    def answer(self, task: Task, completions: Sequence[Completion]) -> str:
        return PROMPTED.answer(task, completions)


def _drawn_anew(request: Generate) -> Generate:
    return replace(request, sampling=replace(request.sampling, draw=_AGAIN))


async def asked_twice(scorer: Model, task: Task) -> tuple[Grades, Grades]:
    """The grades of the task's first initial instruction on the training examples, and those of another draw.

    The first are the search's own calls, and come from the cache where there is one.
    """
    first = await evaluate(scorer, task, task.initial[0], task.train)
    second = await evaluate(scorer, task, task.initial[0], task.train, program=_Again())
    return _grades(first), _grades(second)


def _grades(done: Evaluation) -> Grades:
    return {item.example: item.score for item in done.items if item.score is not None}
