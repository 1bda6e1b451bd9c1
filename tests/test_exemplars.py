"""Which exemplars a meta-prompt shows: the four criteria, our draws and the reference's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest
from fakes import FakeEndpoint, run_virtual

from asyncopt import OPRO, Engine, Example, Study, Task
from asyncopt.endpoints.protocol import Answer
from asyncopt.optimizers.base import Seen, derived_seed
from asyncopt.optimizers.history import Entry, History
from asyncopt.optimizers.opro.exemplars import chosen_exemplars
from asyncopt.optimizers.opro.options import MetaPromptOptions
from asyncopt.tasks import load
from asyncopt.values import Completion, Generate

EXAMPLES = tuple(Example(3 * number, f"question {number}", f"answer {number}") for number in range(40))
TASK = Task("toy", "text", train=EXAMPLES, test=())
GOLDEN = {0: [3013, 4732, 6575], 1: [3140, 3213, 5379], 2: [2175, 5264, 5844]}  # GSM8K; the reference code, run


def seen_of(step: int, wrong: Mapping[str, set[int]]) -> Seen:
    """A history in which each candidate has these places of the training set wrong."""
    by_candidate = {
        candidate: {example.id: float(place not in places) for place, example in enumerate(EXAMPLES)}
        for candidate, places in wrong.items()
    }
    history = History(maximize=True)
    for number, (candidate, scores) in enumerate(by_candidate.items()):
        history.add(Entry(candidate, sum(scores.values()) / len(scores), number - 1, 0, len(scores)), scores)
    return Seen(step, history)


def places(
    seen: Seen, *, seed: int = 0, limit: int = 20, threshold: float | None = None, task: Task = TASK, **options: Any
) -> list[int]:
    view = seen.history.view(limit, threshold)
    return [task.train.index(one) for one in chosen_exemplars(MetaPromptOptions(**options), task, seed, seen, view)]


@pytest.mark.parametrize("step", GOLDEN)
def test_faithful_exemplars_of_gsm8k_are_the_references(data: Path, step: int) -> None:
    task = load("gsm8k", data=data)
    assert isinstance(task, Task)
    seen = Seen(step, History(maximize=True))
    for seed in (0, 7):  # of the study, on which the reference's draws do not depend
        assert [one.id for one in chosen_exemplars(MetaPromptOptions(faithful=True), task, seed, seen, [])] == GOLDEN[
            step
        ]
        constant = MetaPromptOptions(faithful=True, exemplar_choice="constant")
        assert [one.id for one in chosen_exemplars(constant, task, seed, seen, [])] == GOLDEN[0]


def test_ours_are_drawn_from_the_seed_and_the_step() -> None:
    drawn = [places(seen_of(step, {}), seed=seed) for step, seed in [(0, 0), (0, 0), (1, 0), (0, 1)]]
    assert drawn[0] == drawn[1] == sorted(Random(derived_seed(0, 0, "exemplars")).sample(range(40), 3))
    assert drawn[2] != drawn[0] != drawn[3]


def test_constant_ones_are_those_of_the_first_step() -> None:
    first = places(seen_of(0, {}))
    assert [places(seen_of(step, {}), exemplar_choice="constant") for step in range(5)] == [first] * 5


@pytest.mark.parametrize("faithful", [False, True])
@pytest.mark.parametrize("count", [0, 3, 10, 40, 100])
def test_there_are_as_many_as_wanted_and_there_are(count: int, faithful: bool) -> None:
    drawn = places(seen_of(2, {}), exemplars=count, faithful=faithful)
    assert len(drawn) == min(count, 40)
    assert drawn == sorted(set(drawn))


# -- what went wrong in the whole run ----------------------------------------------------------------------------------

WRONG = {"A": {1, 2}, "B": {2, 3, 20, 21}, "C": {2, 3}}


@pytest.mark.parametrize("faithful", [False, True])
def test_what_any_candidate_got_wrong_may_be_shown_whatever_the_count(faithful: bool) -> None:
    drawn = [
        places(seen_of(step, WRONG), exemplar_choice="accumulative_most_frequent", faithful=faithful)
        for step in range(60)
    ]
    assert set().union(*drawn) == {1, 2, 3, 20, 21}
    assert all(len(set(one)) == 3 and one == sorted(one) for one in drawn)


def test_a_candidate_out_of_the_view_still_counts() -> None:
    seen = seen_of(3, WRONG)
    drawn = places(seen, exemplar_choice="accumulative_most_frequent", exemplars=5, limit=1)
    assert drawn == [2, 3, 1, 20, 21]  # all of them, the most frequent first


@pytest.mark.parametrize("choice", ["accumulative_most_frequent", "current_most_frequent"])
@pytest.mark.parametrize("faithful", [False, True])
def test_fewer_wrong_ones_than_wanted_are_all_shown(choice: str, faithful: bool) -> None:
    assert places(seen_of(0, {"A": set()}), exemplar_choice=choice, faithful=faithful) == []
    assert places(seen_of(0, {"A": {7}}), exemplar_choice=choice, faithful=faithful) == [7]
    assert places(seen_of(4, {"A": {7, 9}, "B": {9}}), exemplar_choice=choice, faithful=faithful) == [9, 7]


def test_faithful_draws_are_those_of_the_references_generator() -> None:
    """Computed with the reference's lines: NumPy seeded with the step, its list of wrong items, most frequent first."""
    from numpy.random import RandomState

    wrong = {"A": {1, 2, 20, 21}, "B": {2, 3}}
    counted: dict[int, int] = {}
    for missed in wrong.values():
        for number in {3 * place for place in sorted(missed)}:
            counted[number] = counted.get(number, 0) + 1
    order = [number for number, _ in sorted(counted.items(), key=lambda pair: -pair[1])]
    assert order != sorted(order, key=lambda number: (-counted[number], number))  # or the order would not be tested
    for step in range(10):
        expected = sorted(RandomState(step).choice(order, 3, replace=False).tolist())
        drawn = places(seen_of(step, wrong), exemplar_choice="accumulative_most_frequent", faithful=True)
        assert [EXAMPLES[place].id for place in drawn] == expected


