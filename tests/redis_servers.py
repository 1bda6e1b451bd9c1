"""Redis servers of the tests' own, and a way to them that is as slow as a test wants."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import pytest

BINARY = shutil.which("redis-server") or shutil.which("valkey-server")
needs_redis = pytest.mark.skipif(
    BINARY is None, reason="NO REDIS: neither redis-server nor valkey-server is installed, nothing of it is tested"
)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class RedisServer:
    """A server that keeps nothing on the disk, at a port that stays the same when it is started again."""

    def __init__(self, *options: str, password: str = "") -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.password = password
        self._options = (*options, "--requirepass", password) if password else options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return when it answers."""
        assert BINARY is not None
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        more = ["--enable-debug-command", "yes", "--dir", tempfile.gettempdir(), *self._options]
        self._process = subprocess.Popen([BINARY, *arguments, *more], stdout=subprocess.DEVNULL)
        for _ in range(500):
            with suppress(OSError):
                self.tell("PING")
                return
            time.sleep(0.02)
        raise AssertionError("redis-server does not answer")

    def stop(self, number: int = signal.SIGKILL) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()
            self._process = None

    def signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def tell(self, *command: str | bytes) -> bytes:
        """What the server says to a command, at once and over a connection of its own, as it came."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            if self.password:
                connection.sendall(packed("AUTH", self.password))
                connection.recv(1 << 16)
            connection.sendall(packed(*command))
            return connection.recv(1 << 16)

    def begin(self, *command: str) -> socket.socket:
        """Send a command whose answer nobody reads; close what this returns."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=5)
        connection.sendall(packed(*command))
        return connection


def packed(*command: str | bytes) -> bytes:
    parts = [part.encode() if isinstance(part, str) else part for part in command]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


@contextmanager
def redis_server(*options: str, password: str = "") -> Iterator[RedisServer]:
    """A server that has started, and is killed at the end."""
    server = RedisServer(*options, password=password)
    try:
        server.start()
        yield server
    finally:
        server.stop()


class Way:
    """A port that leads to a server; what comes back from there is ``seconds`` late, or ``line`` comes in its place."""

    def __init__(self, port: int) -> None:
        self.seconds = 0.0
        self.line = b""
        self.url = ""
        self._port = port

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            await asyncio.gather(self._pass(reader, back, 0), self._pass(there, writer, 1))
        except (ConnectionError, OSError):
            pass
        finally:
            for end in (back, writer):
                end.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, late: int) -> None:
        while data := await reader.read(1 << 16):
            await asyncio.sleep(late * self.seconds)
            writer.write(self.line if late and self.line else data)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def way_to(server: RedisServer) -> AsyncIterator[Way]:
    way = Way(server.port)
    async with listening(way.serve) as port:
        way.url = f"redis://127.0.0.1:{port}/0"
        yield way


@asynccontextmanager
async def saying(line: bytes) -> AsyncIterator[str]:
    """The URL of something that says this to everything it is told."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1 << 16):
            writer.write(line)
        writer.close()

    async with listening(say) as port:
        yield f"redis://127.0.0.1:{port}/0"


@asynccontextmanager
async def listening(serve: object) -> AsyncIterator[int]:
    """The port at which this serves; what it is still serving at the end is cancelled."""
    tasks: set[asyncio.Task[None]] = set()

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with suppress(asyncio.CancelledError):  # the end of the test, of which streams would complain
            await serve(reader, writer)  # type: ignore[operator]
        writer.close()

    server = await asyncio.start_server(served, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
