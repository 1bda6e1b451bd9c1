"""Token buckets and sliding windows as servers keep them: arithmetic on a stated time, no loop and no clock.

Times never go back: every method expects a ``now`` that is no earlier than the last one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from asyncopt.errors import ConfigError

# Requests paced at exactly the rate must not be refused because 0.05 has no exact float. What is granted on this
# margin stays owed, so it does not add up.
_MARGIN = 1e-9


class Bucket(Protocol):
    """A quota of one kind: ``rate`` permits a second in the long run, ``burst`` at once."""

    @property
    def rate(self) -> float: ...

    @property
    def burst(self) -> float: ...

    @property
    def charge_refused(self) -> bool: ...

    def level(self, now: float) -> float:
        """What could be taken at ``now``; below 0 while a debt is paid off."""
        ...

    def wait(self, now: float, amount: float) -> float:
        """Seconds until ``amount`` fits: 0 if it does now, infinity if it is more than the burst."""
        ...

    def until_full(self, now: float) -> float:
        """Seconds until everything could be taken at once."""
        ...

    def take(self, now: float, amount: float) -> float | None:
        """None if ``amount`` was granted and taken, else the seconds until it would fit."""
        ...

    def drain(self, now: float, amount: float) -> None:
        """Takes ``amount`` whether it fits or not."""
        ...

    def scale(self, now: float, factor: float) -> None:
        """Multiplies rate and burst from ``now`` on."""
        ...


def _check(what: str, **values: float) -> None:
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"the {what}'s {name} is {value!r}; it must be a number above 0")


class TokenBucket:
    """Grants at most ``burst + rate * t`` in any ``t`` seconds; full at first.

    With ``charge_refused`` a refused request takes what is left, as with servers that count unsuccessful requests.
    """

    __slots__ = ("_level", "_updated", "burst", "charge_refused", "rate")

    def __init__(self, rate: float, burst: float, *, charge_refused: bool = False) -> None:
        _check("bucket", rate=rate, burst=burst)
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

    def drain(self, now: float, amount: float) -> None:
        """Takes ``amount`` whether it fits or not; what was missing is a debt."""
        self._level = self.level(now) - amount

    def give(self, now: float, amount: float) -> None:
        """Puts ``amount`` back, up to the burst."""
        self._level = min(self.burst, self.level(now) + amount)

    def scale(self, now: float, factor: float) -> None:
        """Multiplies rate and burst from ``now`` on; what a smaller bucket cannot hold is lost."""
        level = self.level(now)
        self.rate *= factor
        self.burst *= factor
        self._level = min(self.burst, level)


class SlidingWindow:
    """Grants at most ``limit`` in any half-open window of ``seconds``.

    With ``charge_refused`` a refused request counts in the window like a granted one.
    """

    __slots__ = ("_taken", "_used", "burst", "charge_refused", "seconds")

    def __init__(self, limit: float, seconds: float, *, charge_refused: bool = False) -> None:
        _check("window", limit=limit, seconds=seconds)
        self.burst = limit
        self.seconds = seconds
        self.charge_refused = charge_refused
        self._taken: deque[tuple[float, float]] = deque()
        self._used = 0.0

    @property
    def rate(self) -> float:
        return self.burst / self.seconds

    def level(self, now: float) -> float:
        """What could be taken at ``now``; below 0 where more was counted than the window holds."""
        while self._taken and now - self._taken[0][0] >= self.seconds - _MARGIN:
            self._used -= self._taken.popleft()[1]
        if not self._taken:
            self._used = 0.0  # the dust of floats goes with the last entry
        return self.burst - self._used

    def wait(self, now: float, amount: float) -> float:
        """Seconds until ``amount`` fits: 0 if it does now, infinity if it is more than the window holds."""
        margin = _MARGIN * max(1.0, self.burst)
        if amount > self.burst + margin:
            return math.inf
        missing, wait = amount - self.level(now), 0.0
        for taken_at, taken in self._taken:
            if missing <= margin:
                break
            missing -= taken
            wait = taken_at + self.seconds - now
        return wait

    def until_full(self, now: float) -> float:
        """Seconds until nothing that was taken counts any more."""
        self.level(now)
        return self._taken[-1][0] + self.seconds - now if self._taken else 0.0

    def take(self, now: float, amount: float) -> float | None:
        """None if ``amount`` was granted and taken, else the seconds until it would fit."""
        granted = self.wait(now, amount) == 0
        if granted or self.charge_refused:
            self.drain(now, amount)
        return None if granted else self.wait(now, amount)

    def drain(self, now: float, amount: float) -> None:
        """Counts ``amount`` whether it fits or not."""
        self._taken.append((now, amount))
        self._used += amount

    def scale(self, now: float, factor: float) -> None:
        """Multiplies the limit from ``now`` on; what was taken before counts on."""
        self.burst *= factor


def take_all(now: float, demands: Sequence[tuple[Bucket, float]]) -> list[float | None]:
    """What each bucket's :meth:`~Bucket.take` gives, all or nothing: one refusal refuses the request.

    A bucket that would have granted its part is charged in a refused request only if it charges refused ones.
    """
    waits = [bucket.wait(now, amount) for bucket, amount in demands]
    if not any(waits):
        return [bucket.take(now, amount) for bucket, amount in demands]
    for bucket, amount in demands:
        if bucket.charge_refused:
            bucket.take(now, amount)
    return [bucket.wait(now, amount) if wait else None for (bucket, amount), wait in zip(demands, waits, strict=True)]
