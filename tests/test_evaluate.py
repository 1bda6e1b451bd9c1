"""Evaluations on a virtual clock: races whose end latencies cannot change, quorums, and what is withdrawn."""

from __future__ import annotations

import asyncio
import importlib
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random

import pytest
from fakes import FakeEndpoint, run_virtual

from asyncopt import Completion, Engine, Evaluation, Example, Fault, Generate, Model, Quota, Task, evaluate
from asyncopt.endpoints.protocol import Answer
from asyncopt.errors import ConfigError, EndpointRefused
from asyncopt.events import Event, Events, ExampleEnded
from asyncopt.racing import Floor
from asyncopt.values import FaultKind, Outcome

EXAMPLES = tuple(Example(1000 + i, f"q{i}", "yes") for i in range(100))
TASK = Task("t", "boolean", EXAMPLES, ())
FLOOR = Floor({example.id: float(i % 10 > 1) for i, example in enumerate(EXAMPLES)}, alpha=0.01, seed=5)


class Uneven(FakeEndpoint):
    """Right for some questions, after a time that chance gives each: half of the seeds make the right ones slow."""

    def __init__(self, accuracy: float, latencies: int = 0) -> None:
        super().__init__(self.say)
        self.accuracy = accuracy
        self.latencies = latencies

    def right(self, prompt: str) -> bool:
        return Random(prompt).random() < self.accuracy

    def say(self, request: Generate, number: int) -> Answer:
        return Completion("yes" if self.right(request.prompt[-1].content) else "no")

    async def send(self, model: str, request: Generate) -> Answer:
        prompt = request.prompt[-1].content
        slow = 10 if self.latencies % 2 and self.right(prompt) else 1
        self.seconds = slow * Random(f"{self.latencies} {prompt}").lognormvariate(0, 1)
        return await super().send(model, request)


def scored(
    endpoint: FakeEndpoint,
    use: Callable[[Model], Awaitable[Evaluation]] = lambda model: evaluate(model, TASK, "a", EXAMPLES, floor=FLOOR),
    concurrency: int = 50,
) -> Evaluation:
    async def main() -> Evaluation:
        async with Engine(grace=1000) as engine:
            return await use(engine.model("m", endpoint=endpoint, quota=Quota(concurrency=concurrency)))

    return run_virtual(main)


