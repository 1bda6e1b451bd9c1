"""Validation beside the search: which candidates, what it decides, when the search stops, and that nothing is lost."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest
from fakes import FakeEndpoint, run_virtual

from asyncopt import OPRO, Engine, Example, MemoryCache, Quota, Result, Study, Task
from asyncopt.directory import read_journal
from asyncopt.endpoints.protocol import Answer
from asyncopt.errors import ConfigError
from asyncopt.result import result_of
from asyncopt.tasks import LinearRegression
from asyncopt.values import Completion, Fault, FaultKind, Generate, Usage

EXAMPLES = tuple(Example(number, f"q{number}", f"a{number}") for number in range(40))
TASK = Task(
    "toy", "text", train=EXAMPLES[:12], validation=EXAMPLES[12:24], test=EXAMPLES[24:], initial=("Start.", "Begin.")
)
OPTIMIZER = OPRO(steps=7, samples_per_step=3, validate_every=3)


class Model(FakeEndpoint):
    """Proposes `Idea N`, and is right with a chance that the instruction decides; slower and failing as ``seed`` says."""

    def __init__(self, seed: int = 0, faults: float = 0.0) -> None:
        super().__init__(self._answer)
        self._rng = Random(seed)
        self._faults = faults

    async def send(self, model: str, request: Generate) -> Answer:
        self.seconds = self._rng.lognormvariate(0.0, 1.0)
        return await super().send(model, request)

    def _answer(self, request: Generate, number: int) -> Answer:
        if self._rng.random() < self._faults:
            return Fault(FaultKind.TRANSIENT, "planned")
        prompt = request.prompt[0].content
        if "square brackets" in prompt:
            return Completion(f"[idea {Random(f'{prompt}{request.sampling.seed}').randrange(1000)}]", usage=Usage(9, 2))
        instruction, question = prompt.rsplit("\n", 1)
        return Completion(f"a{question[1:]}" if self.right(instruction, question, prompt) else "wrong")

    def right(self, instruction: str, question: str, prompt: str) -> bool:
        return Random(prompt).random() < Random(instruction).random()


class Overfitted(Model):
    """Candidates do better and better in training, and never as well as the start outside of it."""

    def right(self, instruction: str, question: str, prompt: str) -> bool:
        number = int(question[1:])
        if instruction == "Start.":
            return number % 2 == 0
        rank = int(instruction.split()[-1]) / 1000 if instruction.startswith("Idea") else 0.0
        return number % 12 < 7 + 5 * rank if number < 12 else number % 3 == 0


def run(
    endpoint: FakeEndpoint,
    optimizer: OPRO = OPTIMIZER,
    *,
    task: Task = TASK,
    concurrency: int = 64,
    cache: MemoryCache | None = None,
    directory: Path | None = None,
    replay: Path | None = None,
    until: float | None = None,
    trace: bool = False,
) -> tuple[Study, Result | None]:
    async def main() -> tuple[Study, Result | None]:
        async with Engine(cache=cache) as engine:
            model = engine.model("m", endpoint=endpoint, quota=Quota(concurrency=concurrency))
            study = Study(
                task=task,
                optimizer=optimizer,
                scorer=model,
                proposer=model,
                directory=directory,
                replay=replay,
                trace=trace,
            )
            running = asyncio.ensure_future(study.run())
            await asyncio.wait([running], timeout=until)
            if not running.done():
                running.cancel()
                await asyncio.wait([running])
                return study, None
            return study, running.result()

    return run_virtual(main)


def result(endpoint: FakeEndpoint, optimizer: OPRO = OPTIMIZER, **options: Any) -> Result:
    found = run(endpoint, optimizer, **options)[1]
    assert found is not None
    return found


def records(directory: Path) -> list[tuple[str, dict[str, Any]]]:
    kinds = ("proposed", "entry", "step", "validated")
    measured = ("account", "seconds")
    return [
        (record.kind, {name: value for name, value in record.data.items() if name not in measured})
        for record in read_journal(directory)
        if record.kind in kinds
    ]


def test_the_start_every_third_step_and_the_last_are_validated(tmp_path: Path) -> None:
    study, _ = run(Model(), directory=tmp_path / "run")
    validated = {data["step"]: data["candidates"] for kind, data in records(tmp_path / "run") if kind == "validated"}
    assert list(validated) == [-1, 0, 3, 6]
    assert {row["candidate"] for row in validated[-1]} == {"Start.", "Begin."}
    of_step = {entry.candidate for entry in study.history.entries if entry.step == 3}
    assert of_step <= {row["candidate"] for row in validated[3]} | {row["candidate"] for row in validated[0]}
    names = [row["candidate"] for rows in validated.values() for row in rows]
    assert len(names) == len(set(names))  # each once, whatever is best again and again
    assert all(row["examples"] == 12 and row["complete"] for rows in validated.values() for row in rows)


def test_whatever_is_best_in_training_is_validated_too(tmp_path: Path) -> None:
    study, _ = run(Model(), directory=tmp_path / "run")
    best = study.history.best()
    assert best is not None
    assert any(
        row["candidate"] == best.candidate
        for kind, data in records(tmp_path / "run")
        if kind == "validated"
        for row in data["candidates"]
    )


def test_the_validation_calls_are_those_of_the_validation_examples() -> None:
    endpoint = Model()
    run(endpoint)
    asked = [prompt.rsplit("\nq", 1) for prompt in endpoint.prompts if "square brackets" not in prompt]
    validated = {candidate for candidate, number in asked if 12 <= int(number) < 24}
    assert {"Start.", "Begin."} <= validated
    for candidate in validated:
        numbers = sorted(int(number) for one, number in asked if one == candidate and 12 <= int(number) < 24)
        assert numbers == list(range(12, 24))


def test_the_candidate_is_chosen_by_its_validation_score() -> None:
    plain = result(Overfitted(), replace(OPTIMIZER, validate_every=None))
    assert plain.best is not None
    assert plain.best.candidate.startswith("Idea")
    assert plain.best.validation is None
    checked = result(Overfitted())
    assert checked.best is not None
    assert checked.best.candidate == "Start."
    assert checked.best.validation is not None
    assert (checked.best.validation.score, checked.best.validation.n) == (0.5, 12)
    assert result_of(checked.to_json()) == checked


def test_the_search_ends_after_patience_validations_without_a_better_score(tmp_path: Path) -> None:
    stopped = result(Overfitted(), replace(OPTIMIZER, steps=50, validate_every=2, patience=2), directory=tmp_path / "r")
    assert [data["step"] for kind, data in records(tmp_path / "r") if kind == "validated"] == [-1, 0, 2]
    assert stopped.steps == 3
    assert stopped.best is not None
    assert stopped.best.candidate == "Start."


def test_a_better_validation_score_starts_the_patience_anew(tmp_path: Path) -> None:
    class Growing(Model):
        def right(self, instruction: str, question: str, prompt: str) -> bool:
            return int(question[1:]) % 12 < 2 + len(self.prompts) // 150  # later candidates are better

    done = result(Growing(), replace(OPTIMIZER, steps=9, validate_every=1, patience=3), directory=tmp_path / "r")
    scores = [
        max((row["score"] for row in data["candidates"]), default=0.0)
        for kind, data in records(tmp_path / "r")
        if kind == "validated"
    ]
    best, since, longest = -1.0, 0, 0
    for score in scores:
        since = 0 if score > best else since + 1
        best, longest = max(best, score), max(longest, since)
    assert done.steps == 9
    assert 0 < longest < 3


@pytest.mark.parametrize("patience", [None, 2])
def test_neither_latencies_nor_concurrency_nor_faults_decide(tmp_path: Path, patience: int | None) -> None:
    optimizer = replace(OPTIMIZER, steps=9, validate_every=2, patience=patience)
    histories = set()
    for number, (seed, concurrency, faults) in enumerate([(1, 1, 0.0), (2, 8, 0.1), (3, 64, 0.05)]):
        directory = tmp_path / str(number)
        run(Model(seed, faults), optimizer, concurrency=concurrency, directory=directory)
        rows = [record for record in records(directory) if record[0] in ("step", "validated")]
        histories.add(orjson.dumps(sorted(rows, key=lambda row: (row[0], row[1]["step"]))))
    assert len(histories) == 1


def test_validation_runs_beside_the_next_step(tmp_path: Path) -> None:
    run(Model(), directory=tmp_path / "run")
    kinds = [(kind, data["step"]) for kind, data in records(tmp_path / "run")]
    assert kinds.index(("proposed", 4)) < kinds.index(("validated", 3)) < kinds.index(("step", 4))


def test_a_study_that_was_interrupted_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    optimizer = replace(OPTIMIZER, patience=3)
    whole = result(Model(), optimizer, directory=tmp_path / "whole", cache=MemoryCache())
    expected = [record for record in records(tmp_path / "whole") if record[0] in ("step", "validated")]
    kinds = ("proposed", "step", "validated")
    moments = [record.data["seconds"] for record in read_journal(tmp_path / "whole") if record.kind in kinds]
    for number, moment in enumerate(moments):
        directory, cache = tmp_path / str(number), MemoryCache()
        _, first = run(Model(), optimizer, directory=directory, cache=cache, until=moment + 1e-4)
        assert first is None
        again = result(Model(), optimizer, directory=directory, cache=cache)
        assert [record for record in records(directory) if record[0] in ("step", "validated")] == expected
        assert (again.best, again.steps) == (whole.best, whole.steps)


def test_a_search_with_lag_and_validation_is_replayed(tmp_path: Path) -> None:
    optimizer = replace(OPTIMIZER, lag=3, patience=4)
    first = result(Model(4), optimizer, directory=tmp_path / "first")
    again = result(Model(9), optimizer, directory=tmp_path / "second", replay=tmp_path / "first", concurrency=5)
    assert records(tmp_path / "first") == records(tmp_path / "second")
    assert again.best == first.best


def test_a_resumed_search_with_lag_is_replayed_though_it_validated_later(tmp_path: Path) -> None:
    optimizer = replace(OPTIMIZER, validate_every=1, lag=4)
    for number in range(12):
        first, cache = tmp_path / f"first{number}", MemoryCache()
        run(Model(number), optimizer, directory=first, cache=cache, until=2.0 + number)
        result(Model(number + 50), optimizer, directory=first, cache=cache)
        second = tmp_path / f"second{number}"
        result(Model(number + 99), optimizer, directory=second, replay=first)
        assert records(first) == records(second)


class Refusing(Overfitted):
    """One validation example is refused whatever the instruction is, as a content filter does."""

    def _answer(self, request: Generate, number: int) -> Answer:
        if request.prompt[0].content.endswith("\nq12"):
            return Fault(FaultKind.REFUSED, "filtered")
        return super()._answer(request, number)


def test_an_example_that_is_always_refused_leaves_the_validation_its_say() -> None:
    checked = result(Refusing())
    assert checked.best is not None
    assert checked.best.candidate == "Start."
    assert checked.best.validation is not None
    assert (checked.best.validation.correct, checked.best.validation.n) == (5, 11)


def test_an_example_that_is_always_refused_does_not_end_the_search(tmp_path: Path) -> None:
    class Growing(Refusing):
        def right(self, instruction: str, question: str, prompt: str) -> bool:
            return int(question[1:]) % 12 < 2 + len(self.prompts) // 150  # later candidates are better

    optimizer = replace(OPTIMIZER, steps=9, validate_every=1, patience=3)
    assert result(Growing(), optimizer).steps == 9


def test_a_trace_goes_on_after_a_line_that_was_torn(tmp_path: Path) -> None:
    run(Model(), directory=tmp_path / "run", trace=True, until=3.0)
    trace = tmp_path / "run" / "trace.jsonl"
    kept = trace.read_bytes()
    trace.write_bytes(kept + b'{"kind":"eval')
    result(Model(), directory=tmp_path / "run", trace=True)
    content = trace.read_bytes()
    assert content.startswith(kept + b'{"kind":"eval\n')
    kinds = [orjson.loads(line)["kind"] for line in content[len(kept) :].splitlines()[1:]]
    assert set(kinds) == {"proposal", "evaluation", "validation", "test"}


def test_calls_that_an_ended_search_left_in_flight_are_not_the_tests() -> None:
    class Priced(Overfitted):
        def _answer(self, request: Generate, number: int) -> Answer:
            answer = super()._answer(request, number)
            _, asked, question = request.prompt[0].content.rpartition("\nq")
            tested = bool(asked) and question.isdigit() and int(question) >= 24
            return replace(answer, usage=Usage(1 if tested else 1000, 0)) if isinstance(answer, Completion) else answer

    stopped = result(Priced(), replace(OPTIMIZER, steps=50, validate_every=2, patience=2), concurrency=20)
    assert stopped.test is not None and stopped.search is not None  # noqa: PT018
    assert stopped.test.input_tokens == stopped.test.calls == len(TASK.test) * len({stopped.best, stopped.initial})
    assert stopped.search.input_tokens + stopped.test.input_tokens == stopped.input_tokens
    assert stopped.search.cache_hits + stopped.test.cache_hits == stopped.cache_hits


@pytest.mark.parametrize("sittings", [1, 2])
def test_the_search_took_the_same_however_often_the_test_was_interrupted(tmp_path: Path, sittings: int) -> None:
    whole = result(Model(), directory=tmp_path / "whole")
    last = max(record.data["seconds"] for record in read_journal(tmp_path / "whole") if record.kind == "validated")
    for number in range(sittings):
        done = run(Model(number), directory=tmp_path / "again", until=last + 0.6 if number == 0 else 0.4)[1]
        assert done is None
    resumed = result(Model(), directory=tmp_path / "again")
    assert resumed.search == whole.search
    assert whole.test is not None and resumed.test is not None  # noqa: PT018
    assert resumed.test.calls > whole.test.calls
    assert resumed.search is not None
    assert resumed.search.calls + resumed.test.calls == resumed.calls


@pytest.mark.parametrize(
    ("options", "task", "message"),
    [
        ({"validate_every": 0}, TASK, "validate_every is 0"),
        ({"patience": 2, "validate_every": None}, TASK, "patience counts validations"),
        ({"validate_every": 2}, replace(TASK, validation=()), "validation_ratio"),
        ({"validate_every": 2}, LinearRegression(), "leave them off"),
        ({}, replace(TASK, train=()), "train_ratio"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any], task: Task, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(Model(), replace(OPTIMIZER, **options), task=task)


# -- the trace -----------------------------------------------------------------------------------------------------------


def test_a_trace_has_every_proposal_and_every_graded_answer(tmp_path: Path) -> None:
    study, _ = run(Model(), replace(OPTIMIZER, steps=2), directory=tmp_path / "run", trace=True)
    rows = [orjson.loads(line) for line in (tmp_path / "run" / "trace.jsonl").read_bytes().splitlines()]
    proposals = [row for row in rows if row["kind"] == "proposal"]
    assert [(row["step"], row["index"]) for row in sorted(proposals, key=lambda row: (row["step"], row["index"]))] == [
        (step, index) for step in range(2) for index in range(3)
    ]
    assert all("square brackets" in str(row["prompt"]) and row["answer"].startswith("[idea") for row in proposals)
    evaluated = {row["candidate"]: row for row in rows if row["kind"] == "evaluation"}
    assert set(evaluated) == {entry.candidate for entry in study.history.entries}
    for entry in study.history.entries:
        items = evaluated[entry.candidate]["items"]
        assert [item["example"] for item in items] == list(range(12))
        assert sum(item["score"] for item in items) / 12 == entry.score
        assert all(item["answer"] for item in items)
    assert {row["kind"] for row in rows} == {"proposal", "evaluation", "validation", "test"}


def test_a_trace_needs_a_directory() -> None:
    with pytest.raises(ConfigError, match="directory"):
        run(Model(), trace=True)


# -- what was spent on what ----------------------------------------------------------------------------------------------


def test_the_search_and_the_test_are_accounted_for_separately() -> None:
    endpoint = Model()
    done = result(endpoint, replace(OPTIMIZER, steps=2))
    on_test = [prompt for prompt in endpoint.prompts if prompt.rsplit("\nq", 1)[-1].isdigit()]
    on_test = [prompt for prompt in on_test if int(prompt.rsplit("\nq", 1)[1]) >= 24]
    assert done.search is not None
    assert done.test is not None
    assert done.test.calls == len(on_test) > 0
    assert done.search.calls + done.test.calls == done.calls == len(endpoint.prompts)
    assert done.search.input_tokens + done.test.input_tokens == done.input_tokens
