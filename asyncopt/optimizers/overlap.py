"""What an optimizer with steps says of them: how far they may run into each other, and what happens in each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from asyncopt.errors import ConfigError
from asyncopt.evaluation import PROMPTED, Program
from asyncopt.optimizers.base import AnyTask, Seen
from asyncopt.tasks.task import Task

Proposal: TypeAlias = tuple[str, str]  # the candidate, and how it was made
Propose: TypeAlias = Callable[[int, int, Seen], Awaitable[Proposal | None]]

START = -1  # the step of the starting points


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """What an optimizer with steps may leave unfinished when it goes on; all of it is off by default.

    The next step begins when at most ``lag`` candidates of earlier steps are unscored, and never before the starting
    points are scored. ``quorum`` is the share of the examples on which a candidate is
    decided until the late answers come. ``racing`` is the chance, over the whole study, of stopping any candidate that
    would have reached the best one its proposal saw.

    The candidates of the start, of every ``validate_every``-th step and of the last one, and whatever is best then, are
    scored on the validation examples beside the step that follows (OPRO, section 5.4, where it is every third); the
    best of these scores then decides which candidate is chosen. After ``patience`` validations without a better score
    the search ends.
    """

    lag: int = 0
    quorum: float | None = None
    racing: float | None = None
    validate_every: int | None = None
    patience: int | None = None

    def check_overlap(self) -> None:
        """Raise :class:`ConfigError` for settings that mean nothing."""
        if self.lag < 0:
            raise ConfigError(f"lag is {self.lag}; it must be at least 0 candidates")
        if self.quorum is not None and not 0 < self.quorum <= 1:
            raise ConfigError(f"quorum is {self.quorum}; it must be a share of the examples, such as 0.9")
        if self.racing is not None and not 0 < self.racing < 1:
            raise ConfigError(f"racing is {self.racing}; it must be a probability of error, such as 0.05")
        if self.quorum is not None and self.racing is not None:
            # A race goes by a fixed order of the examples and asks few at a time; a quorum takes whichever come first.
            raise ConfigError("quorum and racing are both on; choose one of them")
        for name in ("validate_every", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1, or left out")
        if self.patience is not None and self.validate_every is None:
            raise ConfigError("patience counts validations and there are none; set validate_every, such as 3")

    def program(self, task: AnyTask) -> Program:
        """Candidates are instructions, which the task's template puts into one prompt."""
        return PROMPTED

    def check_examples(self, task: AnyTask) -> None:
        """Raise :class:`ConfigError` where a task has no examples to be decided on."""
        if not isinstance(task, Task):
            if self.quorum is not None or self.racing is not None or self.validate_every is not None:
                raise ConfigError(
                    f"quorum, racing and validation decide by examples, and {task.name} has none; leave them off"
                )
            return
        if not task.train:
            raise ConfigError(f"{task.name} has no training examples to search with; give it a train_ratio above 0")
        if self.validate_every is not None and not task.validation:
            raise ConfigError(f"{task.name} has no validation examples; give it a validation_ratio above 0")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a search does in its steps: ``samples`` proposals in each, made by ``propose(step, index, seen)``.

    ``solved`` says whether a candidate is the optimum, so that the search ends.
    """

    steps: int
    samples: int
    initial: Sequence[str]
    propose: Propose
    solved: Callable[[str], bool]

    def count(self, step: int) -> int:
        """How many samples the step has."""
        return len(self.initial) if step == START else self.samples


def is_validated(step: int, steps: int, every: int | None) -> bool:
    """Whether the step's candidates are to be scored on the validation examples."""
    return every is not None and (step in (START, steps - 1) or step % every == 0)
