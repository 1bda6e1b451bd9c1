"""The simulated API behind a real socket: aiohttp's server in front of a :class:`Service`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

from aiohttp import web

from asyncopt import codec
from asyncopt.endpoints.protocol import Reply
from asyncopt.errors import ConfigError
from asyncopt.testing.ledger import Ledger

HOST = "127.0.0.1"
_LARGEST_BODY = 8 << 20


class Service(Protocol):
    """What is served."""

    identity: str
    ledger: Ledger

    async def handle(self, body: bytes, headers: Mapping[str, str]) -> Reply: ...

    def models(self, headers: Mapping[str, str]) -> Reply: ...


@asynccontextmanager
async def serving(api: Service, port: int) -> AsyncIterator[str]:
    """The base URL of the API, which is served while this is entered."""
    # A client that leaves ends its request, so that the ledger knows who is in flight.
    runner = web.AppRunner(_app(api), access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, HOST, port).start()
        except OSError as error:
            message = f"port {port} of {HOST} cannot be served ({error.strerror}); choose another, or 0 for a free one"
            raise ConfigError(message) from None
        yield f"http://{HOST}:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


def _app(api: Service) -> web.Application:
    async def chat(request: web.Request) -> web.Response:
        return _response(await api.handle(await request.read(), request.headers))

    async def models(request: web.Request) -> web.Response:
        return _response(api.models(request.headers))

    async def ledger(_: web.Request) -> web.Response:
        document = {"identity": api.identity, **api.ledger.as_json()}
        return web.Response(body=codec.dumps(document), content_type="application/json")

    app = web.Application(client_max_size=_LARGEST_BODY)
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_get("/v1/models", models)
    for path in ("/ledger", "/v1/ledger"):  # below the base URL too, for those who only have that
        app.router.add_get(path, ledger)
    return app


def _response(reply: Reply) -> web.Response:
    return web.Response(status=reply.status, headers=reply.headers, body=reply.body)
