"""This process's share of a quota: permits from the coordinator, or a part of its own where there is none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf

from asyncopt.shared.coordinator import ANSWER_SECONDS, BEAT_SECONDS, Coordinator, SharingFailed
from asyncopt.shared.gcra import Buckets
from asyncopt.values import Dimension

LEASE_SECONDS = 2.0  # for which permits in hand are good, and no longer


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

    async def take(self, dimension: Dimension, amount: float, rate: float, bucket: float) -> None:
        """Return when so many permits may be used."""
        while True:
            self._is_to_run(ANSWER_SECONDS)
            if self.degraded is None:
                if self._alone is not None:
                    self._alone = None
                    await asyncio.sleep(BEAT_SECONDS)  # until all others, too, have found that it is back
                    continue
                try:
                    wait = await self._coordinator.take(self.quota, dimension, amount, rate, bucket)
                except SharingFailed as error:
                    self._lost(str(error))
                else:
                    self._is_to_run(wait)
                    await self._slept(wait, dimension, amount, rate)
                    break
            await self._on_its_own(dimension, amount, rate / self.workers, bucket / self.workers)
            if self.degraded is not None:
                break  # else the others have all of the rate by now, and this process takes its turn
        self._is_to_run(0.0)

    async def _on_its_own(self, dimension: Dimension, amount: float, rate: float, bucket: float) -> None:
        self._alone = self._alone or Buckets()
        wait = self._alone.take(self._loop.time(), self.quota, dimension, amount, rate, bucket)
        self._is_to_run(wait)
        await asyncio.sleep(wait)

    async def _slept(self, wait: float, dimension: Dimension, amount: float, rate: float) -> None:
        try:
            if wait > 0:
                await asyncio.sleep(wait)
        except asyncio.CancelledError:
            self.give_back(dimension, amount, rate)
            raise

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
