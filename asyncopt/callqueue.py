"""The calls that wait: by priority, then in order of arrival. Withdrawn ones cost nothing; retries keep their age."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count

from asyncopt.calls import Call, State

_TIDY_ABOVE = 1000


class CallQueue:
    """A heap whose withdrawn entries are skipped, and swept out when they are most of it."""

    __slots__ = ("_due", "_heap", "_later", "_loop", "_order", "_stale")

    def __init__(self, loop: asyncio.AbstractEventLoop, due: Callable[[], None]) -> None:
        self._loop = loop
        self._due = due  # told when a retry has come back into the queue
        self._heap: list[tuple[int, int, Call]] = []
        self._later: dict[Call, asyncio.TimerHandle] = {}
        self._order = count()
        self._stale = 0

    def __len__(self) -> int:
        return len(self._heap) - self._stale + len(self._later)

    @property
    def ready(self) -> bool:
        """Whether a call waits for anything but the time of its retry."""
        return len(self._heap) > self._stale

    def push(self, call: Call) -> None:
        """Put a call into its turn; one that has been here before gets its old place back."""
        if call.order < 0:
            call.order = next(self._order)
        heappush(self._heap, (call.priority, call.order, call))

    def push_later(self, call: Call, wait: float) -> None:
        """Put a call back after ``wait`` seconds."""
        self._later[call] = self._loop.call_later(wait, self._back, call)

    def _back(self, call: Call) -> None:
        del self._later[call]
        self.push(call)
        self._due()

    def head(self) -> Call | None:
        """The call whose turn it is; it stays."""
        while self._heap:
            call = self._heap[0][2]
            if call.state is State.QUEUED:
                return call
            heappop(self._heap)
            self._stale -= 1
        return None

    def pop(self) -> None:
        """Remove the call that :meth:`head` has just given."""
        heappop(self._heap)

    def withdraw(self, call: Call) -> None:
        """Forget a call that nobody waits for any more."""
        call.state = State.DONE
        timer = self._later.pop(call, None)
        if timer is not None:
            timer.cancel()
        elif call.order >= 0:  # else the cache is still being asked, and it was never here
            self._stale += 1
            self._tidy()

    def _tidy(self) -> None:
        if self._stale > _TIDY_ABOVE and self._stale * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].state is State.QUEUED]
            heapify(self._heap)
            self._stale = 0

    def clear(self) -> list[Call]:
        """Empty the queue; returns the calls that were in it."""
        waiting = [entry[2] for entry in self._heap if entry[2].state is State.QUEUED] + list(self._later)
        for timer in self._later.values():
            timer.cancel()
        self._heap.clear()
        self._later.clear()
        self._stale = 0
        return waiting
