"""Paraphrase and keep the best: which instructions it rewords, and that it is the plain loop it stands for."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest
from fakes import FakeEndpoint, run_virtual
from test_overlap import TASK, history_of, run

from asyncopt import ConfigError, Engine, MemoryCache, Study
from asyncopt.config import check
from asyncopt.endpoints.protocol import Answer
from asyncopt.optimizers import Paraphrase
from asyncopt.optimizers.base import derived_seed
from asyncopt.optimizers.history import Entry, History
from asyncopt.optimizers.paraphrase import best_worded
from asyncopt.tasks.linear_regression import LinearRegression
from asyncopt.values import Capabilities, Completion, Fault, FaultKind, Generate

REQUEST = "Say this instruction in other words: "
SMALL = Paraphrase(steps=5, samples_per_step=4, kept=3)


def reworded(base: str, number: int) -> str:
    """The toy's other words: one word of the instruction is another one."""
    words, rng = base.rstrip(".").split(), Random(f"{base}{number}")
    words[rng.randrange(len(words))] = rng.choice(("sum", "count", "read", "think", "mind", "weigh"))
    return " ".join(words).capitalize() + "."


def right(instruction: str, question: str) -> bool:
    return Random(f"{instruction}{question}").random() < Random(instruction).random()


def toy_model(request: Generate, number: int = 0) -> Answer:
    prompt = request.prompt[-1].content
    if prompt.startswith(REQUEST):
        return Completion(reworded(prompt.removeprefix(REQUEST), request.sampling.seed or 0))
    instruction, question = prompt.rsplit("\n", 1)
    return Completion(f"a{question[1:]}" if right(instruction, question) else "wrong")


class Toy(FakeEndpoint):
    """The toy model after log-normal times and with passing faults that ``seed`` decides."""

    def __init__(self, seed: int = 0, faults: float = 0.0) -> None:
        super().__init__(self._answer)
        self._rng, self._faults = Random(seed), faults

    async def send(self, model: str, request: Generate) -> Answer:
        self.seconds = 0.5 * self._rng.lognormvariate(0.0, 1.0)
        return await super().send(model, request)

    def _answer(self, request: Generate, number: int) -> Answer:
        fails = self._rng.random() < self._faults
        return Fault(FaultKind.TRANSIENT, "planned") if fails else toy_model(request)


STARTS = ("Add the numbers.", "Answer the question.", "Look.")
TOY_TASK = replace(TASK, initial=STARTS)


def by_hand(optimizer: Paraphrase, score: Callable[[str], float]) -> list[tuple[str, float]]:
    """Every instruction that a plain loop over a sorted list tries, with its score, in order."""
    tried = {text: score(text) for text in STARTS}
    kept = [(score(text), -1, place, text) for place, text in enumerate(STARTS)]
    for step in range(optimizer.steps):
        kept = sorted(kept, reverse=True)[: optimizer.kept]
        children = []
        for sample in range(optimizer.samples_per_step):
            base = kept[sample % len(kept)][-1]
            child = reworded(base, derived_seed(0, step, "propose", sample))
            if child not in tried:
                tried[child] = score(child)
                children.append((tried[child], step, sample, child))
        kept += children
    return list(tried.items())


@pytest.mark.parametrize("optimizer", [SMALL, replace(SMALL, kept=1), replace(SMALL, kept=50, samples_per_step=7)])
def test_it_is_a_plain_loop_over_a_heap(optimizer: Paraphrase) -> None:
    def score(instruction: str) -> float:
        return sum(right(instruction, example.input) for example in TASK.train) / len(TASK.train)

    study, result = run(Toy(faults=0.1), optimizer, task=TOY_TASK, cache=MemoryCache())  # type: ignore[arg-type]
    expected = by_hand(optimizer, score)
    assert [(entry.candidate, entry.score) for entry in study.history.entries] == expected
    assert len(expected) > 12
    assert result is not None
    assert result.best is not None
    assert result.best.train is not None
    assert result.best.train.score == max(score for _, score in expected)


def test_each_of_the_best_is_reworded_in_turn(tmp_path: Path) -> None:
    async def inside() -> None:
        async with Engine() as engine:
            model = engine.model("m", endpoint=Toy(1))
            study = Study(task=TOY_TASK, optimizer=SMALL, scorer=model, proposer=model, directory=tmp_path, trace=True)
            await study.run()

    run_virtual(inside)
    rows = [orjson.loads(line) for line in (tmp_path / "trace.jsonl").read_bytes().splitlines()]
    proposals = [{**row, **row.get("data", {})} for row in rows if row["kind"] == "proposal"]
    assert len(proposals) == 20
    for step in range(5):
        of_step = {row["index"]: row for row in proposals if row["step"] == step}
        parents = [of_step[index]["parents"] for index in range(4)]
        assert len({*map(tuple, parents)}) == 3
        assert parents[3] == parents[0]
        for row in of_step.values():
            assert row["prompt"][-1][1] == REQUEST + row["parents"][0]


