"""DLN-1 and the loop that both networks share: what is chosen, remembered, taken back, and durable."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from dln_by_hand import OneByHand
from dln_toy import AMPLE, CHAT_ONLY, FREE, FULL, TASK, Toy, decisions, kind_of, run, states, text_of, toy_model
from fakes import run_virtual

from asyncopt import Budget, Engine, Example, MemoryCache, Quota
from asyncopt.directory import read_journal
from asyncopt.endpoints.protocol import Answer
from asyncopt.errors import BudgetExhausted, ConfigError, EndpointRefused, MissingCapability, StudyFailed
from asyncopt.events import Event, Note
from asyncopt.journal import Journal
from asyncopt.optimizers import DLN1
from asyncopt.optimizers.dln.loop import batch_of
from asyncopt.optimizers.dln.state import Progress
from asyncopt.tasks.linear_regression import LinearRegression
from asyncopt.values import Capabilities, Completion, Fault, FaultKind, Request

OPTIMIZER = DLN1(steps=6, prompt_samples=4, batch_size=8)
LEARNING = replace(OPTIMIZER, memory=2, tolerance=1)

# -- the state: memory and backtracking on a hand-made table ---------------------------------------------------------------


def judged(scores: list[float | None], **options: Any) -> list[Progress]:
    """The states after validations of prompts p0, p1, ... with these scores, each the current one at its time."""
    progress, seen = Progress.beginning("p0"), []
    for number, score in enumerate(scores):
        progress = replace(progress, current=f"p{number}", pending=((number - 1, f"p{number}"),))
        progress = progress.judged(score, **options)
        seen.append(progress)
    return seen


def test_only_a_strictly_better_validation_counts_and_two_in_a_row_without_one_lead_back() -> None:
    seen = judged([0.5, 0.4, 0.6, 0.6, 0.3, 0.9], memory=2, tolerance=2)
    assert [one.best for one in seen] == ["p0", "p0", "p2", "p2", "p2", "p5"]
    assert [one.best_score for one in seen] == [0.5, 0.5, 0.6, 0.6, 0.6, 0.9]
    assert [one.patience for one in seen] == [0, 1, 0, 1, 0, 0]
    assert [one.current for one in seen] == ["p0", "p1", "p2", "p3", "p2", "p5"]  # back to p2 after p3 and p4
    assert [list(one.remembered) for one in seen] == [
        ["p0"], ["p0"], ["p2", "p0"], ["p2", "p0"], ["p2", "p0"], ["p5", "p2"],
    ]  # fmt: skip


def test_without_a_tolerance_nothing_is_taken_back_and_with_0_every_validation_that_is_not_better_is() -> None:
    scores: list[float | None] = [0.5, 0.4, 0.3, 0.2]
    assert [one.current for one in judged(scores, memory=0, tolerance=None)] == ["p0", "p1", "p2", "p3"]
    assert [one.current for one in judged(scores, memory=0, tolerance=0)] == ["p0"] * 4


def test_prompts_that_could_not_be_validated_are_never_the_best() -> None:
    seen = judged([None, 0.0, 0.1], memory=3, tolerance=None)
    assert [(one.best, one.patience) for one in seen] == [("p0", 1), ("p0", 2), ("p2", 0)]
    assert seen[-1].remembered == ["p2"]


def test_a_state_comes_back_from_json_as_it_was() -> None:
    progress = Progress(3, "a", "b", 0.5, (("b", 0.5),), 1, ((1, "a"),), {"elbo": -1.0}, {"rewards": [None, 1.0]})
    assert Progress.of({**progress.to_json(), "estimators": {}}) == progress


# -- the whole training against the one by hand ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"memory": 2, "tolerance": 1},
        {"memory": 2, "tolerance": 0, "validate_every": 1, "held_out_ranking": True},
        {"tolerance": 1, "balanced": True, "proposal": "sections"},
        {"memory": 1, "tolerance": 0, "validate_every": 1, "lag": 1},
        {"memory": 2, "tolerance": 1, "validate_every": 1, "lag": 2},
        {"memory": 2, "validate_every": 4, "batch_size": 50},
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_training_is_that_of_the_reference_in_its_sequential_order(
    tmp_path: Path, options: dict[str, Any], seed: int
) -> None:
    optimizer = replace(OPTIMIZER, **options)
    by_hand = OneByHand(TASK, optimizer, seed)
    by_hand.train("Say it.")
    run(Toy(seed=seed), optimizer, directory=tmp_path / "run", seed=seed)
    found = states(tmp_path / "run")[1:]
    for state, expected in zip(found, by_hand.states, strict=True):
        assert state["current"] == expected["current"]
        assert (state["best"], [tuple(pair) for pair in state["memory"]]) == (expected["best"], expected["memory"])
    assert any(state["current"] != "Say it." for state in found)


def test_the_state_says_what_every_prompt_was_worth(tmp_path: Path) -> None:
    run(Toy(), OPTIMIZER, directory=tmp_path / "run")
    by_hand, state = OneByHand(TASK, OPTIMIZER, 0), states(tmp_path / "run")[1]
    batch = batch_of(TASK, OPTIMIZER, by_hand.rng(0, "batch"))
    current = sum(by_hand.output("Say it.", example.input, example) for example in batch) / 8
    rewards = state["report"]["rewards"]
    assert rewards[0] == pytest.approx(current, abs=1e-12)
    assert state["report"]["elbo"] == max(rewards) == rewards[state["report"]["chosen"]]
    assert state["running"]["elbo"] == state["report"]["elbo"]
    later = states(tmp_path / "run")[2]
    assert later["running"]["elbo"] == pytest.approx(0.2 * later["report"]["elbo"] + 0.8 * max(rewards), abs=1e-12)
    assert state["estimators"] == {"output": "class log-probabilities of the first token"}


def test_n_and_m_prompts_are_compared_and_not_the_memory_twice(tmp_path: Path) -> None:
    # N = 4 prompts and M = 2 in memory: the reference compares 8.
    run(Toy(), replace(OPTIMIZER, memory=2, validate_every=1, steps=12), directory=tmp_path / "run")
    counts = [len(state["report"]["rewards"]) for state in states(tmp_path / "run")[1:]]
    assert max(counts) == 4 + 2


def test_the_current_prompt_wins_its_ties() -> None:
    def indifferent(request: Request) -> Answer:
        answer = toy_model(request)
        assert isinstance(answer, Completion)
        first = replace(answer.token_logprobs[0], top=(("yes", -0.5), ("no", -0.9))) if answer.token_logprobs else None
        return replace(answer, token_logprobs=(first,)) if first else answer

    done = run(Toy(indifferent), OPTIMIZER)
    assert [entry.candidate for entry in done.study.history.entries] == ["Say it."]


def test_the_best_validation_is_what_the_study_chooses(tmp_path: Path) -> None:
    done = run(Toy(), replace(OPTIMIZER, validate_every=1), directory=tmp_path / "run")
    rows = [row for _, data in decisions(tmp_path / "run", "validated") for row in data["candidates"]]
    best = max(row["score"] for row in rows)
    assert done.result is not None
    assert done.result.best is not None
    assert done.result.best.validation is not None
    assert done.result.best.validation.score == best
    assert done.result.best.candidate in [row["candidate"] for row in rows if row["score"] == best]


# -- order, time and durability --------------------------------------------------------------------------------------------


def test_neither_latencies_nor_faults_nor_concurrency_change_a_run(tmp_path: Path) -> None:
    for number, (seed, faults, concurrency) in enumerate([(1, 0.1, 1), (2, 0.05, 8), (3, 0.0, 64)]):
        for lag in (0, 2):
            directory = tmp_path / f"{lag}-{number}"
            optimizer = replace(LEARNING, lag=lag, validate_every=1)
            run(Toy(seed=seed, faults=faults), optimizer, quota=Quota(concurrency=concurrency), directory=directory)
            assert decisions(directory) == decisions(tmp_path / f"{lag}-0")
    assert decisions(tmp_path / "0-0") != decisions(tmp_path / "2-0")


@pytest.mark.parametrize("lag", [0, 1])
def test_a_run_that_was_killed_after_any_record_goes_on_as_if_nothing_had_happened(tmp_path: Path, lag: int) -> None:
    optimizer = replace(LEARNING, lag=lag, steps=5, validate_every=1)
    run(Toy(seed=1), optimizer, directory=tmp_path / "whole")
    whole, records = decisions(tmp_path / "whole"), read_journal(tmp_path / "whole")
    for length in range(len(records) - 1):
        other = tmp_path / str(length)
        other.mkdir()
        (other / "manifest.json").write_bytes((tmp_path / "whole" / "manifest.json").read_bytes())
        journal = Journal(other / "journal.jsonl")
        for record in records[:length]:
            journal.append(record.kind, record.data)
        journal.close()
        done = run(Toy(seed=length), optimizer, directory=other)
        assert decisions(other) == whole
        assert done.result is not None


def test_a_run_that_was_stopped_in_the_middle_of_a_step_goes_on_too(tmp_path: Path) -> None:
    run(Toy(seconds=1.0), LEARNING, directory=tmp_path / "whole")
    for until in (0.5, 3.5, 5.5, 8.5):
        directory = tmp_path / f"{until}"
        assert run(Toy(seconds=1.0), LEARNING, directory=directory, until=until).result is None
        run(Toy(seconds=1.0), LEARNING, directory=directory)
        assert decisions(directory) == decisions(tmp_path / "whole")


def test_a_run_can_be_replayed(tmp_path: Path) -> None:
    run(Toy(seed=1), replace(LEARNING, lag=1), directory=tmp_path / "run")
    run(Toy(seed=2), replace(LEARNING, lag=1), directory=tmp_path / "again", replay=tmp_path / "run")
    assert decisions(tmp_path / "again") == decisions(tmp_path / "run")


def test_an_iteration_takes_three_round_trips_with_its_validation_beside_it() -> None:
    def seconds(steps: int) -> float:
        return run(Toy(seconds=1.0), replace(OPTIMIZER, steps=steps, validate_every=1)).seconds

    # Propose, score, the forward pass on the next batch; before them the first one, and at the end two tests.
    assert [seconds(steps) for steps in (1, 2, 4)] == [1 + 3 * steps + 2 for steps in (1, 2, 4)]


def test_a_candidate_is_scored_while_other_proposals_are_still_on_their_way() -> None:
    times: list[tuple[str, float]] = []

    class Uneven(Toy):
        async def send(self, model: str, request: Request) -> Answer:
            slow = kind_of(request) == "proposal" and self.count("proposal") == 0
            self.seconds = 100.0 if slow else 1.0
            answer = await super().send(model, request)
            times.append((text_of(request), self.started[-1]))
            return answer

    run(Uneven(), replace(OPTIMIZER, steps=1))
    scored = [time for text, time in times if text.startswith("Try way") and time < 50]
    assert len(scored) >= 2 * 8  # those of the two other proposals


def test_without_memory_and_tolerance_a_slow_validation_holds_nothing_up() -> None:
    class SlowValidation(Toy):
        async def send(self, model: str, request: Request) -> Answer:
            late = any(f"\n{example.input}\n" in text_of(request) for example in TASK.validation)
            self.seconds = 2.5 if late else 1.0
            return await super().send(model, request)

    free = run(SlowValidation(), replace(OPTIMIZER, steps=4, validate_every=1)).seconds
    bound = run(SlowValidation(), replace(OPTIMIZER, steps=4, validate_every=1, memory=1)).seconds
    lagging = run(SlowValidation(), replace(OPTIMIZER, steps=4, validate_every=1, memory=1, lag=1)).seconds
    assert free == lagging < bound


# -- accuracy in place of log-probabilities ----------------------------------------------------------------------------------


def test_accuracy_needs_no_log_probabilities_and_says_that_it_is_not_the_papers(tmp_path: Path) -> None:
    endpoint = Toy(supports=CHAT_ONLY)
    done = run(endpoint, replace(OPTIMIZER, output_scoring="accuracy"), directory=tmp_path / "run")
    assert done.result is not None
    assert endpoint.count("classes") == endpoint.count("likelihood") == 0
    state = states(tmp_path / "run")[-1]
    assert state["estimators"] == {"output": "accuracy (not the paper's estimator)"}
    assert all(0 <= reward <= 1 for reward in state["report"]["rewards"])


def test_accuracy_without_an_error_asks_for_no_proposals() -> None:
    def perfect(request: Request) -> Answer:
        number = int(text_of(request).partition("\nq")[2].partition("?")[0] or 0)
        return Completion("yes" if number % 3 else "no")

    endpoint = Toy(perfect, supports=CHAT_ONLY)
    run(endpoint, replace(OPTIMIZER, output_scoring="accuracy"), cache=MemoryCache())
    assert endpoint.count("proposal") == 0
    assert endpoint.count("answer") == len(set(map(text_of, endpoint.requests)))


def test_targets_without_classes_are_scored_by_their_own_log_probability(tmp_path: Path) -> None:
    endpoint = Toy()
    run(endpoint, OPTIMIZER, task=FREE, directory=tmp_path / "run")
    assert endpoint.count("classes") == 0
    assert endpoint.count("likelihood") > 0
    assert states(tmp_path / "run")[-1]["estimators"] == {"output": "exact log-probabilities of the text"}


# -- what goes wrong ---------------------------------------------------------------------------------------------------------


def test_a_proposal_that_is_too_large_is_asked_for_with_fewer_cases() -> None:
    def narrow(request: Request) -> Answer:
        if kind_of(request) == "proposal" and text_of(request).count("\nInput:") > 5:
            return Fault(FaultKind.TOO_LARGE, "planned")
        return toy_model(request)

    endpoint = Toy(narrow)
    done = run(endpoint, replace(OPTIMIZER, steps=1))
    sizes = Counter(text_of(one).count("\nInput:") for one in endpoint.requests if kind_of(one) == "proposal")
    assert sizes == {8: 3, 7: 3, 6: 3, 5: 3}
    assert done.result is not None


def test_a_proposal_that_is_too_large_with_one_case_is_lost_and_the_current_prompt_stays() -> None:
    def blocked(request: Request) -> Answer:
        return Fault(FaultKind.TOO_LARGE, "planned") if kind_of(request) == "proposal" else toy_model(request)

    endpoint = Toy(blocked)
    done = run(endpoint, replace(OPTIMIZER, steps=2))
    assert endpoint.count("proposal") == 2 * 3 * 8
    assert [entry.candidate for entry in done.study.history.entries] == ["Say it."]


def test_an_example_that_is_always_refused_is_left_out_and_is_no_zero(tmp_path: Path) -> None:
    def squeamish(request: Request) -> Answer:
        refused = "\nq4?" in text_of(request) and kind_of(request) == "classes"
        return Fault(FaultKind.REFUSED, "planned") if refused else toy_model(request)

    optimizer = replace(OPTIMIZER, batch_size=30)
    run(Toy(squeamish), optimizer, directory=tmp_path / "run")
    entry = decisions(tmp_path / "run", "step")[0][1]["entries"][0]
    assert entry["examples"] == 29
    by_hand = OneByHand(replace(TASK, train=TASK.train[:4] + TASK.train[5:]), optimizer, 0)
    right = [by_hand.answer("Say it.", one)[2] == one.target for one in by_hand.task.train]
    assert entry["score"] == pytest.approx(sum(right) / 29)
    mean = sum(by_hand.output("Say it.", one.input, one) for one in by_hand.task.train) / 29
    assert states(tmp_path / "run")[1]["report"]["rewards"][0] == pytest.approx(mean, abs=1e-12)


def test_a_candidate_of_which_a_call_is_refused_is_out_of_the_choice(tmp_path: Path) -> None:
    chosen = states_of(tmp_path / "first", Toy())[1]["current"]
    assert chosen != "Say it."

    def squeamish(request: Request) -> Answer:
        text = text_of(request)
        refused = kind_of(request) == "classes" and text.startswith(chosen) and hash_of(text) % 4 == 0
        return Fault(FaultKind.REFUSED, "planned") if refused else toy_model(request)

    state = states_of(tmp_path / "second", Toy(squeamish))[1]
    assert state["current"] != chosen
    assert len(state["report"]["rewards"]) == 3


def hash_of(text: str) -> int:
    return Random(text).randrange(1000)


def states_of(directory: Path, endpoint: Toy) -> list[dict[str, Any]]:
    run(endpoint, replace(OPTIMIZER, steps=1), directory=directory)
    return states(directory)


def test_a_run_ends_where_nothing_can_be_answered_or_the_endpoint_serves_nobody() -> None:
    with pytest.raises(StudyFailed, match="not one example could be answered"):
        run(Toy(lambda _: Fault(FaultKind.REFUSED, "planned")), OPTIMIZER)
    with pytest.raises(EndpointRefused):
        run(Toy(lambda _: Fault(FaultKind.FATAL_CONFIG, "wrong key")), OPTIMIZER)
    with pytest.raises(BudgetExhausted):
        run(Toy(), OPTIMIZER, budget=Budget(calls=60))


def test_an_endpoint_that_leaves_log_probabilities_out_is_not_taken_for_an_indifferent_one() -> None:
    def silent(request: Request) -> Answer:
        answer = toy_model(request)
        assert isinstance(answer, Completion)
        return replace(answer, token_logprobs=())

    with pytest.raises(MissingCapability, match='gave none with any answer.*output_scoring to "accuracy"'):
        run(Toy(silent), OPTIMIZER)


def test_answers_that_never_begin_with_a_class_are_told() -> None:
    def chatty(request: Request) -> Answer:
        answer = toy_model(request)
        assert isinstance(answer, Completion)
        first = replace(answer.token_logprobs[0], top=(("The", -0.5), ("It", -0.9))) if answer.token_logprobs else None
        return replace(answer, token_logprobs=(first,)) if first else answer

    def notes(endpoint: Toy) -> list[str]:
        told: list[Event] = []

        class Reader:
            def notify(self, event: Event) -> None:
                told.append(event)

        run(endpoint, replace(OPTIMIZER, steps=1), observers=[Reader()])
        return [event.text for event in told if isinstance(event, Note)]

    assert [note for note in notes(Toy(chatty)) if "no answer begins with a class" in note]
    assert not [note for note in notes(Toy()) if "no answer begins with a class" in note]


# -- before the first call -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "task", "supports", "words"),
    [
        ({}, TASK, CHAT_ONLY, ["20 first tokens", "gives none", 'output_scoring to "accuracy"']),
        ({}, TASK, Capabilities(top_logprobs=5), ["gives 5", "top_logprobs to 5"]),
        ({}, FREE, CHAT_ONLY, ["no classes", "no log-probabilities of given texts", "accuracy"]),
        ({}, replace(TASK, validation=()), FULL, ["no validation examples"]),
        ({}, replace(TASK, train=()), FULL, ["no train examples"]),
        ({}, LinearRegression(), FULL, ["trains prompts on examples"]),
        ({}, replace(TASK, classes=("no", "yes|Yes")), FULL, []),
        ({}, replace(TASK, classes=("(yes)|Yes", "No|never")), FULL, []),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_call(
    options: dict[str, Any], task: Any, supports: Capabilities, words: list[str]
) -> None:
    endpoint = Toy(supports=supports)
    if not words:
        assert run(endpoint, replace(OPTIMIZER, steps=1, **options), task=task).result is not None
        return
    with pytest.raises(ConfigError) as caught:
        run(endpoint, replace(OPTIMIZER, **options), task=task)
    assert all(word in str(caught.value) for word in words), caught.value
    assert endpoint.requests == []


def test_a_class_whose_first_verbalizer_is_graded_as_wrong_is_refused() -> None:
    task = replace(TASK, classes=("perhaps|yes", "no"))
    with pytest.raises(ConfigError, match="'perhaps'.*put a verbalizer first"):
        run(Toy(), OPTIMIZER, task=task)


def test_both_roles_need_a_model() -> None:
    async def main() -> None:
        async with Engine() as engine:
            model = engine.model("m", endpoint=Toy(), quota=AMPLE)
            for scorer, proposer, role in ((None, model, "--scorer"), (model, None, "--proposer")):
                with pytest.raises(ConfigError, match=role):
                    OPTIMIZER.check(TASK, scorer, proposer)

    run_virtual(main)


@pytest.mark.parametrize(
    "options",
    [
        {"steps": -1},
        {"batch_size": 0},
        {"prompt_samples": 0},
        {"memory": -1},
        {"tolerance": -1},
        {"validate_every": 0},
        {"lag": -1},
        {"top_logprobs": 0},
        {"burn_in": 1.0},
        {"backward_temperature": float("nan")},
        {"output_scoring": "likelihood"},
        {"proposal": "poems"},
        {"templates": {"forward": "{{ prompt }}"}},
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"dln"):
        DLN1(**options)


# -- batches -------------------------------------------------------------------------------------------------------------------


def test_a_batch_has_different_examples_and_depends_on_nothing_but_its_generator() -> None:
    batch = batch_of(TASK, OPTIMIZER, Random(1))
    assert len({example.id for example in batch}) == 8
    assert batch == batch_of(TASK, OPTIMIZER, Random(1)) != batch_of(TASK, OPTIMIZER, Random(2))
    assert len(batch_of(TASK, replace(OPTIMIZER, batch_size=99), Random(1))) == 30


@pytest.mark.parametrize("task", [TASK, FREE])
def test_a_balanced_batch_takes_the_classes_in_turn_as_long_as_they_last(task: Any) -> None:
    counts = Counter(one.target for one in batch_of(task, replace(OPTIMIZER, balanced=True), Random(1)))
    assert counts == {"yes": 4, "no": 4}
    wide = batch_of(task, replace(OPTIMIZER, balanced=True, batch_size=26), Random(1))
    assert Counter(one.target for one in wide) == {"no": 10, "yes": 16}
    assert len({one.id for one in wide}) == 26
    assert [one.target for one in wide[:4:2]] == [wide[0].target] * 2
    assert all(isinstance(one, Example) for one in wide)
