"""What a sweep's process and its workers say to each other: one JSON object a line, over a pair of sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Self

from asyncopt import codec, errors
from asyncopt.errors import AsyncoptError

_LONGEST = 1 << 24  # bytes of a line; results go by the disk
FLUSH_SECONDS = 5.0


class Talk:
    """One end; the other one is in another process, and may end at any moment."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> Self:
        return cls(*await asyncio.open_connection(sock=end, limit=_LONGEST))

    def send(self, message: Mapping[str, Any]) -> None:
        """Say it, if anybody is there; nobody waits for it."""
        if not self._writer.is_closing():
            self._writer.write(codec.dumps(message) + b"\n")

    async def receive(self) -> dict[str, Any] | None:
        """What is said next; None when the other process has ended."""
        try:
            line = await self._reader.readline()
        except OSError:
            return None
        if not line.endswith(b"\n"):
            return None
        message = codec.loads(line)
        assert isinstance(message, dict)
        return message

    async def aclose(self) -> None:
        """Close it when all is said, or after some seconds."""
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(FLUSH_SECONDS):
                await self._writer.drain()
                self._writer.close()
                await self._writer.wait_closed()
        self._writer.transport.abort()


def told(error: AsyncoptError) -> dict[str, str]:
    """An error as a message has it: of the class that every process knows."""
    known = (kind.__name__ for kind in type(error).__mro__ if getattr(errors, kind.__name__, None) is kind)
    return {"kind": next(known), "text": str(error)}


def told_again(error: Mapping[str, str]) -> AsyncoptError:
    """The error of a message: of the same class, with the same text."""
    found = getattr(errors, error["kind"], AsyncoptError)
    kind = found if isinstance(found, type) and issubclass(found, AsyncoptError) else AsyncoptError
    return kind.__new__(kind, error["text"])  # not by its own constructor, which may want what is not told
