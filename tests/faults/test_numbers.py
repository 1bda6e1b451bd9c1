"""What a score rests on, what is compared with what, and that neither latencies nor faults nor resuming decide it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import dln_toy
import orjson
import pytest
from fakes import FakeEndpoint, run_virtual
from hypothesis import given
from hypothesis import strategies as st

from asyncopt import OPRO, Budget, Engine, Example, MemoryCache, Quota, Study, Task
from asyncopt.cli.show import show_run
from asyncopt.directory import read_journal
from asyncopt.endpoints.protocol import Answer
from asyncopt.errors import BudgetExhausted
from asyncopt.limits.budget import UNLIMITED
from asyncopt.optimizers import APE, DLN1, DLN2
from asyncopt.optimizers.base import Optimizer, Validated, comparable
from asyncopt.optimizers.comparing import Contender, comparable_scores
from asyncopt.optimizers.history import Entry, History
from asyncopt.result import Result
from asyncopt.values import Completion, Fault, FaultKind, Generate, TokenLogprob, Usage

EXAMPLES = tuple(Example(number, f"q{number}", f"a{number}") for number in range(30))
TASK = Task("toy", "text", train=EXAMPLES[:12], validation=EXAMPLES[12:20], test=EXAMPLES[20:], initial=("Start.",))
SMALL = OPRO(steps=3, samples_per_step=3)

Fails = Callable[[str, int], FaultKind | None]


class Toy(FakeEndpoint):
    """Proposes `Idea N`, and is right with a chance that the instruction decides; what ``fails`` is lost for good.

    With a ``seed`` it takes log-normal times and one answer in ten fails in passing.
    """

    def __init__(self, fails: Fails = lambda _instruction, _number: None, *, seed: int | None = None) -> None:
        super().__init__(self._answer)
        self._fails = fails
        self._rng = None if seed is None else Random(seed)

    async def send(self, model: str, request: Generate) -> Answer:
        self.seconds = 1.0 if self._rng is None else 0.5 * self._rng.lognormvariate(0.0, 1.0)
        return await super().send(model, request)

    def _answer(self, request: Generate, number: int) -> Answer:
        if self._rng is not None and self._rng.random() < 0.1:
            return Fault(self._rng.choice([FaultKind.TRANSIENT, FaultKind.RATE_LIMITED]), "planned")
        prompt = request.prompt[-1].content
        instruction, _, question = prompt.rpartition("\nq")
        if not question.isdigit():
            return self._proposal(prompt, request)
        kind = self._fails(instruction, int(question))
        if kind is not None:
            # A server that fails half of what it is asked for an hour is down, so a 5xx is final at its own word here.
            return Fault(kind, "planned for good", retry=False if kind is FaultKind.TRANSIENT else None)
        right = Random(prompt).random() < Random(instruction).random()
        return Completion(f"a{question}" if right else "wrong", usage=Usage(9, 2))

    def _proposal(self, prompt: str, request: Generate) -> Answer:
        idea = f"idea {Random(f'{prompt}{request.sampling.seed}').randrange(1000)}"
        return Completion(f"[{idea}]" if "square brackets" in prompt else idea, usage=Usage(9, 2))


def run(
    endpoint: FakeEndpoint,
    optimizer: Optimizer = SMALL,
    *,
    task: Task = TASK,
    concurrency: int = 64,
    directory: Path | None = None,
    cache: MemoryCache | None = None,
    budget: Budget = UNLIMITED,
    until: float | None = None,
) -> tuple[Study, Result | None]:
    """The study and its result; None if it was cancelled at the time ``until``."""

    async def main() -> tuple[Study, Result | None]:
        async with Engine(cache=cache) as engine:
            model = engine.model("m", endpoint=endpoint, quota=Quota(concurrency=concurrency))
            study = Study(
                task=task, optimizer=optimizer, scorer=model, proposer=model, directory=directory, budget=budget
            )
            running = asyncio.ensure_future(study.run())
            await asyncio.wait([running], timeout=until)
            if not running.done():
                running.cancel()
                await asyncio.wait([running])
                return study, None
            return study, running.result()

    return run_virtual(main)


def history_of(study: Study) -> bytes:
    return orjson.dumps(study.history.entries)


def rows(directory: Path) -> dict[str, dict[str, Any]]:
    """The rows of the journal by candidate."""
    return {row["candidate"]: row for record in read_journal(directory) for row in record.data.get("entries", ())}


def best_of(history: History) -> Entry:
    best = history.best()
    assert best is not None
    return best


# -- N01 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.row("N01")
@pytest.mark.parametrize("kind", [FaultKind.REFUSED, FaultKind.TOO_LARGE, FaultKind.TRUNCATED, FaultKind.MALFORMED])
def test_a_candidate_of_which_all_examples_failed_has_no_score_and_is_never_the_best(
    kind: FaultKind, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All but the start fail, so that a 0 for a failed call would not show; the start is right nowhere."""
    endpoint = Toy(lambda instruction, _: None if instruction == "Start." else kind)
    study, result = run(endpoint, directory=tmp_path / "run")
    lost = [entry for entry in study.history.entries if entry.step >= 0]
    assert len(lost) >= 3
    assert {(entry.score, entry.examples, entry.complete) for entry in lost} == {(None, 0, False)}
    assert best_of(study.history).candidate == "Start."
    assert result is not None
    assert result.best is not None
    assert result.best.candidate == "Start."
    # The optimizer is told: they count as tried, and stand in no meta-prompt with a score.
    assert all(entry.candidate in study.history for entry in lost)
    prompts = [prompt for prompt in endpoint.prompts if "square brackets" in prompt]
    assert not any(f"\n{entry.candidate}\n" in prompt for prompt in prompts for entry in lost)
    assert [entry.candidate for entry in study.history.ranked()] == ["Start."]
    problems = rows(tmp_path / "run")[lost[0].candidate]["problems"]
    show_run(tmp_path / "run", json=False)
    assert set(problems.values()) == {kind.value if kind is not FaultKind.MALFORMED else "failed:malformed"}
    assert f"12 {problems['0']} (0, 1, 2, 3, 4, …)" in capsys.readouterr().out


