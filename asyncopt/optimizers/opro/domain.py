"""What OPRO must know of a kind of solution: how to ask for one, how to read it, and when to stop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, Protocol, TypeAlias

from asyncopt.optimizers.history import Entry
from asyncopt.values import Prompt

Style: TypeAlias = Literal["meta-prompt", "rewrite", "induction"]
STYLES: tuple[Style, ...] = ("meta-prompt", "rewrite", "induction")


@dataclass(frozen=True, slots=True)
class Ask:
    """One request for a solution: the prompt, and a GBNF grammar of the answer for servers that take one."""

    prompt: Prompt
    grammar: str | None = None
    stop: tuple[str, ...] = ()


class Domain(Protocol):
    """One kind of solution, written as text: an instruction, or a pair of numbers."""

    maximize: bool
    styles: tuple[Style, ...]

    def initial(self) -> Sequence[str]:
        """The starting points."""
        ...

    def ask(self, style: Style, view: Sequence[Entry], step: int, rng: Random) -> Ask:
        """The request for a new solution, given the best so far from worst to best."""
        ...

    def read(self, style: Style, answer: str) -> str | None:
        """The solution in a model's answer in its one written form, or None where there is none to be used."""
        ...

    def random(self, rng: Random) -> str | None:
        """A solution drawn without any model, or None where there is no such thing."""
        ...

    def solved(self, candidate: str) -> bool:
        """Whether this is the optimum, so that the search ends."""
        ...
