"""Whole studies on a virtual clock: order, durability, budgets, what is counted."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from fakes import FakeEndpoint, run_virtual

from asyncopt import OPRO, Budget, Engine, Example, MemoryCache, Quota, RandomSearch, Study, Task
from asyncopt.endpoints.protocol import Answer
from asyncopt.errors import AsyncoptError, BudgetExhausted, ConfigError, EndpointRefused, RunLocked, StudyFailed
from asyncopt.evaluation import evaluate
from asyncopt.events import CandidateScored, Event, StudyFinished
from asyncopt.limits.budget import UNLIMITED
from asyncopt.optimizers.base import Search, derived_seed
from asyncopt.result import Result
from asyncopt.tasks.linear_regression import LinearRegression
from asyncopt.values import Completion, Fault, FaultKind, Generate, Outcome, Usage

EXAMPLES = tuple(Example(number, f"q{number}", f"a{number}") for number in range(40))
TASK = Task("toy", "text", train=EXAMPLES[:20], test=EXAMPLES[20:], initial=("Start.",))
OPTIMIZER = OPRO(steps=4, samples_per_step=4)
AMPLE = Quota(requests_per_minute=6e7, concurrency=1000)  # stated, so that the engine need not feel its way


def toy_model(request: Generate, number: int) -> Answer:
    """Proposes `Idea N`, and answers a question right with a chance that the instruction's text decides."""
    prompt = request.prompt[0].content
    usage = Usage(len(prompt) // 4, 2)
    if "square brackets" in prompt:
        return Completion(f"[idea {(request.sampling.seed or 0) % 1000}]", usage=usage)
    instruction, question = prompt.rsplit("\n", 1)
    chance = Random(instruction).random()
    right = Random(prompt).random() < chance
    return Completion(f"a{question[1:]}" if right else "wrong", usage=usage)


def study_on(
    engine: Engine,
    endpoint: FakeEndpoint,
    *,
    quota: Quota = Quota(),
    optimizer: OPRO = OPTIMIZER,
    task: Task = TASK,
    budget: Budget = UNLIMITED,
    directory: Path | None = None,
    seed: int = 0,
) -> Study:
    model = engine.model("m", endpoint=endpoint, quota=quota)
    return Study(
        task=task, optimizer=optimizer, scorer=model, proposer=model, budget=budget, directory=directory, seed=seed
    )


def run(endpoint: FakeEndpoint, cache: MemoryCache | None = None, **options: object) -> tuple[Study, Result]:
    async def main() -> tuple[Study, Result]:
        async with Engine(cache=cache) as engine:
            study = study_on(engine, endpoint, **options)  # type: ignore[arg-type]
            return study, await study.run()

    return run_virtual(main)


def test_a_study_finds_something_better_and_measures_it_on_examples_it_never_saw() -> None:
    endpoint = FakeEndpoint(toy_model, seconds=0.1)
    study, result = run(endpoint)
    assert result.best is not None
    assert result.initial is not None
    assert result.best.train is not None
    assert result.initial.train is not None
    assert result.best.train.score > result.initial.train.score
    assert result.best.held_out is not None
    assert result.best.held_out.n == 20
    assert result.best.held_out.low <= result.best.held_out.score <= result.best.held_out.high
    assert result.steps == 4
    assert result.calls == len(endpoint.started) == study.account.calls
    proposals = [prompt for prompt in endpoint.prompts if "square brackets" in prompt]
    shown = [prompt.split("input:")[0] for prompt in proposals]
    assert all(f"q{number}\n" not in prompt for prompt in proposals for number in range(20, 40))
    assert "Start." in shown[0]


def test_no_optimizer_sees_what_its_result_is_measured_on() -> None:
    """Whoever reads all that a search has, finds no test example."""
    seen: list[Task] = []

    class Peeking(OPRO):
        async def run(self, search: Search) -> None:
            assert isinstance(search.task, Task)
            seen.append(search.task)
            await super().run(search)

    _, result = run(FakeEndpoint(toy_model, seconds=0.1), optimizer=Peeking(steps=1, samples_per_step=1))
    assert [(task.train, task.test) for task in seen] == [(TASK.train, ())]
    assert result.best is not None
    assert result.best.held_out is not None
    assert result.best.held_out.n == len(TASK.test)


def test_a_step_takes_two_round_trips() -> None:
    endpoint = FakeEndpoint(toy_model, seconds=1.0)
    run(endpoint, quota=AMPLE)
    assert endpoint.started[-1] == 1 + 4 * 2 + 1  # start; then propose and score, four times; then the held-out ones


def test_scoring_a_candidate_starts_when_its_sample_arrives() -> None:
    class Straggler(FakeEndpoint):
        async def send(self, model: str, request: Generate) -> Answer:
            slow = "square brackets" in request.prompt[0].content and len(self.started) == 23
            self.seconds = 50.0 if slow else 1.0
            return await super().send(model, request)

    endpoint = Straggler(toy_model)
    run(endpoint, quota=AMPLE, optimizer=OPRO(steps=1, samples_per_step=4))
    early = [time for time in endpoint.started if 2.0 <= time < 50]
    assert len(early) == 3 * 20


def histories(result: Study) -> list[tuple[str, float | None, int, int]]:
    return [(entry.candidate, entry.score, entry.step, entry.index) for entry in result.history.entries]


def with_faults(seed: int) -> Callable[[Generate, int], Answer]:
    rng = Random(seed)

    def respond(request: Generate, number: int) -> Answer:
        if rng.random() < 0.1:
            return Fault(rng.choice([FaultKind.TRANSIENT, FaultKind.RATE_LIMITED]), "planned")
        return toy_model(request, number)

    return respond


def test_the_history_depends_on_the_seed_and_on_nothing_that_happens_on_the_way() -> None:
    plain = histories(run(FakeEndpoint(toy_model))[0])
    for concurrency, respond, seconds in [(1, toy_model, 0.1), (7, with_faults(1), 0.3), (64, with_faults(2), 1.0)]:
        other = run(FakeEndpoint(respond, seconds=seconds), quota=Quota(concurrency=concurrency))[0]
        assert histories(other) == plain
    assert histories(run(FakeEndpoint(toy_model), seed=1)[0]) != plain


def test_twins_of_one_step_are_scored_once_and_keep_the_first_place() -> None:
    def respond(request: Generate, number: int) -> Answer:
        twin = "square brackets" in request.prompt[0].content
        return Completion("[The same]") if twin else toy_model(request, number)

    endpoint = FakeEndpoint(respond)
    study, result = run(endpoint)
    assert [entry[0] for entry in histories(study)] == ["Start.", "The same"]
    assert histories(study)[1][2:] == (0, 0)
    assert result.calls == 20 + 4 * 4 + 20 + 20 + (20 if result.best and result.best.step >= 0 else 0)


def test_a_second_study_on_the_same_cache_makes_no_call() -> None:
    cache = MemoryCache()
    first = run(FakeEndpoint(toy_model), cache)[1]
    endpoint = FakeEndpoint(toy_model)
    second = run(endpoint, cache)[1]
    assert endpoint.started == []
    assert (second.calls, second.cache_hits) == (0, first.calls + first.cache_hits)
    assert second.best == first.best


def test_two_studies_in_one_engine_share_the_quota_and_the_answers() -> None:
    endpoint = FakeEndpoint(toy_model, seconds=0.5)

    async def main() -> list[Result]:
        async with Engine(cache=MemoryCache()) as engine:
            studies = [study_on(engine, endpoint, quota=Quota(concurrency=5), seed=seed) for seed in (0, 0, 1)]
            return list(await asyncio.gather(*(study.run() for study in studies)))

    one, twin, other = run_virtual(main)
    assert endpoint.most_in_flight == 5
    assert one.best == twin.best
    assert one.calls + twin.calls + other.calls == len(endpoint.started)
    assert len(endpoint.started) < 2 * (one.calls + twin.calls)


# -- failures ----------------------------------------------------------------------------------------------------------


def test_a_failed_call_is_never_a_zero() -> None:
    def respond(request: Generate, number: int) -> Answer:
        if request.prompt[0].content.endswith("\nq3"):
            return Fault(FaultKind.REFUSED, "no")
        question = request.prompt[0].content.rsplit("\n", 1)[1]
        return Completion(f"a{question[1:]}")

    async def main() -> None:
        async with Engine() as engine:
            model = engine.model("m", endpoint=FakeEndpoint(respond))
            done = await evaluate(model, TASK, "Any.", TASK.train)
            assert done.score == 1.0
            assert (len(done.scores), done.complete) == (19, False)
            assert done.items[3].outcome is Outcome.REFUSED
            assert [item.example for item in done.items] == list(range(20))

    run_virtual(main)


def test_an_example_that_is_always_refused_is_counted_and_the_study_ends() -> None:
    def respond(request: Generate, number: int) -> Answer:
        if request.prompt[0].content.endswith(("\nq3", "\nq33")):
            return Fault(FaultKind.REFUSED, "no")
        return toy_model(request, number)

    result = run(FakeEndpoint(respond))[1]
    assert result.best is not None
    assert result.best.train is not None
    assert result.best.held_out is not None
    assert (result.best.train.n, result.best.held_out.n) == (19, 19)
    assert result.unscored == 4  # one in training and one held out, of the initial and of the best


def test_a_metric_that_raises_is_no_zero_either() -> None:
    class Broken(Task):
        def grade(self, answer: str, example: Example) -> float:
            raise RuntimeError("metric")

    async def main() -> None:
        async with Engine() as engine:
            model = engine.model("m", endpoint=FakeEndpoint(toy_model))
            done = await evaluate(model, Broken("t", "text", EXAMPLES, ()), "Any.", EXAMPLES[:2])
            assert done.score is None
            assert {item.outcome for item in done.items} == {Outcome.METRIC_ERROR}

    run_virtual(main)


def test_when_nothing_can_be_scored_the_study_says_so() -> None:
    with pytest.raises(StudyFailed):
        run(FakeEndpoint(lambda *_: Fault(FaultKind.REFUSED, "content_filter")))


def test_a_wrong_key_ends_the_study_after_the_calls_in_flight() -> None:
    endpoint = FakeEndpoint(lambda *_: Fault(FaultKind.FATAL_CONFIG, "HTTP 401"), seconds=1.0)
    with pytest.raises(EndpointRefused):
        run(endpoint, quota=Quota(concurrency=3))
    assert len(endpoint.started) == 3


def test_lost_proposals_do_not_end_a_study() -> None:
    def respond(request: Generate, number: int) -> Answer:
        if "square brackets" in request.prompt[0].content and (request.sampling.seed or 0) % 2:
            return Fault(FaultKind.REFUSED, "no")
        return toy_model(request, number)

    study, result = run(FakeEndpoint(respond))
    assert result.steps == 4
    assert 1 < len(study.history) < 17


def test_the_budget_is_never_exceeded_and_the_study_can_go_on(tmp_path: Path) -> None:
    endpoint = FakeEndpoint(toy_model, seconds=0.2)
    whole = run(FakeEndpoint(toy_model), MemoryCache())[1]
    cache = MemoryCache()
    with pytest.raises(BudgetExhausted, match="150 calls"):
        run(endpoint, cache, budget=Budget(calls=150), directory=tmp_path / "run")
    assert len(endpoint.started) <= 150
    result = run(endpoint, cache, budget=Budget(calls=1000), directory=tmp_path / "run")[1]
    assert result.best == whole.best
    assert len(endpoint.started) == whole.calls  # and nothing was paid twice


def test_a_study_that_goes_on_keeps_to_its_whole_budget(tmp_path: Path) -> None:
    endpoint = FakeEndpoint(toy_model, seconds=0.2)
    for _ in range(3):  # without a cache, and in the middle of a step: nothing more is sent
        with pytest.raises(BudgetExhausted, match="50 calls"):
            run(endpoint, budget=Budget(calls=50), directory=tmp_path / "run")
    assert len(endpoint.started) == 50


def test_what_an_interrupted_study_has_spent_is_counted_when_it_goes_on(tmp_path: Path) -> None:
    cache, endpoint = MemoryCache(), FakeEndpoint(toy_model, seconds=0.2)

    async def interrupted() -> None:
        async with Engine(cache=cache) as engine:
            task = asyncio.ensure_future(study_on(engine, endpoint, directory=tmp_path / "run").run())
            await asyncio.sleep(2.9)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    run_virtual(interrupted)
    result = run(endpoint, cache, directory=tmp_path / "run")[1]
    assert result.calls == len(endpoint.started) == run(FakeEndpoint(toy_model), MemoryCache())[1].calls


def test_a_study_is_run_once() -> None:
    async def main() -> None:
        async with Engine() as engine:
            study = study_on(engine, FakeEndpoint(toy_model))
            await study.run()
            with pytest.raises(AsyncoptError, match="once"):
                await study.run()

    run_virtual(main)


@pytest.mark.parametrize("wrong", [{"kind": "numbr"}, {"train": ()}, {"initial": ()}])
def test_a_task_that_cannot_be_studied_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="task"):
        Task(**{"name": "t", "kind": "text", "train": EXAMPLES, "test": (), **wrong})  # type: ignore[arg-type]


