"""The HTTP transport against real servers on this machine, well-behaved ones and others."""

from __future__ import annotations

import asyncio
import gzip
from contextlib import AbstractAsyncContextManager

import orjson
import pytest
from aiohttp import web
from served import Connected, connecting, good, serving

from asyncopt.endpoints.http import IDENTITY_HEADER, HttpEndpoint, stated_identity
from asyncopt.endpoints.http_exchange import MAX_BODY
from asyncopt.endpoints.protocol import Answer
from asyncopt.errors import ConfigError
from asyncopt.values import Completion, Fault, FaultKind, Generate

pytestmark = [pytest.mark.anyio, pytest.mark.real]

KEY = "sk-canary-0123456789"
GOOD = good()


def raw(answer: Connected) -> AbstractAsyncContextManager[str]:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await answer(reader, writer)

    return connecting(connected)


async def send(url: str, key: str | None = KEY) -> Answer:
    endpoint = HttpEndpoint(url, key)
    try:
        return await endpoint.send("m", Generate.of("q"))
    finally:
        await endpoint.aclose()


async def test_a_call_arrives_whole_and_its_answer_comes_back() -> None:
    seen: list[tuple[str, str, bytes]] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.path, request.headers["Authorization"], await request.read()))
        return web.Response(body=GOOD, content_type="application/json")

    async with serving(handler) as url:
        answer = await send(url)
    assert isinstance(answer, Completion)
    assert answer.text == "hello"
    assert seen == [
        ("/v1/chat/completions", f"Bearer {KEY}", b'{"model":"m","messages":[{"role":"user","content":"q"}]}')
    ]


async def test_redirects_are_not_followed_and_cookies_not_kept() -> None:
    reached: list[str] = []

    async def other(request: web.Request) -> web.Response:
        reached.append(request.path)
        return web.Response(body=GOOD)

    async with serving(other) as elsewhere:

        async def handler(request: web.Request) -> web.Response:
            raise web.HTTPTemporaryRedirect(f"{elsewhere}/chat/completions")

        async with serving(handler) as url:
            answer = await send(url)
    assert isinstance(answer, Fault)
    assert answer.kind is FaultKind.FATAL_CONFIG
    assert reached == []

    cookies: list[str | None] = []

    async def setter(request: web.Request) -> web.Response:
        cookies.append(request.headers.get("Cookie"))
        response = web.Response(body=GOOD)
        response.set_cookie("track", "me")
        return response

    async with serving(setter) as url:
        endpoint = HttpEndpoint(url)
        for _ in range(2):
            await endpoint.send("m", Generate.of("q"))
        await endpoint.aclose()
    assert cookies == [None, None]


@pytest.mark.parametrize("coding", ["identity", "gzip"])
async def test_an_answer_is_read_to_eight_mebibytes_and_no_further(coding: str) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        if coding == "gzip":
            response.headers["Content-Encoding"] = "gzip"
        await response.prepare(request)
        block = gzip.compress(b" " * 2**26) if coding == "gzip" else b" " * 2**20
        for _ in range(1 if coding == "gzip" else 64):
            try:
                await response.write(block)
            except ConnectionError:
                break
        return response

    async with serving(handler) as url:
        answer = await send(url)
    assert isinstance(answer, Fault)
    assert answer.kind is FaultKind.MALFORMED
    assert str(MAX_BODY) in answer.detail


async def test_a_compressed_answer_of_ordinary_size_is_read() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=gzip.compress(GOOD), headers={"Content-Encoding": "gzip"})

    async with serving(handler) as url:
        assert isinstance(await send(url), Completion)


async def test_a_server_that_echoes_the_key_does_not_get_it_into_the_fault() -> None:
    async def handler(request: web.Request) -> web.Response:
        body = {"error": {"message": f"bad key {KEY}", "code": "invalid_api_key"}}
        return web.Response(status=401, body=orjson.dumps(body))

    async with serving(handler) as url:
        answer = await send(url)
    assert isinstance(answer, Fault)
    assert answer.kind is FaultKind.FATAL_CONFIG
    assert KEY not in repr(answer)


@pytest.mark.parametrize("status", [200, 401, 500])
async def test_no_part_of_an_echoed_key_survives_the_cut_of_a_message(status: int) -> None:
    async def handler(request: web.Request) -> web.Response:
        message = "x" * 172 + " " + request.headers["Authorization"].removeprefix("Bearer ")
        answer = {"choices": [{"message": {"content": message, "refusal": message}}], "error": {"message": message}}
        return web.Response(status=status, body=orjson.dumps(answer))

    async with serving(handler) as url:
        answer = await send(url)
    assert isinstance(answer, Fault)
    assert KEY[:6] not in repr(answer)


async def test_a_key_that_comes_back_as_an_answer_is_masked() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=GOOD.replace(b"hello", KEY.encode()))

    async with serving(handler) as url:
        answer = await send(url)
    assert isinstance(answer, Completion)
    assert answer.text == "***"


async def _close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    return


async def _garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"hello I am no http server\r\n\r\n")


async def _long_header(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 100_000 + b"\r\n\r\n")


async def _short_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + GOOD[:20])


async def _cut_without_length(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + GOOD[:20])


@pytest.mark.parametrize(
    ("behaviour", "kinds"),
    [
        (_close, {FaultKind.TRANSIENT}),
        (_garbage, {FaultKind.MALFORMED}),
        (_long_header, {FaultKind.MALFORMED}),
        (_short_body, {FaultKind.AMBIGUOUS}),
        (_cut_without_length, {FaultKind.MALFORMED}),
    ],
)
async def test_broken_servers_are_faults_never_exceptions(behaviour: Connected, kinds: set[FaultKind]) -> None:
    async with raw(behaviour) as url:
        answer = await send(url)
    assert isinstance(answer, Fault)
    assert answer.kind in kinds
    assert KEY not in repr(answer)


@pytest.mark.parametrize("place", ["", "/elsewhere", "http://[broken", "//"])
async def test_a_redirect_is_one_wherever_it_points(place: str) -> None:
    async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 308 Permanent Redirect\r\nLocation: %b\r\n\r\n" % place.encode())

    async with raw(redirect) as url:
        answer = await send(url)
    assert isinstance(answer, Fault)
    assert answer.kind is FaultKind.FATAL_CONFIG
    assert "redirects to a" in answer.detail


async def test_nobody_listening_is_a_passing_fault() -> None:
    async with raw(_close) as url:
        pass
    answer = await send(url)
    assert isinstance(answer, Fault)
    assert answer.kind is FaultKind.TRANSIENT


async def test_a_server_on_this_machine_may_state_its_identity() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=b"{}", headers={IDENTITY_HEADER: "simulated:7"})

    async def silent(request: web.Request) -> web.Response:
        return web.Response(status=404)

    async with serving(handler) as url:
        assert await stated_identity(url) == "stated:simulated:7"
    async with serving(silent) as url:
        assert await stated_identity(url) is None
    assert await stated_identity(url) is None  # nobody there any more
    assert await stated_identity("https://api.example.com/v1") is None  # never asked
    with pytest.raises(ConfigError):
        await stated_identity("https://u:p@host/v1")
