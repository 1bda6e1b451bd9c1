"""One question, one call, for all processes with one cache: who asks first answers, the others look into the cache.

A process claims a question shortly before it asks it, so that several that have the same questions divide them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeAlias

from asyncopt.calls import Call, State
from asyncopt.dispatch import Dispatcher
from asyncopt.shared import Coordinator, SharingFailed
from asyncopt.shared.coordinator import ANSWER_SECONDS, BEAT_SECONDS

Asked: TypeAlias = tuple[Call, Dispatcher]
Answer: TypeAlias = Callable[[Sequence[Asked]], Awaitable[list[Asked]]]  # from the cache; gives back what is not there

POLL_SECONDS, LONGEST_POLL = 0.05, 0.4  # between two looks at what others are asking; longer while nothing comes
FREE_SECONDS = 1.0  # between two times that claims are given up, each after a flush of the cache
PATIENCE_SECONDS = 3.0  # without an answer to a claim, after which everybody asks: a busy machine is slow for a while
CACHE_SECONDS = 4.0  # of a cache that fails, after which everybody asks: twice as long as it takes to look again
WINDOW = 1000  # questions that are looked at together
LEAST_ROOM, ROOM_PER_SLOT = 64, 2  # questions that one process has claimed at once
FOUND_SECONDS = BEAT_SECONDS + ANSWER_SECONDS  # after a loss, until when everybody who is alive has said so again


class Flights:
    """The questions that other processes are answering, and the claims of this one."""

    def __init__(
        self,
        coordinator: Coordinator,
        answer: Answer,
        flush: Callable[[], Awaitable[None]],
        slots: Callable[[], int],
        usable: Callable[[], bool] = lambda: True,
    ) -> None:
        self._usable = usable  # whether what others have put into the cache can be seen now, and they see what we put
        self._slots = slots  # how many calls this process may have in flight
        self._coordinator = coordinator
        self._answer = answer
        self._flush = flush
        self._claimed: set[bytes] = set()
        self._done: set[bytes] = set()  # claimed, and not asked any more
        self._new: deque[Asked] = deque()  # not claimed by this process, nor known to be by another
        self._waiting: deque[Asked] = deque()  # for others
        self._freed_at = 0.0
        self._lost_at: float | None = None  # since when nobody has said whose questions are
        self._blind_at: float | None = None  # since when the cache fails
        self._closed = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def ask(self, asked: Sequence[Asked]) -> None:
        """Have each of these asked by this process, or answered from the cache when another one has asked it."""
        self._new.extend(asked)
        self._start()

    def ended(self, key: bytes) -> None:
        """A call of this process has ended: when its answer is in the cache, or there is none, others may ask."""
        if key in self._claimed:
            self._done.add(key)
            if (self._new and self._has_room) or self._task is None or self._task.done():
                self._start()

    def _start(self) -> None:
        self._wake.set()
        if not self._closed and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._run(), name="asyncopt-flights")

    @property
    def _most(self) -> int:
        return max(LEAST_ROOM, ROOM_PER_SLOT * self._slots())

    @property
    def _room(self) -> int:
        return self._most - len(self._claimed) + len(self._done)

    @property
    def _has_room(self) -> bool:
        return self._room >= self._most // 4  # many are claimed together

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        wait, look_at = POLL_SECONDS, 0.0
        while self._new or self._waiting or self._done:
            self._wake.clear()
            await self._give_up_old()
            while self._new and self._has_room:
                await self._claim(self._taken(self._new, min(WINDOW, self._room)))
            if loop.time() >= look_at:
                came = await self._look()
                wait = POLL_SECONDS if came else min(2 * wait, LONGEST_POLL)
                look_at = loop.time() + wait
            try:
                await asyncio.wait_for(self._wake.wait(), look_at - loop.time())
            except TimeoutError:
                look_at = 0.0

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
        missing = await self._answer(asked) if asked else []
        room = max(self._room, 0)
        self._waiting.extend(missing[room:])
        settled = await self._claim(missing[:room])
        return len(missing) < len(asked) or settled

    async def _claim(self, asked: Sequence[Asked]) -> bool:
        """Pass on what this process is to ask, and wait for the others; whether there was any of the former."""
        if not asked:
            return False
        if self._is_blind():
            self._waiting.extend(asked)
            return False
        try:
            if self._lost_at is not None:
                await self._coordinator.beat([])
                await asyncio.sleep(FOUND_SECONDS)
            granted = await self._coordinator.claim([call.key for call, _ in asked])
            self._lost_at = None
        except SharingFailed:  # the shares of quotas tell of it; until it is back everybody asks
            granted = [self._is_lost()] * len(asked)
        mine = [one for one, ours in zip(asked, granted, strict=True) if ours]
        self._waiting.extend(one for one, ours in zip(asked, granted, strict=True) if not ours)
        self._claimed.update(call.key for call, _ in mine)
        if mine:
            await self._answer(mine)  # an answer may have come, and its claim have been given up, since the last look
        for call, dispatcher in mine:
            if call.state is State.DONE:
                self._done.add(call.key)
            elif self._is_blind():
                self._done.add(call.key)
                self._waiting.append((call, dispatcher))
            else:
                self._done.discard(call.key)  # it may be asked again, soon after it was withdrawn or has failed
                dispatcher.enqueue(call)
        return bool(mine)

    def _is_lost(self) -> bool:
        now = asyncio.get_running_loop().time()
        self._lost_at = now if self._lost_at is None else self._lost_at
        return now >= self._lost_at + PATIENCE_SECONDS

    def _is_blind(self) -> bool:
        """Whether the cache has just failed: answers that are there already cannot be seen, and would be paid twice."""
        if self._usable():
            self._blind_at = None
            return False
        now = asyncio.get_running_loop().time()
        self._blind_at = now if self._blind_at is None else self._blind_at
        return now < self._blind_at + CACHE_SECONDS

    async def _give_up_old(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._done and now >= self._freed_at + FREE_SECONDS:
            self._freed_at = now
            keys = list(self._done)
            await self._flush()
            if not self._is_blind():  # else the answers are not yet where others look for them
                self._done.difference_update(keys)
                await self._give_up(keys)

    async def _give_up(self, keys: Sequence[bytes]) -> None:
        if not keys:
            return
        self._claimed.difference_update(keys)
        with suppress(SharingFailed):  # claims end with the process, if not before
            await self._coordinator.release(keys)

    async def aclose(self) -> None:
        """Give up every claim."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._claimed:
            await self._flush()
        await self._give_up(list(self._claimed))
