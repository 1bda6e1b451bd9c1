"""The cache in a Redis or Valkey server, for processes of any machines: the same keys and checksums as in SQLite.

A value that is put is written a moment later, many at a time; a damaged one is deleted and counts as a miss. A server
that fails costs its answers and nothing else: no question waits for it for longer than a second, what cannot be written
is kept in memory up to 64 MiB, and is written when the server is back. What is there has no expiry; give the server a
``maxmemory-policy`` such as ``allkeys-lru`` where it should forget by itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice

from asyncopt.cache.table import checksum
from asyncopt.redislink import PAUSE_SECONDS, Address, Command, Link, LinkFailed

_log = logging.getLogger("asyncopt")
_PREFIX = b"asyncopt:answers_v1:"
_SUM = 8  # bytes of the checksum, which stand before the value
_LOOKUP, _LOOKUPS = 100, 20  # keys in one command, and commands that are sent together
_BATCH, _BATCH_BYTES = 500, 1 << 20  # written together, within a second
MOST_BYTES = 64 << 20


class RedisCache:
    """Answers at ``url``: ``redis://``, ``rediss://`` (TLS) or ``valkey://HOST:PORT/DB``. For one loop at a time.

    Raises :class:`~asyncopt.errors.ConfigError` for a URL that cannot be meant, or without redis-py.
    """

    def __init__(self, url: str) -> None:
        self._link = Link(Address.of(url))
        self.degraded: str | None = None  # why what is put is not stored just now, if so
        self.dropped = 0  # values whose checksum was wrong
        self.lost = 0  # values that were put and not stored, as there were too many
        self._pending: OrderedDict[bytes, bytes] = OrderedDict()
        self._bytes = 0
        self._write_at = 0.0  # not before: writing has failed
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"RedisCache({self._link.address})"

    @property
    def away(self) -> bool:
        """Whether what is there cannot be seen, or what is put does not come there, and that may pass."""
        return self.degraded is not None

    async def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        found = {key: self._pending[key] for key in keys if key in self._pending}
        wanted = [key for key in keys if key not in found]
        together = _LOOKUP * _LOOKUPS
        try:
            for start in range(0, len(wanted), together):
                found |= await self._looked_up(wanted[start : start + together])
        except LinkFailed as error:
            self._degrade(error)
        else:
            if self._pending:
                self._start()  # the server may be back
            elif wanted:
                self._recover()
        return found

    async def _looked_up(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        names = [_PREFIX + key for key in keys]
        commands: list[Command] = [("MGET", *names[start : start + _LOOKUP]) for start in range(0, len(names), _LOOKUP)]
        replies = await self._link.ask(commands)
        found, damaged = {}, []
        for key, stored in zip(keys, (value for reply in replies for value in reply), strict=True):
            if stored is None:
                continue
            if stored[:_SUM] == checksum(key, stored[_SUM:]):
                found[key] = stored[_SUM:]
            else:
                damaged.append(key)
        if damaged:
            self.dropped += len(damaged)
            with suppress(LinkFailed):  # else good ones could not take their place
                await self._link.ask([("DEL", *(_PREFIX + key for key in damaged))])
        return found

    def put(self, key: bytes, value: bytes) -> None:
        self._bytes += len(value) - len(self._pending.get(key, b""))
        self._pending[key] = value
        while self._bytes > MOST_BYTES and len(self._pending) > 1:
            self._bytes -= len(self._pending.popitem(last=False)[1])
            self.lost += 1
        self._start()

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        if (self._task is None or self._task.done()) and loop.time() >= self._write_at:
            self._task = loop.create_task(self._write(), name="asyncopt-cache")

    async def _write(self, *, anyway: bool = False) -> None:
        """Write all that waits, or as much as can be."""
        while self._pending:
            batch = self._batch()
            commands = [("SET", _PREFIX + key, checksum(key, value) + value, "NX") for key, value in batch]
            try:
                await self._link.ask(commands, anyway=anyway)
            except LinkFailed as error:
                self._write_at = asyncio.get_running_loop().time() + PAUSE_SECONDS
                self._degrade(error)
                return
            for key, value in batch:
                if self._pending.get(key) is value:
                    del self._pending[key]
                    self._bytes -= len(value)
        self._recover()

    def _batch(self) -> list[tuple[bytes, bytes]]:
        batch: list[tuple[bytes, bytes]] = []
        size = 0
        for key, value in islice(self._pending.items(), _BATCH):
            size += len(value)
            if batch and size > _BATCH_BYTES:
                break
            batch.append((key, value))
        return batch

    async def flush(self) -> None:
        """Return when the server has every value put so far.

        Where ``degraded`` says why that cannot be, it returns all the same.
        """
        await self._flush(anyway=False)

    async def _flush(self, *, anyway: bool) -> None:
        if self._task is not None and not self._task.done():
            await asyncio.wait([self._task])
        if self._pending and (anyway or asyncio.get_running_loop().time() >= self._write_at):
            await self._write(anyway=anyway)

    async def aclose(self) -> None:
        """Flush, and let go of the connection."""
        await self._flush(anyway=True)
        await self._link.aclose()
        if self._pending:
            _log.warning("%d answers could not be stored in %s", len(self._pending), self._link.address)

    def _degrade(self, error: LinkFailed) -> None:
        if self.degraded is None:
            _log.warning("the cache cannot be used (%s); the run goes on, and looks for it again", error)
        self.degraded = str(error)

    def _recover(self) -> None:
        if self.degraded is not None:
            self.degraded = None
            _log.warning("the cache %s is back", self._link.address)
