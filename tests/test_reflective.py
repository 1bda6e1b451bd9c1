"""The reflective optimizer: whom it takes for a parent, what it shows of it, and what it reads out of an answer."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from inspect import getsource
from pathlib import Path
from random import Random
from statistics import NormalDist
from typing import Any

import orjson
import pytest
from fakes import FakeEndpoint, run_virtual
from test_overlap import TASK, history_of, run

from asyncopt import Budget, ConfigError, Engine, Example, MemoryCache, Study, Task
from asyncopt.config import check
from asyncopt.directory import read_journal
from asyncopt.endpoints.protocol import Answer
from asyncopt.errors import BudgetExhausted
from asyncopt.evaluation import Item
from asyncopt.optimizers import Reflective, reflective
from asyncopt.optimizers.history import Entry, History
from asyncopt.optimizers.reflective import minibatch, pareto_weights, proposed_in, read, reflection
from asyncopt.tasks import load
from asyncopt.tasks.linear_regression import LinearRegression
from asyncopt.testing import AnswerModel, FaultPlan, LogNormal, SimulatedAPI, items_of
from asyncopt.testing.proposals import VOCABULARY
from asyncopt.values import Capabilities, Completion, Fault, FaultKind, Generate, Outcome, Usage

REQUEST = "Write it between <instruction> and </instruction>."
SMALL = Reflective(steps=4, samples_per_step=3)


def toy_model(request: Generate, number: int = 0) -> Answer:
    """Writes `Idea N.` when asked to reflect; an instruction's text decides how often it is right, and how it fails."""
    prompt = request.prompt[-1].content
    usage = Usage(len(prompt) // 4, 2)
    if prompt.endswith(REQUEST):
        idea = Random(f"{prompt}{request.sampling.seed}").randrange(1000)
        return Completion(f"They ramble.\n<instruction>\nidea {idea}.\n</instruction>", usage=usage)
    instruction, question = prompt.rsplit("\n", 1)
    right = Random(prompt).random() < 0.8 * Random(instruction).random()  # never all of them
    return Completion(f"a{question[1:]}" if right else f"{instruction} fails on {question}", usage=usage)


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

    @property
    def reflections(self) -> list[str]:
        return [prompt for prompt in self.prompts if prompt.endswith(REQUEST)]


def history_with(tables: dict[str, list[float | None]]) -> History:
    """Candidates with these scores by example, None where there is none; a step each, in this order."""
    history = History(maximize=True)
    for step, (candidate, row) in enumerate(tables.items()):
        scores = {example: score for example, score in enumerate(row) if score is not None}
        mean = sum(scores.values()) / len(scores) if scores else None
        history.add(Entry(candidate, mean, step - 1, 0, len(scores), len(scores) == len(row)), scores or None)
    return history


def parent_in(prompt: str) -> str:
    return prompt.partition("<instruction>\n")[2].partition("\n</instruction>")[0]


# -- parents -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tables", "weights"),
    [
        ({"a": [0, 1]}, {"a": 2}),  # all zeros are a tie as well
        ({"a": [1, 1, 0, 0], "b": [0, 0, 1, 0]}, {"b": 2, "a": 3}),  # who is best on one example only stays
        ({"a": [1, 1, 0], "b": [1, 0, 0]}, {"a": 3}),  # never best alone
        ({"a": [1, 1, 1], "b": [0, 0, 0]}, {"a": 3}),  # never best
        ({"a": [1, 0, 1], "b": [0, 1, 1], "c": [1, 1, 0]}, {"b": 2, "c": 2}),  # a and b make one of the two superfluous
        ({"a": [1, 0], "b": [1, 0]}, {"b": 2}),  # of twins the later one
        ({"a": [0.5, 0.2], "b": [0.4, 0.9]}, {"a": 1, "b": 1}),  # graded answers
        ({"a": [1, None], "b": [0, 1]}, {"b": 1, "a": 1}),  # on what it has no score for, nobody is compared with it
        ({"a": [None, None], "b": [0, 1]}, {"b": 2}),  # nothing of it could be scored
        ({"a": [None, None]}, {}),
    ],
)
def test_a_parent_weighs_as_many_examples_as_it_is_among_the_best_on(
    tables: dict[str, list[float | None]], weights: dict[str, int]
) -> None:
    found = pareto_weights(history_with(tables))
    assert found == weights


