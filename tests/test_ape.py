"""APE as an optimizer: what it asks, how many calls that takes, and which instruction it keeps."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest
from fakes import FakeEndpoint, run_virtual

from asyncopt import ConfigError, Engine, Example, MemoryCache, Study, Task
from asyncopt.endpoints.protocol import Answer
from asyncopt.optimizers import APE
from asyncopt.result import Result
from asyncopt.tasks.linear_regression import LinearRegression
from asyncopt.testing import AnswerModel, FaultPlan, SimulatedAPI, items_of
from asyncopt.values import Completion, Fault, FaultKind, Generate

EXAMPLES = tuple(Example(number, f"q{number}", f"a{number}") for number in range(40))
TASK = Task("toy", "text", train=EXAMPLES[:20], test=EXAMPLES[20:], initial=("Start.",))
INDUCTION, REWRITE = "Write the instruction in one sentence.", "Say this instruction in other words: "


def toy_model(request: Generate, number: int) -> Answer:
    """Induces `Idea N.`, paraphrases with an exclamation mark; an instruction's text decides how often it is right."""
    prompt = request.prompt[-1].content
    if prompt.endswith(INDUCTION):
        return Completion(f"Idea {(request.sampling.seed or 0) % 1000}.")
    if prompt.startswith(REWRITE):
        return Completion(f"{prompt.removeprefix(REWRITE)}!")
    instruction, question = prompt.rsplit("\n", 1)
    right = Random(prompt).random() < Random(instruction).random()
    return Completion(f"a{question[1:]}" if right else "wrong")


def studied(
    endpoint: Any, ape: APE, *, cache: MemoryCache | None = None, task: Task = TASK, **options: Any
) -> tuple[Study, Result]:
    async def inside() -> tuple[Study, Result]:
        async with Engine(cache=cache) as engine:
            model = engine.model("m", endpoint=endpoint)
            study = Study(task=task, optimizer=ape, scorer=model, proposer=model, **options)
            return study, await study.run()

    return run_virtual(inside)


def test_one_step_of_inductions_takes_these_calls_and_the_best_is_kept() -> None:
    endpoint = FakeEndpoint(toy_model)
    study, result = studied(endpoint, APE(samples=15))
    found = {entry.candidate: entry for entry in study.history.entries}
    asked = [prompt for prompt in endpoint.prompts if prompt.endswith(INDUCTION)]
    assert len(asked) == len(set(asked)) == 15  # each from demonstrations of its own
    assert Counter(entry.source for entry in found.values()) == {"initial": 1, "induction": len(found) - 1}
    assert not [prompt for prompt in endpoint.prompts if prompt.startswith(REWRITE)]
    best = max(found.values(), key=lambda entry: (entry.score or 0, -entry.step, -entry.index))
    assert result.best is not None
    assert result.best.candidate == best.candidate
    tested = len({best.candidate, "Start."})
    assert result.calls == len(endpoint.prompts) == 15 + 20 * len(found) + 20 * tested
    assert (result.steps, result.optimizer) == (1, "ape")


@pytest.mark.parametrize("demonstrations", [5, 12])
def test_an_induction_shows_so_many_training_examples_and_nothing_else(demonstrations: int) -> None:
    endpoint = FakeEndpoint(toy_model)
    studied(endpoint, APE(samples=4, demonstrations=demonstrations))
    for prompt in endpoint.prompts:
        if prompt.endswith(INDUCTION):
            pairs = re.findall(r"Input: q(\d+)\nOutput: a(\d+)\n", prompt)
            assert len(pairs) == len(set(pairs)) == demonstrations
            assert all(one == other and int(one) < 20 for one, other in pairs)


def test_rounds_paraphrase_the_best_so_far() -> None:
    endpoint = FakeEndpoint(toy_model)
    study, result = studied(endpoint, APE(samples=6, rounds=2))
    asked = [prompt.removeprefix(REWRITE) for prompt in endpoint.prompts if prompt.startswith(REWRITE)]
    before = [entry for entry in study.history.entries if entry.step <= 0]
    best = sorted(before, key=lambda entry: (entry.score or 0, entry.step, entry.index))[-3:]
    first = [entry for entry in study.history.entries if entry.step == 1]
    assert {entry.source for entry in first} == {"rewrite"}
    assert {entry.candidate.removesuffix("!") for entry in first} <= {entry.candidate for entry in best}
    assert 0 < len(set(asked)) <= 6
    assert (result.steps, study.optimizer.steps) == (3, 3)