# -- N02 -----------------------------------------------------------------------------------------------------------------


def hard(question: int) -> bool:
    return question % 2 == 1


class Halved(Toy):
    """The start is right on the even examples alone; ideas are right on one more, and for all odd ones get no answer."""

    def __init__(self, kind: FaultKind, even_right: int) -> None:
        super().__init__(lambda instruction, number: kind if instruction != "Start." and hard(number) else None)
        self._even_right = even_right

    def _answer(self, request: Generate, number: int) -> Answer:
        answer = super()._answer(request, number)
        instruction, _, question = request.prompt[-1].content.rpartition("\nq")
        if not question.isdigit() or isinstance(answer, Fault):
            return answer
        allowed = [2 * place for place in range(self._even_right)] if instruction != "Start." else [0, 2, 4, 6]
        return replace(answer, text=f"a{question}" if int(question) in allowed else "wrong")


@pytest.mark.row("N02")
@pytest.mark.parametrize("kind", [FaultKind.RATE_LIMITED, FaultKind.TRANSIENT, FaultKind.REFUSED])
@pytest.mark.parametrize(
    ("even_right", "comparable_score"), [(3, (4 - 1 * 2) / 12), (4, 4 / 12), (5, (4 + 1 * 2) / 12)]
)
def test_half_failed_is_partial_and_compared_on_the_common_examples_only(
    kind: FaultKind, even_right: int, comparable_score: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An idea's own mean is above the start's in each case; on the six examples that both have it may not be."""
    optimizer = OPRO(steps=1, samples_per_step=2)
    study, result = run(Halved(kind, even_right), optimizer, directory=tmp_path / "run")
    ideas = [entry for entry in study.history.entries if entry.step == 0]
    assert [(entry.score, entry.examples, entry.partial) for entry in ideas] == [(even_right / 6, 6, True)] * 2
    shown = {entry.candidate: entry.score for entry in study.history.ranked()}
    assert [shown[entry.candidate] for entry in ideas] == pytest.approx([comparable_score] * 2)
    best = best_of(study.history)
    assert best.candidate == (
        "Start." if even_right <= 4 else ideas[0].candidate
    )  # behind a complete one of equal worth
    assert result is not None
    assert result.best is not None
    assert (result.best.candidate, result.best.partial) == (best.candidate, best.partial)
    assert result.best.train is not None
    assert (result.best.train.n, result.best.train.score) == (best.examples, best.score)
    show_run(tmp_path / "run", json=False)
    label = "refused" if kind is FaultKind.REFUSED else f"failed:{kind.value}"
    shown_text = capsys.readouterr().out
    assert shown_text.count(f"(partial, on 6 examples: 6 {label} (1, 3, 5, 7, 9, …))") == 2
    assert ("partial: some training examples have no score" in shown_text) == best.partial


def held_against(reference: Contender, one: Contender) -> float | None:
    """The definition, word by word, in exact numbers."""
    common = [example for example in one.scores if example in reference.scores]
    if not common or 2 * len(common) < len(reference.scores):
        return None
    mean = sum(map(Fraction, reference.scores.values())) / len(reference.scores)
    differences = [Fraction(one.scores[example]) - Fraction(reference.scores[example]) for example in common]
    return float(mean + sum(differences) / len(common))


def contender(scores: Mapping[int, float], number: int, examples: int) -> Contender:
    return Contender(sum(scores.values()) / len(scores), len(scores) == examples, scores, (number, 0))


grades = st.sampled_from([0.0, 1.0])
boards = st.integers(1, 8).flatmap(
    lambda examples: st.lists(
        st.dictionaries(st.integers(0, examples - 1), grades, min_size=1), min_size=1, max_size=8
    ).map(lambda each: [contender(scores, number, examples) for number, scores in enumerate(each)])
)


@pytest.mark.row("N02")
@given(boards)
def test_the_rule_is_its_definition(board: list[Contender]) -> None:
    complete = [one for one in board if one.complete]
    if complete:
        top = max(one.score for one in complete)
        reference = next(one for one in complete if one.score == top)
    else:
        most = max(len(one.scores) for one in board)
        reference = next(one for one in board if len(one.scores) == most)
    wanted = [one.score if one.complete else held_against(reference, one) for one in board]
    assert comparable_scores(board) == wanted  # to the last bit, so that ties are ties


@pytest.mark.row("N02")
@given(boards, st.randoms(use_true_random=False))
def test_no_order_of_arrival_decides(board: list[Contender], rng: Random) -> None:
    def ranked(contenders: Sequence[Contender]) -> list[Entry]:
        history = History(maximize=True)
        for one in contenders:
            history.add(Entry(f"c{one.place[0]}", one.score, *one.place, len(one.scores), one.complete), one.scores)
        return [*history.ranked(), best_of(history)]

    shuffled = board.copy()
    rng.shuffle(shuffled)
    assert ranked(shuffled) == ranked(board)


@pytest.mark.row("N02")
@given(st.lists(st.lists(grades, min_size=6, max_size=6), min_size=1, max_size=8))
def test_an_example_that_fails_for_all_changes_nothing(table: list[list[float]]) -> None:
    def order(failing: int) -> list[str]:
        history = History(maximize=True)
        for number, scores in enumerate(table):
            entry = Entry(f"c{number}", sum(scores) / 6, number, 0, 6, complete=not failing)
            history.add(entry, dict(enumerate(scores)))
        return [entry.candidate for entry in (*history.ranked(), best_of(history))]

    assert order(failing=1) == order(failing=0)


@pytest.mark.row("N02")
def test_too_few_common_examples_are_no_comparison() -> None:
    history = History(maximize=True)
    history.add(Entry("whole", 0.5, -1, 0, 10), {number: float(number < 5) for number in range(10)})
    history.add(Entry("four", 1.0, 0, 0, 4, False), dict.fromkeys(range(4), 1.0))
    assert [entry.candidate for entry in history.ranked()] == ["whole"]
    history.add(Entry("five", 0.4, 0, 1, 5, False), {number: float(number % 2) for number in range(4, 9)})
    assert [(entry.candidate, entry.score) for entry in history.ranked()] == [("whole", 0.5), ("five", 0.7)]


@pytest.mark.row("N02")
def test_validation_follows_the_same_rule() -> None:
    whole = Validated("whole", 0.5, 4, True, (1.0, 1.0, 0.0, 0.0))
    lucky = Validated("lucky", 1.0, 2, False, (1.0, 1.0, None, None), {"14": "refused", "15": "refused"})
    better = Validated("better", 0.5, 2, False, (None, None, 1.0, 0.0))
    none = Validated("none", None, 0, False, (None,) * 4)
    scores = {one.candidate: one.score for one in comparable({0: [lucky, none], -1: [whole], 3: [better]})}
    assert scores == {"whole": 0.5, "lucky": 0.5, "better": 1.0}
    assert Validated.of_row(orjson.loads(orjson.dumps(lucky.to_row()))) == lucky
    older = {"candidate": "older", "score": 0.5, "examples": 4, "complete": True}
    assert Validated.of_row(older) == Validated("older", 0.5, 4, True)


@pytest.mark.row("N02")
@pytest.mark.parametrize("fails", [False, True])
def test_a_held_out_score_of_easy_examples_wins_no_network_a_place(fails: bool, tmp_path: Path) -> None:
    """The start is right on the first validation examples alone; the others of a new prompt are never answered."""
    easy = {f"q{number}?" for number in range(30, 38)}

    def respond(request: Any) -> Answer:
        text, kind = dln_toy.text_of(request), dln_toy.kind_of(request)
        question = next((word for word in text.split() if word.startswith("q") and word.endswith("?")), "")
        validated = kind == "classes" and 30 <= int(question.strip("q?") or 0) < 45
        if not validated:
            return dln_toy.toy_model(request)
        words = ["yes", "no"]
        words.sort(key=dln_toy.EXAMPLES[int(question.strip("q?"))].target.__ne__, reverse=question not in easy)
        if question not in easy and fails and "Say it." not in text:
            return Fault(FaultKind.REFUSED, "no")
        top = tuple(zip(words, (-0.1, -2.5), strict=True))
        return Completion(words[0], usage=Usage(9, 1), token_logprobs=(TokenLogprob(words[0], -0.1, top),))

    done = dln_toy.run(dln_toy.Toy(respond), DLN1(steps=2, batch_size=6), directory=tmp_path / "run")
    states = dln_toy.states(tmp_path / "run")
    assert len(states) == 3
    assert states[-1]["best"] == "Say it."
    assert states[-1]["best_score"] == 8 / 15
    assert done.result is not None
    assert done.result.best is not None
    assert done.result.best.validation is not None
    assert done.result.best.validation.n == 15
    validated = [row for _, data in dln_toy.decisions(tmp_path / "run", "validated") for row in data["candidates"]]
    assert [row["score"] for row in validated] == [8 / 15, 1.0 if fails else 8 / 15]


# -- N03 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.row("N03")
@pytest.mark.parametrize("lag", [0, 3])
@pytest.mark.parametrize("calls", [12 + 3 + 5, 12 + 3 + 30, 12 + 3 + 36 + 3 + 1])
def test_a_budget_that_ends_in_a_step_chooses_nothing_and_loses_nothing(
    lag: int, calls: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    optimizer = replace(SMALL, lag=lag)
    cache, whole = MemoryCache(), run(Toy(), optimizer, concurrency=4)[0]
    endpoint = Toy()
    with pytest.raises(BudgetExhausted):
        run(endpoint, optimizer, concurrency=4, directory=tmp_path / "run", cache=cache, budget=Budget(calls=calls))
    assert len(endpoint.started) == calls
    records = read_journal(tmp_path / "run")
    # What joined the history is whole; the rest is journalled for what it is, and decides nothing.
    assert all(row["complete"] for row in rows(tmp_path / "run").values())
    left = [record.data for record in records if record.kind == "left"]
    assert {name for data in left for name in data.get("problems", {}).values()} == {"skipped_budget"}
    assert all(len(data["scores"]) == 12 for data in left)
    assert not {data["candidate"] for data in left} & set(rows(tmp_path / "run"))
    again = Toy()
    study, result = run(again, optimizer, concurrency=4, directory=tmp_path / "run", cache=cache)
    assert result is not None
    assert result.outcomes == {"scored": 12 * len(study.history) + 10 * (1 + (result.best != result.initial))}
    assert set(endpoint.prompts) & set(again.prompts) == set()  # what was paid is not asked again
    if lag == 0:
        assert history_of(study) == history_of(whole)
    show_run(tmp_path / "run", json=False)
    assert "without" not in capsys.readouterr().out


# -- N04 -----------------------------------------------------------------------------------------------------------------

OPTIMIZERS = {
    "opro": SMALL,
    "opro-validated": replace(SMALL, validate_every=2),
    "opro-racing": replace(SMALL, racing=0.3),
    "ape": APE(samples=4, rounds=2),
    "dln1": DLN1(steps=3, batch_size=6, prompt_samples=3),
    "dln2": DLN2(steps=2, batch_size=4, prompt_samples=2, hidden_samples=2),
}


def end_of(name: str, seed: int, directory: Path | None = None, **options: Any) -> tuple[bytes, Result | None]:
    """The history of a study under the faults and latencies that ``seed`` decides, and its result."""
    optimizer = OPTIMIZERS[name]
    if isinstance(optimizer, DLN1 | DLN2):
        concurrency = options.pop("concurrency", 64)
        endpoint = dln_toy.Toy(seed=seed, faults=0.1)
        done = dln_toy.run(endpoint, optimizer, quota=Quota(concurrency=concurrency), directory=directory, **options)
        return history_of(done.study), done.result
    study, result = run(Toy(seed=seed), optimizer, directory=directory, **options)
    return history_of(study), result


@pytest.mark.row("N04")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_same_seed_gives_the_same_history_at_any_concurrency_and_under_any_faults(name: str) -> None:
    ends = [end_of(name, seed, concurrency=concurrency) for concurrency in (1, 8, 64) for seed in (1, 2)]
    assert len({history for history, _ in ends}) == 1
    chosen = {(result.best, result.initial) for _, result in ends if result is not None}
    assert len(chosen) == 1


@pytest.mark.row("N04")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_resumed_at_every_step_under_other_faults_it_is_the_same_history(name: str, tmp_path: Path) -> None:
    whole, result = end_of(name, 1, tmp_path / "whole")
    assert result is not None
    ends = [record.data["seconds"] for record in read_journal(tmp_path / "whole") if record.kind == "step"]
    interrupted = 0
    for number, seconds in enumerate(ends):
        directory = tmp_path / f"resumed-{number}"
        # Nearly all are: a journal's thread takes real time, of which the virtual clock makes what it likes.
        interrupted += end_of(name, 1, directory, until=seconds + 0.05)[1] is None
        history, resumed = end_of(name, 3, directory, concurrency=8)
        assert history == whole
        assert resumed is not None
        assert (resumed.best, resumed.initial, resumed.outcomes) == (result.best, result.initial, result.outcomes)
    assert interrupted >= len(ends) - 1
