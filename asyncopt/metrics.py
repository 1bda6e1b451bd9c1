"""Grading by a function of the user's: in a thread, within a time limit, and never a 0 that it did not say."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from numbers import Real
from queue import Empty, SimpleQueue
from typing import TypeAlias

import anyio.to_thread
from anyio import CapacityLimiter
from anyio.lowlevel import RunVar

from asyncopt.errors import StudyFailed
from asyncopt.tasks.task import Example, Metric, Task

AT_ONCE = 4  # answers that are graded side by side, in all studies of a loop: Python code gains nothing from more
# What np.isclose and comparisons in NumPy return; it is registered as no number, and its name is NumPy 2's and 1's.
_NUMPY_BOOL = (("numpy", "bool"), ("numpy", "bool_"))
MOST_HUNG = 8  # threads of one metric that did not come back; none can be stopped, and each may keep a core busy


class MetricFailed(Exception):
    """A metric gave no grade for an answer; the message says what it did instead, and nothing that it said itself."""


_Graded: TypeAlias = float | MetricFailed


@dataclass
class _Threads:
    """What the grading in one loop shares: the turns, and the threads that are left behind, with their metrics."""

    turns: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(AT_ONCE))
    hung: list[tuple[Metric, threading.Thread]] = field(default_factory=list)

    def hung_of(self, metric: Metric) -> int:
        self.hung = [(of, thread) for of, thread in self.hung if thread.is_alive()]
        return sum(of is metric for of, _ in self.hung)


_threads: RunVar[_Threads] = RunVar("asyncopt_metrics")


async def graded(task: Task, answer: str, example: Example) -> float:
    """The grade, from 0 to 1, that the task's metric gives. Raises :class:`MetricFailed` where it gives none.

    A thread cannot be stopped from outside, so one whose metric hangs is left behind. It is a daemon: it ends with the
    process at the latest, and holds nothing up. Raises :class:`StudyFailed` when too many are left. Cancelled, this
    ends at once.
    """
    threads = _threads_of_loop()
    async with threads.turns:
        if threads.hung_of(_metric(task)) >= MOST_HUNG:
            raise StudyFailed(
                f"the metric of {task.name} did not come back from {MOST_HUNG} answers within "
                f"{task.metric_seconds:g} s each; make it end by itself, or give the task more metric_seconds"
            )
        ended: SimpleQueue[_Graded | None] = SimpleQueue()
        worker = threading.Thread(target=_run, args=(_metric(task), answer, example, ended), daemon=True)
        worker.start()
        grade: _Graded | None = None
        try:
            # By the real clock: that is what a thread takes, whatever the clock of the loop.
            grade = await anyio.to_thread.run_sync(_wait, ended, task.metric_seconds, abandon_on_cancel=True)
        finally:
            ended.put(None)  # after a cancellation, the thread that waits need not do so any longer
            if grade is None:
                threads.hung.append((_metric(task), worker))
    if grade is None:
        raise MetricFailed(f"no grade after {task.metric_seconds:g} s")
    if isinstance(grade, MetricFailed):
        raise grade
    return grade


def _metric(task: Task) -> Metric:
    assert task.metric is not None
    return task.metric


def _threads_of_loop() -> _Threads:
    try:
        return _threads.get()
    except LookupError:
        _threads.set(threads := _Threads())
        return threads


def _wait(ended: SimpleQueue[_Graded | None], seconds: float) -> _Graded | None:
    try:
        return ended.get(timeout=seconds)
    except Empty:
        return None


def _run(metric: Metric, answer: str, example: Example, ended: SimpleQueue[_Graded | None]) -> None:
    try:
        ended.put(_checked(metric(answer, example)))
    except MetricFailed as failure:
        ended.put(failure)
    except BaseException as error:  # a metric is anybody's code; sys.exit() in it ends an example, not the study
        ended.put(MetricFailed(type(error).__name__))


def _checked(grade: object) -> float:
    """The grade as a number; what is none has no place between right and wrong."""
    kind = type(grade)
    if (kind.__module__, kind.__name__) in _NUMPY_BOOL:
        grade = bool(grade)
    if not isinstance(grade, Real):
        raise MetricFailed(f"a grade of type {kind.__name__}; wanted a number from 0 to 1")
    try:
        number = float(grade)
    except OverflowError:  # an integer that no float can hold
        number = math.inf
    if not 0 <= number <= 1:
        found = "is not a number" if math.isnan(number) else "is below 0" if number < 0 else "is above 1"
        raise MetricFailed(f"a grade that {found}; wanted one from 0 to 1")
    return number
