"""The simulated API behind a real socket: aiohttp's server in front of a :class:`Service`."""

from __future__ import annotations

import math
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

from aiohttp import web

from asyncopt import codec
from asyncopt.endpoints.protocol import Reply
from asyncopt.errors import ConfigError
from asyncopt.testing.batches import SimulatedBatches
from asyncopt.testing.faults import Cut
from asyncopt.testing.ledger import Ledger
from asyncopt.testing.streaming import Write

HOST = "127.0.0.1"
PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/messages",
    "/openai/deployments/{name}/chat/completions",
    "/openai/deployments/{name}/completions",
    "/openai/v1/chat/completions",
    "/openai/v1/completions",
    "/tokenize",
)
ERRANDS = ("/v1/files", "/v1/files/{file}/content", "/v1/batches", "/v1/batches/{batch}", "/v1/batches/{batch}/cancel")
_LARGEST_BODY = 8 << 20
_LARGEST_FILE = 256 << 20  # a file of requests may have 200 MB
_BACKLOG = 4096  # a client may open thousands of connections at once; 128 would stall them for seconds
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Service(Protocol):
    """What is served."""

    identity: str
    ledger: Ledger
    batches: SimulatedBatches

    async def handle(self, body: bytes, headers: Mapping[str, str], path: str, write: Write | None = None) -> Reply: ...

    def models(self, headers: Mapping[str, str]) -> Reply: ...

    async def errand(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Reply: ...


@asynccontextmanager
async def serving(api: Service, port: int) -> AsyncIterator[str]:
    """The base URL of the API, which is served while this is entered."""
    # A client that leaves ends its request, so that the ledger knows who is in flight.
    runner = web.AppRunner(_app(api), access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, HOST, port, backlog=_BACKLOG).start()
        except OSError as error:
            message = f"port {port} of {HOST} cannot be served ({error.strerror}); choose another, or 0 for a free one"
            raise ConfigError(message) from None
        yield f"http://{HOST}:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


def _app(api: Service) -> web.Application:
    async def chat(request: web.Request) -> web.StreamResponse:
        return await _Exchange(request).answered_by(api)

    async def models(request: web.Request) -> web.Response:
        return _response(api.models(request.headers))

    async def errand(request: web.Request) -> web.Response:
        body = await request.clone(client_max_size=_LARGEST_FILE).read()
        path = request.rel_url.raw_path_qs.removeprefix("/v1")
        return _response(await api.errand(request.method, path, body, request.headers))

    async def ledger(request: web.Request) -> web.Response:
        since, every = _asked(request, "since"), _asked(request, "every")
        document = {"identity": api.identity, **api.ledger.as_json(since=int(since or 0), every=every or None)}
        document["batches"] = {"submitted": api.batches.submitted, **api.batches.ledger.as_json()}
        return web.Response(body=codec.dumps(document), content_type="application/json")

    app = web.Application(client_max_size=_LARGEST_BODY)
    for path in PATHS:
        app.router.add_post(path, chat)
    app.router.add_get("/v1/models", models)
    for path in ERRANDS:
        app.router.add_route("*", path, errand)
    for path in ("/ledger", "/v1/ledger"):  # below the base URL too, for those who only have that
        app.router.add_get(path, ledger)
    return app


class _Exchange:
    """One request and its answer, which may come in pieces."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._stream: web.StreamResponse | None = None

    async def answered_by(self, api: Service) -> web.StreamResponse:
        request = self._request
        try:
            reply = await api.handle(await request.read(), request.headers, request.rel_url.raw_path, self._write)
            if self._stream is None:
                return _response(reply)
            await self._stream.write_eof()
            return self._stream
        except Cut:
            _reset(request)
        except ConnectionError:  # the client left in mid-stream: the ledger knows, and a log has nothing to add
            pass
        return self._stream or web.Response()

    async def _write(self, head: Reply, data: bytes) -> None:
        if self._stream is None:
            self._stream = web.StreamResponse(status=head.status, headers=head.headers)
            await self._stream.prepare(self._request)
        await self._stream.write(data)


def _reset(request: web.Request) -> None:
    """Ends the connection so that the client gets a reset and not a regular end."""
    if request.transport is not None:
        raw = request.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        request.transport.abort()


def _asked(request: web.Request, name: str) -> float:
    """The number of this name in the query, 0 if there is none."""
    try:
        value = float(request.query.get(name, "0"))
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise web.HTTPBadRequest(text=f"{name} is no number of at least 0")
    return value


def _response(reply: Reply) -> web.Response:
    return web.Response(status=reply.status, headers=reply.headers, body=reply.body)
