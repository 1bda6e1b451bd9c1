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

    ``scoring_calls`` is how many answers the search may score on training examples, starting points included and
    whether or not they came from the cache: the budget on which optimizers are compared. No candidate is begun that
    it does not cover, and the search ends where it covers none. One that lost its race counts with those that decided
    it and the few that may have been asked ahead of them, so that the number is never exceeded.
    """

    lag: int = 0
    quorum: float | None = None
    racing: float | None = None
    validate_every: int | None = None
    patience: int | None = None
    scoring_calls: int | None = None

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
        for name in ("validate_every", "patience", "scoring_calls"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1, or left out")
        if self.patience is not None and self.validate_every is None:
            raise ConfigError("patience counts validations and there are none; set validate_every, such as 3")

    def program(self, task: AnyTask) -> Program:
        """Candidates are instructions, which the task's template puts into one prompt."""
        return PROMPTED

    def starts(self, task: Task) -> list[str]:
        """The candidates that are scored first, each once."""
        return list(dict.fromkeys(task.initial))

    def check_examples(self, task: AnyTask) -> None:
        """Raise :class:`ConfigError` where a task has no examples to be decided on, or too few calls for a start."""
        if not isinstance(task, Task):
            by_examples = (self.quorum, self.racing, self.validate_every, self.scoring_calls)
            if any(option is not None for option in by_examples):
                raise ConfigError(
                    f"quorum, racing, validation and scoring_calls go by examples, and {task.name} has none; "
                    "leave them off"
                )
            return
        if not task.train:
            raise ConfigError(f"{task.name} has no training examples to search with; give it a train_ratio above 0")
        if self.validate_every is not None and not task.validation:
            raise ConfigError(f"{task.name} has no validation examples; give it a validation_ratio above 0")
        starts = len(self.starts(task))
        least = (starts + 1) * len(task.train)
        if self.scoring_calls is not None and self.scoring_calls < least:
            raise ConfigError(
                f"scoring_calls is {self.scoring_calls}; the {starts} starting points and one candidate take {least} "
                f"on the {len(task.train)} training examples of {task.name}; raise it, or limit the examples"
            )


@dataclass(frozen=True, slots=True)
class Plan:
    """What a search does in its steps: ``samples`` proposals in each, made by ``propose(step, index, seen)``.

    ``solved`` says whether a candidate is the optimum, so that the search ends. With ``repeats`` a candidate that was
    tried before joins the history once more with the score that it has; else, and while that score is provisional, it
    is dropped.
    """

    steps: int
    samples: int
    initial: Sequence[str]
    propose: Propose
    solved: Callable[[str], bool] = lambda _: False
    repeats: bool = False


def is_validated(step: int, steps: int, every: int | None) -> bool:
    """Whether the step's candidates are to be scored on the validation examples."""
    return every is not None and (step in (START, steps - 1) or step % every == 0)
