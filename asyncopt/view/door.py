"""How many connections there may be, and how long one may take to say what it wants: nobody can fill the house."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

MOST_CONNECTIONS = 128
REQUEST_SECONDS = 10.0  # for a whole head, from the beginning of the connection or the last answer


class Door:
    """Counts a server's connections, and ends those that say nothing."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.BaseTransport, asyncio.TimerHandle | None] = {}

    def before(self, inner: asyncio.Protocol) -> asyncio.Protocol:
        """The protocol of a new connection, which passes everything on to ``inner`` if there is room for it."""
        return _Visitor(self, inner)

    @property
    def connections(self) -> int:
        return len(self._waiting)

    def enter(self, transport: asyncio.Transport) -> bool:
        """Whether there is room for the connection."""
        if len(self._waiting) >= MOST_CONNECTIONS:
            return False
        self._waiting[transport] = None
        self._wait(transport)
        return True

    def leave(self, transport: asyncio.BaseTransport) -> None:
        timer = self._waiting.pop(transport, None)
        if timer is not None:
            timer.cancel()

    @contextmanager
    def asked(self, transport: asyncio.BaseTransport | None) -> Iterator[None]:
        """A whole request has come, and is answered inside the block."""
        timer = None if transport is None else self._waiting.get(transport)
        if timer is not None:
            timer.cancel()
        try:
            yield
        finally:
            if transport in self._waiting:
                self._wait(cast(asyncio.Transport, transport))

    def _wait(self, transport: asyncio.Transport) -> None:
        self._waiting[transport] = asyncio.get_running_loop().call_later(REQUEST_SECONDS, transport.abort)


class _Visitor(asyncio.Protocol):
    """One connection: everything is passed on, if there was room for it."""

    def __init__(self, door: Door, inner: asyncio.Protocol) -> None:
        self._door = door
        self._inner = inner
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: Any) -> None:
        if self._door.enter(transport):
            self._transport = transport
            self._inner.connection_made(transport)
        else:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._transport is not None:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._transport is not None else None

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        if self._transport is not None:
            self._door.leave(self._transport)
            self._inner.connection_lost(error)
