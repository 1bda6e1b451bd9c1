"""This process's share of a quota: permits from the coordinator, or a part of its own where there is none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from asyncopt.shared.coordinator import Coordinator, SharingFailed
from asyncopt.shared.gcra import Buckets
from asyncopt.values import Dimension


class Share:
    """One quota of one engine. ``workers`` are those who share it, as the last beat said.

    While the coordinator is ``degraded`` this process keeps to the rate divided by the workers that there were.
    """

    def __init__(self, coordinator: Coordinator, quota: str, lost: Callable[[str], None]) -> None:
        self.quota = quota
        self.workers = 1
        self.degraded: str | None = None
        self._coordinator = coordinator
        self._lost = lost
        self._alone = Buckets()
        self._sent: set[asyncio.Task[None]] = set()

    async def take(self, dimension: Dimension, amount: float, rate: float, bucket: float) -> None:
        """Return when so many permits may be used."""
        loop = asyncio.get_running_loop()
        if self.degraded is None:
            try:
                wait = await self._coordinator.take(self.quota, dimension, amount, rate, bucket)
            except SharingFailed as error:
                self._lost(str(error))
            else:
                await self._slept(wait, dimension, amount, rate)
                return
        part = rate / self.workers
        wait = self._alone.take(loop.time(), self.quota, dimension, amount, part, bucket / self.workers)
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
