"""What was answered before: in memory, then in the cache. A cache that fails costs its answers and nothing else."""

from __future__ import annotations

import asyncio
from typing import TypeAlias

from asyncopt.cache import Cache
from asyncopt.cache.memory import Recent, pack, unpack
from asyncopt.calls import Call, State
from asyncopt.dispatch import Dispatcher
from asyncopt.events import CacheDegraded, Events
from asyncopt.values import Completion

Asked: TypeAlias = tuple[Call, Dispatcher]


class Lookups:
    """One engine's way to its cache, which may be None; what is asked within one turn of the loop is asked together."""

    def __init__(self, cache: Cache | None, events: Events) -> None:
        self._cache = cache
        self._events = events
        self._recent = Recent()
        self._asked: list[Asked] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._complained = False

    def recall(self, key: bytes) -> Completion | None:
        """The answer, if it is in memory."""
        return None if self._cache is None else self._recent.get(key)

    def remember(self, key: bytes, completion: Completion) -> None:
        """Keep an answer that was paid for."""
        if self._cache is None:
            return
        self._recent.put(key, completion)
        try:
            self._cache.put(key, pack(completion))
        except Exception as error:  # somebody's own cache must not leave calls waiting for ever
            self._complain(f"{type(error).__name__}: {error}")

    def look_up(self, call: Call, dispatcher: Dispatcher) -> None:
        """Answer the call from the cache, or else pass it on to its dispatcher."""
        if self._cache is None:
            dispatcher.enqueue(call)
            return
        if not self._asked:
            task = asyncio.get_running_loop().create_task(self._answer(self._cache))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._asked.append((call, dispatcher))

    async def _answer(self, cache: Cache) -> None:
        asked, self._asked = self._asked, []
        found = await self._found(cache, [call.key for call, _ in asked])
        for call, dispatcher in asked:
            if call.state is State.DONE:
                continue
            value = found.get(call.key)
            completion = None if value is None else unpack(value)
            if completion is None:
                dispatcher.enqueue(call)
            else:
                self._recent.put(call.key, completion)
                dispatcher.verdicts.answered_before(call)
                for waiter in call.waiters:
                    waiter.account.count_hit()
                call.finish(completion)

    async def _found(self, cache: Cache, keys: list[bytes]) -> dict[bytes, bytes]:
        """What the cache has; a cache that fails has nothing, and is complained of once."""
        try:
            found = await cache.get_many(keys)
        except Exception as error:  # somebody's own cache must not leave calls waiting for ever
            self._complain(f"{type(error).__name__}: {error}")
            return {}
        self._look_after(cache)
        return found

    def _look_after(self, cache: Cache) -> None:
        reason = getattr(cache, "degraded", None)
        if reason is not None:
            self._complain(reason)

    def _complain(self, reason: str) -> None:
        if not self._complained:
            self._complained = True
            self._events.emit(CacheDegraded(reason))

    async def flush(self) -> None:
        """Return when all answers so far are on disk."""
        if self._cache is not None:
            await self._cache.flush()
            self._look_after(self._cache)

    async def stop(self) -> None:
        """Ask no more; who still waits for the cache is not answered."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def aclose(self) -> None:
        """Close the cache, with everything in it on disk."""
        if self._cache is not None:
            await self._cache.aclose()
            self._look_after(self._cache)
