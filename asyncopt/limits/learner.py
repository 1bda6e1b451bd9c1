"""A rate that nobody stated, learned from refusals.

A refusal says that a server's bucket is empty. Between two such moments it can have granted no more than its rate
times the time, so what was granted in between is never more than the rate; and if we came to the refusal by growing
slowly, what we offered is hardly more than it. The rate lies between the two. Where two refusals are close together
the offer was far off, and it is cut by a factor. Time in which nobody wanted more than there was does not count.

After a measurement the rate stands still below the quota, then grows slowly until the next refusal: one or two calls a
minute are refused to know a quota to some percent, also where refused calls count.
"""

from __future__ import annotations

import math
from collections import deque

TRUSTED_SECONDS = 4.0  # two refusals this far apart measure the rate
TRUSTED_PERMITS = 5
BELOW = 0.97  # of the measured rate is what we offer: what a strict server is owed must be paid back
CUT = 0.7
RAMP_CUT = 0.5
STAND_SECONDS, LONGEST_STAND = 15.0, 60.0  # twice as long every time that the rate was found again
AGAIN = 0.05
FLOOR = 0.4  # of what was granted over the last minute: a row of refusals is no reason to all but stop
FLOOR_SECONDS = 60.0
GROWTH = 0.01  # a second, from a rate that was measured
FAST_GROWTH = 0.1  # a second, after a cut by guess
RAMP_GROWTH = 0.0005  # a second: half as much again in a quarter of an hour, as OpenAI asks for
_LEAST_RATE = 1 / 60
_STEP = 0.02  # a change costs a little, so there is one every second or two
_FASTER = 1.05  # growth that meets nothing grows itself


class RateLearner:
    """The rate that refusals have taught, in permits a second; ``rate`` is None while none has come. Pure."""

    __slots__ = ("_at", "_granted", "_grown", "_grows_from", "_growth", "_idle", "_looked", "_past",
                 "_settled", "_stand", "rate")  # fmt: skip

    def __init__(self) -> None:
        self.rate: float | None = None
        self._at: float | None = None
        self._granted = 0.0
        self._idle = self._looked = 0.0
        self._growth = 0.0
        self._grows_from = self._grown = 0.0
        self._settled = 0.0
        self._stand = STAND_SECONDS
        self._past: deque[tuple[float, float]] = deque()

    def refused(self, at: float, granted: float, offered: float, *, ramp: bool = False) -> None:
        """A refusal of a call that started at ``at``, when ``granted`` permits had been granted in all.

        ``offered`` is the rate at which permits were being spent. ``ramp`` says that the server complains of growth,
        not of the rate.
        """
        span = float("inf") if self._at is None else at - self._at - self._idle
        since = granted - self._granted
        if self._at is not None and since <= 0:
            return  # the probe itself was refused: the pause was too short, which says nothing of the rate
        measured = since / span if 0 < span < float("inf") else 0.0
        self._at, self._granted, self._idle = at, granted, 0.0
        if ramp:
            rate, self._growth, stand = RAMP_CUT * offered, RAMP_GROWTH, STAND_SECONDS
        elif TRUSTED_SECONDS <= span < float("inf") and since >= TRUSTED_PERMITS:
            rate = BELOW * math.sqrt(min(measured, offered) * offered)
            self._growth, stand = GROWTH, self._settle(rate)
        else:
            rate, self._growth, stand = min(max(measured, CUT * offered), BELOW * offered), FAST_GROWTH, 1.0
        self.rate = max(rate, FLOOR * self._granted_lately(at, granted), _LEAST_RATE)
        self._grows_from = self._grown = at + stand

    def _settle(self, rate: float) -> float:
        """How long to stand still at a rate that was measured: longer if it is the one that was found before."""
        again = abs(rate - self._settled) <= AGAIN * self._settled
        self._settled = rate
        self._stand = min(2 * self._stand, LONGEST_STAND) if again else STAND_SECONDS
        return self._stand

    def _granted_lately(self, at: float, granted: float) -> float:
        """Permits granted a second between the refusals of the last minute; 0.0 where that says too little."""
        self._past.append((at, granted))
        while self._past[0][0] < at - FLOOR_SECONDS:
            self._past.popleft()
        since, before = self._past[0]
        return (granted - before) / (at - since) if at - since >= TRUSTED_SECONDS else 0.0

    def grow(self, now: float, *, wanted: bool, paused: bool = False) -> bool:
        """Let the rate grow with time, as far as it was ``wanted``; whether it has changed.

        While ``paused`` nobody was let through, however much was wanted.
        """
        if not wanted and not paused:
            self._idle += now - self._looked
        self._looked = now
        if self.rate is None or now < self._grows_from:
            return False
        if not wanted:
            self._grown = now
            return False
        step = (now - self._grown) * self._growth
        if step < _STEP:
            return False
        self.rate *= 1 + min(step, 0.1)
        self._grown = now
        if self._growth > RAMP_GROWTH:
            self._growth = max(self._growth, min(self._growth * _FASTER, 3 * GROWTH))
        return True

    def forget(self) -> None:
        """Nothing holds the rate back any more."""
        self.rate = None
