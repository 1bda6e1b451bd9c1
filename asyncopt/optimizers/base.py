"""What an optimizer is, and all that it sees of the world."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from random import Random
from typing import Any, Protocol, TypeAlias

from asyncopt.engine import Model
from asyncopt.errors import ConfigError
from asyncopt.optimizers.history import Entry, History
from asyncopt.tasks.linear_regression import LinearRegression
from asyncopt.tasks.task import Task

State: TypeAlias = Mapping[str, Any]  # a plain value that JSON can hold
AnyTask: TypeAlias = Task | LinearRegression


def derived_seed(seed: int, step: int, purpose: str, index: int = 0) -> int:
    """A 31-bit seed for one choice, from (seed, step, purpose, index) and nothing else.

    So no choice depends on what arrived first, and a resumed study makes the same ones.
    """
    digest = blake2b(f"{seed}:{step}:{purpose}:{index}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1


@dataclass
class Search:
    """One study as its optimizer sees it: models by role, the task, the history, and a seed. No file, no clock.

    ``score`` evaluates a candidate on the training examples and is safe to call concurrently; ``finish_step`` makes the
    step's entries part of the history, in the order given, and makes them and ``state`` durable. ``restored`` is the
    state of the last finished step where a study goes on, else None.
    """

    task: AnyTask
    history: History
    seed: int
    score: Callable[[str, int, int, str], Awaitable[Entry]]
    finish_step: Callable[[int, list[Entry], State], Awaitable[None]]
    proposer: Model | None = None
    scorer: Model | None = None
    restored: State | None = None
    note: Callable[[str], None] = field(default=lambda _: None)

    def rng(self, step: int, purpose: str, index: int = 0) -> Random:
        """A generator for one choice."""
        return Random(derived_seed(self.seed, step, purpose, index))

    def require_proposer(self) -> Model:
        if self.proposer is None:
            raise ConfigError("this optimizer asks a model for proposals; name one with --proposer or proposer=")
        return self.proposer


class Optimizer(Protocol):
    """Proposes candidates and learns from their scores. Talks to models, a task and its own seed; nothing else."""

    @property
    def name(self) -> str: ...

    @property
    def steps(self) -> int: ...

    def check(self, task: AnyTask, scorer: Model | None, proposer: Model | None) -> None:
        """Raise :class:`ConfigError` if this task or these models cannot be used, before any call."""
        ...

    async def run(self, search: Search) -> None: ...
