"""Metrics of the user's and observers: whatever they do, no answer gets a grade that nobody gave, and the run goes on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from typing import Any

import numpy
import pytest
from fakes import FakeEndpoint, echo, run_virtual

from asyncopt import Completion, Engine, Example, Generate, Task
from asyncopt.endpoints.protocol import Answer
from asyncopt.errors import ConfigError, StudyFailed
from asyncopt.evaluation import Evaluation, evaluate
from asyncopt.events import Event, Note
from asyncopt.metrics import AT_ONCE, MOST_HUNG
from asyncopt.optimizers import OPRO
from asyncopt.study import Study, name_of
from asyncopt.values import Outcome

EXAMPLES = tuple(Example(n, f"question {n}", "yes") for n in range(6))


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """What the hanging metrics of a test wait for; set at its end, so that it leaves no thread behind."""
    event = threading.Event()
    yield event
    event.set()


def task_of(metric: Callable[[str, Example], Any], seconds: float = 30.0, examples: int = len(EXAMPLES)) -> Task:
    chosen = tuple(Example(n, f"question {n}", "yes") for n in range(examples))
    return Task("toy", "text", train=chosen, test=chosen[:1], metric=metric, metric_seconds=seconds)


def evaluated(task: Task, endpoint: FakeEndpoint | None = None) -> Evaluation:
    async def main() -> Evaluation:
        async with Engine() as engine:
            return await evaluate(engine.model("m", endpoint=endpoint or FakeEndpoint()), task, "Say it.", task.train)

    return run_virtual(main)


def raises(answer: str, example: Example) -> float:
    raise RuntimeError(answer)


def leaves(answer: str, example: Example) -> float:
    raise SystemExit(3)


class Grade:
    def __float__(self) -> float:
        return 1.0


NONSENSE: dict[str, tuple[Callable[[str, Example], Any], str]] = {
    "raises": (raises, "RuntimeError"),
    "leaves": (leaves, "SystemExit"),
    "NaN": (lambda *_: float("nan"), "not a number"),
    "infinite": (lambda *_: float("inf"), "above 1"),
    "minus infinite": (lambda *_: float("-inf"), "below 0"),
    "1e400": (lambda *_: 1e400, "above 1"),
    "an integer of 400 digits": (lambda *_: 10**400, "above 1"),
    "above 1": (lambda *_: 1.5, "above 1"),
    "below 0": (lambda *_: -0.1, "below 0"),
    "None": (lambda *_: None, "of type NoneType"),
    "a text": (lambda *_: "1.0", "of type str"),
    "a decimal": (lambda *_: Decimal(1), "of type Decimal"),
    "an object": (lambda *_: Grade(), "of type Grade"),
}


@pytest.mark.row("L04")
@pytest.mark.parametrize("name", NONSENSE)
def test_what_is_no_grade_is_a_metric_error_and_never_a_zero(name: str) -> None:
    metric, reason = NONSENSE[name]
    done = evaluated(task_of(metric))
    assert [item.outcome for item in done.items] == [Outcome.METRIC_ERROR] * len(EXAMPLES)
    assert done.score is None
    assert all(reason in item.detail for item in done.items)
    assert all(item.answer for item in done.items)  # it was paid for, and can be graded by hand


class Later:
    async def __call__(self, answer: str, example: Example) -> float:
        return 1.0

    async def grade(self, answer: str, example: Example) -> float:
        return 1.0


UNUSABLE: dict[str, tuple[Any, str]] = {
    "a text": ("exact", "is a str; it must be a function"),
    "async function": (Later.__call__, "async function"),
    "async method": (Later().grade, "async function"),
    "object called async": (Later(), "async function"),
    "async function in part": (partial(Later().grade), "async function"),
    "one argument": (lambda answer: 1.0, "two arguments"),
    "three arguments": (lambda answer, example, prompt: 1.0, "two arguments"),
}


@pytest.mark.row("L04")
@pytest.mark.parametrize("name", UNUSABLE)
def test_what_would_fail_on_every_answer_is_refused_before_one_is_paid_for(name: str) -> None:
    metric, reason = UNUSABLE[name]
    with pytest.raises(ConfigError, match=reason):
        task_of(metric)


def test_metrics_in_part_are_told_apart_by_what_they_are_parts_of() -> None:
    assert name_of(partial(raises)) == name_of(raises) != name_of(partial(leaves))


@pytest.mark.row("L04")
def test_where_a_metric_fails_for_one_example_the_others_have_their_grades() -> None:
    def metric(answer: str, example: Example) -> float:
        return float("nan") if example.id == 2 else example.id / 10

    done = evaluated(task_of(metric))
    assert [item.score for item in done.items] == [0.0, 0.1, None, 0.3, 0.4, 0.5]
    assert done.score == pytest.approx(1.3 / 5)
    assert not done.complete


@pytest.mark.parametrize("grade", [True, 1, 0.5, 0, numpy.True_, numpy.float32(0.5)])
def test_every_number_from_0_to_1_is_a_grade(grade: Any) -> None:
    assert evaluated(task_of(lambda *_: grade)).scores == [float(grade)] * len(EXAMPLES)


def test_a_metric_sees_the_answer_and_its_example() -> None:
    seen: list[tuple[str, Example]] = []

    def metric(answer: str, example: Example) -> float:
        seen.append((answer, example))
        return 1.0

    evaluated(task_of(metric))
    assert sorted((answer.rpartition(" ")[2], example) for answer, example in seen) == [
        (str(example.id), example) for example in EXAMPLES
    ]


@pytest.mark.row("L04")
def test_a_metric_that_hangs_is_an_error_of_its_example_alone(release: threading.Event) -> None:
    def metric(answer: str, example: Example) -> float:
        return 1.0 if example.id != 3 else float(release.wait())

    done = evaluated(task_of(metric, seconds=0.1))
    assert [item.score for item in done.items] == [1.0, 1.0, 1.0, None, 1.0, 1.0]
    assert done.items[3].outcome is Outcome.METRIC_ERROR
    assert done.items[3].detail == "no grade after 0.1 s"


@pytest.mark.row("L04")
def test_a_metric_that_always_hangs_ends_the_study_with_a_bounded_number_of_threads(release: threading.Event) -> None:
    began: list[str] = []

    def metric(answer: str, example: Example) -> float:
        began.append(answer)
        return float(release.wait())

    with pytest.raises(StudyFailed, match="did not come back from 8 answers within 0.01 s each"):
        evaluated(task_of(metric, seconds=0.01, examples=100))
    assert MOST_HUNG <= len(began) < MOST_HUNG + AT_ONCE


@pytest.mark.row("L02", "L04")
def test_the_loop_goes_on_while_metrics_hang(release: threading.Event) -> None:
    async def main() -> list[float]:
        async with Engine() as engine:
            loop, began = asyncio.get_running_loop(), asyncio.Semaphore(0)

            def metric(answer: str, example: Example) -> float:
                loop.call_soon_threadsafe(began.release)
                return float(release.wait())

            task = task_of(metric, examples=AT_ONCE)
            model = engine.model("m", endpoint=FakeEndpoint())
            scoring = asyncio.ensure_future(evaluate(model, task, "Say it.", task.train))
            for _ in range(AT_ONCE):
                await began.acquire()
            await model.submit(Generate.of("another call, answered while four metrics hang"))
            release.set()
            return (await scoring).scores

    assert asyncio.run(main()) == [1.0] * AT_ONCE


@pytest.mark.row("L04")
def test_cancelled_while_metrics_hang_an_evaluation_ends_at_once_and_so_does_the_loop(release: threading.Event) -> None:
    async def main() -> None:
        async with Engine() as engine:
            began = asyncio.Event()
            loop = asyncio.get_running_loop()

            def metric(answer: str, example: Example) -> float:
                loop.call_soon_threadsafe(began.set)
                return float(release.wait())

            task = task_of(metric, seconds=1e6)
            scoring = asyncio.ensure_future(
                evaluate(engine.model("m", endpoint=FakeEndpoint()), task, "Say it.", task.train)
            )
            await began.wait()
            scoring.cancel()
            with pytest.raises(asyncio.CancelledError):
                await scoring

    before = set(threading.enumerate())
    asyncio.run(main())
    for thread in set(threading.enumerate()) - before:
        if not thread.daemon:  # those that only wait for a metric; with a limit of 1e6 s they are let go
            thread.join(10)
            assert not thread.is_alive()


def test_a_whole_study_is_graded_by_the_metric_and_leaves_no_thread() -> None:
    def respond(request: Generate, number: int) -> Answer:
        proposes = "square brackets" in request.prompt[-1].content
        return Completion("[Say it twice.]") if proposes else echo(request)

    async def main() -> Any:
        async with Engine() as engine:
            model = engine.model("m", endpoint=FakeEndpoint(respond))
            task = task_of(lambda answer, example: 0.75 if "TWICE" in answer else 0.25)
            study = Study(task=task, optimizer=OPRO(steps=1, samples_per_step=1), scorer=model, proposer=model)
            return await study.run()

    before = set(threading.enumerate())
    result = run_virtual(main)
    assert (result.best.candidate, result.best.train.score) == ("Say it twice.", 0.75)
    assert result.initial.train.score == 0.25
    for thread in set(threading.enumerate()) - before:  # told to end, and on its way
        thread.join(10)
        assert not thread.is_alive()


def test_rules_of_grading_are_not_asked_where_there_is_a_metric() -> None:
    with pytest.raises(ConfigError, match="metric of its own"):
        task_of(lambda *_: 1.0).grade("yes", EXAMPLES[0])


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_the_time_limit_is_a_time(seconds: float) -> None:
    with pytest.raises(ConfigError, match="metric_seconds"):
        task_of(lambda *_: 1.0, seconds=seconds)


# -- observers ---------------------------------------------------------------------------------------------------------


@pytest.mark.row("L05")
def test_an_observer_that_raises_is_off_after_three_times_and_the_run_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        asked = 0

        def notify(self, event: Event) -> None:
            self.asked += 1
            raise ValueError("an observer's own words")

    class Watching:
        def __init__(self) -> None:
            self.events: list[Event] = []

        def notify(self, event: Event) -> None:
            self.events.append(event)

    broken, watching = Broken(), Watching()

    async def main() -> Any:
        async with Engine(observers=[broken, watching]) as engine:
            model = engine.model("m", endpoint=FakeEndpoint())
            return await evaluate(model, task_of(lambda *_: 1.0), "Say it.", EXAMPLES)

    assert run_virtual(main).score == 1.0
    assert broken.asked == 3
    assert len(watching.events) > 3
    assert "observer Broken failed 3 times (ValueError) and is off" in caplog.text
    assert "own words" not in caplog.text  # it may be anything, a key too


@pytest.mark.row("L05")
def test_behind_an_observer_that_holds_up_the_loop_the_run_goes_on_to_its_end() -> None:
    """On the loop nothing can stop one that hangs; here it ends by itself, and nothing is lost."""

    class Slow:
        def notify(self, event: Event) -> None:
            if not isinstance(event, Note):
                threading.Event().wait(0.01)

    async def main() -> Any:
        async with Engine(observers=[Slow()]) as engine:
            model = engine.model("m", endpoint=FakeEndpoint())
            return await evaluate(model, task_of(lambda *_: 1.0), "Say it.", EXAMPLES)

    assert asyncio.run(main()).score == 1.0