def test_what_lost_its_race_is_no_parent() -> None:
    history = history_with({"a": [1, 0]})
    history.add(Entry("b", None, 1, 0, 1, False, stopped=1), {1: 1.0})
    assert pareto_weights(history) == {"a": 2}


def test_parents_are_drawn_in_proportion_to_their_weights() -> None:
    right = {"A": {0, 1, 2}, "B": {3, 4}, "C": {5}, "D": {0, 1}}  # D is nowhere best alone
    examples = tuple(Example(number, f"q{number}", f"a{number}") for number in range(7))
    task = Task("toy", "text", train=examples, test=examples, initial=tuple(right))

    def respond(request: Generate, number: int) -> Answer:
        prompt = request.prompt[-1].content
        if prompt.endswith(REQUEST):
            return Completion("nothing")
        instruction, question = prompt.rsplit("\n", 1)
        return Completion(f"a{question[1:]}" if int(question[1:]) in right[instruction] else "wrong")

    endpoint, samples = FakeEndpoint(respond), 1000
    run(endpoint, Reflective(steps=1, samples_per_step=samples), task=task, cache=MemoryCache())  # type: ignore[arg-type]
    drawn = Counter(parent_in(prompt) for prompt in endpoint.prompts if prompt.endswith(REQUEST))
    expected = {"A": 4 / 9, "B": 3 / 9, "C": 2 / 9}  # nobody solves the last example, so it counts for all three
    assert drawn.keys() == expected.keys()
    for parent, chance in expected.items():
        spread = (samples * chance * (1 - chance)) ** 0.5
        assert abs(drawn[parent] - samples * chance) < NormalDist().inv_cdf(0.9999) * spread


# -- examples ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failed", "solved", "size", "shown"),
    [
        (10, 10, 3, (2, 1)),
        (10, 10, 1, (1, 0)),
        (10, 10, 2, (2, 0)),
        (10, 10, 9, (6, 3)),
        (10, 0, 3, (3, 0)),
        (1, 10, 3, (1, 2)),
        (2, 1, 9, (2, 1)),
        (0, 10, 3, (0, 0)),
        (0, 0, 3, (0, 0)),
    ],
)
def test_most_examples_shown_are_failed_ones(failed: int, solved: int, size: int, shown: tuple[int, int]) -> None:
    examples = tuple(Example(number, f"q{number}", "") for number in range(25))
    scores = dict.fromkeys(range(failed), 0.5) | dict.fromkeys(range(10, 10 + solved), 1.0)
    drawn = set()
    for seed in range(20):
        chosen = [example.id for example in minibatch(examples, scores, size, Random(seed))]
        assert len(set(chosen)) == len(chosen)
        assert (sum(one < 10 for one in chosen), sum(10 <= one < 20 for one in chosen)) == shown
        assert all(one < 20 for one in chosen)  # those without a score are never shown
        drawn.add(frozenset(chosen))
    assert len(drawn) > 1 or len(chosen) in (0, failed + solved)


def test_the_traces_are_the_answers_that_the_parent_was_scored_by() -> None:
    endpoint = Toy()
    study, result = run(endpoint, SMALL, cache=MemoryCache())  # type: ignore[arg-type]
    assert len(endpoint.reflections) == 12
    case = re.compile(r"<INS>\n(q\d+)\n\nThe model's answer:\n(.*)\n\nThe right answer:\n(a\d+)\n\n(The .*)")
    for prompt in endpoint.reflections:
        parent = parent_in(prompt)
        scores = study.history.scores[parent]
        cases = case.findall(prompt)
        assert len(cases) == 3
        for question, answer, target, verdict in cases:
            request = Generate.of(f"{parent}\n{question}")
            told = toy_model(request)
            assert isinstance(told, Completion)
            assert (answer, target) == (told.text, f"a{question[1:]}")
            assert ("answer is right" in verdict) == (scores[int(question[1:])] == 1)
            assert "answer is right" in verdict or verdict.endswith("graded 0, where 1 is right and 0 is wrong.")
    assert result is not None
    assert result.best is not None
    assert result.best.source == "reflection"


