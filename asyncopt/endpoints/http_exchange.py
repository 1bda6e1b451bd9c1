"""One POST over a connection of aiohttp's pool: bytes out, and the head and body of the answer in.

A session builds a dozen objects and a task for every request, half of what a call costs. Here the head of a request is
written once, and pool, TLS, name resolution, parser and decompression stay aiohttp's. ``BaseConnector.connect`` is
documented; of ``ResponseHandler``, which aiohttp's own request and response use the same way, nothing private is.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain
from weakref import WeakKeyDictionary, WeakSet

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import HttpProcessingError, RawResponseMessage
from yarl import URL

from asyncopt.endpoints.protocol import Answer, StreamDecoder
from asyncopt.endpoints.secret import Secret
from asyncopt.errors import ConfigError

MAX_BODY = 8 * 2**20
MAX_HEAD = 2**16
CONNECT_SECONDS = 10.0  # for the name, the connection and TLS together
SILENT_SECONDS = 30  # a peer that has not even acknowledged for so long is gone; how long it thinks is not bounded here

# Only connecting is timed here; the dispatcher sweeps deadlines, as a timer a call costs a tenth more.
_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS)
_FEW_FIELDS = 4  # the parser reads at most 8 KiB of a name and as much of a value, so these are below MAX_HEAD
_MOST_INTERIM = 16  # answers of status 1xx before the answer

# A machine that slept, or a router that forgot, leaves connections that look open. TCP itself would notice after a
# quarter of an hour where something was sent, and after two hours where an answer is waited for.
_SOCKET_OPTIONS = (("TCP_USER_TIMEOUT", SILENT_SECONDS * 1000), ("TCP_KEEPIDLE", SILENT_SECONDS), ("TCP_KEEPINTVL", 10))


class Target:
    """Where requests go and the head that they share. Made in the loop that sends them, as aiohttp wants it."""

    __slots__ = ("_head", "_initiator")

    def __init__(self, url: URL, headers: Mapping[str, str]) -> None:
        # Never sent: it names the connection in the pool and brings the headers that aiohttp adds of itself.
        self._initiator = aiohttp.ClientRequest("POST", url, headers=headers, loop=asyncio.get_running_loop())
        del headers  # from what a traceback may show of this frame
        self._head = _head(url, self._initiator.headers)

    async def connect(self, connector: aiohttp.BaseConnector) -> Connection:
        """A connection from the pool, or a new one."""
        return await connector.connect(self._initiator, [], _TIMEOUT)

    def request(self, body: bytes) -> bytes:
        """The bytes of a whole request."""
        return b"%b%d\r\n\r\n%b" % (self._head, len(body), body)


def _head(url: URL, headers: Mapping[str, str]) -> bytes:
    fields = [f"{name}: {value}" for name, value in headers.items() if name != "Content-Length"]
    lines = [f"POST {url.raw_path_qs} HTTP/1.1", *fields, "Content-Length: "]
    if all(line.isascii() and line.isprintable() for line in lines):
        return "\r\n".join(lines).encode()
    del headers, fields, lines  # a traceback may show what a frame holds, and these hold the key
    raise ConfigError("a request header has characters other than printable ASCII; look at the codec's headers")


class Pool:
    """aiohttp's pool of connections, opened by calls; it belongs to the loop of the first one."""

    def __init__(self, keepalive: float) -> None:
        self._keepalive = keepalive
        self._connector: aiohttp.TCPConnector | None = None
        self._used: WeakSet[ResponseHandler] = WeakSet()  # connections that have brought an answer
        self._watches: WeakKeyDictionary[ResponseHandler, _Watch] = WeakKeyDictionary()

    async def connect(self, target: Target) -> Connection:
        """An idle connection at its next answer, or a new one."""
        if self._connector is None:  # no limit: admission is the dispatcher's
            self._connector = aiohttp.TCPConnector(
                limit=0, keepalive_timeout=self._keepalive, socket_factory=_new_socket
            )
        while True:
            connection = await target.connect(self._connector)
            # aiohttp does not look: what has come while it was idle would be taken for the answer to the next request.
            if connection.protocol is None or not connection.protocol.should_close:
                return connection
            connection.close()

    async def connect_anew(self, target: Target) -> Connection:
        """A new connection; those that were idle are closed."""
        while True:
            connection = await self.connect(target)
            if connection.protocol not in self._used:
                return connection
            connection.close()

    def is_used(self, connection: Connection) -> bool:
        """Whether this connection has brought an answer before."""
        return connection.protocol in self._used

    def release(self, connection: Connection) -> None:
        """Put the connection back; aiohttp closes it instead if the answer was not read to its end."""
        transport = connection.transport
        if transport is not None and transport.get_write_buffer_size():  # answered before it had the whole request
            connection.close()
        elif connection.protocol is not None:
            self._used.add(connection.protocol)
            connection.release()

    async def exchange(
        self, connection: Connection, target: Target, body: bytes
    ) -> tuple[RawResponseMessage, aiohttp.StreamReader]:
        """The head of the answer to a request, and its body to be read."""
        protocol = connection.protocol
        transport = connection.transport
        if protocol is None or transport is None:  # it broke before anything was sent
            raise aiohttp.ServerDisconnectedError
        protocol.set_response_params(read_until_eof=True)
        transport.write(target.request(body))  # never bound to a name, which a traceback might show: it has the key
        for _ in range(_MOST_INTERIM):
            message, content = await protocol.read()
            if message.code // 100 != 1:
                break
            if message.code == 101:  # from here on the connection would speak something else
                raise HttpProcessingError(code=101)
        else:
            raise HttpProcessingError(message="interim answers without an end")
        fields = message.raw_headers
        if len(fields) > _FEW_FIELDS and sum(map(len, chain.from_iterable(fields))) > MAX_HEAD:
            raise HttpProcessingError(message="a head without measure")
        if not content.is_eof():
            self._watch(protocol, content)
        return message, content

    def _watch(self, protocol: ResponseHandler, content: aiohttp.StreamReader) -> None:
        watch = self._watches.get(protocol)
        if watch is None:
            closed = protocol.closed
            if closed is None:  # it ended by itself, which ends the body, too
                return
            watch = self._watches[protocol] = _Watch()
            closed.add_done_callback(partial(watch.ended, protocol))
        watch.content = content

    async def aclose(self) -> None:
        if self._connector is not None:
            connector, self._connector = self._connector, None
            await connector.close()


class _Watch:
    """Ends a body whose rest is no HTTP: aiohttp tells that only to those who wait for a head, and a body hangs."""

    __slots__ = ("content",)

    def __init__(self) -> None:
        self.content: aiohttp.StreamReader | None = None

    def ended(self, protocol: ResponseHandler, closed: asyncio.Future[None]) -> None:
        if not closed.cancelled():
            closed.exception()  # looked at, or asyncio complains of it
        content, self.content = self.content, None
        error = protocol.exception()
        if content is not None and not content.is_eof() and isinstance(error, HttpProcessingError):
            content.set_exception(error)


def _new_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol = address[:3]
    made = socket.socket(family, kind, protocol)
    for name, value in _SOCKET_OPTIONS:
        option = getattr(socket, name, None)
        if option is not None:  # some systems have other names for it, or none
            made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


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
