"""Hands out the calls that cannot start at once: when permits, a slot or the gate let the next one through."""

from __future__ import annotations

import asyncio
from typing import Protocol

from asyncopt.calls import Call
from asyncopt.control import Control

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
                await meter.take_chunk(amount)
            finally:
                control.lanes.awaited = None
        return True

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
