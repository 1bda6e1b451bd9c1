"""A responder that does next to nothing, so that a benchmark measures the client: ``python -m asyncopt.testing.bare``.

It answers every POST on a keep-alive connection with the same chat completion, in order, and ``GET`` with the number
of POSTs so far. It reads no more of HTTP than where a request ends: chunked bodies get a 411, and the connection ends.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from asyncopt import codec
from asyncopt.testing.process import serve_until_signal

HOST = "127.0.0.1"

_LENGTH = b"content-length:"
_TEXT = "The answer is 42, which follows from adding the two amounts that the question names. " * 4
_BODY = codec.dumps(
    {
        "id": "chatcmpl-bare",
        "object": "chat.completion",
        "created": 0,
        "model": "bare",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": _TEXT}, "logprobs": None, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 75, "completion_tokens": 85, "total_tokens": 160},
        "system_fingerprint": "bare",
    }
)
_LENGTH_NEEDED = b"HTTP/1.1 411 Length Required\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


def _ok(body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


ANSWER = _ok(_BODY)


class _Server:
    """What the connections share."""

    def __init__(self) -> None:
        self.posts = 0
        self.open: set[asyncio.Transport] = set()


class _Responder(asyncio.Protocol):
    """One connection. ``_buffer`` is what has come of a request that is not complete, ``_wanted`` its full length."""

    def __init__(self, server: _Server) -> None:
        self._server = server
        self._buffer = bytearray()
        self._wanted = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass
        self._server.open.add(self._transport)

    def connection_lost(self, _: Exception | None) -> None:
        self._server.open.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._wanted:
                return
            data = bytes(self._buffer)
            self._buffer.clear()
        replies = []
        start = 0
        while start < len(data):
            end = self._end_of_request(data, start)
            if end == 0 or end > len(data):
                self._buffer += data[start:]
                self._wanted = end - start
                break
            if end < 0:
                replies.append(_LENGTH_NEEDED)
                break
            replies.append(self._reply(data[start : start + 4]))
            start = end
        if replies:
            self._transport.write(b"".join(replies))
        if replies[-1:] == [_LENGTH_NEEDED]:
            self._transport.close()

    def _reply(self, method: bytes) -> bytes:
        if method == b"GET ":
            return _ok(codec.dumps({"count": self._server.posts}))
        self._server.posts += 1
        return ANSWER

    @staticmethod
    def _end_of_request(data: bytes, start: int) -> int:
        """Where the request that begins at ``start`` ends: 0 if its head is not complete, -1 if it cannot be said."""
        body = data.find(b"\r\n\r\n", start) + 4
        if body == 3:
            return 0
        head = data[start:body].lower()
        at = head.find(_LENGTH)
        if at < 0:
            return body if head.startswith(b"get ") else -1
        length = head[at + len(_LENGTH) : head.find(b"\r", at)].strip()
        return body + int(length) if length.isdigit() else -1


@asynccontextmanager
async def serve_bare(port: int = 0) -> AsyncIterator[str]:
    """The base URL of a bare responder on 127.0.0.1, ``http://127.0.0.1:PORT/v1``, served while this is entered."""
    shared = _Server()
    server = await asyncio.get_running_loop().create_server(lambda: _Responder(shared), HOST, port, backlog=4096)
    try:
        yield f"http://{HOST}:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()
        for transport in tuple(shared.open):
            transport.close()
        await server.wait_closed()


def main() -> None:
    """Serves until SIGINT or SIGTERM; prints one line of JSON with the ``url`` when ready."""
    parser = argparse.ArgumentParser(prog="python -m asyncopt.testing.bare", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--port", type=int, default=0, help="0 (the default) takes a free one")
    port = parser.parse_args().port
    serve_until_signal(lambda: serve_bare(port), lambda url: {"url": url})


if __name__ == "__main__":
    main()
