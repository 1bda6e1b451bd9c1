"""Every optimizer keeps what all of them promise, and one that does not is found out."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest

from asyncopt import Sampling
from asyncopt.errors import BudgetExhausted
from asyncopt.evaluation import evaluate
from asyncopt.limits.budget import Account
from asyncopt.optimizers import (
    APE,
    DLN1,
    DLN2,
    OPRO,
    Entry,
    EvoPromptDE,
    EvoPromptGA,
    Optimizer,
    Paraphrase,
    RandomSearch,
    Reflective,
)
from asyncopt.optimizers.asking import asked
from asyncopt.optimizers.base import AnyTask, Search, Seen
from asyncopt.optimizers.overlap import Overlap, Plan, Proposal
from asyncopt.optimizers.steps import run_steps
from asyncopt.tasks.linear_regression import LinearRegression
from asyncopt.tasks.task import Task
from asyncopt.testing import OptimizerConformance
from asyncopt.testing.trial import Course, sums, try_out
from asyncopt.values import Generate

SMALL = OPRO(steps=3, samples_per_step=3)


class TestOPRO(OptimizerConformance):
    def optimizer(self) -> Optimizer:
        return SMALL


class TestOPROWithOtherOptions(OptimizerConformance):
    def optimizer(self) -> Optimizer:
        styles = ("rewrite", "induction", "meta-prompt")
        return replace(SMALL, styles=styles, attempts=2, final_temperature=0.5, exemplar_choice="current_most_frequent")


class TestOPROWithLag(OptimizerConformance):
    def optimizer(self) -> Optimizer:
        return replace(SMALL, lag=2)


class TestOPROWithQuorum(OptimizerConformance):
    def optimizer(self) -> Optimizer:
        return replace(SMALL, lag=2, quorum=0.7)


class TestOPROWithRaces(OptimizerConformance):
    def optimizer(self) -> Optimizer:
        return replace(SMALL, racing=0.3)


class TestOPROWithValidationAndLag(OptimizerConformance):
    def optimizer(self) -> Optimizer:
        return replace(SMALL, steps=4, lag=2, validate_every=1, patience=1)


class TestOPROOnALine(OptimizerConformance):
    def optimizer(self) -> Optimizer:
        return SMALL

    def task(self) -> AnyTask:
        return LinearRegression()


class TestRandomSearch(OptimizerConformance):
    def optimizer(self) -> Optimizer:
        return RandomSearch(steps=3, samples_per_step=3)

    def task(self) -> AnyTask:
        return LinearRegression()


class TestAPE(OptimizerConformance):
    def optimizer(self) -> Optimizer:
        return APE(samples=4, rounds=1, demonstrations=2)


class TestDLN1(OptimizerConformance):
    def optimizer(self) -> Optimizer:
        return DLN1(steps=3, batch_size=3, prompt_samples=3, output_scoring="accuracy")


class TestDLN1WithMemory(OptimizerConformance):
    def optimizer(self) -> Optimizer:
        return DLN1(steps=3, batch_size=3, prompt_samples=2, memory=2, tolerance=1, validate_every=1)


class TestDLN2(OptimizerConformance):
    def optimizer(self) -> Optimizer:
        return DLN2(steps=2, batch_size=3, prompt_samples=2)


POOL = ("Compute the sum.", "Think before you answer.", "Give a number.", "Work slowly.", "")
EVOLUTION: dict[str, Any] = {"popsize": 4, "generations": 2, "pool": POOL}


class TestEvoPromptGA(OptimizerConformance):
    def optimizer(self) -> Optimizer:
        return EvoPromptGA(**EVOLUTION)


class TestEvoPromptGAInTournaments(OptimizerConformance):
    def optimizer(self) -> Optimizer:
        return EvoPromptGA(**EVOLUTION, selection="tour", update="std", initial_mode="randomk", racing=0.3)


class TestEvoPromptGAOneByOne(OptimizerConformance):
    repeats = True

    def optimizer(self) -> Optimizer:
        return EvoPromptGA(**{**EVOLUTION, "generations": 1}, faithful=True)


class TestEvoPromptGAInASteadyState(OptimizerConformance):
    def optimizer(self) -> Optimizer:
        return EvoPromptGA(**{**EVOLUTION, "generations": 1}, order="steady_state", lag=2)


class TestEvoPromptDE(OptimizerConformance):
    def optimizer(self) -> Optimizer:
        return EvoPromptDE(**EVOLUTION)


class TestEvoPromptDEOneByOne(OptimizerConformance):
    repeats = True

    def optimizer(self) -> Optimizer:
        return EvoPromptDE(**{**EVOLUTION, "generations": 1}, order="serial_best", template="v2")


class TestEvoPromptDEInASteadyState(OptimizerConformance):
    def optimizer(self) -> Optimizer:
        return EvoPromptDE(**{**EVOLUTION, "generations": 1}, order="steady_state", template="v3")


class TestParaphrase(OptimizerConformance):
    def optimizer(self) -> Optimizer:
        return Paraphrase(steps=3, samples_per_step=3)


class TestReflective(OptimizerConformance):
    def optimizer(self) -> Optimizer:
        return Reflective(steps=3, samples_per_step=3)


class TestReflectiveWithQuorum(OptimizerConformance):
    def optimizer(self) -> Optimizer:
        return Reflective(steps=3, samples_per_step=3, lag=1, quorum=0.7)


# -- one that keeps its promises, and what becomes of it when it does not -------------------------------------------------


@dataclass(frozen=True)
class Honest(Overlap):
    """Asks for other words of the best so far."""

    steps: int = 3
    samples: int = 3
    name: str = "honest"
    repeats: ClassVar[bool] = False

    def check(self, *_: object) -> None: ...

    async def run(self, search: Search) -> None:
        async def propose(step: int, index: int, seen: Seen) -> Proposal | None:
            text = await self.text(search, step, index, seen)
            return None if text is None else (text, "rewrite")

        await run_steps(search, self, Plan(self.steps, self.samples, sums().initial, propose, repeats=self.repeats))

    async def text(self, search: Search, step: int, index: int, seen: Seen) -> str | None:
        answer = await self.answer(search, self.prompt(seen), step, index)
        return answer.strip() or None if answer else None

    def prompt(self, seen: Seen) -> str:
        best = seen.history.best()
        return f"Write this instruction in other words:\n{best.candidate if best else ''}"

    async def answer(self, search: Search, prompt: str, step: int, index: int, purpose: str = "propose") -> str | None:
        return await asked(search, prompt, Sampling(temperature=1.0, max_tokens=60), step, index, purpose)


class TestAnOptimizerOfOnesOwn(OptimizerConformance):
    def optimizer(self) -> Optimizer:
        return Honest()


class UsesPythonsGenerator(Honest):
    async def text(self, search: Search, step: int, index: int, seen: Seen) -> str | None:
        return f"{await super().text(search, step, index, seen)} {random.randrange(1000)}"


class LooksAtTheOrder(Honest):
    """The second answer of a step is marked as such, whosever it is."""

    async def run(self, search: Search) -> None:
        object.__setattr__(self, "came", [])
        await super().run(search)

    async def text(self, search: Search, step: int, index: int, seen: Seen) -> str | None:
        text = await super().text(search, step, index, seen)
        self.came.append(step)  # type: ignore[attr-defined]
        return f"{text} As number {self.came.count(step)}."  # type: ignore[attr-defined]


class KeepsAPopulationInMemory(Honest):
    """Rewrites what this process has seen, and nothing that it left in the history before."""

    async def run(self, search: Search) -> None:
        object.__setattr__(self, "population", ["Begin."])
        await super().run(search)

    async def text(self, search: Search, step: int, index: int, seen: Seen) -> str | None:
        parent = self.population[-1] if index == 0 else self.population[0]  # type: ignore[attr-defined]
        text = await self.answer(search, f"Write this instruction in other words:\n{parent}", step, index)
        if index == 0 and text:
            self.population.append(text)  # type: ignore[attr-defined]
        return text


@dataclass(frozen=True)
class KeepsThingsForTheNextStudy(Honest):
    told: list[str] = field(default_factory=list, compare=False)

    async def text(self, search: Search, step: int, index: int, seen: Seen) -> str | None:
        self.told.append("again")
        return f"{await super().text(search, step, index, seen)} {len(self.told) > 9}"


class AsksUntilItIsAnswered(Honest):
    async def answer(self, search: Search, prompt: str, step: int, index: int, purpose: str = "propose") -> str | None:
        answer, attempt = None, 0
        while not answer:
            answer, attempt = await super().answer(search, prompt, step, index, f"attempt {attempt}"), attempt + 1
        return answer


class TakesWhateverIsSaid(Honest):
    async def text(self, search: Search, step: int, index: int, seen: Seen) -> str | None:
        return await self.answer(search, self.prompt(seen), step, index)


class StumblesOverStrangeAnswers(Honest):
    async def text(self, search: Search, step: int, index: int, seen: Seen) -> str | None:
        answer = await self.answer(search, self.prompt(seen), step, index)
        return None if answer is None else answer.split()[0] + " is what matters."


class PaysFromAnotherPocket(Honest):
    async def answer(self, search: Search, prompt: str, step: int, index: int, purpose: str = "propose") -> str | None:
        model = search.require_proposer().charged_to(Account())
        return (await model.submit(Generate.of(f"{prompt} ", Sampling(temperature=1.0, draw=3 * step + index)))).text


class DrawsTheSameForEverySeed(Honest):
    async def answer(self, search: Search, prompt: str, step: int, index: int, purpose: str = "propose") -> str | None:
        sampling = Sampling(temperature=1.0, seed=index, draw=index)
        return (await search.require_proposer().submit(Generate.of(prompt, sampling))).text


class IgnoresItsScoringCalls(Honest):
    async def run(self, search: Search) -> None:
        await Honest(steps=self.steps).run(search)


class ScoresOnTheQuiet(Honest):
    """Tries each answer on its own before it is proposed, and proposes the good ones."""

    async def text(self, search: Search, step: int, index: int, seen: Seen) -> str | None:
        text = await super().text(search, step, index, seen)
        assert search.scorer is not None
        assert isinstance(search.task, Task)
        tried = await evaluate(search.scorer, search.task, text or "", search.task.train)
        return text if sum(item.score or 0.0 for item in tried.items) > 3 else None


class ScoresTwice(Honest):
    async def text(self, search: Search, step: int, index: int, seen: Seen) -> str | None:
        await search.score("Answer.", step, index, "again")
        return await super().text(search, step, index, seen)


class RepeatsUnsaid(Honest):
    repeats = True

    async def text(self, search: Search, step: int, index: int, seen: Seen) -> str | None:
        return "Answer." if index == 0 else await super().text(search, step, index, seen)


class MakesFewerSteps(Honest):
    async def run(self, search: Search) -> None:
        await Honest(steps=self.steps - 1).run(search)


class ForgetsTheBest(Honest):
    """Leaves nothing but the worst in the history when the last step is proposed."""

    async def text(self, search: Search, step: int, index: int, seen: Seen) -> str | None:
        if (step, index) == (2, 0):
            search.history._entries[:] = search.history.ranked()[:1]
            search.history._ranked = None
        return await super().text(search, step, index, seen)


class CannotBeStopped(Honest):
    async def run(self, search: Search) -> None:
        try:
            await super().run(search)
        except asyncio.CancelledError:
            await asyncio.sleep(1000.0)


class WaitsForNobody(Honest):
    async def text(self, search: Search, step: int, index: int, seen: Seen) -> str | None:
        await asyncio.Event().wait()
        return None


class GoesOnWithoutMoney(Honest):
    async def text(self, search: Search, step: int, index: int, seen: Seen) -> str | None:
        try:
            return await super().text(search, step, index, seen)
        except BudgetExhausted:
            return None


class LeavesATask(Honest):
    async def run(self, search: Search) -> None:
        object.__setattr__(self, "left", asyncio.ensure_future(asyncio.sleep(1e6)))
        await super().run(search)


class MakesItsOwnLoop(Honest):
    """An optimizer without ``run_steps``, and without resuming: ``kept`` of a step joins the history, as ``told``."""

    kept: ClassVar[slice] = slice(None)
    stride: ClassVar[int] = 1

    async def run(self, search: Search) -> None:
        for step in range(-1, self.steps, self.stride):
            seen = search.begin_step(step)
            texts = ["Answer."] if step < 0 else [await self.text(search, step, i, seen) or "" for i in range(3)]
            new = {text: index for index, text in enumerate(texts) if text and text not in search.history}
            entries = [await search.score(text, step, index, "rewrite") for text, index in new.items()]
            entries.sort(key=lambda entry: entry.score or 0.0)
            await search.finish_step(step, [self.told(entry) for entry in entries[self.kept]], {"step": step})

    def told(self, entry: Entry) -> Entry:
        return entry


class KeepsTheWorst(MakesItsOwnLoop):
    kept = slice(1)


class PunishesBadOnes(MakesItsOwnLoop):
    def told(self, entry: Entry) -> Entry:
        return replace(entry, score=-1.0) if entry.score != 0.5 else entry


class PutsAllInOnePlace(MakesItsOwnLoop):
    def told(self, entry: Entry) -> Entry:
        return replace(entry, index=0)


class MistakesTheStep(MakesItsOwnLoop):
    def told(self, entry: Entry) -> Entry:
        return replace(entry, step=entry.step + 5)


class SkipsSteps(MakesItsOwnLoop):
    stride = 2


BROKEN = [
    (UsesPythonsGenerator, "the_seed_decides_and_not_what_comes_first", "the seed alone decides"),
    (LooksAtTheOrder, "the_seed_decides_and_not_what_comes_first", "the seed alone decides"),
    (KeepsAPopulationInMemory, "a_cancelled_study_goes_on_as_if_it_had_not_been", "finds what it would have found"),
    (KeepsAPopulationInMemory, "a_killed_study_goes_on_as_if_it_had_not_been", "killed after record"),
    (DrawsTheSameForEverySeed, "another_seed_makes_other_requests", "share no samples"),
    (LooksAtTheOrder, "a_replay_makes_the_same_decisions", "the replay differs"),
    (AsksUntilItIsAnswered, "lost_proposals_are_survived", "a study ends: it has not ended after 3000 requests"),
    (TakesWhateverIsSaid, "a_hostile_proposer_is_survived", "what is proposed is usable"),
    (StumblesOverStrangeAnswers, "a_hostile_proposer_is_survived", "IndexError"),
    (PaysFromAnotherPocket, "a_budget_of_calls_is_kept_and_a_larger_one_goes_on", "a budget is kept"),
    (PaysFromAnotherPocket, "lost_proposals_are_survived", "CallFailed"),
    (GoesOnWithoutMoney, "a_budget_of_calls_is_kept_and_a_larger_one_goes_on", "finds what it would have found"),
    (IgnoresItsScoringCalls, "scoring_calls_are_kept", "scoring_calls is kept"),
    (ScoresOnTheQuiet, "scoring_calls_are_kept", "nothing is scored beside"),
    (ScoresTwice, "candidates_are_usable_and_scored_once", "no example of a candidate is scored twice"),
    (RepeatsUnsaid, "candidates_are_usable_and_scored_once", "say repeats = True"),
    (PunishesBadOnes, "candidates_are_usable_and_scored_once", "shares"),
    (PutsAllInOnePlace, "candidates_are_usable_and_scored_once", "a place of its own"),
    (MistakesTheStep, "steps_are_counted", "entries belong to a step"),
    (SkipsSteps, "steps_are_counted", "steps end in their order"),
    (MakesFewerSteps, "steps_are_counted", "3 are planned, and 2 were made"),
    (ForgetsTheBest, "the_best_never_gets_worse_and_no_score_is_forgotten", "the best so far never gets worse"),
    (KeepsTheWorst, "the_best_never_gets_worse_and_no_score_is_forgotten", "joins the history"),
    (CannotBeStopped, "a_cancelled_study_goes_on_as_if_it_had_not_been", "after it was cancelled"),
    (WaitsForNobody, "it_ends_with_a_result_whatever_comes_first", "40000 virtual seconds"),
    (LeavesATask, "it_ends_with_a_result_whatever_comes_first", "nothing goes on"),
]


def checked(make: Callable[[], Optimizer], check: str) -> None:
    """Run one check of the suite."""

    class Suite(OptimizerConformance):
        def optimizer(self) -> Optimizer:
            return make()

    getattr(Suite(), f"test_{check}")()


@pytest.mark.parametrize(("make", "check", "complaint"), BROKEN, ids=lambda one: getattr(one, "__name__", None))
def test_a_broken_promise_is_found(make: type[Honest], check: str, complaint: str) -> None:
    with pytest.raises(AssertionError, match=r"see it again with self\.tried\(Course\(") as failure:
        checked(make, check)
    assert complaint in str(failure.value)


def test_what_is_kept_for_the_next_study_is_found() -> None:
    with pytest.raises(AssertionError, match="an optimizer keeps nothing from one study to the next"):
        checked(KeepsThingsForTheNextStudy, "a_second_study_in_a_process_is_like_the_first")


def test_every_check_has_found_something() -> None:
    checks = {name.removeprefix("test_") for name in vars(OptimizerConformance) if name.startswith("test_")}
    assert checks == {check for _, check, _ in BROKEN} | {"a_second_study_in_a_process_is_like_the_first"}


def test_one_that_says_that_it_repeats_may() -> None:
    class Suite(OptimizerConformance):
        repeats = True

        def optimizer(self) -> Optimizer:
            return RepeatsUnsaid()

    Suite().test_candidates_are_usable_and_scored_once()


def test_a_course_is_written_as_it_is_made_and_comes_out_again() -> None:
    course = Course(seed=3, arrival=2, concurrency=5, faults=0.1)
    assert str(course) == "Course(seed=3, arrival=2, concurrency=5, faults=0.1)"
    first, second = (try_out(SMALL, sums(), course) for _ in range(2))
    assert first.asked == second.asked
    assert len(first.asked) > len(first.answered)  # some failed, and were asked again
    assert first.result is not None
    assert first.result == second.result


def test_a_trial_leaves_pythons_generator_as_it_was() -> None:
    before = random.getstate()
    try_out(SMALL, sums(), Course(scramble=1))
    assert random.getstate() == before


def test_a_suite_without_an_optimizer_says_what_is_missing() -> None:
    with pytest.raises(NotImplementedError, match=r"define optimizer\(\)"):
        OptimizerConformance().test_steps_are_counted()
