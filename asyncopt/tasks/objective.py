"""What can be optimized without any model that scores: a function of a solution that is written as text."""

from __future__ import annotations

from collections.abc import Collection
from random import Random
from typing import Any, Protocol


class Objective(Protocol):
    """A function to be made as small as possible. A solution is a text in its one written form."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str:
        """A sha256 over everything that decides the function, so that a resumed study can refuse another one."""
        ...

    @property
    def optimum_loss(self) -> float:
        """The lowest value there is."""
        ...

    def initial(self) -> list[str]:
        """The starting points."""
        ...

    def loss_of(self, candidate: str) -> float:
        """The function's value at a solution."""
        ...

    def solved(self, candidate: str) -> bool:
        """Whether this is the optimum, so that a search ends."""
        ...

    def random(self, rng: Random) -> str:
        """A solution drawn uniformly: what every optimizer has to beat."""
        ...

    def report(self, best: str, tried: Collection[str]) -> dict[str, Any]:
        """What only this problem's result says, by the names of the fields of :class:`asyncopt.Result`."""
        ...