# -- what the shown instructions get wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize("faithful", [False, True])
def test_what_most_of_the_shown_got_wrong_is_shown(faithful: bool) -> None:
    wrong = {"A": {30, 31, 32, 33}, "B": {1, 2, 3, 4}, "C": {1, 2, 3, 4, 5}, "D": {1, 2, 3, 4, 6}}
    drawn = [
        places(seen_of(step, wrong), exemplar_choice="current_most_frequent", faithful=faithful)
        for step in range(1, 40)
    ]
    assert set().union(*drawn) == {1, 2, 3, 4}  # tied at three; three of the four are drawn
    assert all(len(set(one)) == 3 for one in drawn)


def test_fewer_than_three_tied_ones_are_followed_by_the_next() -> None:
    seen = seen_of(1, {"A": {1, 8}, "B": {8, 5}, "C": {8, 5, 9}})
    assert places(seen, exemplar_choice="current_most_frequent") == [8, 5, 1]


def test_only_what_is_shown_counts_but_the_start_always_does() -> None:
    wrong = {"Start": set(range(10, 40)), "Good": {1, 2, 3}}
    later = places(seen_of(1, wrong), exemplar_choice="current_most_frequent", threshold=0.5)
    assert later == [1, 2, 3]
    alone = {"Start": set(range(10, 40))}
    first = places(seen_of(0, alone), exemplar_choice="current_most_frequent", threshold=0.5)
    assert len(first) == 3
    assert set(first) <= set(range(10, 40))
    assert places(seen_of(1, alone), exemplar_choice="current_most_frequent", threshold=0.5) == []


def test_unscored_and_half_right_examples_are_not_wrong_ones() -> None:
    seen = Seen(0, History(maximize=True))
    seen.history.add(Entry("A", 0.25, -1, 0, 2, False), {EXAMPLES[4].id: 0.0, EXAMPLES[5].id: 0.5})
    for choice in ("accumulative_most_frequent", "current_most_frequent"):
        assert places(seen, exemplar_choice=choice) == [4]


# -- in a run ----------------------------------------------------------------------------------------------------------


def test_a_run_shows_what_its_instructions_got_wrong() -> None:
    """The start is wrong on the first five questions, every proposal on the last five."""
    task = Task("toy", "text", train=EXAMPLES, test=(), initial=("Start.",))

    def respond(request: Generate, number: int) -> Answer:
        prompt = request.prompt[-1].content
        if "square brackets" in prompt:
            return Completion(f"[Idea {(request.sampling.draw or 0) % 1000}]")
        place = int(re.findall(r"question (\d+)", prompt)[-1])
        wrong = range(5) if prompt.startswith("Start.") else range(35, 40)
        return Completion("no" if place in wrong else f"answer {place}")

    def shown(choice: Any) -> list[set[int]]:
        """The exemplars of each step."""
        endpoint = FakeEndpoint(respond)

        async def main() -> None:
            async with Engine() as engine:
                model = engine.model("m", endpoint=endpoint)
                optimizer = OPRO(steps=3, samples_per_step=2, exemplar_choice=choice, exemplars=10)
                await Study(task=task, optimizer=optimizer, scorer=model, proposer=model).run()

        run_virtual(main)
        prompts = dict.fromkeys(prompt for prompt in endpoint.prompts if "square brackets" in prompt)
        return [{int(place) for place in re.findall(r"question (\d+)", prompt)} for prompt in prompts]

    start, late = set(range(5)), set(range(35, 40))
    assert shown("accumulative_most_frequent") == [start, start | late, start | late]
    assert shown("current_most_frequent") == [start, start | late, start | late]
    assert all(len(one) == 10 and one != start | late for one in shown("random"))
