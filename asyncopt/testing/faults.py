"""A plan of what goes wrong: seeded, printable, and the same in one loop as over sockets."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast, get_args

from asyncopt.errors import ConfigError

Kind: TypeAlias = Literal["500", "502", "503", "529", "429", "reset", "malformed", "slow"]
KINDS: tuple[Kind, ...] = get_args(Kind)

SLOW_FACTOR = 10.0
_FORM = f"seed=NUMBER,rate=SHARE[,kinds=KIND+KIND...] with kinds of {', '.join(KINDS)}"


class Cut(Exception):
    """The server cut the connection instead of answering."""


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """For every request number, whether it fails and how; a retry has a number of its own, and so another chance.

    ``429`` comes at once and without a hint when to come back; ``slow`` answers after ten times the latency; the
    others fail after it. Quotas are asked first: a request that they refuse is not in the plan's hands.
    """

    seed: int
    rate: float
    kinds: tuple[Kind, ...] = KINDS

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise ConfigError(f"the rate of faults is {self.rate!r}; it must be in [0, 1]")
        if not self.kinds or not set(self.kinds) <= set(KINDS):
            raise ConfigError(f"the kinds of faults are {self.kinds!r}; wanted some of {', '.join(KINDS)}")

    @classmethod
    def parse(cls, text: str) -> FaultPlan:
        """The plan that a command-line text such as ``seed=1,rate=0.05,kinds=500+reset`` describes."""
        parts = dict(part.strip().partition("=")[::2] for part in text.split(","))
        try:
            seed, rate = int(parts.pop("seed")), float(parts.pop("rate"))
        except (KeyError, ValueError):
            raise ConfigError(f"the faults are {text!r}; wanted {_FORM}") from None
        kinds = tuple(parts.pop("kinds").split("+")) if "kinds" in parts else KINDS
        if parts:
            raise ConfigError(f"the faults name {', '.join(parts)}, which is not known; wanted {_FORM}")
        return cls(seed, rate, cast(tuple[Kind, ...], kinds))

    def fault(self, number: int) -> Kind | None:
        """What happens to the request with this number; None if nothing does."""
        rng = random.Random(f"{self.seed}:fault:{number}")
        return rng.choice(self.kinds) if rng.random() < self.rate else None
