"""A rate limit in permits (requests, tokens): aiolimiter's leaky bucket behind a credit ledger.

aiolimiter alone starves large amounts (its waiters stand in a heap by amount), lets two periods' worth through at the
start, refuses amounts above its capacity, has no refund, and spins on loops whose clock ticks in milliseconds. So the
dispatcher is its only caller, takes some 20 ms worth of permits at a time, and keeps what it does not use as credit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from aiolimiter import AsyncLimiter

from asyncopt.values import Dimension

BUCKET_SECONDS = 0.1
CHUNK_SECONDS = 0.02
LONGEST_WAIT = 1.0  # seconds for a chunk: nobody is to wait long at a rate that has changed meanwhile
SMALLEST_BUCKET = 2.0
LONGEST_TURN = 60.0  # seconds of rate that one process is granted at once; no call is served that needs more
_EPSILON = (
    1e-9  # the bucket is larger by this much, or rounding leaves it short of a permit for ever on a virtual clock
)
_DEEPEST_DEBT = 0.5  # seconds of rate: what a server's headers may hold us back at once


def bucket_of(rate: float) -> float:
    """How many permits may gather while nobody asks.

    One at low rates, where a server may grant one at a time; two from ten a second on, where waking up late would lose
    a part of the rate; then a tenth of a second's worth.
    """
    return max(min(1 + BUCKET_SECONDS * rate, SMALLEST_BUCKET), BUCKET_SECONDS * rate)


class Meter:
    """One dimension of a quota: ``rate`` permits a second, with a burst of 0.1 s of rate, at least of one or two."""

    __slots__ = ("_bucket", "_full", "_limiter", "credit", "rate")

    def __init__(self, rate: float) -> None:
        self.credit = 0.0
        self._fill(rate)
        self._full = False

    def _fill(self, rate: float) -> None:
        self.rate = rate
        self._bucket = bucket_of(rate)
        self._limiter = AsyncLimiter(self._bucket * (1 + _EPSILON), self._bucket / rate)
        self._full = True  # it would give its whole bucket away at once, and nobody is to have that

    def change(self, rate: float) -> None:
        """Go on at another rate, with an empty bucket: a change is no reason for a burst."""
        self._fill(rate)

    def drain(self) -> None:
        """Go on at the same rate, without what has gathered while nothing was let through."""
        self._fill(self.rate)
        self.credit = min(self.credit, 0.0)

    def covers(self, amount: float) -> bool:
        """Whether the permits in hand are enough for this amount."""
        return self.credit >= amount - _EPSILON

    def spend(self, amount: float) -> None:
        """Take permits that :meth:`covers` has confirmed."""
        self.credit -= amount

    def settle(self, reserved: float, used: float) -> None:
        """Correct a reservation by what was really used: the rest comes back, overuse becomes debt."""
        self.credit += reserved - used

    def hold_to(self, level: float) -> None:
        """Keep no more credit than the server says is left."""
        if level < self.credit:
            self.credit = max(level, -_DEEPEST_DEBT * self.rate)
            self._fill(self.rate)  # nor what the bucket would give at once

    async def take_chunk(self, amount: float) -> None:
        """Wait for one chunk of permits towards ``amount``, and keep it as credit.

        One chunk, not all of it: the dispatcher looks at its queue again between chunks, so a withdrawn or overtaken
        large request holds nobody up.
        """
        if self._full:
            self._full = False
            await self._limiter.acquire(self._bucket)
        chunk = self._chunk(amount)
        await self._limiter.acquire(chunk)
        self.credit += chunk

    def would_cover(self, amount: float) -> bool:
        """Whether what has come of the chunk that is being taken is enough for this amount; a short wait goes on."""
        return False

    def _chunk(self, amount: float) -> float:
        missing = max(amount - self.credit, 0.0)
        return min(max(missing, CHUNK_SECONDS * self.rate), self._bucket, LONGEST_WAIT * self.rate)

    def forget_credit(self) -> None:
        """Drop credit above one chunk: what a withdrawn large request has saved up must not leave as a burst."""
        self.credit = min(self.credit, max(1.0, CHUNK_SECONDS * self.rate))


class Grants(Protocol):
    """Where the permits of a shared quota come from."""

    @property
    def workers(self) -> int: ...

    @property
    def lease(self) -> int:
        """Another number when what was granted before must not be used any more."""
        ...

    def earned(self, dimension: Dimension) -> float: ...

    async def take(
        self, dimension: Dimension, amount: float, rate: float, bucket: float, keep: Callable[[float], None]
    ) -> None: ...

    def give_back(self, dimension: Dimension, amount: float, rate: float) -> None: ...

    def pause(self, seconds: float) -> None: ...


class SharedMeter(Meter):
    """A meter whose permits are granted to all processes of an account together, a call's or a chunk at a time.

    Permits are spent when they are granted, so that those of a process that dies are gone and never used twice. Those
    in hand are good as long as the lease: a process that was stopped must not come back with a burst.
    """

    __slots__ = ("_dimension", "_grants", "_lease")

    def __init__(self, rate: float, dimension: Dimension, grants: Grants) -> None:
        self._dimension = dimension
        self._grants = grants
        self._lease = grants.lease
        super().__init__(rate)

    def _fill(self, rate: float) -> None:
        self.rate = rate
        self._bucket = bucket_of(rate)

    def covers(self, amount: float) -> bool:
        if self.credit > 0:
            self._has_expired()
        return super().covers(amount)

    def _has_expired(self) -> bool:
        lease = self._grants.lease
        if lease == self._lease:
            return False
        self._lease = lease
        self.credit = min(self.credit, 0.0)
        return True

    def _chunk(self, amount: float) -> float:
        """All that a call lacks: processes that gathered permits side by side would all start their calls at once."""
        return min(max(amount - self.credit, CHUNK_SECONDS * self.rate), LONGEST_TURN * self.rate)

    async def take_chunk(self, amount: float) -> None:
        self._has_expired()
        chunk = self._chunk(amount)
        await self._grants.take(self._dimension, chunk, self.rate, self._bucket, self._keep)
        self._keep(chunk)

    def _keep(self, permits: float) -> None:
        if not self._has_expired():
            self.credit += permits

    def would_cover(self, amount: float) -> bool:
        return self.credit + self._grants.earned(self._dimension) >= amount

    def forget_credit(self) -> None:
        """Give back what is left: with an empty queue it is of no use here."""
        if self.credit > 0 and not self._has_expired():
            self._grants.give_back(self._dimension, self.credit, self.rate)
            self.credit = 0.0
