"""A small clock on which a possible run is played: places, paces and priorities, and no call is made.

Calls are counted and not looked into. A server's places are the engine's own :class:`~asyncopt.limits.slots.Slots`, so
that what grows with the answers grows here too; its quota is a pace, as the engine's meters make it.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from asyncopt.limits.slots import Slots

BURST_SECONDS = 0.1  # of a rate that may be spent at once, as by the engine's meters

Then = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Kind:
    """Calls of one sort: where they go, what they take of each of its paces, and how long they last, in seconds."""

    server: Server
    permits: tuple[float, ...]
    seconds: Iterator[float]
    proposes: bool = False


@dataclass(slots=True, eq=False)
class Batch:
    """``size`` calls of one kind, at most ``window`` of them asked for at a time; ``links`` more follow on each."""

    kind: Kind
    size: int
    links: int = 0
    begun: int = 0
    ended: int = 0
    open: int = 0  # asked for, and not begun
    marks: dict[int, Then] = field(default_factory=dict)  # what is done when so many have ended


class Server:
    """Places and paces of one quota; ``rates`` are permits a second, one for each of a kind's permits."""

    def __init__(self, slots: Slots, rates: Sequence[float]) -> None:
        self.slots = slots
        self.queues: tuple[deque[Batch], deque[Batch]] = (deque(), deque())
        self._rates = tuple(rates)
        self._next = [0.0] * len(self._rates)
        self.paced_until = 0.0

    @property
    def queued(self) -> bool:
        return bool(self.queues[0] or self.queues[1])

    def ready(self, now: float, permits: tuple[float, ...]) -> bool:
        """Whether every pace lets the call through now, which it then has."""
        latest = max(self._next, default=0.0)
        if latest > now + 1e-9:
            self.paced_until = latest
            return False
        for index, rate in enumerate(self._rates):
            self._next[index] = max(self._next[index], now - BURST_SECONDS) + permits[index] / rate
        return True


class Clock:
    """Time goes from one end of a call to the next. ``limited`` counts seconds by what held the work up in them."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self.now = 0.0
        self.limited: dict[str, float] = {}
        self._servers = servers
        self._events: list[tuple[float, int, Batch | None, Server, float, int]] = []
        self._number = 0
        self._in_flight = [0, 0]  # of scoring, of proposing
        self._woken: dict[int, float] = {}

    def ask(self, kind: Kind, size: int, then: Then, *, links: int = 0, window: int = 0, first: bool = False) -> Batch:
        """Queue calls, and do ``then`` when all have ended; ``first`` puts them before those that score."""
        batch = Batch(kind, size, links, open=min(size, window) if window else size)
        if not size:
            then()
            return batch
        batch.marks[size] = then
        kind.server.queues[0 if first or kind.proposes else 1].append(batch)
        self._pump(kind.server)
        return batch

    def run(self) -> None:
        """Return when nothing more will happen."""
        while self._events:
            moment, _, batch, server, seconds, links = heapq.heappop(self._events)
            self._account(moment - self.now)
            self.now = moment
            if batch is not None:
                self._end(batch, seconds, links)
            self._pump(server)

    def _account(self, seconds: float) -> None:
        if seconds <= 0:
            return
        queued = [server for server in self._servers if server.queued]
        if queued:
            name = "quota" if any(server.slots.free for server in queued) else "concurrency"
        else:
            name = "tail" if self._in_flight[0] else "proposals"
        self.limited[name] = self.limited.get(name, 0.0) + seconds

    def _pump(self, server: Server) -> None:
        slots = server.slots
        while slots.free and server.queued:
            queue = server.queues[0] or server.queues[1]
            batch = queue[0]
            if not server.ready(self.now, batch.kind.permits):
                self._wake(server)
                return
            self._begin(batch, batch.links)
            batch.begun += 1
            batch.open -= 1
            if not batch.open:
                queue.popleft()

    def _begin(self, batch: Batch, links: int) -> None:
        kind = batch.kind
        kind.server.slots.take()
        self._in_flight[kind.proposes] += 1
        seconds = next(kind.seconds)
        self._push(self.now + seconds, batch, kind.server, seconds, links)

    def _push(self, moment: float, batch: Batch | None, server: Server, seconds: float, links: int) -> None:
        self._number += 1
        heapq.heappush(self._events, (moment, self._number, batch, server, seconds, links))

    def _wake(self, server: Server) -> None:
        """Look again when the pace allows; once for each such moment."""
        if self._woken.get(id(server)) != server.paced_until:
            self._woken[id(server)] = server.paced_until
            self._push(server.paced_until, None, server, 0.0, 0)

    def _end(self, batch: Batch, seconds: float, links: int) -> None:
        server = batch.kind.server
        server.slots.release()
        self._in_flight[batch.kind.proposes] -= 1
        if server.slots.watching:
            server.slots.served(seconds, self.now)
        if links:  # what ends an example goes before what begins another
            self.ask(batch.kind, 1, lambda: self._count(batch), links=links - 1, first=True)
        else:
            self._count(batch)

    def _count(self, batch: Batch) -> None:
        batch.ended += 1
        if batch.begun + batch.open < batch.size:
            batch.open += 1
            if batch.open == 1:
                batch.kind.server.queues[1].append(batch)
                self._pump(batch.kind.server)
        then = batch.marks.pop(batch.ended, None)
        if then is not None:
            then()