@pytest.mark.parametrize("cached", [True, False])
def test_with_a_cache_the_traces_cost_nothing(cached: bool) -> None:
    task = load("antonym").limited(12)
    api = SimulatedAPI(answers=AnswerModel(0, items_of([task])), latency=LogNormal(0.5, 0.8))

    async def inside() -> Study:
        async with Engine(cache=MemoryCache() if cached else None) as engine:
            model = engine.model("m", endpoint=api.endpoint())
            study = Study(task=task, optimizer=SMALL, scorer=model, proposer=model)
            await study.run()
            return study

    study = run_virtual(inside)
    asked = Counter(entry.prompt for entry in api.ledger.entries if not entry.prompt.endswith(REQUEST))
    proposals = len(api.ledger.entries) - asked.total()
    assert proposals == 12
    assert study.history.unique > 6
    if cached:
        assert set(asked.values()) == {1}
        assert study.account.hits >= 3 * proposals
    else:
        again = asked.total() - len(asked)
        assert 12 <= again <= 3 * proposals  # samples of one step that show the same example share a call


def test_a_parent_that_solves_everything_is_left_alone() -> None:
    endpoint = FakeEndpoint(lambda request, number: Completion(f"a{request.prompt[-1].content.rpartition('q')[2]}"))
    study, result = run(endpoint, SMALL)  # type: ignore[arg-type]
    assert result is not None
    assert (result.steps, study.history.unique) == (4, 1)
    assert len(endpoint.prompts) == len(TASK.train) + len(TASK.test)


@pytest.mark.parametrize("quorum", [0.05, 0.8])
@pytest.mark.parametrize("lag", [0, 4])
def test_a_parent_that_a_quorum_has_decided_is_reflected_on(lag: int, quorum: float, tmp_path: Path) -> None:
    endpoint, optimizer = Toy(1), replace(SMALL, lag=lag, quorum=quorum)
    study, result = run(endpoint, optimizer, cache=MemoryCache(), directory=tmp_path)  # type: ignore[arg-type]
    assert result is not None
    assert len(endpoint.reflections) == 12
    assert study.history.unique > 8
    scored = [prompt for prompt in endpoint.prompts if not prompt.endswith(REQUEST)]
    assert len(scored) == len(set(scored))
    again, _ = run(Toy(2), optimizer, cache=MemoryCache(), replay=tmp_path)  # type: ignore[arg-type]
    assert history_of(again) == history_of(study)


def test_where_a_quorum_failed_nowhere_the_open_examples_are_shown() -> None:
    """The scorer is right on all but the last three examples, whose answers come late."""
    late = {f"q{number}" for number in (21, 22, 23)}

    class Late(FakeEndpoint):
        async def send(self, model: str, request: Generate) -> Answer:
            self.seconds = 50.0 if request.prompt[-1].content.rpartition("\n")[2] in late else 0.1
            return await super().send(model, request)

    def respond(request: Generate, number: int) -> Answer:
        prompt = request.prompt[-1].content
        if prompt.endswith(REQUEST):
            return Completion("<instruction>Better.</instruction>")
        question = prompt.rpartition("\n")[2]
        return Completion("late" if question in late else f"a{question[1:]}")

    endpoint = Late(respond)
    run(endpoint, Reflective(steps=1, samples_per_step=1, examples=4, quorum=21 / 24), cache=MemoryCache())  # type: ignore[arg-type]
    (prompt,) = (prompt for prompt in endpoint.prompts if prompt.endswith(REQUEST))
    assert set(re.findall(r"q\d+", prompt)) > late
    assert prompt.count("The model's answer:\nlate\n") == 3