# -- races -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accuracy", [0.2, 0.4, 0.6])
def test_neither_latency_nor_concurrency_nor_the_window_changes_what_a_race_ends_with(
    accuracy: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, calls = [], set()
    for latencies in range(6):
        for concurrency, ahead in ((1, 8), (7, 2), (50, 8), (1000, 1000)):
            monkeypatch.setattr(importlib.import_module("asyncopt.evaluate"), "AHEAD", ahead)
            endpoint = Uneven(accuracy, latencies)
            found.append(scored(endpoint, concurrency=concurrency))
            calls.add(len(endpoint.started))
    assert found == [found[0]] * len(found)
    assert found[0].stopped is not None
    assert len(calls) > 1  # what was asked beyond the end did differ


def test_a_stopped_evaluation_holds_what_stopped_it_and_nothing_else() -> None:
    endpoint = Uneven(0.3)
    done = scored(endpoint)
    assert done.stopped is not None
    assert len(done.scores) == done.stopped < len(endpoint.started) < len(EXAMPLES)
    assert Counter(item.outcome for item in done.items)[Outcome.WITHDRAWN] == len(EXAMPLES) - done.stopped
    assert [item.example for item in done.items] == [example.id for example in EXAMPLES]
    assert (done.score, done.complete) == (None, False)


def test_what_a_lost_race_does_not_need_is_not_sent() -> None:
    endpoint = Uneven(0.0)
    done = scored(endpoint, concurrency=1)
    assert done.stopped is not None
    assert len(endpoint.started) <= done.stopped + 1  # one was started when the last answer came
    wide = Uneven(0.0)
    assert scored(wide, concurrency=1000) == done
    assert len(wide.started) <= done.stopped + 8


@pytest.mark.parametrize("latencies", range(4))
def test_a_candidate_with_the_floors_own_scores_is_evaluated_as_without_a_race(latencies: int) -> None:
    def plain(model: Model) -> Awaitable[Evaluation]:
        return evaluate(model, TASK, "a", EXAMPLES)

    whole = scored(Uneven(0.8, latencies), plain)
    own = Floor({item.example: item.score for item in whole.items if item.score is not None}, 1e-4, seed=latencies)
    assert scored(Uneven(0.8, latencies), lambda model: evaluate(model, TASK, "a", EXAMPLES, floor=own)) == whole
    assert whole.complete


def test_calls_that_fail_do_not_stop_a_candidate() -> None:
    done = scored(FakeEndpoint(lambda *_: Fault(FaultKind.REFUSED, "no")))
    assert (done.stopped, done.score, len(done.items)) == (None, None, len(EXAMPLES))


def test_a_race_needs_scores_from_0_to_1() -> None:
    class Points(Task):
        def grade(self, answer: str, example: Example) -> float:
            return 5.0

    task = Points("t", "boolean", EXAMPLES, ())
    with pytest.raises(ConfigError, match="turn it off"):
        scored(FakeEndpoint(), lambda model: evaluate(model, task, "a", EXAMPLES, floor=FLOOR))
    assert scored(FakeEndpoint(), lambda model: evaluate(model, task, "a", EXAMPLES)).score == 5.0


def test_every_example_is_told_of_once_stopped_or_not() -> None:
    class Count:
        def __init__(self) -> None:
            self.outcomes: Counter[str] = Counter()

        def notify(self, event: Event) -> None:
            assert isinstance(event, ExampleEnded)
            self.outcomes[event.outcome] += 1

    for accuracy in (0.3, 1.0):
        count = Count()
        done = scored(Uneven(accuracy), lambda m: evaluate(m, TASK, "a", EXAMPLES, floor=FLOOR, events=Events([count])))
        assert count.outcomes.total() == len(EXAMPLES)
        assert ("withdrawn" in count.outcomes) == (done.stopped is not None) == (accuracy < 1)


def test_no_examples_are_an_evaluation_of_nothing() -> None:
    done = scored(FakeEndpoint(), lambda model: evaluate(model, TASK, "a", (), floor=FLOOR, quorum=0.5))
    assert (done.items, done.score, done.stopped) == ((), None, None)


# -- without a race ----------------------------------------------------------------------------------------------------


def test_without_a_floor_all_calls_are_submitted_at_once() -> None:
    endpoint = FakeEndpoint(seconds=1)
    scored(endpoint, lambda model: evaluate(model, TASK, "a", EXAMPLES), concurrency=20)
    assert endpoint.started == [float(i // 20) for i in range(len(EXAMPLES))]
    assert endpoint.prompts == [f"a\n{example.input}" for example in EXAMPLES]


@pytest.mark.parametrize("floor", [None, FLOOR])
def test_an_endpoint_that_serves_nobody_ends_it_at_once(floor: Floor | None) -> None:
    endpoint = FakeEndpoint(lambda *_: Fault(FaultKind.FATAL_CONFIG, "HTTP 401"), seconds=1)
    with pytest.raises(EndpointRefused):
        scored(endpoint, lambda model: evaluate(model, TASK, "a", EXAMPLES, floor=floor), concurrency=3)
    assert len(endpoint.started) <= 2 * 3


# -- quorums -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("quorum", "due"), [(0.001, 1), (0.29, 29), (0.9, 90), (0.901, 91), (1.0, 100)])
def test_a_quorum_is_told_of_once_with_what_has_ended(quorum: float, due: int) -> None:
    told: list[Evaluation] = []
    done = scored(Uneven(0.5), lambda model: evaluate(model, TASK, "a", EXAMPLES, quorum=quorum, on_quorum=told.append))
    assert [len(early.items) for early in told] == [due]
    assert told[0].pending == 100 - due
    assert told[0].complete == (due == 100)
    assert set(told[0].items) <= set(done.items)
    assert [item.example for item in told[0].items] == sorted(item.example for item in told[0].items)
    assert done.complete
    assert done == scored(Uneven(0.5), lambda model: evaluate(model, TASK, "a", EXAMPLES))


def test_a_quorum_comes_as_soon_as_it_is_there_and_leaving_withdraws_the_rest() -> None:
    class Hanging(Uneven):
        async def send(self, model: str, request: Generate) -> Answer:
            if request.prompt[-1].content.endswith("q7"):
                await asyncio.Event().wait()
            return await super().send(model, request)

    endpoint = Hanging(0.5)

    async def main() -> None:
        async with Engine() as engine:
            model = engine.model("m", endpoint=endpoint, quota=Quota(concurrency=40))
            there: asyncio.Future[Evaluation] = asyncio.get_running_loop().create_future()
            task = asyncio.create_task(evaluate(model, TASK, "a", EXAMPLES, quorum=0.6, on_quorum=there.set_result))
            early = await there
            assert (len(early.items), early.complete) == (60, False)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()

    run_virtual(main)
    assert len(endpoint.started) < len(EXAMPLES)  # the queued ones were withdrawn


def test_a_quorum_may_stand_beside_a_race() -> None:
    told: list[Evaluation] = []
    done = scored(
        Uneven(0.3),
        lambda model: evaluate(model, TASK, "a", EXAMPLES, floor=FLOOR, quorum=0.05, on_quorum=told.append),
    )
    assert (len(told), len(told[0].items), told[0].stopped) == (1, 5, None)
    assert done == scored(Uneven(0.3))


@pytest.mark.parametrize("quorum", [0.0, -1.0, 1.1, float("nan")])
def test_a_quorum_is_a_share(quorum: float) -> None:
    with pytest.raises(ConfigError, match="share of the examples"):
        scored(FakeEndpoint(), lambda model: evaluate(model, TASK, "a", EXAMPLES, quorum=quorum))