def test_time_is_a_budget_too() -> None:
    with pytest.raises(BudgetExhausted, match="seconds"):
        run(FakeEndpoint(toy_model, seconds=1.0), budget=Budget(seconds=4.5), quota=Quota(concurrency=1000))


def test_a_budget_in_dollars_needs_prices() -> None:
    with pytest.raises(ConfigError, match="price"):
        run(FakeEndpoint(toy_model), budget=Budget(usd=1.0))


# -- going on ----------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """What stands in for the end of the process."""


def test_a_study_killed_at_any_call_goes_on_to_the_same_end_without_paying_finished_steps_again(tmp_path: Path) -> None:
    reference = FakeEndpoint(toy_model)
    study, result = run(reference)
    for moment in range(0, result.calls, 37):
        directory = tmp_path / f"run-{moment}"

        def respond(request: Generate, number: int, moment: int = moment) -> Answer:
            if number == moment:
                asyncio.get_running_loop().stop()
            return toy_model(request, number)

        async def main() -> Result:
            async with Engine() as engine:
                return await study_on(engine, FakeEndpoint(respond), directory=directory).run()

        import looptime

        loop = looptime.new_event_loop(start=0)
        loop.set_exception_handler(lambda *_: None)
        task = loop.create_task(main())
        loop.run_forever()  # until the stop; nothing after it is cleaned up or said goodbye to
        release(task, loop)
        second = FakeEndpoint(toy_model)
        again, ended = run(second, directory=directory)
        assert histories(again) == histories(study)
        assert ended.best == result.best
        done = max((record["step"] for record in steps_of(directory)), default=-1)
        assert done == 3
        assert not set(second.prompts) & proposals_of_finished_steps(reference, directory, moment)


