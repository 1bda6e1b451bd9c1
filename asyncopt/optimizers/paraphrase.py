"""Paraphrase and keep the best: what every search that shows scores, parents or errors has to beat.

It is the iterative search of APE (Zhou et al. 2023) without its inductions, and EvoPrompt's APE baseline (Guo et al.
2024; reference code): a heap of the best so far, into which every step puts other words of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from asyncopt.engine import Model
from asyncopt.errors import ConfigError
from asyncopt.optimizers.asking import Answers, Proposed, Reading
from asyncopt.optimizers.base import AnyTask, Search, Seen
from asyncopt.optimizers.history import History
from asyncopt.optimizers.instructing import check_options, require_instructions, sampled
from asyncopt.optimizers.opro.candidates import first_line, usable
from asyncopt.optimizers.opro.domain import Ask
from asyncopt.optimizers.overlap import Overlap, Plan, Proposal
from asyncopt.optimizers.rewriting import GRAMMAR, rewrite
from asyncopt.optimizers.steps import run_steps
from asyncopt.tasks.task import Task
from asyncopt.values import Sampling

_SOURCE = "paraphrase"


@dataclass(frozen=True)
class Paraphrase(Overlap):
    """Other words of the best ``kept`` instructions so far, of each in turn from the best on.

    Every step asks for ``samples_per_step`` of them. Sizes and temperature are those of EvoPrompt's experiments. An
    empty instruction has no other words, so the task needs a starting point that is none.
    """

    steps: int = 10
    samples_per_step: int = 10
    kept: int = 10
    temperature: float = 0.5
    max_tokens: int = 200
    name: str = "paraphrase"

    def __post_init__(self) -> None:
        least = {"steps": 0, "samples_per_step": 1, "kept": 1, "max_tokens": 1}
        check_options(self, "paraphrase", self.temperature, least)

    def check(self, task: AnyTask, scorer: Model | None, proposer: Model | None) -> None:
        task = require_instructions(self, "paraphrase", task, scorer, proposer)
        if not any(text.strip() for text in task.initial):
            raise ConfigError(f"{task.name} starts from an empty instruction, which has no other words; give it one")

    async def run(self, search: Search) -> None:
        task = search.task
        assert isinstance(task, Task)
        answers = Answers(search, self.samples_per_step)
        sampling = Sampling(temperature=self.temperature, max_tokens=self.max_tokens)

        async def propose(step: int, index: int, seen: Seen) -> Proposal | None:
            bases = best_worded(seen.history, self.kept)
            if not bases:
                return None
            base = bases[index % len(bases)]
            sample = Proposed(step, index, _SOURCE, parents=(base,))
            ask = other_words(base, search.rng(step, "ask", index))
            return await sampled(
                search, answers, sample, ask, sampling, lambda answer: paraphrase_in(answer, task), seen
            )

        initial = list(dict.fromkeys(task.initial))
        await run_steps(search, self, Plan(self.steps, self.samples_per_step, initial, propose))
        answers.sum_up()


def best_worded(history: History, kept: int) -> list[str]:
    """The best ``kept`` instructions, best first, without the empty one."""
    worded = [entry.candidate for entry in reversed(history.ranked()) if entry.candidate.strip()]
    return list(dict.fromkeys(worded))[:kept]


def other_words(base: str, rng: Random) -> Ask:
    """The request for a paraphrase of this instruction."""
    return Ask(rewrite(base, rng), GRAMMAR)


def paraphrase_in(answer: str, task: Task) -> Reading:
    """The paraphrase in a model's answer, or why there is none that can be used."""
    return usable(first_line(answer), task)
