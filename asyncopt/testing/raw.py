"""A server that is scripted in bytes: whatever a broken server, proxy or network may send, cut, delay or reset."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import TypeAlias


class End(Enum):
    """What a server does to a connection instead of sending more."""

    CLOSE = "close"
    RESET = "reset"
    HALF_CLOSE = "half-close"  # its own direction only; it goes on to read
    STALL = "stall"  # it says nothing more, until the server is closed


Step: TypeAlias = "bytes | float | asyncio.Event | End"
"""Send these bytes, wait so many seconds, wait for the event, or end the connection."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it came; connections, and the requests of each, are counted from 0."""

    connection: int
    number: int
    data: bytes

    @property
    def body(self) -> bytes:
        return self.data.partition(b"\r\n\r\n")[2]


Script: TypeAlias = "Callable[[Asked], Iterable[Step]]"


def answer(body: bytes, status: str = "200 OK", *fields: str) -> bytes:
    """A whole HTTP response with these header fields and its length."""
    lines = [f"HTTP/1.1 {status}", *fields, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def drip(data: bytes, seconds: float, *, endless: bool = False) -> Iterator[Step]:
    """The bytes one by one, so many seconds apart; ``endless`` begins again with the first."""
    while True:
        for byte in data:
            yield bytes([byte])
            yield seconds
        if not endless:
            return


class RawServer:
    """``async with RawServer(script) as url``: the base URL of a server on this machine that follows the script.

    ``script`` is called for every request and gives the steps to be taken; ``greeting`` are steps before the first
    request of a connection. When it is left, every connection is closed and every task has ended.
    """

    def __init__(self, script: Script, *, greeting: Iterable[Step] = (), tls: ssl.SSLContext | None = None) -> None:
        self.connections = 0
        self.requests: list[Asked] = []
        self._script = script
        self._greeting = tuple(greeting)
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @classmethod
    def saying(cls, *steps: Step) -> RawServer:
        """A server that takes the same steps after every request."""
        return cls(lambda _: steps)

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self._tls)
        port = self._server.sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}/v1" if self._tls is None else f"https://localhost:{port}/v1"

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def requests_of(self, connection: int) -> list[Asked]:
        """The requests that came over this connection."""
        return [asked for asked in self.requests if asked.connection == connection]

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(self.connections, reader, writer))
        self.connections += 1
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            going = await _take(self._greeting, writer)
            number = 0
            while going:
                asked = Asked(connection, number, await read_request(reader))
                self.requests.append(asked)
                going = await _take(self._script(asked), writer)
                number += 1
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has gone
        finally:
            writer.close()


async def _take(steps: Iterable[Step], writer: asyncio.StreamWriter) -> bool:
    """Whether the connection is still to be read after these steps."""
    for step in steps:
        if isinstance(step, bytes):
            writer.write(step)
            await writer.drain()
        elif isinstance(step, asyncio.Event):
            await step.wait()
        elif isinstance(step, End):
            return await _end(step, writer)
        else:
            await asyncio.sleep(step)
    return True


async def _end(step: End, writer: asyncio.StreamWriter) -> bool:
    if step is End.STALL:
        await asyncio.Event().wait()
    if step is End.RESET:
        # A linger of zero seconds makes the close a reset, which also throws away what the client has not read.
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    if step is End.HALF_CLOSE:
        writer.write_eof()
    return step is End.HALF_CLOSE


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """One request as it came, head and body."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = [line.lower() for line in head.split(b"\r\n")]
    lengths = [int(line.removeprefix(b"content-length:")) for line in lines if line.startswith(b"content-length:")]
    return head + await reader.readexactly(lengths[0] if lengths else 0)
