"""Hands out the calls that cannot start at once: when permits, a slot or the gate let the next one through."""

from __future__ import annotations

import asyncio
from typing import Protocol

from asyncopt.calls import Call
from asyncopt.control import Control
from asyncopt.limits.meter import LONGEST_WAIT, Meter

TICK_SECONDS = 0.001


class Host(Protocol):
    """What the pump sees of its dispatcher."""

    control: Control

    def take(self) -> Call | None: ...

    def hand_over(self, call: Call) -> None: ...

    def head(self) -> Call | None: ...


class Pump:
    """One task, made when it is first needed; :meth:`poke` tells it that something has changed."""

    __slots__ = ("_dispatcher", "_loop", "_poked", "_wake", "task")

    def __init__(self, dispatcher: Host, loop: asyncio.AbstractEventLoop) -> None:
        self.task: asyncio.Task[None] | None = None
        self._dispatcher = dispatcher
        self._loop = loop
        self._wake: asyncio.Future[None] | None = None
        self._poked = False

    def start(self) -> None:
        """Run from now on, and look at once."""
        if self.task is None:
            self.task = self._loop.create_task(self._run(), name="asyncopt-pump")
        self.poke()

    def poke(self) -> None:
        """Something has changed that may let a call start."""
        self._poked = True
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def _run(self) -> None:
        while True:
            self._poked = False
            call = self._dispatcher.take()
            if call is not None:
                self._dispatcher.hand_over(call)
            elif not await self._wait_for_permits():
                await self._wait_for_change()

    async def _wait_for_permits(self) -> bool:
        """Wait for a chunk of permits if that is all the head of the queue lacks; False if it lacks something else."""
        control = self._dispatcher.control
        if not control.slots.free or control.gate.wait(self._loop.time()) > 0:
            return False
        call = self._dispatcher.head()
        if call is None:
            control.lanes.forget_credit()
            return False
        short = control.lanes.short(call.permits)
        if short is not None:
            meter, amount = short
            control.lanes.awaited = meter
            try:
                await self._taken(meter, amount, call)
            finally:
                control.lanes.awaited = None
        return True

    async def _taken(self, meter: Meter, amount: float, call: Call) -> None:
        """Take permits for a call, which may all be due in a minute only, until it or another one may have them.

        Whoever has come before it meanwhile starts with what has been earned by then. Nothing is gained by giving the
        turn up sooner, since others may have theirs behind it.
        """
        if amount - meter.credit <= LONGEST_WAIT * meter.rate:
            await meter.take_chunk(amount)
            return
        taking = self._loop.create_task(meter.take_chunk(amount))
        try:
            while not taking.done() and self._is_of_use(meter, call):
                self._poked, self._wake = False, self._loop.create_future()
                await asyncio.wait([taking, self._wake], return_when=asyncio.FIRST_COMPLETED)
            if taking.done():
                taking.result()  # raises what it has raised
        finally:
            self._wake = None
            if not taking.done():
                taking.cancel()
                await asyncio.gather(taking, return_exceptions=True)

    def _is_of_use(self, meter: Meter, call: Call) -> bool:
        head = self._dispatcher.head()
        if head is None or head is call:
            return head is call
        needed = self._dispatcher.control.lanes.needed(meter, head.permits)
        return not meter.would_cover(needed)

    async def _wait_for_change(self) -> None:
        if self._poked:
            return
        self._wake = self._loop.create_future()
        wait = self._dispatcher.control.gate.wait(self._loop.time())
        # Rounded up: a wait below the clock's tick would end before the gate opens, and the pump would spin.
        timer = self._loop.call_later(max(wait, TICK_SECONDS), self.poke) if 0 < wait < float("inf") else None
        try:
            await self._wake
        finally:
            self._wake = None
            if timer is not None:
                timer.cancel()
