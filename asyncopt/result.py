"""What a study found and what it took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from asyncopt.stats import wilson_interval


@dataclass(frozen=True, slots=True)
class Measured:
    """A share of right answers: ``correct`` of ``n``, with the 95 % Wilson interval [``low``, ``high``]."""

    score: float
    correct: float
    n: int
    low: float
    high: float

    @classmethod
    def of(cls, correct: float, n: int) -> Measured | None:
        if n == 0:
            return None
        return cls(correct / n, correct, n, *wilson_interval(correct, n))


@dataclass(frozen=True, slots=True)
class Scored:
    """A candidate with its score on the training examples, and on held-out ones that the search never saw."""

    candidate: str
    step: int
    source: str
    train: Measured | None
    held_out: Measured | None
    loss: float | None = None


@dataclass(frozen=True)
class Result:
    """What a study found and what it took. ``steps`` counts finished steps; ``calls`` requests sent, retries included.

    ``unscored`` counts examples of the best and the initial candidate that ended without a score, ``stopped`` the
    candidates that lost a race and have none.
    ``start``, ``optimum_loss``, ``unique_pairs`` and ``solved`` are for linear regression and None elsewhere.
    """

    task: str
    optimizer: str
    seed: int
    best: Scored | None
    initial: Scored | None
    steps: int
    calls: int
    cache_hits: int
    input_tokens: int
    output_tokens: int
    tokens: int
    usd: float | None
    seconds: float
    unscored: int = 0
    stopped: int = 0
    start: list[list[float]] | None = None
    optimum_loss: float | None = None
    unique_pairs: int | None = None
    solved: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """A plain value, without the fields that do not apply to the task."""
        plain = asdict(self)
        for name in ("start", "optimum_loss", "unique_pairs", "solved"):
            if plain[name] is None:
                del plain[name]
        return plain


def result_of(data: Mapping[str, Any]) -> Result:
    """The result in a journal's last record."""

    def scored(value: Mapping[str, Any] | None) -> Scored | None:
        if value is None:
            return None
        shares = {name: None if value[name] is None else Measured(**value[name]) for name in ("train", "held_out")}
        return Scored(**{**value, **shares})

    return Result(**{**data, "best": scored(data["best"]), "initial": scored(data["initial"])})
