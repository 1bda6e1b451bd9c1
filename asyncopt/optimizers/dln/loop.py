"""The training loop of language networks: forward pass, inference, and validation beside them (DLN, section 3).

Iteration s improves the prompts on batch s, of which the forward pass is already there, and ends with the new prompts'
forward pass on batch s + 1: that is what they are scored by, and what the next iteration begins with. Their validation
runs beside it. Where it has a say (memory, tolerance) it is taken into account before the iteration ``lag + 1`` later
proposes anything, whenever it came: what a run does depends on no latency. Prompts that backtracking leaves are
replaced then, and the forward pass is made again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Protocol

from asyncopt.engine import Model
from asyncopt.errors import AsyncoptError, StudyFailed, first_error
from asyncopt.evaluation import Item
from asyncopt.optimizers.base import Search, Validated, comparable
from asyncopt.optimizers.dln.layers import Layers, Passed, forward
from asyncopt.optimizers.dln.options import Training
from asyncopt.optimizers.dln.state import Progress
from asyncopt.optimizers.history import Entry
from asyncopt.outcomes import problems_text
from asyncopt.tasks.task import Example, Task

START = -1  # the step of the initial prompts


@dataclass(frozen=True, slots=True)
class Improved:
    """The candidate that an iteration chose, and what it found: a plain value with its ``elbo``."""

    candidate: str
    report: Mapping[str, Any]


class Network(Protocol):
    """What networks of one and of two layers differ in."""

    @property
    def layers(self) -> Layers:
        """The forward pass."""
        ...

    async def improve(self, step: int, candidate: str, passes: Sequence[Passed], memory: Sequence[str]) -> Improved:
        """The best of the current candidate, the memory and new proposals on these examples."""
        ...


@dataclass
class Loop:
    """One run; ``source`` says in its entries how they were made, ``estimators`` in its state how layers are scored."""

    search: Search
    options: Training
    task: Task
    scorer: Model
    network: Network
    source: str
    estimators: Mapping[str, str]

    async def run(self, initial: str) -> None:
        """Return when all iterations and validations are finished."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                self._validations: dict[int, asyncio.Task[list[Validated]]] = {}
                await self._train(initial)
        except* AsyncoptError as failures:
            raise first_error(failures) from None

    async def _train(self, initial: str) -> None:
        steps = self.options.steps
        if self.search.restored is None:
            progress, passes = await self._first(Progress.beginning(initial))
        else:
            progress = self._resumed(Progress.of(self.search.restored))
            passes = await self._forward(progress.current, progress.step + 1) if progress.step + 1 < steps else []
        for step in range(progress.step + 1, steps):
            progress, passes = await self._iterate(step, progress, passes)
        await self._settle(progress, steps + self.options.lag)

    async def _first(self, progress: Progress) -> tuple[Progress, list[Passed]]:
        """The starting point: nothing is improved, and the initial prompts meet the first batch."""
        self._begin(START)
        self.search.note("; ".join(f"the {layer} layer is scored by {name}" for layer, name in self.estimators.items()))
        progress = self._validating(progress)
        passes = await self._forward(progress.current, 0)
        if not passes:
            raise StudyFailed("not one example could be answered with the initial prompts")
        if all(one.blind for one in passes):
            self.search.note(
                "no answer begins with a class of the task, so all classes look alike; let initial_output ask for the "
                "answer's word alone, raise top_logprobs, or choose another model"
            )
        await self._finish(progress, passes)
        return progress, passes

    async def _iterate(self, step: int, progress: Progress, passes: list[Passed]) -> tuple[Progress, list[Passed]]:
        self._begin(step)
        if self.options.influential:
            progress, passes = await self._caught_up(step, progress, passes)
        memory, accuracy = progress.remembered, accuracy_of(passes)
        if passes:
            improved = await self.network.improve(step, progress.current, passes, memory)
        else:
            improved = Improved(progress.current, {"skipped": "not one example of the batch could be answered"})
        if improved.candidate != progress.current:
            self.search.note(f"step {step + 1} goes on with {improved.candidate}")
        self.search.proposals.end(step)
        report = {**improved.report, **({} if accuracy is None else {"accuracy": accuracy})}
        if not self.options.influential:
            progress = await self._settle(progress, step)
        progress = self._validating(progress.improved(step, improved.candidate, report))
        passes = await self._forward(progress.current, step + 1)
        await self._finish(progress, passes)
        return progress, passes

    def _begin(self, step: int) -> None:
        if all(seen.step != step for seen in self.search.unfinished):
            self.search.begin_step(step)

    async def _finish(self, progress: Progress, passes: Sequence[Passed]) -> None:
        """Make the iteration durable; a candidate that was there before has its entry already."""
        known = progress.current in self.search.history
        # Complete even where an example could not be answered: validation decides, and this score takes no part in it.
        entry = Entry(progress.current, accuracy_of(passes), progress.step, 0, len(passes), True, self.source)
        await self.search.finish_step(progress.step, [] if known else [entry], self._state(progress))

    def _state(self, progress: Progress) -> dict[str, Any]:
        return {**progress.to_json(), "estimators": dict(self.estimators)}

    async def _forward(self, candidate: str, step: int) -> list[Passed]:
        batch = batch_of(self.task, self.options, self.search.rng(step, "batch"))
        lost: list[Item] = []
        passes = await forward(self.scorer, self.network.layers, self.task, candidate, batch, lost.append)
        if lost:
            problems = problems_text({str(item.example): item.label for item in lost})
            self.search.note(
                f"step {step + 1}: {len(lost)} of {len(batch)} examples could not be answered: {problems}; left out"
            )
        return passes

    # -- validation ----------------------------------------------------------------------------------------------------

    def _validating(self, progress: Progress) -> Progress:
        """The state with the validation of its prompts under way, if one is due."""
        step = progress.step
        if step not in (START, self.options.steps - 1) and (step + 1) % self.options.validate_every:
            return progress
        progress = replace(progress, pending=(*progress.pending, (step, progress.current)))
        self._validate(step, progress)
        return progress

    def _validate(self, step: int, progress: Progress) -> None:
        """Ask for the validation of a pending step, unless its prompts have been asked for at an earlier one."""
        asked = {candidate: earlier for earlier, candidate in reversed(progress.pending) if earlier <= step}
        new = [candidate for candidate, first in asked.items() if first == step and self._known(candidate) is None]
        self._validations[step] = self._group.create_task(self._score(new))

    async def _score(self, candidates: Sequence[str]) -> list[Validated]:
        return await self.search.validate(candidates)

    def _resumed(self, progress: Progress) -> Progress:
        for step, _ in progress.pending:
            if step not in self.search.validations:
                self._validate(step, progress)
        return progress

    def _known(self, candidate: str) -> Validated | None:
        """What an earlier validation said of the same prompts."""
        validations = (one for step in sorted(self.search.validations) for one in self.search.validations[step])
        return next((one for one in validations if one.candidate == candidate), None)

    async def _caught_up(self, step: int, progress: Progress, passes: list[Passed]) -> tuple[Progress, list[Passed]]:
        """The state with every validation in it that may not wait, and the forward pass of its prompts."""
        settled = await self._settle(progress, step)
        if settled.current == progress.current:
            return settled, passes
        self.search.note(f"step {step + 1}: no better validation score; back to the best prompts")
        return settled, await self._forward(settled.current, step)

    async def _settle(self, progress: Progress, step: int) -> Progress:
        """The state when the validations are known that iteration ``step`` has to know of."""
        while progress.pending and progress.pending[0][0] + 1 + self.options.lag <= step:
            validated, candidate = progress.pending[0]
            if validated in self._validations:
                found = await self._validations.pop(validated)
                await self.search.finish_validation(validated, found)
            score = self._judgement(validated, candidate)
            progress = progress.judged(score, memory=self.options.memory, tolerance=self.options.tolerance)
        return progress

    def _judgement(self, step: int, candidate: str) -> float | None:
        """The candidate's score on the validation examples, comparable with those up to this step; None without."""
        # Not with later ones, which may or may not be there yet: what is decided depends on no latency.
        until = {earlier: found for earlier, found in self.search.validations.items() if earlier <= step}
        return next((one.score for one in comparable(until) if one.candidate == candidate), None)


def accuracy_of(passes: Sequence[Passed]) -> float | None:
    """The share of right answers; None where there is no answer."""
    return sum(1.0 - one.loss for one in passes) / len(passes) if passes else None


def batch_of(task: Task, options: Training, rng: Random) -> list[Example]:
    """The examples of one iteration: B different ones, or all where there are not so many.

    A balanced batch takes one of each class in turn, in a random order of classes, as long as there are any left.
    """
    size = min(options.batch_size, len(task.train))
    if not options.balanced:
        return rng.sample(task.train, size)
    class_of: Callable[[str], object] = task.class_of if task.classes else str
    pools: dict[object, list[Example]] = {}
    for example in rng.sample(task.train, len(task.train)):
        pools.setdefault(class_of(example.target), []).append(example)
    order = rng.sample(list(pools.values()), len(pools))
    rounds = range(max(map(len, order)))
    return [pool[turn] for turn in rounds for pool in order if turn < len(pool)][:size]
