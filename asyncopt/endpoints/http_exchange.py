"""One POST over a connection of aiohttp's pool: bytes out, and the head and body of the answer in.

A session builds a dozen objects and a task for every request, half of what a call costs. Here the head of a request is
written once, and pool, TLS, name resolution, parser and decompression stay aiohttp's. ``BaseConnector.connect`` is
documented; of ``ResponseHandler``, which aiohttp's own request and response use the same way, nothing private is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import aiohttp
from aiohttp.connector import Connection
from aiohttp.http import HttpProcessingError, RawResponseMessage
from yarl import URL

from asyncopt.endpoints.protocol import Answer, StreamDecoder
from asyncopt.endpoints.secret import Secret
from asyncopt.errors import ConfigError

MAX_BODY = 8 * 2**20
CONNECT_SECONDS = 10.0

# Only connecting is timed here; the dispatcher sweeps deadlines, as a timer a call costs a tenth more.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)


class Target:
    """Where requests go and the head that they share. Made in the loop that sends them, as aiohttp wants it."""

    __slots__ = ("_head", "_initiator")

    def __init__(self, url: URL, headers: Mapping[str, str]) -> None:
        # Never sent: it names the connection in the pool and brings the headers that aiohttp adds of itself.
        self._initiator = aiohttp.ClientRequest("POST", url, headers=headers, loop=asyncio.get_running_loop())
        fields = [f"{name}: {value}" for name, value in self._initiator.headers.items() if name != "Content-Length"]
        lines = [f"POST {url.raw_path_qs} HTTP/1.1", *fields, "Content-Length: "]
        if not all(line.isascii() and line.isprintable() for line in lines):
            raise ConfigError("a request header has characters other than printable ASCII; look at the codec's headers")
        self._head = "\r\n".join(lines).encode()

    async def connect(self, connector: aiohttp.BaseConnector) -> Connection:
        """A connection from the pool, or a new one."""
        return await connector.connect(self._initiator, [], _TIMEOUT)

    def request(self, body: bytes) -> bytes:
        """The bytes of a whole request."""
        return b"%b%d\r\n\r\n%b" % (self._head, len(body), body)


async def exchange(
    connection: Connection, target: Target, body: bytes
) -> tuple[RawResponseMessage, aiohttp.StreamReader]:
    """The head of the answer to a request, and its body to be read."""
    protocol = connection.protocol
    transport = connection.transport
    if protocol is None or transport is None:  # it broke before anything was sent
        raise aiohttp.ServerDisconnectedError
    protocol.set_response_params(read_until_eof=True)
    transport.write(target.request(body))  # never bound to a name, which a traceback might show: it has the key
    while True:
        message, content = await protocol.read()
        if message.code == 101:  # from here on the connection would speak something else
            raise HttpProcessingError(code=101)
        if message.code // 100 != 1:  # else an interim answer; the final one follows
            return message, content


def release(connection: Connection) -> None:
    """Put the connection back into the pool; aiohttp closes it instead if the answer was not read to its end."""
    transport = connection.transport
    if transport is not None and transport.get_write_buffer_size():  # answered before it had the whole request
        connection.close()
    else:
        connection.release()


async def read(content: aiohttp.StreamReader) -> bytes | None:
    """The whole body, or None if it is larger than :data:`MAX_BODY` after decompression."""
    chunks, size = [], 0
    while chunk := await content.readany():
        size += len(chunk)
        if size > MAX_BODY:
            return None
        chunks.append(chunk)
    return b"".join(chunks)


class Pieces:
    """Feeds a decoder with whole lines, the key masked in each; in a line cut in two the mask would miss it."""

    def __init__(self, decoder: StreamDecoder, key: Secret | None, first_piece: Callable[[], None]) -> None:
        self._decoder = decoder
        self._key = key
        self._first_piece: Callable[[], None] | None = first_piece
        self._held: list[bytes] = []
        self._size = 0

    def take(self, chunk: bytes) -> bool:
        """Take the next bytes; False if they are more than :data:`MAX_BODY` by now."""
        self._size += len(chunk)
        if self._size > MAX_BODY:
            return False
        end = max(chunk.rfind(b"\n"), chunk.rfind(b"\r")) + 1
        if end:
            self._held.append(chunk[:end])
            self._feed()
        self._held.append(chunk[end:])
        return True

    def finish(self) -> Answer:
        """What the decoder makes of them all."""
        self._feed()
        return self._decoder.finish()

    def _feed(self) -> None:
        lines = b"".join(self._held)
        self._held.clear()
        if self._key is not None:
            lines = self._key.redact_bytes(lines)
        if self._decoder.feed(lines) and self._first_piece is not None:
            first, self._first_piece = self._first_piece, None
            first()