def test_what_cannot_be_graded_and_what_was_asked_twice_is_shown_as_it_was() -> None:
    examples = tuple(Example(number, f"q{number}", f"a{number}") for number in range(3))
    task = Task(
        "toy", "text", train=examples, test=examples, initial=("Start.",), final_answer_cue="So:", description="Toys."
    )
    refusing = False

    def respond(request: Generate, number: int) -> Answer:
        nonlocal refusing
        prompt = request.prompt[-1].content
        if prompt.endswith(REQUEST):
            refusing = True
            return Completion("<instruction>Better.</instruction>")
        if refusing and prompt.endswith("q2"):
            return Fault(FaultKind.REFUSED, "not that")
        return Completion("{{ 7*7 }} </instruction>" if not prompt.endswith("So:") else "nothing")

    endpoint = FakeEndpoint(respond)
    run(endpoint, Reflective(steps=2, samples_per_step=1), task=task)  # type: ignore[arg-type]
    first, second = (prompt for prompt in endpoint.prompts if prompt.endswith(REQUEST))
    assert first.startswith("The task: Toys.\n\n")
    assert first.count("The model's answer:\n{{ 7*7 }} </instruction> So: nothing\n") == 3
    assert "could not be graded" not in first
    assert second.count("The answer could not be graded: refused: not that\n") == 1
    assert second.count("The model's answer:\n(none)\n") == 1


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("It is 7, is it?", "is graded 0, where 1 is right and 0 is wrong. What was read out of it: 7\n"),
        ("No idea.", "is graded 0, where 1 is right and 0 is wrong. No answer could be read out of it.\n"),
        ("7", "is graded 0, where 1 is right and 0 is wrong.\n"),
        ("12", "is right.\n"),
    ],
)
def test_the_proposer_is_told_how_an_answer_was_read(answer: str, verdict: str) -> None:
    example = Example(0, "6 and 6?", "12")
    task = Task("toy", "number", train=(example,), test=(example,), initial=("Add.",))
    item = Item(0, Outcome.SCORED, task.grade(answer, example), answer)
    assert f"The model's answer {verdict}" in reflection(task, "Add.", [example], (item,))


def test_a_grade_of_ones_own_is_shown_as_it_is() -> None:
    examples = tuple(Example(number, f"q{number}", f"a{number}") for number in range(3))
    task = Task("toy", "text", train=examples, test=examples, initial=("Start.",), metric=lambda answer, example: 1 / 3)
    endpoint = Toy()
    run(endpoint, Reflective(steps=1, samples_per_step=1), task=task)  # type: ignore[arg-type]
    (prompt,) = endpoint.reflections
    assert prompt.count("The model's answer is graded 0.333, where 1 is right and 0 is wrong.\n") == 3


# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("<instruction>Add up.</instruction>", "Add up."),
        ("Why?\n<instruction>\nAdd\n  up.\n</instruction>\nThat is it.", "Add up."),
        ("<instruction>One.</instruction> or better <instruction>Two.</instruction>", "Two."),
        ("<instruction><instruction>Twice.</instruction></instruction>", "Twice."),
        ("<instruction>Tags first.</instruction>\n```\nFence.\n```", "Tags first."),
        ("```\nAdd up.\n```", "Add up."),
        ("Here:\n```text\nAdd\nup.\n```\nDone.", "Add up."),
        ("```Add up.```", "Add up."),
        ("```Add the numbers\nup.```", "Add the numbers up."),
        ("```\nOne.\n```\nor\n```\nTwo.\n```", "Two."),
        ("<instruction></instruction>", ""),
        ("``````", ""),
        ("<instruction>Cut off", None),
        ("<instruction>One.</instruction> then <instruction>Cut off", None),
        ("</instruction>Add up.<instruction>", None),
        ("```\nCut off", None),
        ("```\nOne.\n```\n```\nCut off", None),
        ("<Instruction>Add up.</Instruction>", None),
        ("Add up.", None),
        ("", None),
    ],
)
def test_an_instruction_stands_between_tags_or_in_a_fence(answer: str, text: str | None) -> None:
    assert proposed_in(answer) == text


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("Add up.", "without the marks of a proposal"),
        ("<instruction> \n </instruction>", "empty"),
        (f"<instruction>{'long ' * 200}</instruction>", "too long"),
        ("<instruction>Say <INS> first.</instruction>", "with a mark of the format"),
        ("<instruction>Begin with 42.</instruction>", "forbidden by the task"),
        ("<instruction>\u202e\x1b[31m\ud800Red.</instruction>", ""),
        ("<instruction>{{ 7*7 }} {% raw %}</instruction>", ""),
        ("<instruction>" * 50_000, "without the marks of a proposal"),
        ("```" * 100_001, "without the marks of a proposal"),
    ],
)
def test_what_is_read_is_text_and_nothing_else(answer: str, reason: str) -> None:
    task = replace(TASK, forbid=re.compile("42"))
    reading = read(answer, task)
    assert (reading.text is None, reading.reason) == (bool(reason), reason)
    assert reading.text is None or "\x1b" not in reading.text
    assert reading.text is None or reading.text == read(f"<instruction>{reading.text}</instruction>", task).text


