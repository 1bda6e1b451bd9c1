"""Evaluations on a virtual clock: races whose end latencies cannot change, quorums, and what is withdrawn."""

from __future__ import annotations

import asyncio
import importlib
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
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
            monkeypatch.setattr(importlib.import_module("asyncopt.evaluation"), "AHEAD", ahead)
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


# -- the second call for the final answer ------------------------------------------------------------------------------

CUED = Task("t", "boolean", EXAMPLES, (), position="A_begin", frame=True, final_answer_cue="So the final answer is")


class TwoStep(Uneven):
    """Rambles and asks a question of its own; its answer comes when the cue does."""

    def __init__(self, accuracy: float, latencies: int = 0) -> None:
        super().__init__(accuracy, latencies)
        self.requests: list[Generate] = []

    def right(self, prompt: str) -> bool:
        return super().right(prompt.partition(" thinking")[0])

    def say(self, request: Generate, number: int) -> Answer:
        if request.prompt[-1].content.endswith("So the final answer is"):
            return super().say(request, number)
        return Completion(" thinking...\n\nQ: And what is q1?\n\nA: no")

    async def send(self, model: str, request: Generate) -> Answer:
        self.requests.append(request)
        return await super().send(model, request)


def test_a_cue_is_appended_to_the_prompt_and_the_first_answer_up_to_its_next_question() -> None:
    endpoint = TwoStep(1.0)
    done = scored(endpoint, lambda model: evaluate(model, CUED, "Think.", EXAMPLES[:1]))
    assert endpoint.prompts == [
        "Q: q0\n\nA: Think.",
        "Q: q0\n\nA: Think. thinking... So the final answer is",
    ]
    assert [request.sampling.max_tokens for request in endpoint.requests] == [1024, 50]
    (item,) = done.items
    assert (item.outcome, item.score, item.answer) == (Outcome.SCORED, 1.0, "yes")
    assert item.first_answer == " thinking...\n\nQ: And what is q1?\n\nA: no"


def test_an_example_with_a_cue_is_one_item_that_ends_with_its_second_call() -> None:
    class Slow(TwoStep):
        async def send(self, model: str, request: Generate) -> Answer:
            self.started.append(asyncio.get_running_loop().time())
            await asyncio.sleep(3)
            return self.say(request, 0)

    told: list[tuple[float, int]] = []

    def early(part: Evaluation) -> None:
        told.append((asyncio.get_running_loop().time(), len(part.items)))

    endpoint = Slow(0.5)
    some = EXAMPLES[:30]
    done = scored(endpoint, lambda model: evaluate(model, CUED, "a", some, quorum=0.1, on_quorum=early), 30)
    assert endpoint.started == [0.0] * 30 + [3.0] * 30
    assert told == [(6.0, 3)]
    assert (len(done.items), done.complete) == (30, True)


@pytest.mark.parametrize("floor", [None, FLOOR])
@pytest.mark.parametrize("latencies", range(3))
def test_a_second_call_changes_when_examples_end_and_nothing_else(floor: Floor | None, latencies: int) -> None:
    def ends(task: Task, endpoint: FakeEndpoint) -> list[tuple[Outcome, float | None]]:
        done = scored(endpoint, lambda model: evaluate(model, task, "a", EXAMPLES, floor=floor), concurrency=7)
        return [(item.outcome, item.score) for item in done.items]

    once = ends(replace(CUED, final_answer_cue=""), Uneven(0.4))
    assert ends(CUED, TwoStep(0.4, latencies)) == once
    assert (Outcome.WITHDRAWN in {outcome for outcome, _ in once}) == (floor is not None)


@pytest.mark.parametrize("failing", ["", "So the final answer is"])
def test_an_item_fails_with_either_of_its_calls(failing: str) -> None:
    class Failing(TwoStep):
        def say(self, request: Generate, number: int) -> Answer:
            if request.prompt[-1].content.endswith(f"q0\n\nA: a{' thinking... ' + failing if failing else ''}"):
                return Fault(FaultKind.REFUSED, "no")
            return super().say(request, number)

    endpoint = Failing(1.0)
    done = scored(endpoint, lambda model: evaluate(model, CUED, "a", EXAMPLES[:3]))
    assert [item.outcome for item in done.items] == [Outcome.REFUSED, Outcome.SCORED, Outcome.SCORED]
    assert (done.items[0].score, done.items[0].answer) == (None, "")
    assert done.items[0].first_answer.startswith(" thinking") == bool(failing)
    assert len(endpoint.started) == (6 if failing else 5)


def test_leaving_withdraws_first_and_second_calls() -> None:
    class Hanging(TwoStep):
        async def send(self, model: str, request: Generate) -> Answer:
            self.started.append(0.0)
            if len(self.started) > 6:
                await asyncio.Event().wait()
            return self.say(request, 0)

    endpoint = Hanging(1.0)

    async def main() -> None:
        async with Engine(grace=0) as engine:
            model = engine.model("m", endpoint=endpoint, quota=Quota(concurrency=2))
            task = asyncio.create_task(evaluate(model, CUED, "a", EXAMPLES[:5]))
            await asyncio.sleep(10)
            (dispatcher,) = engine.dispatchers
            assert (dispatcher.in_flight, dispatcher.queued) == (2, 2)  # of five first and five second calls
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            assert dispatcher.queued == 0

    run_virtual(main)
    assert len(endpoint.started) == 8


# -- what the task decides ---------------------------------------------------------------------------------------------


def test_the_scorer_is_asked_at_the_temperature_of_the_task() -> None:
    endpoint = TwoStep(1.0)
    scored(endpoint, lambda model: evaluate(model, replace(CUED, temperature=0.7), "a", EXAMPLES[:2]))
    assert [request.sampling.temperature for request in endpoint.requests] == [0.7] * 4
    plain = TwoStep(1.0)
    scored(plain, lambda model: evaluate(model, TASK, "a", EXAMPLES[:2]))
    assert [request.sampling.temperature for request in plain.requests] == [0.0] * 2


def test_the_rules_of_the_reference_read_the_options_in_the_whole_prompt() -> None:
    example = Example(0, "Where does the sun rise?", "(B)")
    task = Task("t", "choice", (example,), (), template="{{ instruction }}{{ input }}\n(A) west\n(B) east")
    answer = FakeEndpoint(lambda *_: Completion("It rises in the east."))
    strict = scored(answer, lambda model: evaluate(model, task, "", [example]))
    compat = scored(answer, lambda model: evaluate(model, replace(task, answers="opro_compat"), "", [example]))
    assert (strict.score, compat.score) == (0.0, 1.0)
