"""One question, one call, for all processes with one cache: who asks first answers, the others look into the cache."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from asyncopt.calls import Call
from asyncopt.dispatch import Dispatcher
from asyncopt.shared import Coordinator, SharingFailed

Asked: TypeAlias = tuple[Call, Dispatcher]
Answer: TypeAlias = Callable[[Sequence[Asked]], Awaitable[list[Asked]]]  # from the cache; gives back what is not there

POLL_SECONDS = 0.05
FREE_SECONDS = 1.0  # between two times that claims are given up: the cache is flushed before


class Flights:
    """The questions that other processes are answering, and the claims of this one."""

    def __init__(self, coordinator: Coordinator, answer: Answer, flush: Callable[[], Awaitable[None]]) -> None:
        self._coordinator = coordinator
        self._answer = answer
        self._flush = flush
        self._claimed: set[bytes] = set()
        self._done: set[bytes] = set()  # claimed, and not asked any more
        self._waiting: list[Asked] = []
        self._freed_at = 0.0
        self._task: asyncio.Task[None] | None = None

    async def claim(self, asked: Sequence[Asked]) -> list[Asked]:
        """Those that this process is to ask; the others get their answers from whoever is asking now."""
        mine, others = await self._claimed_of(asked)
        self._wait_for(others)
        return mine

    def ended(self, key: bytes) -> None:
        """A call of this process has ended: when its answer is in the cache, or there is none, others may ask."""
        if key in self._claimed:
            self._done.add(key)
            self._start()

    def _wait_for(self, others: Sequence[Asked]) -> None:
        if others:
            self._waiting += others
            self._start()

    def _start(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(), name="asyncopt-flights")

    async def _run(self) -> None:
        while self._waiting or self._done:
            await asyncio.sleep(POLL_SECONDS)
            await self._free()
            waiting, self._waiting = self._waiting, []
            mine, others = await self._claimed_of(await self._answer(waiting))
            self._waiting += others
            for call, dispatcher in mine:
                dispatcher.enqueue(call)

    async def _claimed_of(self, asked: Sequence[Asked]) -> tuple[list[Asked], list[Asked]]:
        """What this process is to ask, and what another one is asking."""
        if not asked:
            return [], []
        try:
            granted = await self._coordinator.claim([call.key for call, _ in asked])
        except SharingFailed:  # the shares of quotas tell of it; until it is back everybody asks
            return list(asked), []
        mine = [one for one, ours in zip(asked, granted, strict=True) if ours]
        self._claimed.update(call.key for call, _ in mine)
        # Once more: the answer may have come, and its claim have been given up, between the look and the claim.
        mine = await self._answer(mine) if mine else []
        wanted = {call.key for call, _ in mine}
        for (call, _), ours in zip(asked, granted, strict=True):
            if ours and call.key not in wanted:
                self.ended(call.key)
        return mine, [one for one, ours in zip(asked, granted, strict=True) if not ours]

    async def _free(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._done and now >= self._freed_at + FREE_SECONDS:
            self._freed_at = now
            await self._give_up()

    async def _give_up(self) -> None:
        keys, self._done = list(self._done), set()
        self._claimed.difference_update(keys)
        try:
            await self._flush()
            await self._coordinator.release(keys)
        except SharingFailed:
            pass  # claims end with the process, if not before

    async def aclose(self) -> None:
        """Give up every claim."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._done |= self._claimed
        if self._done:
            await self._give_up()