def release(task: asyncio.Task[Result], loop: asyncio.AbstractEventLoop) -> None:
    """End the abandoned tasks, so that the lock is free as it is when a process dies."""
    for other in asyncio.all_tasks(loop):
        other.cancel()
    loop.run_until_complete(asyncio.gather(task, *asyncio.all_tasks(loop), return_exceptions=True))
    loop.close()


def steps_of(directory: Path) -> list[dict[str, int]]:
    from asyncopt.journal import read_records

    path = directory / "journal.jsonl"
    return [dict(record.data) for record in read_records(path.read_bytes(), path)[0] if record.kind == "step"]


def proposals_of_finished_steps(reference: FakeEndpoint, directory: Path, moment: int) -> set[str]:
    """The meta-prompts of steps whose scores were all in before the kill."""
    sent = [prompt for prompt in reference.prompts[:moment] if "square brackets" in prompt]
    return set(sent[: -OPTIMIZER.samples_per_step])


def test_a_finished_study_is_not_run_again(tmp_path: Path) -> None:
    first = run(FakeEndpoint(toy_model), directory=tmp_path / "run")[1]
    endpoint = FakeEndpoint(toy_model)
    assert run(endpoint, directory=tmp_path / "run")[1] == first
    assert endpoint.started == []


def test_another_study_in_the_same_directory_is_refused_with_the_difference(tmp_path: Path) -> None:
    run(FakeEndpoint(toy_model), directory=tmp_path / "run")
    with pytest.raises(ConfigError, match="seed was 0, is 1"):
        run(FakeEndpoint(toy_model), directory=tmp_path / "run", seed=1)
    with pytest.raises(ConfigError, match="identity"):
        run(FakeEndpoint(toy_model, identity="other"), directory=tmp_path / "run")


