"""The connection below the transport: what goes over the wire, what is used again, and answers that come in pieces."""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from aiohttp import web
from served import connecting, good, http, serving

from asyncopt.endpoints.http import HttpEndpoint
from asyncopt.endpoints.http_exchange import MAX_BODY, Pieces
from asyncopt.endpoints.openai import OpenAIChat
from asyncopt.endpoints.protocol import Answer, Reply
from asyncopt.endpoints.secret import Secret
from asyncopt.errors import ConfigError
from asyncopt.testing.raw import read_request
from asyncopt.values import Completion, Fault, FaultKind, Generate

pytestmark = [pytest.mark.anyio, pytest.mark.real]

KEY = "sk-canary-0123456789"
EVENTS = {"Content-Type": "text/event-stream"}


def event(value: object) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"


def piece(text: str, finish: str | None = None) -> bytes:
    return event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]})


USAGE = event({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}})
DONE = b"data: [DONE]\n\n"


async def ask(endpoint: HttpEndpoint, *texts: str) -> list[Answer]:
    """The answers to questions asked one after the other, after which the endpoint is closed."""
    answers = [await endpoint.send("m", Generate.of(text)) for text in texts]
    await endpoint.aclose()
    return answers


async def stream(endpoint: HttpEndpoint, first_piece: Callable[[], None]) -> Answer:
    answer = await endpoint.send_streamed("m", Generate.of("q"), first_piece)
    await endpoint.aclose()
    return answer


class Connections:
    """A server that counts: the bytes of every request, by the connection that they came over."""

    def __init__(self, answer: Callable[[bytes], bytes]) -> None:
        self.requests: list[list[bytes]] = []
        self._answer = answer

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        mine: list[bytes] = []
        self.requests.append(mine)
        while True:
            mine.append(await read_request(reader))
            writer.write(self._answer(mine[-1]))


async def test_the_request_is_these_bytes_and_no_others() -> None:
    server = Connections(lambda _: http(good()))
    async with connecting(server) as url:
        await ask(HttpEndpoint(url, KEY), "q")
    head, _, body = server.requests[0][0].partition(b"\r\n\r\n")
    first, *fields = head.decode().split("\r\n")
    assert first == "POST /v1/chat/completions HTTP/1.1"
    found = dict(field.split(": ", 1) for field in fields)
    assert "gzip" in found.pop("Accept-Encoding")
    assert len(fields) == 7
    assert found == {
        "Host": url.removeprefix("http://").removesuffix("/v1"),
        "User-Agent": "asyncopt",
        "Content-Type": "application/json",
        "Authorization": f"Bearer {KEY}",
        "Accept": "*/*",
        "Content-Length": str(len(body)),
    }
    assert orjson.loads(body)["messages"] == [{"role": "user", "content": "q"}]


class Deployments(OpenAIChat):
    def path(self, model: str) -> str:
        return f"/deployments/{model}%2Fx/chat?api-version=1&p=%25"


async def test_path_and_query_come_from_the_codec_and_are_escaped_once() -> None:
    server = Connections(lambda _: http(good()))
    async with connecting(server) as url:
        endpoint = HttpEndpoint(url, codec=Deployments())
        await endpoint.send("a", Generate.of("q"))
        await endpoint.send("b", Generate.of("q"))
        await endpoint.aclose()
    paths = [request.split(b" ", 2)[1] for request in server.requests[0]]
    assert paths == [b"/v1/deployments/%b%%2Fx/chat?api-version=1&p=%%25" % model for model in (b"a", b"b")]


class Injecting(OpenAIChat):
    def headers(self, key: str | None) -> dict[str, str]:
        return {"X-Version": "1\r\nX-Other: 2"}


async def test_a_header_with_a_line_break_is_never_sent() -> None:
    server = Connections(lambda _: http(good()))
    async with connecting(server) as url:
        with pytest.raises(ConfigError, match="printable"):
            await ask(HttpEndpoint(url, codec=Injecting()), "q")
    assert server.requests == []


async def test_a_connection_is_used_again_after_an_answer() -> None:
    server = Connections(
        lambda request: http(good(orjson.loads(request.split(b"\r\n\r\n")[1])["messages"][0]["content"]))
    )
    async with connecting(server) as url:
        answers = await ask(HttpEndpoint(url), "one", "two", "three")
    assert [answer.text for answer in answers if isinstance(answer, Completion)] == ["one", "two", "three"]
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        http(good()).replace(b"\r\n", b"\r\nConnection: close\r\n", 1),
        http(good()).replace(b"HTTP/1.1", b"HTTP/1.0"),
        http(good()) + http(good("unasked")),
        b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /x\r\nContent-Length: 9\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY + 2) + b" " * (MAX_BODY + 1),
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ],
    ids=["close", "old", "two answers", "redirect unread", "too large", "upgraded"],
)
async def test_a_connection_that_is_not_at_its_next_answer_is_not_used_again(answer: bytes) -> None:
    server = Connections(lambda _: answer)
    async with connecting(server) as url:
        await ask(HttpEndpoint(url), "one", "two")
    assert [len(requests) for requests in server.requests] == [1, 1]