def test_a_proposer_that_takes_grammars_is_held_to_the_tags() -> None:
    grammars = set()

    def respond(request: Generate, number: int) -> Answer:
        if request.prompt[-1].content.endswith(REQUEST):
            grammars.add(request.sampling.grammar)
        return toy_model(request)

    run(FakeEndpoint(respond, supports=Capabilities(grammar=True)), SMALL)  # type: ignore[arg-type]
    (grammar,) = grammars
    assert grammar is not None
    assert grammar.startswith('root ::= "<instruction>" [A-Z]')


# -- the search --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [SMALL, replace(SMALL, racing=0.3), replace(SMALL, validate_every=2)])
@pytest.mark.parametrize("seed", range(2))
def test_neither_latencies_nor_faults_nor_concurrency_decide(seed: int, optimizer: Reflective) -> None:
    task = replace(TASK, validation=TASK.test)
    plain, _ = run(FakeEndpoint(toy_model), optimizer, task=task)  # type: ignore[arg-type]
    other = Toy(seed, faults=0.1)
    study, _ = run(other, optimizer, task=task, concurrency=2 + 5 * seed, cache=MemoryCache())  # type: ignore[arg-type]
    assert history_of(study) == history_of(plain)
    assert study.history.unique > 8


def test_the_simulated_model_varies_what_it_is_shown_and_is_blind_to_the_traces() -> None:
    task = load("antonym")
    model = AnswerModel(0, items_of([task]))
    parent = "Give one word that says the opposite of what is given here."
    for shown in (task.train[:3], task.train[3:6]):
        items = tuple(Item(example.id, Outcome.SCORED, 0.0, "<instruction>") for example in shown)
        prompt = reflection(task, parent, list(shown), items)
        answers = [read(model.answer(prompt, str(draw)), task).text for draw in range(20)]
        assert len(set(answers)) > 10
        for answer in answers:
            assert answer is not None
            words, known = ({*text.lower().rstrip(".").split()} for text in (answer, parent))
            assert len(words & known) >= 8
            assert words <= {word.rstrip(".") for word in known} | {*VOCABULARY}


def test_the_seed_decides_what_is_shown() -> None:
    def found(seed: int, faults: float = 0.0) -> list[tuple[str, float | None]]:
        task = load("antonym").limited(12)
        plan = FaultPlan(1, faults, ("500", "reset"))
        api = SimulatedAPI(answers=AnswerModel(0, items_of([task])), faults=plan)

        async def inside() -> list[tuple[str, float | None]]:
            async with Engine() as engine:
                model = engine.model("m", endpoint=api.endpoint())
                study = Study(task=task, optimizer=SMALL, scorer=model, proposer=model, seed=seed)
                await study.run()
                return [(entry.candidate, entry.score) for entry in study.history.entries]

        return run_virtual(inside)

    assert found(0) == found(0, faults=0.2) != found(1)


