"""Token buckets as servers keep them: arithmetic on a stated time, no loop and no clock."""

from __future__ import annotations

import math
from collections.abc import Sequence

from asyncopt.errors import ConfigError

# Requests paced at exactly the rate must not be refused because 0.05 has no exact float. What is granted on this
# margin stays owed, so it does not add up.
_MARGIN = 1e-9


class TokenBucket:
    """Grants at most ``burst + rate * t`` in any ``t`` seconds; full at first.

    With ``charge_refused`` a refused request takes what is left, as with servers that count unsuccessful requests.
    """

    __slots__ = ("_level", "_updated", "burst", "charge_refused", "rate")

    def __init__(self, rate: float, burst: float, *, charge_refused: bool = False) -> None:
        for name, value in (("rate", rate), ("burst", burst)):
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"the bucket's {name} is {value!r}; it must be a number above 0")
        self.rate = rate
        self.burst = burst
        self.charge_refused = charge_refused
        self._level = burst
        self._updated = -math.inf

    def level(self, now: float) -> float:
        """What could be taken at ``now``."""
        if now > self._updated:
            self._level = min(self.burst, self._level + (now - self._updated) * self.rate)
            self._updated = now
        return self._level

    def wait(self, now: float, amount: float) -> float:
        """Seconds until ``amount`` fits: 0 if it does now, infinity if it is more than the burst."""
        margin = _MARGIN * max(1.0, self.burst)
        missing = amount - self.level(now)
        if missing <= margin:
            return 0.0
        return missing / self.rate if amount <= self.burst + margin else math.inf

    def until_full(self, now: float) -> float:
        """Seconds until the bucket is full."""
        return max(0.0, self.burst - self.level(now)) / self.rate

    def take(self, now: float, amount: float) -> float | None:
        """None if ``amount`` was granted and taken, else the seconds until it would fit."""
        if self.wait(now, amount) == 0:
            self._level -= amount
            return None
        if self.charge_refused:
            self._level = min(0.0, self._level)
        return self.wait(now, amount)


def take_all(now: float, demands: Sequence[tuple[TokenBucket, float]]) -> list[float | None]:
    """What each bucket's :meth:`~TokenBucket.take` gives, all or nothing: one refusal refuses the request.

    A bucket that would have granted its part is charged in a refused request only if it charges refused ones.
    """
    waits = [bucket.wait(now, amount) for bucket, amount in demands]
    if not any(waits):
        return [bucket.take(now, amount) for bucket, amount in demands]
    for bucket, amount in demands:
        if bucket.charge_refused:
            bucket.take(now, amount)
    return [bucket.wait(now, amount) if wait else None for (bucket, amount), wait in zip(demands, waits, strict=True)]
