"""The proxy's HTTP side: who is let in, and how a request becomes calls and an answer."""

from __future__ import annotations

import asyncio
import hmac
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit

from aiohttp import web

from asyncopt import codec
from asyncopt.engine import Engine, Model
from asyncopt.errors import AsyncoptError, CallFailed, ConfigError, EndpointUnusable
from asyncopt.limits.budget import Account
from asyncopt.proxy.reading import Asked, asked, name_in, object_in
from asyncopt.proxy.refusals import Refusal, invalid
from asyncopt.proxy.upstream import Open, Upstream
from asyncopt.proxy.writing import Writer
from asyncopt.values import Completion, FaultKind, Finish, Generate, Usage

Draws: TypeAlias = Literal["fresh", "cached"]

HOST = "127.0.0.1"
LARGEST_BODY = 8 << 20
BODY_SECONDS = 30.0  # a client that sends slower than this is not served
CACHE_HEADER = "x-asyncopt-cache"
_OUR_NAMES = ("127.0.0.1", "localhost", "::1")
_BACKLOG = 4096
_SCHEME = "bearer "
_CLOSING = "the proxy is being stopped; start it again"
_Handler: TypeAlias = "Callable[[web.Request], Awaitable[web.StreamResponse]]"


class Proxy:
    """Answers OpenAI's API with an engine's models: cached, once for equal requests, within quotas, tried again.

    ``names`` are what clients may call the one model that ``open_model`` opens; without any, every name is a model.
    With ``draws`` "fresh" a request that is neither at temperature 0 nor seeded gets a new answer each time, numbered
    from ``first_draw`` on; with "cached" the same request has the same answer, whatever its temperature. ``account`` is
    what the calls are counted on; ``token`` what clients must send as their key, None for no such thing.
    """

    def __init__(
        self,
        engine: Engine,
        open_model: Open,
        *,
        names: tuple[str, ...] = (),
        draws: Draws = "fresh",
        first_draw: int = 0,
        account: Account,
        token: str | None = None,
    ) -> None:
        self._engine = engine
        self._upstream = Upstream(open_model, names)
        self._draws = draws
        self._fresh = itertools.count(first_draw)
        self._account = account
        self._token = token
        self._numbers = itertools.count(1)
        self._waiting: set[asyncio.Future[Completion]] = set()
        self._closing = False
        self._requests = self._refused = 0

    @asynccontextmanager
    async def serve(self, port: int = 0) -> AsyncIterator[str]:
        """Serves on 127.0.0.1 while entered; gives the base URL. Whoever still waits at the end gets a 503."""
        for name in self._upstream.names[:1]:
            await self._upstream.model(name)  # what cannot be opened is said now, and not to the first client
        # A client that leaves ends its request, which withdraws the calls that have not started.
        runner = web.AppRunner(self._app(), access_log=None, handler_cancellation=True, shutdown_timeout=2.0)
        await runner.setup()
        try:
            try:
                await web.TCPSite(runner, HOST, port, backlog=_BACKLOG).start()
            except OSError as error:
                wanted = "choose another, or 0 for a free one"
                raise ConfigError(f"port {port} of {HOST} cannot be served ({error.strerror}); {wanted}") from None
            yield f"http://{HOST}:{runner.addresses[0][1]}/v1"
        finally:
            self._closing = True
            for waiter in list(self._waiting):
                waiter.cancel()
            await runner.cleanup()

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=LARGEST_BODY, middlewares=[self._guard])
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/completions", self._completions)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/v1/models/{name:.+}", self._one_model)
        app.router.add_get("/status", self._status)
        app.router.add_get("/metrics", self._metrics)
        return app

    # -- who is let in -------------------------------------------------------------------------------------------------

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        try:
            self._require_welcome(request)
            return await handler(request)
        except Refusal as refusal:
            return self._refusing(refusal)
        except web.HTTPException as error:  # a path that is none, a body that is too large
            return self._refusing(Refusal(error.status, _said(error, request), code="invalid_request"))
        except AsyncoptError as error:
            return self._refusing(Refusal.of(error))

    def _require_welcome(self, request: web.Request) -> None:
        """Refuse pages in a browser: neither a name that leads here nor a form may spend the user's money."""
        try:
            host = urlsplit(f"//{request.host}").hostname
        except ValueError:
            host = None
        if host not in _OUR_NAMES:
            raise Refusal(403, f"the Host is not this machine; ask {HOST}", code="forbidden")
        if "Origin" in request.headers:
            raise Refusal(403, "pages in a browser are not served; ask from a program", code="forbidden")
        if self._token is not None:
            given = request.headers.get("Authorization", "")
            given = given[len(_SCHEME) :].lstrip() if given[: len(_SCHEME)].lower() == _SCHEME else given
            if not hmac.compare_digest(_bytes_of(given), _bytes_of(self._token)):
                message = "the API key is not the token that this proxy was started with"
                raise Refusal(401, message, code="invalid_api_key")

    def _refusing(self, refusal: Refusal) -> web.Response:
        self._refused += 1
        return _json(refusal.body, refusal.status, refusal.headers)

    # -- answers -------------------------------------------------------------------------------------------------------

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, chat=True)

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, chat=False)

    async def _answer(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        self._requests += 1
        body = object_in(await _read(request))
        model = await self._upstream.model(name_in(body))
        wanted = asked(body, model.supports, chat=chat)
        answers, hits = await self._drawn(model, wanted)
        writer = Writer(wanted, answers, next(self._numbers), int(time.time()))
        headers = {CACHE_HEADER: "hit" if hits == len(answers) else "miss"}
        if not wanted.stream:
            return _json(writer.whole(), 200, headers)
        return await _streamed(request, writer.events(), headers)

    async def _drawn(self, model: Model, wanted: Asked) -> tuple[list[Completion], int]:
        """An answer for each draw, and how many of them cost nothing."""
        repeated = wanted.repeatable or self._draws == "cached"
        draws = wanted.draws(itertools.count() if repeated else self._fresh)
        pending = [_Pending(model, one) for one in draws]
        futures = [one.future for one in pending]
        self._waiting.update(futures)
        try:
            answers = [await one.answer() for one in pending]
        except EndpointUnusable:
            self._upstream.give_up(model)
            raise
        except asyncio.CancelledError:
            if not self._closing:
                raise
            raise Refusal(503, _CLOSING, code="unavailable", again=True) from None
        finally:
            self._waiting.difference_update(futures)
            for future in futures:
                if not future.cancel() and not future.cancelled():
                    future.exception()  # one draw has failed: nobody asks what became of the others
        return answers, sum(one.is_hit for one in pending)

    # -- what is going on ----------------------------------------------------------------------------------------------

    async def _models(self, request: web.Request) -> web.Response:
        models = [_listed(name) for name in self._upstream.names]
        return _json(codec.dumps({"object": "list", "data": models}))

    async def _one_model(self, request: web.Request) -> web.Response:
        name = name_in({"model": request.match_info["name"]})
        self._upstream.require(name)
        return _json(codec.dumps(_listed(name)))

    async def _status(self, request: web.Request) -> web.Response:
        return _json(codec.dumps(self.status()))

    def status(self) -> dict[str, Any]:
        """What was asked, answered and spent, and what each quota is doing."""
        account = self._account
        scopes = {
            one.control.scope: {
                "in_flight": one.in_flight,
                "queued": one.queued,
                "concurrency": one.slots.limit,
                "limiting": one.limiting(),
                "attempts": one.counts.attempts,
                "throttled": one.counts.throttled,
                "failed_attempts": one.counts.failed_attempts,
            }
            for one in self._engine.dispatchers
        }
        return {
            "requests": self._requests,
            "refused": self._refused,
            "calls": account.calls,
            "hits": account.hits,
            "input_tokens": account.input_tokens,
            "output_tokens": account.output_tokens,
            "usd": account.usd,
            "scopes": scopes,
        }

    async def _metrics(self, request: web.Request) -> web.Response:
        """The totals of :meth:`status` in Prometheus' text format."""
        lines = []
        for name, value in self.status().items():
            if not isinstance(value, dict):
                metric = f"asyncopt_proxy_{name}_total"
                lines += [f"# TYPE {metric} counter", f"{metric} {value}"]
        return web.Response(text="\n".join(lines) + "\n", headers={"Content-Type": "text/plain; version=0.0.4"})


class _Pending:
    """One draw that was asked for, and whether it was there already."""

    def __init__(self, model: Model, request: Generate) -> None:
        hits = model.account.hits
        self.future = model.submit(request)
        self._known = model.account.hits > hits  # in memory, or asked for by somebody else
        self._call = getattr(self.future, "call", None)

    async def answer(self) -> Completion:
        try:
            return await self.future
        except CallFailed as error:
            if error.fault.kind is not FaultKind.TRUNCATED:
                raise
            return Completion("", Finish.LENGTH, error.fault.usage or Usage())  # as a server says it

    @property
    def is_hit(self) -> bool:
        return self._known or self._call is None or not self._call.attempts  # at last, read from the disk


def _said(error: web.HTTPException, request: web.Request) -> str:
    if error.status == 404:
        path = codec.printable(request.path, 80)
        return f"{path} is no path here; the base URL is http://{request.host}/v1, such as for its /chat/completions"
    if error.status == 413:
        return f"the body is larger than {LARGEST_BODY >> 20} MiB; send less"
    return f"{error.reason}: {request.method} is not for this path"


def _listed(name: str) -> dict[str, Any]:
    """OpenAI's model object."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "asyncopt"}


def _bytes_of(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")  # as headers and the environment were decoded


async def _read(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await request.read()
    except TimeoutError:
        message = f"the body did not come within {BODY_SECONDS:g} s"
        raise Refusal(408, message, code="timeout", again=True) from None
    except web.RequestPayloadError:  # broken compression, or a client that left while it sent
        raise invalid("the body cannot be read; send it whole, and as its Content-Encoding says") from None


def _json(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")


async def _streamed(request: web.Request, events: Iterator[bytes], headers: dict[str, str]) -> web.StreamResponse:
    response = web.StreamResponse(headers={**headers, "Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    for event in events:
        await response.write(event)
    await response.write_eof()
    return response
