"""What was asked: the prompts of answers, made again from the task, since a trace holds the answers alone."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from asyncopt.config import check
from asyncopt.errors import AsyncoptError
from asyncopt.records import Answer, Run
from asyncopt.tasks import Example, Task


class Asked:
    """The prompts of a run's answers, as far as its task can still be loaded from the same data.

    Loading reads files: do it in a thread where others wait.
    """

    def __init__(self, run: Run) -> None:
        self._task: Task | None = None
        self._examples: dict[str, dict[int, Example]] = {}
        with suppress(AsyncoptError, OSError):  # without its data the answers are shown alone
            task = check(dict(run.config), str(run.directory)).load_task()
            if isinstance(task, Task) and task.fingerprint == run.fingerprint:
                self._take(task)

    def _take(self, task: Task) -> None:
        self._task = task
        folds = {"train": task.train, "validation": task.validation, "test": task.test}
        self._examples = {fold: {one.id: one for one in examples} for fold, examples in folds.items()}

    def rows(self, candidate: str, answers: Iterable[Answer]) -> list[dict[str, Any]]:
        """The answers to a candidate as plain data, with ``prompt`` and ``target`` where these are known.

        For a program of several calls ``prompt`` is what one call would be asked; the answers are of all of them.
        """
        return [{**asdict(answer), **self._question(candidate, answer)} for answer in answers]

    def _question(self, candidate: str, answer: Answer) -> dict[str, str]:
        example = self._examples.get(answer.fold, {}).get(answer.example)
        if self._task is None or example is None:
            return {}
        return {"prompt": self._task.render(candidate, example.input), "target": example.target}
