"""Every example that was asked for ends in exactly one way, and says which: in events, journal, result and on screen."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import dln_toy
import pytest
from fakes import FakeEndpoint, echo, run_virtual
from test_numbers import EXAMPLES, SMALL, TASK, Toy, run

from asyncopt import Budget, Engine, Quota, Study
from asyncopt.assess import Assessment, evaluate_instructions
from asyncopt.chronicle import decisions_of
from asyncopt.cli.eval import _complaints, _lines
from asyncopt.cli.summary import summary_lines
from asyncopt.directory import read_journal
from asyncopt.endpoints.protocol import Answer
from asyncopt.errors import AsyncoptError, BudgetExhausted, QuotaExhausted, StudyFailed
from asyncopt.evaluation import Evaluation, evaluate
from asyncopt.events import Event, Events, ExampleEnded, Note
from asyncopt.limits.budget import UNLIMITED, Account
from asyncopt.optimizers import DLN1, DLN2
from asyncopt.optimizers.lost import MOST_EMPTY_STEPS
from asyncopt.optimizers.script import Decision, Script
from asyncopt.outcomes import Outcomes
from asyncopt.values import Fault, FaultKind, Generate, Outcome

FOR_GOOD = {
    FaultKind.REFUSED: "refused",
    FaultKind.TRUNCATED: "truncated",
    FaultKind.TOO_LARGE: "too_large",
    FaultKind.BAD_REQUEST: "failed:bad_request",
    FaultKind.MALFORMED: "failed:malformed",
    FaultKind.TRANSIENT: "failed:transient",
    FaultKind.AMBIGUOUS: "failed:ambiguous",
    FaultKind.RATE_LIMITED: "failed:rate_limited",
    FaultKind.RAMP: "failed:ramp",
}
ENDING = {FaultKind.FATAL_CONFIG, FaultKind.QUOTA, FaultKind.QUOTA_DAILY, FaultKind.DOWN}


class Watcher:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def notify(self, event: Event) -> None:
        self.events.append(event)

    @property
    def ended(self) -> list[ExampleEnded]:
        return [event for event in self.events if isinstance(event, ExampleEnded)]


def failing(place: int, kind: FaultKind, *, seconds: float = 1.0) -> FakeEndpoint:
    """One question is lost for good; the others are answered."""

    def respond(request: Generate, number: int) -> Answer:
        lost = request.prompt[-1].content.endswith(f"\nq{place}")
        return Fault(kind, "planned", retry=False) if lost else echo(request)

    return FakeEndpoint(respond, seconds=seconds)


def evaluated(
    endpoint: FakeEndpoint, *, concurrency: int = 64, budget: Budget = UNLIMITED, until: float | None = None
) -> tuple[Evaluation | AsyncoptError | None, list[Evaluation], list[ExampleEnded]]:
    """What the evaluation of ten examples came to, what ``on_left`` was given, and the events of the examples."""
    watcher, left = Watcher(), []

    async def main() -> Evaluation | AsyncoptError | None:
        async with Engine(cache=None) as engine:
            model = engine.model("m", endpoint=endpoint, quota=Quota(concurrency=concurrency))
            model = model.charged_to(Account(budget))
            running = asyncio.ensure_future(
                evaluate(
                    model, TASK, "Say.", EXAMPLES[:10], events=Events([watcher]), on_left=left.append, fold="train"
                )
            )
            await asyncio.wait([running], timeout=until)
            running.cancel()
            (found,) = await asyncio.gather(running, return_exceptions=True)
            return found if isinstance(found, Evaluation | AsyncoptError) else None

    return run_virtual(main), left, watcher.ended


def each_once(ended: list[ExampleEnded]) -> bool:
    told = sorted((event.candidate, event.fold, event.example) for event in ended)
    return told == [("Say.", "train", example.id) for example in EXAMPLES[:10]]


def test_every_kind_of_failure_has_its_outcome() -> None:
    assert set(FOR_GOOD) | ENDING == set(FaultKind)
    outcomes = {label.partition(":")[0] for label in FOR_GOOD.values()}
    beside = {Outcome.SCORED, Outcome.METRIC_ERROR, Outcome.WITHDRAWN, Outcome.SKIPPED_BUDGET}
    assert outcomes | {outcome.value for outcome in beside} == {outcome.value for outcome in Outcome}


@pytest.mark.parametrize("kind", FOR_GOOD, ids=lambda kind: kind.value)
def test_a_call_that_is_lost_is_one_outcome_and_never_a_0(kind: FaultKind) -> None:
    done, left, ended = evaluated(failing(3, kind))
    assert isinstance(done, Evaluation)
    assert [item.label for item in done.items] == ["scored"] * 3 + [FOR_GOOD[kind]] + ["scored"] * 6
    assert (done.items[3].score, done.items[3].fault, len(done.scores)) == (None, kind, 9)
    assert done.unscored == {FOR_GOOD[kind]: 1}
    assert each_once(ended)
    assert Counter(event.outcome for event in ended) == {"scored": 9, FOR_GOOD[kind]: 1}
    assert left == []


def test_when_the_budget_ends_what_it_did_not_cover_says_so() -> None:
    done, left, ended = evaluated(FakeEndpoint(seconds=1.0), concurrency=3, budget=Budget(calls=7))
    assert isinstance(done, BudgetExhausted)
    assert each_once(ended)
    labels = Counter(item.label for item in left[0].items)
    assert labels["skipped_budget"] == 3  # the others were sent, and are paid for
    assert labels["scored"] + labels["withdrawn"] == 7
    assert labels["scored"] >= 3
    assert Counter(event.outcome for event in ended) == labels


def test_when_the_account_is_empty_the_call_that_met_it_has_failed_and_the_rest_is_withdrawn() -> None:
    done, left, ended = evaluated(failing(4, FaultKind.QUOTA), concurrency=1)
    assert isinstance(done, QuotaExhausted)
    assert each_once(ended)
    labels = [item.label for item in left[0].items]
    assert labels[:4] == ["scored"] * 4
    assert labels[4] == "failed:quota"
    assert set(labels[5:]) <= {"withdrawn", "failed:quota"}


def test_what_a_cancellation_leaves_is_withdrawn() -> None:
    done, left, ended = evaluated(FakeEndpoint(seconds=1.0), concurrency=2, until=2.5)
    assert done is None
    assert each_once(ended)
    assert [item.label for item in left[0].items] == ["scored"] * 4 + ["withdrawn"] * 6


# -- in a study ----------------------------------------------------------------------------------------------------------


def some_fail(_: str, number: int) -> FaultKind | None:
    return {3: FaultKind.REFUSED, 7: FaultKind.TRUNCATED, 15: FaultKind.TOO_LARGE, 25: FaultKind.MALFORMED}.get(number)


def test_the_result_counts_the_outcomes_of_all_folds_however_often_the_study_was_interrupted(tmp_path: Path) -> None:
    optimizer = replace(SMALL, validate_every=1)
    study, result = run(Toy(some_fail), optimizer, directory=tmp_path / "whole")
    assert result is not None
    tried, tested = len(study.history), 1 + (result.best != result.initial)
    assert result.outcomes == {
        "scored": 10 * tried + 7 * tried + 9 * tested,
        "refused": tried,
        "truncated": tried,
        "too_large": tried,
        "failed:malformed": tested,
    }
    assert result.best is not None
    assert result.best.partial  # nobody is complete, and all lack the same
    for until in (0.5, 4.5, 7.5):
        assert run(Toy(some_fail), optimizer, directory=tmp_path / "parts", until=until)[1] is None
    resumed = run(Toy(some_fail), optimizer, directory=tmp_path / "parts")[1]
    assert resumed is not None
    assert (resumed.outcomes, resumed.best) == (result.outcomes, result.best)
    (line,) = [line for line in summary_lines(result, None, tmp_path, None) if "examples asked" in line]
    assert line.endswith(f"{tried} refused, {tried} truncated, {tried} too_large, {tested} failed:malformed")


def test_where_all_is_scored_the_summary_says_nothing_of_it(tmp_path: Path) -> None:
    study, result = run(Toy(), replace(SMALL, racing=0.3))
    assert result is not None
    assert result.outcomes is not None
    assert set(result.outcomes) == {"scored", "withdrawn"}
    assert sum(result.outcomes.values()) == 12 * len(study.history) + 10 * (1 + (result.best != result.initial))
    text = "\n".join(summary_lines(result, None, tmp_path, None))
    assert "examples asked" not in text
    assert "partial" not in text


def test_events_of_a_study_are_what_was_asked(tmp_path: Path) -> None:
    watcher = Watcher()
    optimizer = replace(SMALL, validate_every=1)

    async def main() -> tuple[int, dict[str, int] | None]:
        async with Engine() as engine:
            model = engine.model("m", endpoint=Toy(some_fail), quota=Quota(concurrency=8))
            study = Study(task=TASK, optimizer=optimizer, scorer=model, proposer=model, observers=[watcher])
            result = await study.run()
            return len(study.history), result.outcomes

    tried, outcomes = run_virtual(main)
    assert Counter(event.outcome for event in watcher.ended) == outcomes
    places = Counter((event.candidate, event.fold, event.example) for event in watcher.ended)
    assert set(places.values()) == {1}
    assert Counter(fold for _, fold, _ in places)["train"] == 12 * tried


def test_older_journals_say_failed_without_a_class() -> None:
    outcomes = Outcomes()
    outcomes.take("train", "a", {"scores": [1.0, None, None], "problems": {"1": "failed"}})
    outcomes.take("train", "of a network", {"score": 0.5})
    assert outcomes.counts() == {"scored": 1, "failed": 1, "withdrawn": 1}


def test_a_replay_may_lose_an_example_in_another_way(tmp_path: Path) -> None:
    """Why an example has no score is told; that it has none decides, and is held to."""
    run(Toy(some_fail), replace(SMALL, validate_every=1), directory=tmp_path / "run")
    script = Script(decisions_of(read_journal(tmp_path / "run")))
    while script.head is not None:
        script.confirm(script.head.kind, _told_otherwise(script.head))
    script = Script(decisions_of(read_journal(tmp_path / "run")))
    assert script.head is not None
    script.confirm(script.head.kind, script.head.data)
    assert script.head is not None
    rows = [{**row, "scores": [1.0] * 12} for row in script.head.rows]
    with pytest.raises(StudyFailed, match="the replay differs"):
        script.confirm(script.head.kind, {**script.head.data, "entries": rows})


def _told_otherwise(decision: Decision) -> dict[str, Any]:
    names = [name for name in ("entries", "candidates") if name in decision.data]
    return {
        **decision.data,
        **{name: [{**row, "problems": {"3": "failed:transient"}} for row in decision.data[name]] for name in names},
    }


@pytest.mark.parametrize("network", ["dln1", "dln2"])
def test_a_network_says_which_examples_of_a_batch_it_lacks_and_why(network: str) -> None:
    def respond(request: Any) -> Answer:
        asked = dln_toy.text_of(request)
        refused = "\nq4?" in asked and dln_toy.kind_of(request) in ("classes", "hidden")
        return Fault(FaultKind.REFUSED, "no") if refused else dln_toy.toy_model(request)

    watcher = Watcher()
    optimizer = DLN1(steps=1, batch_size=30) if network == "dln1" else DLN2(steps=1, batch_size=30, prompt_samples=2)
    dln_toy.run(dln_toy.Toy(respond), optimizer, observers=[watcher])
    notes = [event.text for event in watcher.events if isinstance(event, Note)]
    assert "step 1: 1 of 30 examples could not be answered: 1 refused (4); left out" in notes


# -- proposals that never come -------------------------------------------------------------------------------------------


class Declines(Toy):
    """Answers examples, and no proposal from the call of that number on."""

    def __init__(self, kind: FaultKind, after: int = 0) -> None:
        super().__init__()
        self._kind = kind
        self._after = after
        self.asked = 0

    def _proposal(self, prompt: str, request: Generate) -> Answer:
        self.asked += 1
        if self.asked <= self._after:
            return super()._proposal(prompt, request)
        return Fault(self._kind, "planned", retry=False)


PERMANENT = [FaultKind.REFUSED, FaultKind.TRUNCATED, FaultKind.TOO_LARGE, FaultKind.MALFORMED]


@pytest.mark.parametrize("lag", [0, 4])
@pytest.mark.parametrize("kind", PERMANENT, ids=lambda kind: kind.value)
def test_a_search_without_proposals_stops_and_says_why(kind: FaultKind, lag: int, tmp_path: Path) -> None:
    optimizer = replace(SMALL, steps=20, lag=lag)
    endpoint = Declines(kind)
    with pytest.raises(StudyFailed, match=rf"not one proposal came in {MOST_EMPTY_STEPS} steps; .*{kind.value}"):
        run(endpoint, optimizer, directory=tmp_path / "run")
    lost = [record.data for record in read_journal(tmp_path / "run") if record.kind == "lost"]
    assert 3 * MOST_EMPTY_STEPS <= len(lost) <= 3 * MOST_EMPTY_STEPS + 3 * (lag > 0)
    assert {(data["reason"], data["detail"]) for data in lost} == {(kind.value, "planned")}


def test_lost_proposals_are_counted_and_one_that_comes_keeps_the_search_going(tmp_path: Path) -> None:
    _, result = run(Declines(FaultKind.REFUSED, after=7), replace(SMALL, steps=4), directory=tmp_path / "run")
    assert result is not None
    assert (result.steps, result.lost_proposals) == (4, 5)
    text = "\n".join(summary_lines(result, None, tmp_path, None))
    assert "5 proposals lost" in text


def test_a_reason_that_may_pass_does_not_stop_the_search() -> None:
    watcher = Watcher()

    async def main() -> int:
        async with Engine() as engine:
            model = engine.model("m", endpoint=Declines(FaultKind.TRANSIENT), quota=Quota(concurrency=8))
            optimizer = replace(SMALL, steps=5)
            study = Study(task=TASK, optimizer=optimizer, scorer=model, proposer=model, observers=[watcher])
            return (await study.run()).lost_proposals

    assert run_virtual(main) == 15
    notes = [event.text for event in watcher.events if isinstance(event, Note)]
    assert sum("a proposal was lost (transient: planned)" in note for note in notes) == 15


def test_a_network_without_proposals_stops_and_says_why() -> None:
    def respond(request: Any) -> Answer:
        declined = dln_toy.kind_of(request) == "proposal"
        return Fault(FaultKind.REFUSED, "planned") if declined else dln_toy.toy_model(request)

    with pytest.raises(StudyFailed, match="not one proposal came in 3 steps; most often: refused: planned"):
        dln_toy.run(dln_toy.Toy(respond), DLN1(steps=10, batch_size=6))


# -- given instructions --------------------------------------------------------------------------------------------------


def assessed(endpoint: FakeEndpoint) -> Assessment:
    async def main() -> Assessment:
        async with Engine(cache=None) as engine:
            model = engine.model("m", endpoint=endpoint, quota=Quota(concurrency=8))
            return await evaluate_instructions(model, TASK, ["First.", "Second."], "train")

    return run_virtual(main)


def test_an_evaluation_says_of_each_instruction_what_has_no_score() -> None:
    kinds = {3: FaultKind.REFUSED, 5: FaultKind.REFUSED, 8: FaultKind.MALFORMED}
    assessment = assessed(Toy(lambda instruction, number: kinds.get(number) if instruction == "Second." else None))
    first, second = assessment.scores()
    assert (first.unscored, first.problems) == (0, {})
    assert (second.unscored, second.problems) == (3, {"refused": 2, "failed:malformed": 1})
    lines = _lines(assessment, [])
    assert sum("3 without a score (2 refused, 1 failed:malformed)" in line for line in lines) == 1
    (comparison,) = assessment.comparisons()
    assert (comparison.n, comparison.left_out) == (9, 3)  # on what both have, and nothing counted as wrong
    common = [example for example in range(12) if example not in kinds]
    scores = [[item.score for item in done.items if item.example in common] for done in assessment.evaluations]
    means = [sum(score or 0.0 for score in each) / 9 for each in scores]
    assert comparison.difference == pytest.approx(means[1] - means[0])
    assert _complaints(assessment, None) == [
        "instruction 2: 3 examples have no score (most often: refused: refused: planned for good)"
    ]
