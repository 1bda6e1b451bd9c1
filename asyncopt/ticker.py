"""One timer for a dispatcher: deadlines, growth of what was learned, rivals, and why not more calls are in flight.

It runs ten times a second while there is work, and looks at all calls at once: a timer for each would cost more than
everything else the engine does for a call.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Protocol

from asyncopt.events import Events, Note, Utilisation
from asyncopt.hedging import Hedging, Host
from asyncopt.limits.patience import Patience

SECONDS = 0.1
DEADLINES_EVERY = 5
TELL_EVERY = 10
STALLED = 1.0  # seconds of lag, from which on deadlines are put off and people told
_LATE = 0.03  # seconds: a tick that comes later than this was kept waiting by the processor


class Ticked(Host, Protocol):
    """What the ticker sees of its dispatcher."""

    events: Events
    patience: Patience

    def limiting(self) -> str: ...


class Ticker:
    """The dispatcher's sense of time. ``limited`` has seconds by what kept more calls from being in flight."""

    def __init__(self, dispatcher: Ticked, hedging: Hedging, loop: asyncio.AbstractEventLoop) -> None:
        self.limited: defaultdict[str, float] = defaultdict(float)
        self._dispatcher = dispatcher
        self._hedging = hedging
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._last: float | None = None
        self._ticks = 0
        self._told = 0.0  # the longest lag that people were told of

    @property
    def resting(self) -> bool:
        return self._timer is None

    def wake(self) -> None:
        """There is work again; the time without any was spent waiting for proposals."""
        now = self._loop.time()
        if self._last is not None:
            self.limited["proposals"] += now - self._last
        self._last = now
        self._dispatcher.control.tick(now, 0.0)  # nothing has grown in a rest
        self._timer = self._loop.call_later(SECONDS, self._tick)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        dispatcher, now = self._dispatcher, self._loop.time()
        assert self._last is not None
        seconds, self._last = now - self._last, now
        self._ticks += 1
        reason = "cpu" if seconds > SECONDS + _LATE else dispatcher.limiting()
        self.limited[reason] += seconds
        if seconds > SECONDS + STALLED:
            self._forgive(seconds - SECONDS)
        dispatcher.control.tick(now, seconds)
        self._hedging.tick(now)
        if self._ticks % DEADLINES_EVERY == 0:
            self._end_overdue(now)
        dispatcher.poke()
        working = dispatcher.in_flight_calls or dispatcher.queued
        if (self._ticks % TELL_EVERY == 0 or not working) and dispatcher.events:
            self._tell(reason)  # before a rest, too: what is shown would else stay as it was in the middle of the work
        self._timer = self._loop.call_later(SECONDS, self._tick) if working else None

    def _forgive(self, lag: float) -> None:
        """The loop stood still: what came meanwhile is yet to be read, and no call is late for that."""
        for call in self._dispatcher.in_flight_calls.values():
            call.grace += lag
        if lag > 2 * self._told:
            self._told = lag
            self._dispatcher.events.emit(
                Note(
                    f"the event loop stood still for {lag:.1f} s, such as for a blocking metric or observer, or a "
                    "machine that slept; deadlines were put off by as much"
                )
            )

    def _end_overdue(self, now: float) -> None:
        patience = self._dispatcher.patience
        for worker, call in self._dispatcher.in_flight_calls.items():
            limit = patience.limit(call.permits[3], call.timeout, call.cut) + call.grace
            if now - call.started_at > limit and not call.expired and call.winner is None:
                call.expired = True
                call.cut += 1
                worker.cancel()

    def _tell(self, reason: str) -> None:
        dispatcher = self._dispatcher
        dispatcher.events.emit(
            Utilisation(
                dispatcher.control.scope,
                reason,
                len(dispatcher.in_flight_calls),
                dispatcher.control.slots.limit,
                dispatcher.queued,
            )
        )