async def test_an_answer_that_nobody_waits_for_any_more_goes_to_nobody_else() -> None:
    arrived, going = asyncio.Event(), asyncio.Event()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            request = await read_request(reader)
            if b"slow" in request:
                arrived.set()
                await going.wait()
            writer.write(http(good("slow" if b"slow" in request else "quick")))

    async with connecting(connected) as url:
        endpoint = HttpEndpoint(url)
        assert isinstance(await endpoint.send("m", Generate.of("quick")), Completion)
        waiting = asyncio.ensure_future(endpoint.send("m", Generate.of("slow")))
        await arrived.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        going.set()
        (answer,) = await ask(endpoint, "quick")
    assert isinstance(answer, Completion)
    assert answer.text == "quick"


async def test_interim_answers_are_passed_over() -> None:
    interim = b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    server = Connections(lambda _: interim + http(good()))
    async with connecting(server) as url:
        answers = await ask(HttpEndpoint(url), "one", "two")
    assert all(isinstance(answer, Completion) for answer in answers)
    assert len(server.requests) == 1


async def test_a_prompt_of_many_megabytes_arrives_whole() -> None:
    text = "x" * 2**24
    server = Connections(lambda request: http(good(str(request.count(b"x")))))
    async with connecting(server) as url:
        (answer,) = await ask(HttpEndpoint(url), text)
    assert isinstance(answer, Completion)
    assert server.requests[0][0].endswith(b"x" * 100 + b'"}]}')
    assert int(answer.text) >= 2**24


async def test_a_server_may_refuse_a_request_before_it_has_read_it() -> None:
    connections = 0

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(http(b"{}", "413 Content Too Large"))
        await asyncio.Event().wait()

    async with connecting(connected) as url:
        answers = await ask(HttpEndpoint(url), "x" * 2**25, "x" * 2**25)
    assert [answer.kind for answer in answers if isinstance(answer, Fault)] == [FaultKind.TOO_LARGE] * 2
    assert connections == 2


async def test_many_calls_at_once_get_their_own_answers() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=good(orjson.loads(await request.read())["messages"][0]["content"]))

    async with serving(handler) as url:
        endpoint = HttpEndpoint(url)
        for _ in range(2):
            answers = await asyncio.gather(*(endpoint.send("m", Generate.of(str(n))) for n in range(200)))
            assert [answer.text for answer in answers if isinstance(answer, Completion)] == [str(n) for n in range(200)]
        await endpoint.aclose()


async def test_an_endpoint_may_be_used_again_after_it_was_closed() -> None:
    server = Connections(lambda _: http(good()))
    async with connecting(server) as url:
        endpoint = HttpEndpoint(url)
        for _ in range(2):
            assert isinstance((await ask(endpoint, "q"))[0], Completion)
    assert len(server.requests) == 2


async def test_a_server_that_closes_idle_connections_costs_no_attempt() -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(http(good()))
        await read_request(reader)  # and then closes

    async with connecting(connected) as url:
        answers = await ask(HttpEndpoint(url), "one", "two", "three")
    assert all(isinstance(answer, Completion) for answer in answers)


