"""How long a simulated server thinks about a request."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from asyncopt.errors import ConfigError
from asyncopt.testing.chance import fraction, normal

_FORMS = "a number of seconds, or lognormal:MEDIAN:SIGMA[:TAIL_SHARE:TAIL_FACTOR]"


class Latency(Protocol):
    """A latency model."""

    def seconds(self, seed: int, number: int) -> float:
        """The latency of the request with this number, in seconds."""
        ...

    def tail(self, seed: int, number: int) -> float:
        """The part of :meth:`seconds` that only a slow request of the tail takes; it passes before the first byte."""
        ...


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True, slots=True)
class Constant:
    """The same latency for every request."""

    value: float = 0.0

    def __post_init__(self) -> None:
        _require(math.isfinite(self.value) and self.value >= 0, f"the latency is {self.value!r}; it must be >= 0 s")

    def seconds(self, seed: int, number: int) -> float:
        return self.value

    def tail(self, seed: int, number: int) -> float:
        return 0.0


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Latencies whose logarithm is normal; a ``tail_share`` of the requests takes ``tail_factor`` times as long."""

    median: float
    sigma: float
    tail_share: float = 0.0
    tail_factor: float = 10.0

    def __post_init__(self) -> None:
        for name in ("median", "sigma", "tail_factor"):
            value = getattr(self, name)
            _require(math.isfinite(value) and value >= 0, f"the latency's {name} is {value!r}; it must be >= 0")
        _require(0 <= self.tail_share <= 1, f"the latency's tail_share is {self.tail_share!r}; it must be in [0, 1]")

    def seconds(self, seed: int, number: int) -> float:
        usual = self._usual(seed, number)
        return usual * self.tail_factor if self._slow(seed, number) else usual

    def tail(self, seed: int, number: int) -> float:
        slow = self._slow(seed, number)
        return self._usual(seed, number) * max(0.0, self.tail_factor - 1) if slow else 0.0

    def _usual(self, seed: int, number: int) -> float:
        return self.median * math.exp(self.sigma * normal(seed, "latency", number))

    def _slow(self, seed: int, number: int) -> bool:
        return self.tail_share > 0 and fraction(seed, "tail", number) < self.tail_share


def parse_latency(text: str) -> Latency:
    """The latency model that a command-line text such as ``0.05`` or ``lognormal:0.5:1.0:0.01:10`` names."""
    name, _, rest = text.partition(":")
    try:
        if name != "lognormal":
            return Constant(float(text))
        numbers = [float(part) for part in rest.split(":")]
    except ValueError:
        raise ConfigError(f"the latency is {text!r}; wanted {_FORMS}") from None
    _require(len(numbers) in (2, 4), f"the latency {text!r} has {len(numbers)} numbers; wanted {_FORMS}")
    return LogNormal(*numbers)