def test_a_directory_in_use_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with Engine() as engine:
            endpoint = FakeEndpoint(toy_model, seconds=1.0)
            first = asyncio.ensure_future(study_on(engine, endpoint, directory=tmp_path / "run").run())
            await asyncio.sleep(0.5)
            with pytest.raises(RunLocked):
                await study_on(engine, endpoint, directory=tmp_path / "run").run()
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)

    run_virtual(main)


def test_cancelling_the_task_stops_the_study_and_leaves_nothing_behind(tmp_path: Path) -> None:
    endpoint = FakeEndpoint(toy_model, seconds=1.0)

    async def main() -> None:
        before = asyncio.all_tasks()
        async with Engine() as engine:
            task = asyncio.ensure_future(study_on(engine, endpoint, directory=tmp_path / "run").run())
            await asyncio.sleep(3.5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            sent = len(endpoint.started)
            await asyncio.sleep(10)
            assert len(endpoint.started) == sent  # what had not started was withdrawn
        assert asyncio.all_tasks() == before

    run_virtual(main)


def test_events_can_be_iterated() -> None:
    async def main() -> list[Event]:
        async with Engine() as engine:
            study = study_on(engine, FakeEndpoint(toy_model))
            return [event async for event in study.events()]

    events = run_virtual(main)
    assert isinstance(events[-1], StudyFinished)
    assert sum(isinstance(event, CandidateScored) for event in events) >= 10


def test_leaving_the_events_early_stops_the_study_and_an_error_reaches_the_reader() -> None:
    endpoint = FakeEndpoint(toy_model, seconds=1.0)

    async def main() -> None:
        before = asyncio.all_tasks()
        async with Engine() as engine:
            async with contextlib.aclosing(study_on(engine, endpoint).events()) as events:
                async for _ in events:
                    break
            sent = len(endpoint.started)
            await asyncio.sleep(10)
            assert len(endpoint.started) == sent
        assert asyncio.all_tasks() == before
        async with Engine() as engine:
            broken = FakeEndpoint(lambda *_: Fault(FaultKind.FATAL_CONFIG, "HTTP 401"))
            with pytest.raises(EndpointRefused):
                async for _ in study_on(engine, broken).events():
                    pass

    run_virtual(main)


# -- linear regression -------------------------------------------------------------------------------------------------


def test_linear_regression_stops_on_the_exact_hit() -> None:
    def respond(request: Generate, number: int) -> Answer:
        return Completion("[15, 14]" if number == 11 else f"[{number}, {number}]")

    async def main() -> Result:
        async with Engine() as engine:
            model = engine.model("m", endpoint=FakeEndpoint(respond))
            task = LinearRegression(w_true=15, b_true=14)
            return await Study(task=task, optimizer=OPRO(steps=500), proposer=model).run()

    result = run_virtual(main)
    assert (result.solved, result.steps, result.calls) == (True, 2, 16)
    assert result.best is not None
    assert result.best.loss == result.optimum_loss == pytest.approx(47.038, abs=5e-4)
    assert result.unique_pairs == 5 + 16
    assert result.start is not None
    assert [tuple(row[:2]) for row in result.start] == [(10, 13), (15, 10), (16, 14), (17, 18), (18, 15)]


def test_random_search_needs_no_model_and_finds_the_optimum_in_about_nine_steps() -> None:
    async def main() -> list[int]:
        steps = []
        for seed in range(60):
            study = Study(task=LinearRegression(), optimizer=RandomSearch(steps=500), seed=seed)
            steps.append((await study.run()).steps)
        return sorted(steps)

    steps = run_virtual(main)
    assert 5 <= steps[30] <= 16


def test_every_draw_of_a_study_is_its_own() -> None:
    endpoint = FakeEndpoint(toy_model)
    run(endpoint)
    numbers = [derived_seed(0, step, "propose", index) for step in range(4) for index in range(4)]
    assert len(set(numbers)) == 16
