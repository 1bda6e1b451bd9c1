"""What OPRO must know of a kind of solution: how to ask for one, and how to read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, Protocol, TypeAlias

from asyncopt.optimizers.asking import Reading
from asyncopt.optimizers.base import Seen
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
    """One kind of solution, written as text: an instruction, a pair of numbers, or a tour."""

    styles: tuple[Style, ...]

    def ask(self, style: Style, view: Sequence[Entry], seen: Seen, rng: Random) -> Ask:
        """The request for a new solution, given the best so far from worst to best, out of all that is ``seen``."""
        ...

    def read(self, style: Style, answer: str) -> Reading:
        """The solution in a model's answer in its one written form, or why there is none to be used."""
        ...