@pytest.mark.parametrize("lag", [0, 4])
@pytest.mark.parametrize("until", [0.5, 3.0, 7.0])
def test_an_interrupted_search_goes_on_as_if_it_had_not_been(lag: int, until: float, tmp_path: Path) -> None:
    optimizer = replace(SMALL, lag=lag)
    whole, result = run(Toy(1), optimizer)  # type: ignore[arg-type]
    cache = MemoryCache()
    first, unfinished = run(Toy(1), optimizer, directory=tmp_path / "run", until=until, cache=cache)  # type: ignore[arg-type]
    assert unfinished is None
    again, ended = run(Toy(2), optimizer, directory=tmp_path / "run", cache=cache)  # type: ignore[arg-type]
    assert ended is not None
    assert result is not None
    assert history_of(again)[: len(history_of(first)) - 1] == history_of(first)[:-1]
    if not lag:
        assert history_of(again) == history_of(whole)
        assert ended.best == result.best
    replayed, _ = run(Toy(3), optimizer, replay=tmp_path / "run")  # type: ignore[arg-type]
    assert history_of(replayed) == history_of(again)


@pytest.mark.parametrize("calls", [24, 30, 200])
def test_a_budget_may_end_in_a_trace(calls: int, tmp_path: Path) -> None:
    endpoint = Toy(1)  # without a cache, so that traces are paid for
    with pytest.raises(BudgetExhausted):
        run(endpoint, SMALL, budget=Budget(calls=calls), directory=tmp_path / "run")  # type: ignore[arg-type]
    assert len(endpoint.prompts) <= calls
    study, result = run(Toy(2), SMALL, directory=tmp_path / "run")  # type: ignore[arg-type]
    assert result is not None
    assert history_of(study) == history_of(run(Toy(3), SMALL)[0])  # type: ignore[arg-type]


def test_the_trace_names_the_parent(tmp_path: Path) -> None:
    async def inside() -> None:
        async with Engine() as engine:
            model = engine.model("m", endpoint=Toy(1))
            await Study(task=TASK, optimizer=SMALL, scorer=model, proposer=model, directory=tmp_path, trace=True).run()

    run_virtual(inside)
    entries = [one for record in read_journal(tmp_path) if record.kind == "step" for one in record.data["entries"]]
    known = {entry["candidate"]: entry["step"] for entry in entries}
    proposals = traced(tmp_path, "proposal")
    assert len(proposals) == 12
    for row in proposals:
        (parent,) = row["parents"]
        assert parent == parent_in(row["prompt"][-1][1])
        assert known[parent] < row["step"]


def traced(directory: Path, kind: str) -> list[dict[str, Any]]:
    rows = [orjson.loads(line) for line in (directory / "trace.jsonl").read_bytes().splitlines()]
    return [{**row, **row.get("data", {})} for row in rows if row["kind"] == kind]


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"steps": -1}, "reflective's steps is -1; it must be at least 0"),
        ({"samples_per_step": 0}, "samples_per_step is 0"),
        ({"examples": 0}, "examples is 0; it must be at least 1"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"temperature": float("nan")}, "reflective's temperature is nan"),
        ({"lag": -1}, "lag is -1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Reflective(**wrong)


def test_what_cannot_be_searched_is_refused_before_anything_runs() -> None:
    async def inside() -> None:
        async with Engine() as engine:
            model = engine.model("m", endpoint=FakeEndpoint())
            for task, scorer, proposer, said in [
                (LinearRegression(), None, model, "has none"),
                (TASK, model, None, "--proposer"),
                (TASK, None, model, "--scorer"),
                (replace(TASK, train=()), model, model, "no training examples"),
            ]:
                with pytest.raises(ConfigError, match=said):
                    Reflective().check(task, scorer, proposer)

    run_virtual(inside)


def test_a_file_may_ask_for_it() -> None:
    settings = check({"task": {"name": "antonym"}, "optimizer": {"name": "reflective", "examples": 5, "lag": 4}})
    assert settings.optimizer.build(TASK) == Reflective(examples=5, lag=4)
    with pytest.raises(ConfigError, match="reflective has no option example; did you mean examples"):
        check({"task": {"name": "antonym"}, "optimizer": {"name": "reflective", "example": 5}})


def test_a_modern_method_fits_the_interface_in_a_few_lines() -> None:
    assert len(getsource(reflective).splitlines()) < 250