@pytest.mark.parametrize("kept", [1, 2, 100])
def test_a_round_paraphrases_any_of_those_that_are_kept(kept: int, tmp_path: Path) -> None:
    study, _ = studied(FakeEndpoint(toy_model), APE(samples=30, rounds=1, kept=kept), directory=tmp_path, trace=True)
    before = [entry for entry in study.history.entries if entry.step <= 0]
    best = sorted(before, key=lambda entry: (entry.score or 0, entry.step, entry.index))[-kept:]
    rows = [orjson.loads(line) for line in (tmp_path / "trace.jsonl").read_bytes().splitlines()]
    proposals = [row for row in rows if row["kind"] == "proposal"]
    parents = [row["parents"] for row in proposals if row["step"] == 1]
    assert len(parents) == 30
    assert {parent for (parent,) in parents} <= {entry.candidate for entry in best}
    assert len({parent for (parent,) in parents}) > min(kept, 10) // 2
    assert not [row for row in proposals if row["step"] == 0 and "parents" in row]


def test_an_empty_instruction_is_never_paraphrased_even_where_it_is_the_best() -> None:
    def respond(request: Generate, number: int) -> Answer:
        prompt = request.prompt[-1].content
        alone = prompt.startswith("q")
        return Completion(f"a{prompt[1:]}") if alone else toy_model(request, number)

    endpoint = FakeEndpoint(respond)
    study, _ = studied(endpoint, APE(samples=4, rounds=2), task=replace(TASK, initial=("",)))
    best = study.history.best()
    assert best is not None
    assert best.candidate == ""
    asked = [prompt.removeprefix(REWRITE) for prompt in endpoint.prompts if prompt.startswith(REWRITE)]
    assert len(asked) >= 4
    assert all(asked)


def test_where_no_instruction_with_words_was_scored_a_round_induces() -> None:
    def respond(request: Generate, number: int) -> Answer:
        prompt = request.prompt[-1].content
        if prompt.endswith(INDUCTION):
            return toy_model(request, number)
        return Completion("wrong") if prompt.startswith("q") else Fault(FaultKind.REFUSED, "no")

    endpoint = FakeEndpoint(respond)
    study, _ = studied(endpoint, APE(samples=4, rounds=1), task=replace(TASK, initial=("",)))
    assert {entry.source for entry in study.history.entries if entry.step == 1} == {"induction"}
    assert sum(prompt.endswith(INDUCTION) for prompt in endpoint.prompts) == 8


def test_a_directory_from_before_there_was_a_choice_of_how_many_are_kept_can_be_resumed() -> None:
    study, _ = studied(FakeEndpoint(toy_model), APE(samples=4))
    assert "kept" not in study.subject()["optimizer"]
    study, _ = studied(FakeEndpoint(toy_model), APE(samples=4, kept=5))
    assert study.subject()["optimizer"]["kept"] == 5


def test_a_second_run_asks_nothing() -> None:
    endpoint, cache = FakeEndpoint(toy_model), MemoryCache()
    first = studied(endpoint, APE(samples=5, rounds=1), cache=cache)[1]
    calls = len(endpoint.prompts)
    second = studied(endpoint, APE(samples=5, rounds=1), cache=cache)[1]
    assert (second.calls, len(endpoint.prompts)) == (0, calls)
    assert second.best == first.best


def test_the_seed_decides_everything_and_faults_nothing(tmp_path: Path) -> None:
    def found(rate: float, seed: int = 0) -> list[tuple[str, float | None]]:
        api = SimulatedAPI(answers=AnswerModel(0, items_of([TASK])), faults=FaultPlan(1, rate, ("500", "reset")))
        study, _ = studied(api.endpoint(), APE(samples=6, rounds=1), seed=seed, directory=tmp_path / f"{rate}{seed}")
        return [(entry.candidate, entry.score) for entry in study.history.entries]

    assert found(0.0) == found(0.2)
    assert found(0.0, seed=1) != found(0.0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"samples": 0}, "samples is 0; it must be at least 1"),
        ({"rounds": -1}, "rounds is -1; it must be at least 0"),
        ({"kept": 0}, "kept is 0; it must be at least 1"),
        ({"demonstrations": 0}, "demonstrations is 0"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"temperature": float("nan")}, "ape's temperature"),
        ({"racing": 2.0}, "racing"),
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        APE(**wrong)


def test_models_and_examples_are_asked_for_before_anything_runs() -> None:
    async def check() -> None:
        async with Engine() as engine:
            model = engine.model("m", endpoint=FakeEndpoint())
            for task, scorer, proposer, said in [
                (LinearRegression(), None, model, "has none"),
                (TASK, model, None, "--proposer"),
                (TASK, None, model, "--scorer"),
                (Task("untrained", "text", (), EXAMPLES), model, model, "no training examples"),
            ]:
                with pytest.raises(ConfigError, match=said):
                    APE().check(task, scorer, proposer)
            APE(samples=400, racing=0.05).check(TASK, model, model)

    run_virtual(check)
