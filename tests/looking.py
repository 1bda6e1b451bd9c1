"""A browser's side of the live page: requests byte by byte, so that a test says every header itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asyncopt.codec import dumps, loads
from asyncopt.view import viewing

TOKEN = "the-token-of-the-test"


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return loads(self.body)


class Page:
    """A live page that is served on this machine."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.host = url.removeprefix("http://").partition("/")[0]
        self.port = int(self.host.rpartition(":")[2])
        self.key = {"Authorization": f"Bearer {TOKEN}"}

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 26)

    def head(self, method: str, path: str, headers: dict[str, str]) -> bytes:
        lines = {"Host": self.host, **headers}
        return "".join(
            [f"{method} {path} HTTP/1.1\r\n", *(f"{name}: {value}\r\n" for name, value in lines.items()), "\r\n"]
        ).encode()

    async def ask(self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b"") -> Reply:
        """The answer to one request on a connection of its own; without ``headers`` it has the token."""
        given = {**(self.key if headers is None else headers), "Connection": "close"}
        if body:
            given["Content-Length"] = str(len(body))
        return await self.raw(self.head(method, path, given) + body)

    async def raw(self, request: bytes) -> Reply:
        """The answer to these bytes."""
        reader, writer = await self.connect()
        writer.write(request)
        try:
            return parsed(await reader.read())
        finally:
            await _closed(writer)

    async def json(self, path: str) -> Any:
        reply = await self.ask("GET", path)
        assert reply.status == 200, reply.body
        return reply.json

    async def tell(self, id_: str, request: object) -> Reply:
        headers = {**self.key, "Content-Type": "application/json"}
        return await self.ask("POST", f"/api/runs/{id_}/control", headers, dumps(request))

    @asynccontextmanager
    async def following(self, id_: str) -> AsyncIterator[Events]:
        """The events of a run until the block is left, which closes the connection."""
        reader, writer = await self.connect()
        writer.write(self.head("GET", f"/api/runs/{id_}/events", self.key))
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            yield Events(reader, int(head.split()[1]))
        finally:
            await _closed(writer)


class Events:
    """Server-Sent Events as they come."""

    def __init__(self, reader: asyncio.StreamReader, status: int) -> None:
        self.status = status
        self._reader = reader
        self._rest = b""

    async def next(self, name: str) -> Any:
        """The data of the next event of this name; others before it are passed over."""
        while True:
            found, data = await self._event()
            if found == name:
                return loads(data)

    async def _event(self) -> tuple[str, bytes]:
        while b"\n\n" not in self._rest:
            size = int(await self._reader.readline(), 16)
            assert size, "the events have ended"
            self._rest += (await self._reader.readexactly(size + 2))[:-2]
        event, _, self._rest = self._rest.partition(b"\n\n")
        fields = dict(line.partition(b": ")[::2] for line in event.split(b"\n"))
        return fields.get(b"event", b"").decode(), fields.get(b"data", b"")


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    try:
        await writer.wait_closed()
    except ConnectionError:
        pass


def parsed(answer: bytes) -> Reply:
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return Reply(int(first.split()[1]) if first else 0, headers, body)


def on_page(folder: Path, test: Callable[[Page], Coroutine[Any, Any, None]]) -> None:
    """Serve the runs below the folder to the test; it ends, or it hangs."""

    async def main() -> None:
        async with asyncio.timeout(60), viewing(folder, "127.0.0.1", 0, TOKEN) as url:
            await test(Page(url))

    asyncio.run(main())
