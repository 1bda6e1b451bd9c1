"""What both algorithms can be told; the defaults are the paper's."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import isfinite
from typing import ClassVar, Literal, TypeAlias, get_args

from asyncopt.engine import Model
from asyncopt.errors import ConfigError
from asyncopt.optimizers.base import AnyTask
from asyncopt.optimizers.evoprompt.pool import SENTENCES
from asyncopt.optimizers.overlap import Overlap
from asyncopt.tasks.task import Task
from asyncopt.values import Sampling

InitialMode: TypeAlias = Literal["para_topk", "para_bottomk", "para_randomk", "topk", "bottomk", "randomk"]
Order: TypeAlias = Literal["best_at_generation_start", "serial_best", "steady_state"]
Selection: TypeAlias = Literal["roulette", "random", "tour"]
Update: TypeAlias = Literal["topk", "std"]
Template: TypeAlias = Literal["v1", "v2", "v3"]

_CHOICES = {
    "initial_mode": get_args(InitialMode),
    "order": get_args(Order),
    "selection": get_args(Selection),
    "update": get_args(Update),
    "template": get_args(Template),
}


@dataclass(frozen=True)
class Evolution(Overlap):
    """A population of ``popsize`` prompts, and ``generations`` of as many children, each made and changed by a model.

    All prompts of the task's ``initial`` ones and of the ``pool`` are scored first. ``initial_mode`` says which of them
    are the first population: the best, worst or random half with a paraphrase of each (``para_topk``, ``para_bottomk``,
    ``para_randomk``), or a whole population of the best, worst or random ones (``topk``, ``bottomk``, ``randomk``).
    Where these are too few, the rest are paraphrases of them in turn; where a paraphrase is missing, the next one of
    the pool takes its place. An empty prompt is scored, but never a parent.

    ``order`` is when a child is made. ``best_at_generation_start``: all children of a generation at once.
    ``serial_best``: one after the other, as in the reference code, so that a child sees the best that its elder
    siblings found. ``steady_state``: there are no generations, and the parents are drawn from what is scored by then;
    ``lag`` is how many children are under way beside the next. A step is a generation in the first order and one child
    in the others; the paraphrases come before the first generation and take as many steps as one.

    A child that was tried before brings nothing new and is dropped. In ``serial_best`` it joins again with its score,
    as in the reference code, and may then fill several places of the population; with ``quorum`` only once that score
    is complete.

    ``faithful`` is ``serial_best``, without what the reference code lacks. With ``racing`` only those children have a
    score, and so can live, that may be the best of all that was tried.
    """

    popsize: int = 10
    generations: int = 10
    initial_mode: InitialMode = "para_topk"
    pool: tuple[str, ...] = SENTENCES
    order: Order = "best_at_generation_start"
    temperature: float = 0.5
    top_p: float = 0.95
    max_tokens: int = 1000
    faithful: bool = False
    name: str = "evoprompt"

    least_popsize: ClassVar[int] = 2  # a child has two parents

    def __post_init__(self) -> None:
        self.check_overlap()
        for name, least in (("popsize", self.least_popsize), ("generations", 0), ("max_tokens", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{self.name}'s {name} is {getattr(self, name)}; it must be at least {least}")
        if not (isfinite(self.temperature) and self.temperature >= 0):
            raise ConfigError(f"{self.name}'s temperature is {self.temperature}; it must be a number of at least 0")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"{self.name}'s top_p is {self.top_p}; it must be a share, such as 0.95")
        for name, choices in _CHOICES.items():
            self._require_choice(name, choices)
        if self.faithful:
            self._be_faithful()
        if self.order == "serial_best" and self.lag:
            raise ConfigError(
                f"{self.name} has lag {self.lag} and the order serial_best, in which every child waits for the one "
                "before; leave lag out, or choose steady_state"
            )

    def _require_choice(self, name: str, choices: Collection[str]) -> None:
        value = getattr(self, name, None)
        if value is not None and value not in choices:
            raise ConfigError(f"{self.name}'s {name} is {value!r}; it must be one of {', '.join(choices)}")

    def _be_faithful(self) -> None:
        if self.lag or self.quorum is not None or self.racing is not None or self.order == "steady_state":
            raise ConfigError(
                f"{self.name} is faithful and has lag, quorum, racing or steady_state, which the reference lacks; "
                "drop one side"
            )
        object.__setattr__(self, "order", "serial_best")

    def check(self, task: AnyTask, scorer: Model | None, proposer: Model | None) -> None:
        """Raise :class:`ConfigError` if this task or these models cannot be used, before any call."""
        if not isinstance(task, Task):
            raise ConfigError(f"{self.name} searches for prompts, and {task.name} has none; use another optimizer")
        if proposer is None:
            raise ConfigError(f"{self.name} asks a model for prompts; name one with --proposer, or pass proposer=")
        if scorer is None:
            raise ConfigError(f"{task.name} is scored by a model; name one with --scorer, or pass scorer=")
        starts = self.starts(task)
        if not any(start.strip() for start in starts):
            raise ConfigError(f"{self.name} has no prompt with words to begin with; give the task one, or a pool")
        self.check_examples(task)

    def starts(self, task: Task) -> list[str]:
        """The prompts that are scored first, each once: the task's own, then the pool."""
        return list(dict.fromkeys((*task.initial, *self.pool)))

    @property
    def steps(self) -> int:
        """How many steps a whole search has, the paraphrases included."""
        populations = 1 + self.generations
        return populations if self.order == "best_at_generation_start" else populations * self.popsize

    @property
    def samples(self) -> int:
        """How many samples a step has."""
        return self.popsize if self.order == "best_at_generation_start" else 1

    @property
    def sampling(self) -> Sampling:
        """How the operators' answers are drawn."""
        return Sampling(temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens)

    def place(self, step: int, index: int) -> tuple[int, int]:
        """The generation of a sample, and which of its children it is; generation 0 are the paraphrases."""
        return (step, index) if self.order == "best_at_generation_start" else divmod(step, self.popsize)
