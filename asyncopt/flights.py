"""One question, one call, for all processes with one cache: who asks first answers, the others look into the cache.

A process claims a question shortly before it asks it, so that several that have the same questions divide them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from asyncopt.calls import Call, State
from asyncopt.dispatch import Dispatcher
from asyncopt.shared import Coordinator, SharingFailed

Asked: TypeAlias = tuple[Call, Dispatcher]
Answer: TypeAlias = Callable[[Sequence[Asked]], Awaitable[list[Asked]]]  # from the cache; gives back what is not there

POLL_SECONDS, LONGEST_POLL = 0.05, 0.4  # between two looks at what others are asking; longer while nothing comes
FREE_SECONDS = 1.0  # a claim is held for one to two of these after its call: the cache is flushed meanwhile
FRESH_SECONDS = 0.5  # a look into the cache that is no older than this when a claim is granted has missed nothing
WINDOW = 1000  # questions that are looked at together
LEAST_ROOM, ROOM_PER_SLOT = 64, 2  # questions that one process has claimed at once


class Flights:
    """The questions that other processes are answering, and the claims of this one."""

    def __init__(
        self,
        coordinator: Coordinator,
        answer: Answer,
        flush: Callable[[], Awaitable[None]],
        slots: Callable[[], int],
    ) -> None:
        self._slots = slots  # how many calls this process may have in flight
        self._coordinator = coordinator
        self._answer = answer
        self._flush = flush
        self._claimed: set[bytes] = set()
        self._done: set[bytes] = set()  # claimed, and not asked any more
        self._free: set[bytes] = set()  # so for a second already
        self._new: deque[Asked] = deque()  # not claimed by this process, nor known to be by another
        self._waiting: deque[Asked] = deque()  # for others
        self._looked_at = self._freed_at = 0.0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def ask(self, asked: Sequence[Asked], looked_at: float) -> None:
        """Have each of these asked by this process, or answered from the cache when another one has asked it.

        They were not in the cache at the time ``looked_at``.
        """
        self._new.extend(asked)
        self._looked_at = min(self._looked_at, looked_at) if len(self._new) > len(asked) else looked_at
        self._start()

    def ended(self, key: bytes) -> None:
        """A call of this process has ended: when its answer is in the cache, or there is none, others may ask."""
        if key in self._claimed:
            self._done.add(key)
            if self._new or self._task is None or self._task.done():
                self._start()

    def _start(self) -> None:
        self._wake.set()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(), name="asyncopt-flights")

    @property
    def _room(self) -> int:
        ended = len(self._done) + len(self._free)
        return max(LEAST_ROOM, ROOM_PER_SLOT * self._slots()) - len(self._claimed) + ended

    async def _run(self) -> None:
        wait = POLL_SECONDS
        while self._new or self._waiting or self._done or self._free:
            self._wake.clear()
            await self._give_up_old()
            while self._new and self._room > 0:
                await self._claim(self._taken(self._new, min(WINDOW, self._room)), self._looked_at)
            came = await self._look()
            wait = POLL_SECONDS if came else min(2 * wait, LONGEST_POLL)
            try:
                await asyncio.wait_for(self._wake.wait(), wait)
            except TimeoutError:
                continue

    def _taken(self, queue: deque[Asked], most: int) -> list[Asked]:
        """The first of a queue, without those that nobody wants any more."""
        taken: list[Asked] = []
        while queue and len(taken) < most:
            one = queue.popleft()
            if one[0].state is not State.DONE:
                taken.append(one)
        return taken

    async def _look(self) -> bool:
        """Look for the answers of those that were looked for longest ago; whether any of them is settled."""
        asked = self._taken(self._waiting, WINDOW)
        looked_at = asyncio.get_running_loop().time()
        missing = await self._answer(asked) if asked else []
        room = max(self._room, 0)
        self._waiting.extend(missing[room:])
        settled = await self._claim(missing[:room], looked_at)
        return len(missing) < len(asked) or settled

    async def _claim(self, asked: Sequence[Asked], looked_at: float) -> bool:
        """Pass on what this process is to ask, and wait for the others; whether there was any of the former."""
        if not asked:
            return False
        try:
            granted = await self._coordinator.claim([call.key for call, _ in asked])
        except SharingFailed:  # the shares of quotas tell of it; until it is back everybody asks
            granted = [True] * len(asked)
        mine = [one for one, ours in zip(asked, granted, strict=True) if ours]
        self._waiting.extend(one for one, ours in zip(asked, granted, strict=True) if not ours)
        self._claimed.update(call.key for call, _ in mine)
        if mine and asyncio.get_running_loop().time() - looked_at > FRESH_SECONDS:
            await self._answer(mine)  # once more: an answer may have come, and its claim have been given up, since then
        for call, dispatcher in mine:
            if call.state is State.DONE:
                self._done.add(call.key)
            else:
                dispatcher.enqueue(call)
        return bool(mine)

    async def _give_up_old(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._freed_at + FREE_SECONDS:
            self._freed_at = now
            keys, self._free, self._done = self._free, self._done, set()
            await self._give_up(list(keys))

    async def _give_up(self, keys: Sequence[bytes]) -> None:
        if not keys:
            return
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
        await self._give_up(list(self._claimed))
