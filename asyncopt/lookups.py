"""What was answered before: in memory, then in the cache. A cache that fails costs its answers and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from asyncopt.cache import Cache
from asyncopt.cache.memory import Recent, pack, unpack
from asyncopt.calls import Call, State
from asyncopt.dispatch import Dispatcher
from asyncopt.events import CacheDegraded, Events
from asyncopt.flights import Asked, Flights
from asyncopt.shared import Coordinator
from asyncopt.underway import Underway
from asyncopt.values import Completion


class Lookups:
    """One engine's way to its cache, which may be None; what is asked within one turn of the loop is asked together."""

    def __init__(
        self,
        cache: Cache | None,
        events: Events,
        coordinator: Coordinator | None = None,
        slots: Callable[[], int] = lambda: 0,
    ) -> None:
        self._cache = cache
        self.flights: Flights | None = None
        if cache is not None and coordinator is not None:
            self.flights = Flights(coordinator, self._answered, self.flush, slots, self._usable)
        self.underway = Underway(coordinator)
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

    @property
    def kept(self) -> bool:
        """Whether answers are kept at all."""
        return self._cache is not None

    async def known(self, keys: Sequence[bytes]) -> dict[bytes, Completion]:
        """Those of the answers that are in memory or in the cache; nobody is asked."""
        found = {key: answer for key in keys if (answer := self.recall(key)) is not None}
        missing = [key for key in keys if key not in found]
        values = await self._found(self._cache, missing) if self._cache is not None and missing else {}
        return found | {key: answer for key, value in values.items() if (answer := unpack(value)) is not None}

    def look_up(self, call: Call, dispatcher: Dispatcher) -> None:
        """Answer the call from the cache, or else pass it on to its dispatcher."""
        if self._cache is None:
            dispatcher.enqueue(call)
            return
        if not self._asked:
            task = asyncio.get_running_loop().create_task(self._answer())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._asked.append((call, dispatcher))

    def ended(self, key: bytes) -> None:
        """A call has ended, with an answer that is kept or without one."""
        if self.flights is not None:
            self.flights.ended(key)

    async def _answer(self) -> None:
        asked, self._asked = self._asked, []
        missing = await self._answered(asked)
        if self.flights is not None and missing:
            self.flights.ask(missing)
            return
        for call, dispatcher in missing:
            dispatcher.enqueue(call)

    async def _answered(self, asked: Sequence[Asked]) -> list[Asked]:
        """Answer what is in the cache; what is not, and is still wanted."""
        assert self._cache is not None
        found = await self._found(self._cache, [call.key for call, _ in asked])
        missing = []
        for call, dispatcher in asked:
            if call.state is State.DONE:
                continue
            value = found.get(call.key)
            completion = None if value is None else unpack(value)
            if completion is None:
                missing.append((call, dispatcher))
            else:
                self._recent.put(call.key, completion)
                dispatcher.verdicts.answered_before(call)
                for waiter in call.waiters:
                    waiter.account.count_hit()
                call.finish(completion)
        return missing

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

    def _usable(self) -> bool:
        return not getattr(self._cache, "away", False)

    def _complain(self, reason: str) -> None:
        if not self._complained:
            self._complained = True
            self._events.emit(CacheDegraded(reason))

    async def flush(self) -> None:
        """Return when all answers so far are on disk."""
        if self._cache is None:
            return
        try:
            await self._cache.flush()
        except Exception as error:  # somebody's own cache must not leave calls waiting for ever
            self._complain(f"{type(error).__name__}: {error}")
        self._look_after(self._cache)

    async def stop(self) -> None:
        """Ask no more; who still waits for the cache is not answered."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.flights is not None:
            await self.flights.aclose()

    async def aclose(self) -> None:
        """Close the cache, with everything in it on disk."""
        if self._cache is not None:
            await self._cache.aclose()
            self._look_after(self._cache)
