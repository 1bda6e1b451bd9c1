"""All that one engine shares with others, and its heartbeat."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from hashlib import blake2b
from typing import Protocol

from asyncopt.errors import ConfigError
from asyncopt.events import Events, Note
from asyncopt.shared.coordinator import BEAT_SECONDS, DEAD_SECONDS, Coordinator, SharingFailed
from asyncopt.shared.share import Share

_log = logging.getLogger("asyncopt")


class Sharer(Protocol):
    """Who is told of others: the controls of a dispatcher."""

    def share(self, grants: Share) -> None: ...

    def divide(self, workers: int) -> None: ...

    def paused_by_others(self, now: float, seconds: float) -> None: ...


class Sharing:
    """The shares of one engine's dispatchers."""

    def __init__(self, coordinator: Coordinator, events: Events) -> None:
        self.coordinator = coordinator
        self.workers = 1
        self.degraded: str | None = None
        self._events = events
        self._shares: list[tuple[Share, Sharer]] = []
        self._fewer_since: float | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Say that this process is here, and go on saying so; others divide with it from their next beat on.

        Raises :class:`ConfigError` where nobody answers: how many share the quota is not known then.
        """
        try:
            await self.coordinator.beat([])
        except SharingFailed as error:
            raise ConfigError(
                f"the shared quota cannot be reached ({error}); start it, or leave `shared` out"
            ) from None
        await self._beat()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="asyncopt-beat")

    def join(self, identity: str, account: str, scope: str, sharer: Sharer) -> None:
        """Keep the quota of this endpoint, account and scope together with all who name it so."""
        name = blake2b(f"{identity}\0{account}\0{scope}".encode(), digest_size=12).hexdigest()  # nobody's address
        share = Share(self.coordinator, name, self._lose)
        share.workers, share.degraded = self.workers, self.degraded
        self._shares.append((share, sharer))
        sharer.share(share)
        sharer.divide(self.workers)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            await self._beat()

    async def _beat(self) -> None:
        try:
            beat = await self.coordinator.beat([share.quota for share, _ in self._shares])
        except SharingFailed as error:
            self._lose(str(error))
            return
        self._find()
        now = asyncio.get_running_loop().time()
        workers = self._believed(beat.workers, now)
        changed, self.workers = workers != self.workers, workers
        for share, sharer in self._shares:
            share.workers = workers
            if changed:
                sharer.divide(workers)
            seconds = beat.pauses.get(share.quota, 0.0)
            if seconds > 0:
                sharer.paused_by_others(now, seconds)

    def _believed(self, workers: int, now: float) -> int:
        """How many there are; fewer only when it has lasted, since a coordinator may have forgotten them all."""
        if workers >= self.workers:
            self._fewer_since = None
            return workers
        self._fewer_since = now if self._fewer_since is None else self._fewer_since
        return workers if now - self._fewer_since >= DEAD_SECONDS else self.workers

    def _lose(self, reason: str) -> None:
        if self.degraded is None:
            self._say(
                reason,
                f"the shared quota cannot be kept ({reason}); until it is back this process keeps to its own part, "
                f"one of {self.workers}",
            )

    def _find(self) -> None:
        if self.degraded is not None:
            self._say(None, "the shared quota is back")

    def _say(self, degraded: str | None, text: str) -> None:
        self.degraded = degraded
        for share, _ in self._shares:
            share.degraded = degraded
        _log.warning("%s", text)
        self._events.emit(Note(text))

    async def aclose(self) -> None:
        """Leave, so that others need not wait until this process is taken for dead."""
        if self._task is not None:
            self._task.cancel()
        with suppress(SharingFailed):
            await self.coordinator.aclose()
