"""The paper's first demonstration: find (w, b) of a noisy line from function values alone (OPRO, section 3.1).

Numbers that the paper leaves open (seeds, rounding, how an answer is read) are those of its reference code.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any

from asyncopt import codec
from asyncopt.errors import ConfigError

POINTS = 50  # x = 1, 2, ..., 50
STARTS = 5
START_LOW, START_HIGH = 10, 20

LARGEST_REPETITION = (2**32 - 1) // 100 - 1  # the legacy generator gets up to 100 * (repetition + 1) as its seed
_LARGEST_WEIGHT = 10**6


@dataclass(frozen=True)
class LinearRegression:
    """Black-box minimisation over pairs (w, b) of a sum of squared residuals; no model scores it.

    ``repetition`` chooses the noise and the starting points, from 0; the paper has five. Raises
    :class:`ConfigError` for other values than integers in range.
    """

    w_true: int = 15
    b_true: int = 14
    repetition: int = 0

    def __post_init__(self) -> None:
        _require_integer("w_true", self.w_true, -_LARGEST_WEIGHT, _LARGEST_WEIGHT)
        _require_integer("b_true", self.b_true, -_LARGEST_WEIGHT, _LARGEST_WEIGHT)
        _require_integer("repetition", self.repetition, 0, LARGEST_REPETITION)

    @property
    def name(self) -> str:
        return "linear-regression"

    @cached_property
    def data(self) -> tuple[tuple[int, float], ...]:
        """The points (x, y) with y = w_true x + b_true + N(0, 1)."""
        from numpy.random import RandomState  # `import asyncopt` stays light

        noise = RandomState(self.repetition + 1).randn(POINTS).tolist()
        return tuple((x, self.w_true * x + self.b_true + noise[x - 1]) for x in range(1, POINTS + 1))

    def loss(self, w: float, b: float) -> float:
        """The sum of squared residuals; infinite where a double cannot hold it."""
        residuals = [y - (float(w) * x + float(b)) for x, y in self.data]
        return sum(residual * residual for residual in residuals)

    @cached_property
    def optimum_loss(self) -> float:
        """The loss of the true pair, which is that of the noise and not 0; the best of all integer pairs."""
        return self.loss(self.w_true, self.b_true)

    def start(self) -> list[tuple[int, int]]:
        """At most five integer pairs in [10, 20]², sorted and without duplicates; the same for all true pairs."""
        from numpy.random import RandomState  # `import asyncopt` stays light

        ws = RandomState((self.repetition + 1) * 10).uniform(START_LOW, START_HIGH, STARTS)
        bs = RandomState((self.repetition + 1) * 100).uniform(START_LOW, START_HIGH, STARTS)
        return sorted({(round(w), round(b)) for w, b in zip(ws.tolist(), bs.tolist(), strict=True)})

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of the data points."""
        return hashlib.sha256(codec.dumps([self.name, self.data])).hexdigest()

    # -- as an objective -----------------------------------------------------------------------------------------------

    def initial(self) -> list[str]:
        return [format_pair(w, b) for w, b in self.start()]

    def loss_of(self, candidate: str) -> float:
        pair = parse_pair(candidate)
        assert pair is not None
        return self.loss(*pair)

    def solved(self, candidate: str) -> bool:
        """Whether this is the true pair exactly, which is the best of all integer pairs (reference code)."""
        return candidate == format_pair(self.w_true, self.b_true)

    def random(self, rng: Random) -> str:
        """An integer pair in the square of the starting points."""
        return format_pair(rng.randint(START_LOW, START_HIGH), rng.randint(START_LOW, START_HIGH))

    def report(self, best: str, tried: Collection[str]) -> dict[str, Any]:
        return {
            "start": [[w, b, self.loss(w, b)] for w, b in self.start()],
            "optimum_loss": self.optimum_loss,
            "unique_pairs": len(tried),
            "solved": self.solved(best),
        }


def format_pair(w: float, b: float) -> str:
    """The pair as a candidate's text, such as ``[15, 14]``; whole numbers are written without a decimal point."""
    return f"[{_number(w)}, {_number(b)}]"


def parse_pair(text: str) -> tuple[float, float] | None:
    """The pair in the last ``[...]`` of a text, or None (reference code).

    A group stands on one line; one that echoes the request, ``[w, b]``, is passed over. Of the numbers in the group,
    with or without a name and ``=`` before them, there must be two, both finite.
    """
    for line in reversed(text.split("\n")):
        for group in reversed(_groups(line)):
            if "=" in group or not ("w" in group or "b" in group):
                return _pair(group)
    return None


def _groups(line: str) -> list[str]:
    # What the pattern `\[.*?\]` finds, which would take quadratic time on a line of opening brackets.
    groups = []
    opening = line.find("[")
    while opening >= 0 and (closing := line.find("]", opening)) >= 0:
        groups.append(line[opening + 1 : closing])
        opening = line.find("[", closing)
    return groups


def _pair(group: str) -> tuple[float, float] | None:
    items = group.split(",", 2)
    if len(items) != 2:
        return None
    try:
        w, b = (float(item.partition("=")[2] if "=" in item else item) for item in items)
    except ValueError:
        return None
    return (w, b) if math.isfinite(w) and math.isfinite(b) else None


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))


def _require_integer(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(f"{name} of linear-regression is {value!r}; it must be an integer from {low} to {high}")
