"""APE, the automatic prompt engineer (Zhou et al., "Large Language Models Are Human-Level Prompt Engineers", 2023)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import isfinite

from asyncopt.engine import Model
from asyncopt.errors import ConfigError
from asyncopt.optimizers.base import AnyTask, Search
from asyncopt.optimizers.opro import OPRO, Style
from asyncopt.optimizers.overlap import Overlap
from asyncopt.tasks.task import Task


@dataclass(frozen=True)
class APE(Overlap):
    """Instructions that a model induces from solved examples, all in one step; the best on the training examples wins.

    ``samples`` instructions are asked for, each from ``demonstrations`` training examples of its own. 15 and 400 are
    the APE-15 and APE-400 that Deep Language Networks is compared with. Each of the ``rounds`` that follow paraphrases
    some of the best so far, ``samples`` times (iterative Monte Carlo search). Temperature, length and
    demonstrations are those of the reference code. The task's initial instructions are starting points here too: leave
    the task an empty one where they are not to win.

    Every instruction is scored on all training examples; a slice of them, or a race, makes that cheaper.
    """

    samples: int = 15
    rounds: int = 0
    demonstrations: int = 5
    temperature: float = 0.9
    max_tokens: int = 50
    name: str = "ape"

    def __post_init__(self) -> None:
        self.check_overlap()
        for name, least in (("samples", 1), ("rounds", 0), ("demonstrations", 1), ("max_tokens", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"ape's {name} is {getattr(self, name)}; it must be at least {least}")
        if not (isfinite(self.temperature) and self.temperature >= 0):
            raise ConfigError(f"ape's temperature is {self.temperature}; it must be a number of at least 0")

    @property
    def steps(self) -> int:
        return 1 + self.rounds

    @property
    def as_opro(self) -> OPRO:
        """The same search as OPRO has it: one step of inductions, then steps of paraphrases."""
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
        if not isinstance(task, Task):
            raise ConfigError(f"ape searches for instructions, and {task.name} has none; use another optimizer")
        if proposer is None:
            raise ConfigError("ape asks a model for instructions; name one with --proposer, or pass proposer=")
        if scorer is None:
            raise ConfigError(f"{task.name} is scored by a model; name one with --scorer, or pass scorer=")
        self.check_examples(task)

    async def run(self, search: Search) -> None:
        await self.as_opro.run(search)
