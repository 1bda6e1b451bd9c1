"""This process's share of a quota: permits from the coordinator, or a part of its own where there is none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from math import inf

from asyncopt.shared.coordinator import ANSWER_SECONDS, BEAT_SECONDS, Coordinator, SharingFailed
from asyncopt.shared.gcra import Buckets
from asyncopt.values import Dimension

LEASE_SECONDS = 2.0  # for which permits in hand are good, and no longer


@dataclass(frozen=True, slots=True)
class Turn:
    """Permits that are all due at a time; they are earned one after another until then."""

    due: float
    amount: float
    rate: float

    def earned(self, now: float) -> float:
        """How many would have been due by now, had no more been asked for."""
        return min(max(self.amount - (self.due - now) * self.rate, 0.0), self.amount)


class Share:
    """One quota of one engine. ``workers`` are those who share it, as the last beat said.

    While the coordinator is ``degraded`` this process keeps to the rate divided by the workers that there were.
    """

    def __init__(self, coordinator: Coordinator, quota: str, lost: Callable[[str], None]) -> None:
        self.quota = quota
        self.workers = 1
        self.degraded: str | None = None
        self._loop = asyncio.get_running_loop()
        self._coordinator = coordinator
        self._lost = lost
        self._alone: Buckets | None = None  # empty at each loss
        self._lease = 0
        self._good_until = inf
        self._sent: set[asyncio.Task[None]] = set()
        self._turns: dict[Dimension, Turn] = {}  # that are waited for

    @property
    def lease(self) -> int:
        """Another number when what was granted before must not be used any more: this process has stood still.

        While it waits for its turn, which may be that of many processes, what it has already stays good.
        """
        if self._loop.time() > self._good_until:
            self._lease, self._good_until = self._lease + 1, inf
        return self._lease

    def _is_to_run(self, seconds: float) -> None:
        """Something of ours is due by then."""
        _ = self.lease
        self._good_until = self._loop.time() + seconds + LEASE_SECONDS

    def earned(self, dimension: Dimension) -> float:
        """How many of the permits that are waited for would be due by now, had no more been asked for."""
        turn = self._turns.get(dimension)
        return 0.0 if turn is None else turn.earned(self._loop.time())

    async def take(
        self,
        dimension: Dimension,
        amount: float,
        rate: float,
        bucket: float,
        keep: Callable[[float], None] = lambda _: None,
    ) -> None:
        """Return when so many permits may be used. Where the wait is cancelled, ``keep`` is told what it has earned."""
        failures = 0
        while True:
            self._is_to_run(ANSWER_SECONDS)
            if self.degraded is None:
                if self._alone is not None:
                    self._alone = None
                    await asyncio.sleep(BEAT_SECONDS)  # until all others, too, have found that it is back
                    continue
                try:
                    wait = await self._granted(dimension, amount, rate, bucket)
                except SharingFailed as error:
                    failures += 1
                    self._lost(str(error))
                else:
                    turn = Turn(self._loop.time() + wait, amount, rate)
                    await self._waited(dimension, turn, keep, lambda: False)
                    break
            if await self._on_its_own(dimension, amount, rate, bucket, keep, anyway=failures > 1):
                break  # else the others have all of the rate by now, and this process takes its turn
        self._is_to_run(0.0)

    async def _granted(self, dimension: Dimension, amount: float, rate: float, bucket: float) -> float:
        """What the coordinator says; what it grants to somebody who does not wait for it any more goes back."""
        asking = self._loop.create_task(self._coordinator.take(self.quota, dimension, amount, rate, bucket))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            self._send(self._unwanted(asking, dimension, amount, rate))
            raise

    async def _unwanted(self, asking: asyncio.Task[float], dimension: Dimension, amount: float, rate: float) -> None:
        with suppress(SharingFailed):  # then there is nothing to give back, or nobody to give it to
            await asking
            await self._coordinator.give_back(self.quota, dimension, amount, rate)

    async def _on_its_own(
        self,
        dimension: Dimension,
        amount: float,
        rate: float,
        bucket: float,
        keep: Callable[[float], None],
        *,
        anyway: bool,
    ) -> bool:
        """Wait for permits of its own part; False where the quota is back before, unless ``anyway``."""
        self._alone = self._alone or Buckets()
        now, rate, bucket = self._loop.time(), rate / self.workers, bucket / self.workers
        wait = self._alone.take(now, self.quota, dimension, amount, rate, bucket)
        turn = Turn(now + wait, amount, rate)
        await self._waited(dimension, turn, keep, lambda: not anyway and self.degraded is None, self._alone)
        return anyway or self.degraded is not None

    async def _waited(
        self,
        dimension: Dimension,
        turn: Turn,
        keep: Callable[[float], None],
        is_over: Callable[[], bool],
        alone: Buckets | None = None,
    ) -> None:
        """Wait for a turn, or until it is over; where that is cancelled, what has not been earned is for others."""
        self._turns[dimension] = turn
        try:
            while (left := turn.due - self._loop.time()) > 0 and not is_over():
                self._is_to_run(left)
                await asyncio.sleep(left if alone is None else min(left, BEAT_SECONDS))
        except asyncio.CancelledError:
            earned = turn.earned(self._loop.time())
            keep(earned)
            self._is_to_run(0.0)
            if alone is not None:
                alone.give_back(self.quota, dimension, turn.amount - earned, turn.rate)
            else:
                self.give_back(dimension, turn.amount - earned, turn.rate)
            raise
        finally:
            self._turns.pop(dimension, None)

    def give_back(self, dimension: Dimension, amount: float, rate: float) -> None:
        """Permits that were not used are there for others; nobody waits for it."""
        if self.degraded is None:
            self._send(self._coordinator.give_back(self.quota, dimension, amount, rate))

    def pause(self, seconds: float) -> None:
        """Have everybody leave the quota alone for so long; nobody waits for it."""
        if self.degraded is None:
            self._send(self._coordinator.pause(self.quota, seconds))

    def _send(self, message: object) -> None:
        task = asyncio.get_running_loop().create_task(self._sending(message))
        self._sent.add(task)
        task.add_done_callback(self._sent.discard)

    async def _sending(self, message: object) -> None:
        try:
            await message  # type: ignore[misc]
        except SharingFailed as error:
            self._lost(str(error))