@pytest.mark.parametrize(
    ("entries", "kept", "best"),
    [
        ([("A.", 0.1), ("B.", 0.3), ("C.", 0.2)], 2, ["B.", "C."]),
        ([("A.", 0.1), ("", 0.9), (" ", 0.8)], 2, ["A."]),  # what has no words has no other words
        ([("A.", None), ("B.", 0.3)], 5, ["B."]),
        ([("A.", 0.3), ("B.", 0.3)], 1, ["B."]),  # of equals the later one
        ([("", 0.3)], 5, []),
    ],
)
def test_the_best_with_words_are_kept(entries: list[tuple[str, float | None]], kept: int, best: list[str]) -> None:
    history = History(maximize=True)
    for index, (text, score) in enumerate(entries):
        history.add(Entry(text, score, -1, index, 4, score is not None))
    assert best_worded(history, kept) == best


def test_where_only_the_empty_start_was_scored_nobody_is_asked() -> None:
    def respond(request: Generate, number: int) -> Answer:
        prompt = request.prompt[-1].content
        return Fault(FaultKind.REFUSED, "no") if prompt.startswith("Add.") else Completion("a1")

    endpoint = FakeEndpoint(respond)
    study, result = run(endpoint, SMALL, task=replace(TASK, initial=("", "Add.")))  # type: ignore[arg-type]
    assert result is not None
    assert study.history.unique == 2
    assert not [prompt for prompt in endpoint.prompts if prompt.startswith(REQUEST)]


@pytest.mark.parametrize("answer", ["", "\n \n", "x" * 501, "<INS>", "\ud800\x00", "Instruction: \n"])
def test_what_is_no_instruction_is_left_out(answer: str) -> None:
    def respond(request: Generate, number: int) -> Answer:
        if request.prompt[-1].content.startswith(REQUEST):
            return Completion(answer)
        return toy_model(request)

    study, result = run(FakeEndpoint(respond), SMALL)  # type: ignore[arg-type]
    assert result is not None
    assert all(
        text == "Start." or re.fullmatch("\ufffd+", text) for text in (e.candidate for e in study.history.entries)
    )


def test_a_proposer_that_takes_grammars_gets_one() -> None:
    grammars = set()

    def respond(request: Generate, number: int) -> Answer:
        if request.prompt[-1].content.startswith(REQUEST):
            grammars.add(request.sampling.grammar)
            assert (request.sampling.temperature, request.sampling.max_tokens) == (0.5, 200)
        return toy_model(request)

    run(FakeEndpoint(respond, supports=Capabilities(grammar=True)), SMALL)  # type: ignore[arg-type]
    (grammar,) = grammars
    assert grammar is not None
    assert grammar.startswith("root ::= ")


@pytest.mark.parametrize("lag", [0, 4])
@pytest.mark.parametrize("until", [0.5, 4.0])
def test_an_interrupted_search_goes_on_as_if_it_had_not_been(lag: int, until: float, tmp_path: Path) -> None:
    optimizer = replace(SMALL, lag=lag)
    whole, _ = run(Toy(1), optimizer)  # type: ignore[arg-type]
    _, unfinished = run(Toy(1), optimizer, directory=tmp_path / "run", until=until)  # type: ignore[arg-type]
    assert unfinished is None
    again, ended = run(Toy(2), optimizer, directory=tmp_path / "run")  # type: ignore[arg-type]
    assert ended is not None
    if not lag:
        assert history_of(again) == history_of(whole)
    replayed, _ = run(Toy(3), optimizer, replay=tmp_path / "run")  # type: ignore[arg-type]
    assert history_of(replayed) == history_of(again)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"steps": -1}, "paraphrase's steps is -1; it must be at least 0"),
        ({"samples_per_step": 0}, "samples_per_step is 0"),
        ({"kept": 0}, "kept is 0; it must be at least 1"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"temperature": -1.0}, "paraphrase's temperature is -1.0"),
        ({"quorum": 2.0}, "quorum is 2.0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Paraphrase(**wrong)


def test_what_cannot_be_searched_is_refused_before_anything_runs() -> None:
    async def inside() -> None:
        async with Engine() as engine:
            model = engine.model("m", endpoint=FakeEndpoint())
            for task, scorer, proposer, said in [
                (LinearRegression(), None, model, "has none"),
                (TASK, model, None, "--proposer"),
                (TASK, None, model, "--scorer"),
                (replace(TASK, train=()), model, model, "no training examples"),
                (replace(TASK, initial=("",)), model, model, "starts from an empty instruction"),
            ]:
                with pytest.raises(ConfigError, match=said):
                    Paraphrase().check(task, scorer, proposer)

    run_virtual(inside)


def test_a_file_may_ask_for_it() -> None:
    settings = check(
        {"task": {"name": "antonym"}, "optimizer": {"name": "paraphrase", "kept": 5, "scoring_calls": 900}}
    )
    assert settings.optimizer.build(TASK) == Paraphrase(kept=5, scoring_calls=900)
    with pytest.raises(ConfigError, match="did you mean kept"):
        check({"task": {"name": "antonym"}, "optimizer": {"name": "paraphrase", "keep": 5}})
