"""What the two algorithms share: the first population, and a child at a time made by a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from asyncopt.optimizers.asking import Answers, Proposed, asked
from asyncopt.optimizers.base import Search, Seen
from asyncopt.optimizers.evoprompt.options import Evolution
from asyncopt.optimizers.evoprompt.population import Family, family
from asyncopt.optimizers.evoprompt.requests import Request, paraphrase, read
from asyncopt.optimizers.overlap import START, Plan, Proposal
from asyncopt.optimizers.steps import run_steps
from asyncopt.tasks.task import Task


@dataclass(frozen=True)
class EvoPrompt(Evolution, ABC):
    """An evolutionary algorithm but for how a child is asked for."""

    @abstractmethod
    def ask(self, search: Search, known: Family, generation: int, member: int) -> Request | None:
        """The request for one child, given everybody who is scored; None where there can be no such child."""

    async def run(self, search: Search) -> None:
        """Score the pool and the paraphrases, then make one generation after the other."""
        assert isinstance(search.task, Task)
        answers = Answers(search, self.popsize)

        async def propose(step: int, index: int, seen: Seen) -> Proposal | None:
            return await self._propose(search, answers, step, index, seen)

        starts, repeats = self.starts(search.task), self.order == "serial_best"
        await run_steps(search, self, Plan(self.steps, self.samples, starts, propose, repeats=repeats))
        answers.sum_up()

    async def _propose(self, search: Search, answers: Answers, step: int, index: int, seen: Seen) -> Proposal | None:
        """One answer of the model, read; None where none is wanted or it gives no usable prompt."""
        assert isinstance(search.task, Task)
        request = self._request(search, step, index, seen)
        if request is None:
            return None
        answer = await asked(search, request.prompt, self.sampling, step, index)
        if answer is None:
            return None
        reading = read(answer, search.task)
        sample = Proposed(step, index, request.source, parents=request.parents)
        answers.take(sample, request.prompt, answer, reading, seen)
        return None if reading.text is None else (reading.text, request.source)

    def _request(self, search: Search, step: int, index: int, seen: Seen) -> Request | None:
        generation, member = self.place(step, index)
        begun, known = family(seen.history.ranked(), self, search.rng(START, "founders"))
        if generation:
            return self.ask(search, known, generation, member) if known.first else None
        base = begun.base(member)
        return None if base is None else paraphrase(base.candidate)

    def parents_of(self, known: Family, generation: int) -> Family:
        """Those who may be parents in this generation: everybody before it, or everybody where there are none."""
        return known if self.order == "steady_state" else known.before(generation)
