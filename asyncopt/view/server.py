"""The server of the live page: a handful of addresses, each of which reads; one passes a request on to the run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from asyncopt import codec
from asyncopt.ctl import LONGEST_LINE, NotRunning, check_request
from asyncopt.errors import AsyncoptError, ConfigError
from asyncopt.pages.assets import SCRIPTS, STYLES, asset, live_page
from asyncopt.view.door import Door
from asyncopt.view.following import Following, whole
from asyncopt.view.guard import Guard, Handler, add_headers, check_token, error_response, guarded
from asyncopt.view.runs import Runs, Shown

MOST_FOLLOWERS = 32  # browsers that follow a run at once
BODY_SECONDS = 5.0  # for the body of a request whose head is there
STALLED_SECONDS = 30.0  # after which a browser that takes nothing is let go
_END_SECONDS = 1.0  # for what an answer that is refused leaves unread, and for answers when the server ends
_JSON = "application/json"
_log = logging.getLogger("asyncopt")


class _OwnMistakes(logging.LoggerAdapter[logging.Logger]):
    """A log without the mistakes of strangers: each request that is no HTTP would be a traceback on the terminal."""

    def exception(self, msg: object, *args: object, exc_info: Any = True, **options: Any) -> None:
        if not isinstance(exc_info, HttpProcessingError):
            super().exception(msg, *args, exc_info=exc_info, **options)


@asynccontextmanager
async def viewing(folder: Path, host: str, port: int, token: str | None = None) -> AsyncIterator[str]:
    """Serve the runs below ``folder`` while the block is entered; the URL to open, with the token.

    Port 0 is any free one. Raises :class:`ConfigError` where the address cannot be had, or should not.
    """
    guard, door = Guard(host, check_token(host, token)), Door()
    pages = Pages(Runs(folder), guard)
    runner = web.AppRunner(
        pages.app(door),
        access_log=None,
        handle_signals=False,
        shutdown_timeout=_END_SECONDS,
        lingering_time=_END_SECONDS,
        logger=_OwnMistakes(_log),
    )
    await runner.setup()
    server = runner.server
    assert server is not None
    loop = asyncio.get_running_loop()
    try:
        listening = await loop.create_server(lambda: door.before(server()), host, port)
    except OSError as error:
        await runner.cleanup()
        raise ConfigError(
            f"{host}:{port} cannot be listened on ({error.strerror}); choose another --host or --port"
        ) from None
    guard.listens(listening.sockets[0].getsockname()[1])
    try:
        yield f"http://{guard.address}/?token={guard.token}"
    finally:
        listening.close()
        pages.closing.set()
        await runner.cleanup()


class Pages:
    """What each address answers."""

    def __init__(self, runs: Runs, guard: Guard) -> None:
        self._runs = runs
        self._guard = guard
        self._following = Following()
        self._followers = 0
        self.closing = asyncio.Event()

    def app(self, door: Door) -> web.Application:
        """The application, whose requests come through this door."""

        @web.middleware
        async def through(request: web.Request, handler: Handler) -> web.StreamResponse:
            with door.asked(request.transport):
                return await handler(request)

        app = web.Application(middlewares=[through, guarded(self._guard)], client_max_size=LONGEST_LINE)
        app.on_response_prepare.append(add_headers)
        app.add_routes(
            [
                web.get("/", self._page),
                web.get("/assets/{name}", self._asset),
                web.get("/api/runs", self._list),
                web.get("/api/runs/{id}", self._document),
                web.get("/api/runs/{id}/events", self._events, allow_head=False),
                web.get("/api/runs/{id}/answers", self._answers),
                web.post("/api/runs/{id}/control", self._control),
            ]
        )
        return app

    async def _page(self, request: web.Request) -> web.Response:
        response = web.Response(text=live_page(), content_type="text/html", charset="utf-8")
        if self._guard.is_entrance(request):
            self._guard.admit(response)
        return response

    async def _asset(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        kind = "text/javascript" if name in SCRIPTS else "text/css" if name in STYLES else None
        if kind is None:
            raise web.HTTPNotFound
        return web.Response(text=asset(name), content_type=kind, charset="utf-8")

    async def _list(self, request: web.Request) -> web.Response:
        return _json(codec.dumps(await asyncio.to_thread(self._runs.listing)))

    async def _shown(self, request: web.Request) -> Shown:
        try:
            return await asyncio.to_thread(self._runs.find, request.match_info["id"])
        except KeyError:
            raise web.HTTPNotFound from None

    async def _fresh(self, request: web.Request) -> Shown:
        shown = await self._shown(request)
        try:
            await self._following.refresh(shown)
        except ConfigError:  # somebody has removed it, or half of it
            raise web.HTTPGone from None
        return shown

    async def _document(self, request: web.Request) -> web.Response:
        return _json(whole(await self._fresh(request)))

    async def _answers(self, request: web.Request) -> web.Response:
        shown = await self._fresh(request)
        try:
            found = await self._following.answers(shown, request.query.get("candidate", ""))
        except KeyError:
            raise web.HTTPNotFound from None
        return _json(codec.dumps(found))

    async def _events(self, request: web.Request) -> web.StreamResponse:
        shown = await self._shown(request)
        if self._followers >= MOST_FOLLOWERS:
            text = f"{MOST_FOLLOWERS} pages follow runs already; close one"
            return error_response(HTTPStatus.SERVICE_UNAVAILABLE, text, {hdrs.RETRY_AFTER: "5"})
        self._followers += 1
        try:
            response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: "text/event-stream; charset=utf-8"})
            await response.prepare(request)
            with suppress(OSError):  # the browser has gone, or takes nothing any more (TimeoutError is one)
                await self._send(shown, request, response)
            return response
        finally:
            self._followers -= 1

    async def _send(self, shown: Shown, request: web.Request, response: web.StreamResponse) -> None:
        events = self._following.events(shown)
        try:
            async for news in events:
                if self.closing.is_set() or request.transport is None or request.transport.is_closing():
                    return
                if news:
                    async with asyncio.timeout(STALLED_SECONDS):
                        await response.write(news)
        finally:
            await events.aclose()

    async def _control(self, request: web.Request) -> web.Response:
        shown = await self._shown(request)
        if request.content_type != _JSON:
            return error_response(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the request is not {_JSON}")
        try:
            async with asyncio.timeout(BODY_SECONDS):
                wanted = codec.loads(await request.read())
            check_request(wanted)
            return _json(await self._following.tell(shown, wanted))
        except TimeoutError:
            return error_response(HTTPStatus.REQUEST_TIMEOUT, "the request's body did not come")
        except codec.CodecError:
            return error_response(HTTPStatus.BAD_REQUEST, "the request is no JSON")
        except NotRunning as error:
            return error_response(HTTPStatus.CONFLICT, str(error))
        except ConfigError as error:
            return error_response(HTTPStatus.BAD_REQUEST, str(error))
        except AsyncoptError as error:
            return error_response(HTTPStatus.GATEWAY_TIMEOUT, str(error))


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, content_type=_JSON)
