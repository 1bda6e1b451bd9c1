"""APE, the automatic prompt engineer (Zhou et al., "Large Language Models Are Human-Level Prompt Engineers", 2023)."""

from __future__ import annotations

from dataclasses import dataclass, fields

from asyncopt.engine import Model
from asyncopt.optimizers.asking import Answers, Proposed
from asyncopt.optimizers.base import AnyTask, Search, Seen
from asyncopt.optimizers.instructing import check_options, require_instructions, sampled
from asyncopt.optimizers.opro import OPRO, Style
from asyncopt.optimizers.opro.instructions import InstructionDomain
from asyncopt.optimizers.overlap import Overlap, Plan, Proposal
from asyncopt.optimizers.paraphrase import best_worded, other_words, paraphrase_in
from asyncopt.optimizers.steps import run_steps
from asyncopt.tasks.task import Task
from asyncopt.values import Sampling


@dataclass(frozen=True)
class APE(Overlap):
    """Instructions that a model induces from solved examples, all in one step; the best on the training examples wins.

    ``samples`` instructions are asked for, each from ``demonstrations`` training examples of its own. 15 and 400 are
    the APE-15 and APE-400 that Deep Language Networks is compared with. Each of the ``rounds`` that follow paraphrases
    some of the best ``kept`` so far, ``samples`` times (iterative Monte Carlo search). Temperature, length and
    demonstrations are those of the reference code. The task's initial instructions are starting points here too: leave
    the task an empty one where they are not to win. An empty instruction has no other words, so where there are no
    others a round induces.

    Every instruction is scored on all training examples; a slice of them, or a race, makes that cheaper.
    """

    samples: int = 15
    rounds: int = 0
    kept: int = 3
    demonstrations: int = 5
    temperature: float = 0.9
    max_tokens: int = 50
    name: str = "ape"

    def __post_init__(self) -> None:
        least = {"samples": 1, "rounds": 0, "kept": 1, "demonstrations": 1, "max_tokens": 1}
        check_options(self, "ape", self.temperature, least)

    @property
    def steps(self) -> int:
        return 1 + self.rounds

    @property
    def as_opro(self) -> OPRO:
        """A search of OPRO's with as many requests of the same kinds, by which a forecast goes."""
        styles: list[Style] = ["induction"] * self.samples
        styles += ["rewrite"] * (self.samples * self.rounds)
        overlap = {field.name: getattr(self, field.name) for field in fields(Overlap)}
        return OPRO(
            steps=self.steps,
            samples_per_step=self.samples,
            styles=tuple(styles),  # as many as there are samples in all steps, so that each has its own
            exemplars=self.demonstrations,
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            name=self.name,
            **overlap,
        )

    def check(self, task: AnyTask, scorer: Model | None, proposer: Model | None) -> None:
        require_instructions(self, "ape", task, scorer, proposer)

    async def run(self, search: Search) -> None:
        task = search.task
        assert isinstance(task, Task)
        answers = Answers(search, self.samples)
        domain = InstructionDomain(task, ("induction",), self.as_opro, search.seed)
        sampling = Sampling(temperature=self.temperature, max_tokens=self.max_tokens)

        async def propose(step: int, index: int, seen: Seen) -> Proposal | None:
            rng = search.rng(step, "ask", index)
            best = best_worded(seen.history, self.kept) if step else []
            if best:
                parent = rng.choice(best[::-1])
                sample, ask = Proposed(step, index, "rewrite", parents=(parent,)), other_words(parent, rng)
            else:
                sample = Proposed(step, index, "induction")
                ask = domain.ask("induction", seen.history.ranked(), seen, rng)
            return await sampled(
                search, answers, sample, ask, sampling, lambda answer: paraphrase_in(answer, task), seen
            )

        await run_steps(search, self, Plan(self.steps, self.samples, list(dict.fromkeys(task.initial)), propose))
        answers.sum_up()
