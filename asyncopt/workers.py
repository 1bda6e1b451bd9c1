"""The tasks that make the attempts: a few that live long, since a task for every call would cost more than the call."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from asyncopt.calls import Call
from asyncopt.endpoints.protocol import Answer, Endpoint
from asyncopt.hedging import Hedging
from asyncopt.values import Fault, FaultKind


class Host(Protocol):
    """What workers see of their dispatcher."""

    endpoint: Endpoint
    waited: float

    def ended(self, call: Call, answer: Answer) -> None: ...

    def take_next(self) -> Call | None: ...

    def cut(self, call: Call) -> None: ...


class Workers:
    """One worker for each call in flight, made when it is first needed; one that comes free asks for the next call.

    ``in_flight`` has the calls whose attempts are being made, by the tasks that make them; each is there from the
    moment that it was handed over, so that none is lost whenever its worker is cancelled.
    """

    __slots__ = ("_dispatcher", "_hedging", "_idle", "_loop", "in_flight", "tasks")

    def __init__(self, dispatcher: Host, loop: asyncio.AbstractEventLoop) -> None:
        self.in_flight: dict[asyncio.Task[None], Call] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self._dispatcher = dispatcher
        self._hedging: Hedging | None = None
        self._loop = loop
        self._idle: deque[tuple[asyncio.Future[Call], asyncio.Task[None]]] = deque()

    def hedge_with(self, hedging: Hedging) -> None:
        """Who makes the attempts of calls that may be asked twice."""
        self._hedging = hedging

    def hand_over(self, call: Call) -> None:
        """Make an attempt of a call that has been started on the books."""
        while self._idle:
            idle, worker = self._idle.popleft()
            if not idle.done():
                self._begin(worker, call)
                idle.set_result(call)
                return
        worker = self._loop.create_task(self._work(call), name="asyncopt-worker")
        self.tasks.add(worker)
        # A callback, since a task that is cancelled before its first step runs no line of its own.
        worker.add_done_callback(self._ended)
        self._begin(worker, call)

    def _begin(self, worker: asyncio.Task[None], call: Call) -> None:
        call.started_at = now = self._loop.time()
        if not call.attempts:
            call.first_at = now - self._dispatcher.waited
        call.attempts += 1
        call.grace = 0.0
        call.expired, call.taken_over, call.winner = False, False, None
        self.in_flight[worker] = call

    def _ended(self, worker: asyncio.Task[None]) -> None:
        self.tasks.discard(worker)
        call = self.in_flight.pop(worker, None)
        if call is not None:
            self._dispatcher.cut(call)

    async def _work(self, first: Call) -> None:
        me = asyncio.current_task()
        assert me is not None
        dispatcher = self._dispatcher
        call = first
        while True:
            answer = await self._attempt(me, call)
            del self.in_flight[me]
            dispatcher.ended(call, answer)
            following = dispatcher.take_next()
            if following is not None:
                call = following
                self._begin(me, call)
            else:
                idle: asyncio.Future[Call] = self._loop.create_future()
                self._idle.append((idle, me))
                call = await idle

    async def _attempt(self, me: asyncio.Task[None], call: Call) -> Answer:
        try:
            if call.hedge:
                return await self._hedged(me, call)
            return await self._dispatcher.endpoint.send(call.model, call.request)
        except asyncio.CancelledError:
            # Cut short by a rival or a deadline, and only once; anything more is the end of the worker.
            if (call.winner is None and not call.expired) or me.uncancel() > 0:
                raise
            seconds = self._loop.time() - call.started_at
            return call.winner or Fault(FaultKind.AMBIGUOUS, f"no answer within {seconds:.0f} s")
        except Exception as error:  # an endpoint never raises; one that does must not take its worker along
            return Fault(FaultKind.BAD_REQUEST, f"the endpoint raised {type(error).__name__}, which is a defect of it")

    async def _hedged(self, me: asyncio.Task[None], call: Call) -> Answer:
        assert self._hedging is not None
        try:
            return await self._hedging.send(call)
        except asyncio.CancelledError:
            if not call.taken_over or call.expired or me.uncancel() > 0:
                raise
            return await self._hedging.outcome(call)