_CALL = """
import asyncio, sys
from asyncopt import Generate
from asyncopt.endpoints.http import HttpEndpoint

async def main():
    endpoint = HttpEndpoint(sys.argv[1], "k")
    print([(await endpoint.send("m", Generate.of("q"))).text for _ in range(2)])
    await endpoint.aclose()

asyncio.run(main())
"""


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A self-signed certificate of localhost, and its key."""
    files = tmp_path / "certificate.pem", tmp_path / "key.pem"
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", *name]
    try:
        subprocess.run([*make, "-out", files[0], "-keyout", files[1]], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("openssl is not here to make a certificate: TLS is not tested")
    return files


async def test_tls_with_a_certificate_that_is_trusted_and_one_that_is_not(certificate: tuple[Path, Path]) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)

    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=good("over TLS"))

    async with serving(handler, tls) as url:
        (answer,) = await ask(HttpEndpoint(url, KEY), "q")
        assert isinstance(answer, Fault)
        assert (answer.kind, answer.detail) == (FaultKind.FATAL_CONFIG, "the certificate of localhost was not accepted")
        # Trust is read from the environment when the client is imported, hence another process.
        trusting = os.environ | {"SSL_CERT_FILE": str(certificate[0])}
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", _CALL, url, env=trusting, stdout=pipe)
        out, _ = await process.communicate()
    assert out == b"['over TLS', 'over TLS']\n"


async def test_the_first_piece_is_told_once_and_before_the_last_has_come() -> None:
    told: list[str] = []
    begun = asyncio.Event()
    bodies: list[bytes] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        bodies.append(await request.read())
        response = web.StreamResponse(headers=EVENTS)
        await response.prepare(request)
        await response.write(b": wait\n\n")
        await response.write(piece("hel"))
        await begun.wait()  # never, were the first piece told only at the end
        await response.write(piece("lo") + piece("", "stop") + USAGE + DONE)
        return response

    def first_piece() -> None:
        told.append("begun")
        begun.set()

    async with serving(handler) as url:
        endpoint = HttpEndpoint(url, KEY)
        assert endpoint.supports.stream
        answer = await stream(endpoint, first_piece)
    assert isinstance(answer, Completion)
    assert (answer.text, answer.usage.output_tokens) == ("hello", 2)
    assert told == ["begun"]
    assert orjson.loads(bodies[0])["stream"] is True


async def test_a_stream_that_breaks_is_no_answer_and_may_be_paid_for() -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        begin = piece("hel")
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        writer.write(head + b"%x\r\n%b\r\n" % (len(begin), begin))

    told: list[str] = []
    async with connecting(connected) as url:
        answer = await stream(HttpEndpoint(url, KEY), lambda: told.append("begun"))
    assert isinstance(answer, Fault)
    assert answer.kind is FaultKind.AMBIGUOUS
    assert told == ["begun"]


async def test_a_streamed_call_may_be_refused_as_any_other() -> None:
    told: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        body = orjson.dumps({"error": {"message": f"slow down {KEY}", "code": "rate_limit_exceeded"}})
        return web.Response(status=429, body=body, headers={"Retry-After": "7"})

    async with serving(handler) as url:
        answer = await stream(HttpEndpoint(url, KEY), lambda: told.append("begun"))
    assert isinstance(answer, Fault)
    assert (answer.kind, answer.retry_after) == (FaultKind.RATE_LIMITED, 7.0)
    assert "slow down ***" in answer.detail
    assert not told  # else it would win against an attempt that is about to be answered


async def test_a_streamed_call_follows_no_redirect() -> None:
    async def handler(request: web.Request) -> web.Response:
        raise web.HTTPTemporaryRedirect("https://elsewhere.example/")

    async with serving(handler) as url:
        answer = await stream(HttpEndpoint(url, KEY), lambda: None)
    assert isinstance(answer, Fault)
    assert answer.kind is FaultKind.FATAL_CONFIG
    assert "elsewhere.example" in answer.detail


async def test_an_endless_stream_is_read_to_eight_mebibytes_and_no_further() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=EVENTS)
        await response.prepare(request)
        try:
            while True:
                await response.write(b": " + b"x" * 2**20 + b"\n")
        except ConnectionError:
            return response

    async with serving(handler) as url:
        answer = await stream(HttpEndpoint(url), lambda: None)
    assert isinstance(answer, Fault)
    assert answer.kind is FaultKind.MALFORMED
    assert str(MAX_BODY) in answer.detail


async def test_a_key_spelled_over_two_pieces_is_masked() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=piece("it is " + KEY[:9]) + piece(KEY[9:], "stop") + DONE, headers=EVENTS)

    async with serving(handler) as url:
        answer = await stream(HttpEndpoint(url, KEY), lambda: None)
    assert isinstance(answer, Completion)
    assert answer.text == "it is ***"


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r", b""])
def test_no_part_of_an_echoed_key_survives_wherever_the_bytes_are_cut(end: bytes) -> None:
    kind = {"content-type": "text/event-stream" if end else "application/json"}
    error = orjson.dumps({"error": {"message": "x" * 170 + f" {KEY} is no key", "code": "invalid_api_key"}})
    data = b"data: " + error + end + end if end else error
    reply = Reply(200, kind, b"")
    for cut in range(len(data)):
        pieces = Pieces(OpenAIChat().stream(reply), Secret(KEY), lambda: None)
        assert all(pieces.take(part) for part in (data[:cut], data[cut : cut + 5], data[cut + 5 :]))
        answer = pieces.finish()
        assert isinstance(answer, Fault)
        assert answer.kind is FaultKind.FATAL_CONFIG
        assert KEY[:6] not in answer.detail
