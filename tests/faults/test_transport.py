"""Connections that break, lie, drip, or bring what nobody asked for; every byte of it is scripted."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Iterator

import pytest
from conftest import CANARY
from served import good
from transported import GOOD, OK, Seen, ask, deaf, echo, kinds, question

from asyncopt import CallFailed, Engine, Quota
from asyncopt.endpoints.http import HttpEndpoint
from asyncopt.endpoints.http_exchange import CONNECT_SECONDS, MAX_HEAD
from asyncopt.endpoints.protocol import Answer
from asyncopt.testing import run_virtual
from asyncopt.testing.raw import Asked, End, RawServer, Step, answer, drip
from asyncopt.values import FaultKind, Generate

pytestmark = [pytest.mark.anyio, pytest.mark.real]

CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def breaking_once(*steps: Step) -> Callable[[Asked], Iterable[Step]]:
    """The steps for the first connection, and echoes over all others."""
    return lambda asked: steps if not asked.connection else [echo(asked)]


BROKEN = {
    "closed before the head": ([End.CLOSE], FaultKind.TRANSIENT),
    "reset before the head": ([End.RESET], FaultKind.AMBIGUOUS),
    "closed in the head": ([OK[:-4], End.CLOSE], FaultKind.AMBIGUOUS),
    "closed after the head": ([OK + b"Content-Length: 99\r\n\r\n", 0.01, End.CLOSE], FaultKind.AMBIGUOUS),
    "reset after the head": ([OK + b"Content-Length: 99\r\n\r\n", 0.01, End.RESET], FaultKind.AMBIGUOUS),
    "reset in the body": ([answer(GOOD)[:-9], 0.01, End.RESET], FaultKind.AMBIGUOUS),
}


@pytest.mark.row("T01")
@pytest.mark.parametrize(("steps", "kind"), BROKEN.values(), ids=BROKEN)
async def test_a_broken_connection_is_not_used_again(steps: list[Step], kind: FaultKind) -> None:
    server = RawServer(breaking_once(*steps))
    async with server as url:
        answers = await ask(url, "one", "two")
    assert kinds(answers) == [kind, "two"]
    assert [len(server.requests_of(number)) for number in range(server.connections)] == [1, 1]


@pytest.mark.row("T01")
@pytest.mark.parametrize(("steps", "kind"), BROKEN.values(), ids=BROKEN)
async def test_a_call_over_a_broken_connection_is_tried_again(steps: list[Step], kind: FaultKind) -> None:
    seen = Seen()
    server = RawServer(breaking_once(*steps))
    async with server as url, Engine(observers=[seen]) as engine:
        found = await engine.model("m", base_url=url, api_key=CANARY).generate("q")
    assert found.text == "q"
    assert seen.failures == [kind.value]
    assert len(server.requests) == 2


@pytest.mark.row("T02")
@pytest.mark.parametrize("end", [End.CLOSE, End.RESET])
async def test_an_idle_connection_that_was_closed_costs_nothing(end: End) -> None:
    seen = Seen()
    server = RawServer(lambda asked: [end] if asked.number else [echo(asked)])
    async with server as url, Engine(observers=[seen]) as engine:
        model = engine.model("m", base_url=url)
        texts = [(await model.generate(text)).text for text in ("one", "two", "three")]
    assert texts == ["one", "two", "three"]
    assert seen.failures == []
    assert [asked.connection for asked in server.requests] == [0, 0, 1, 1, 2]


@pytest.mark.row("T02")
async def test_a_request_is_sent_anew_once_and_then_its_loss_is_a_fault() -> None:
    server = RawServer(lambda asked: [End.CLOSE] if asked.connection or asked.number else [echo(asked)])
    async with server as url:
        assert kinds(await ask(url, "one", "two")) == ["one", FaultKind.TRANSIENT]
    assert [asked.connection for asked in server.requests] == [0, 0, 1]


@pytest.mark.row("T02")
async def test_a_request_whose_answer_had_begun_is_not_sent_anew() -> None:
    server = RawServer(lambda asked: [OK[:-4], End.CLOSE] if asked.number else [echo(asked)])
    async with server as url:
        assert kinds(await ask(url, "one", "two")) == ["one", FaultKind.AMBIGUOUS]
    assert len(server.requests) == 2


@pytest.mark.row("T02")
def test_a_request_that_the_server_had_time_to_serve_is_not_sent_anew() -> None:
    async def main() -> int:
        server = RawServer(lambda asked: [2.0, End.CLOSE] if asked.number else [echo(asked)])
        async with server as url:
            assert kinds(await ask(url, "one", "two")) == ["one", FaultKind.TRANSIENT]
        return len(server.requests)

    assert run_virtual(main) == 2


LENGTHS = {
    "longer": ([OK + b"Content-Length: %d\r\n\r\n" % (len(GOOD) + 1) + GOOD, End.CLOSE], FaultKind.AMBIGUOUS),
    "shorter": ([OK + b"Content-Length: %d\r\n\r\n" % (len(GOOD) - 1) + GOOD], FaultKind.MALFORMED),
    "shorter, in pieces": (
        [OK + b"Content-Length: 9\r\n\r\n", *(GOOD[at : at + 1] for at in range(len(GOOD)))],
        FaultKind.MALFORMED,
    ),
    "a chunk cut": ([CHUNKED + b"%x\r\n" % len(GOOD) + GOOD[:-1], End.CLOSE], FaultKind.AMBIGUOUS),
    "no last chunk": ([CHUNKED + b"%x\r\n" % len(GOOD) + GOOD + b"\r\n", End.CLOSE], FaultKind.AMBIGUOUS),
    "no chunk": ([CHUNKED + b"zz\r\n" + GOOD], FaultKind.MALFORMED),
    "no chunk, later": ([CHUNKED, 0.01, b"zz\r\n" + GOOD, End.STALL], FaultKind.MALFORMED),
    "cut, of no length": ([OK + b"\r\n" + GOOD[:-1], End.CLOSE], FaultKind.MALFORMED),
    "two lengths": ([OK + b"Content-Length: 5\r\nContent-Length: 9\r\n\r\n" + GOOD], FaultKind.MALFORMED),
}


@pytest.mark.row("T03")
@pytest.mark.parametrize(("steps", "kind"), LENGTHS.values(), ids=LENGTHS)
async def test_a_body_of_another_length_is_no_answer(steps: list[Step], kind: FaultKind) -> None:
    server = RawServer(breaking_once(*steps))
    async with server as url:
        assert kinds(await ask(url, "one", "two")) == [kind, "two"]
    assert server.connections == 2


@pytest.mark.row("T03")
async def test_a_garbled_stream_ends_and_is_no_answer() -> None:
    server = RawServer.saying(
        OK + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n", 0.01, b"zz\r\n"
    )
    async with server as url:
        endpoint = HttpEndpoint(url)
        found = await endpoint.send_streamed("m", Generate.of("q"), lambda: None)
        await endpoint.aclose()
    assert kinds([found]) == [FaultKind.MALFORMED]


@pytest.mark.row("T04")
@pytest.mark.parametrize("late", [False, True], ids=["in one segment", "while it is idle"])
async def test_what_follows_an_answer_is_never_the_answer_to_the_next_request(late: bool) -> None:
    sent = asyncio.Event()
    nonces = [f"nonce {number}" for number in range(20)]

    def script(asked: Asked) -> Iterator[Step]:
        stray = answer(good("stray"))
        yield echo(asked) if late else echo(asked) + stray
        if late:
            yield 0.005  # the answer is taken first, and the connection idle
            yield stray
            sent.set()

    server = RawServer(script)
    async with server as url:
        endpoint = HttpEndpoint(url)
        found: list[Answer] = []
        for nonce in nonces:
            sent.clear()
            found.append(await endpoint.send("m", Generate.of(nonce)))
            if late:
                await sent.wait()
                await asyncio.sleep(0.005)  # until the client's loop has read it
        await endpoint.aclose()
    assert kinds(found) == nonces
    assert server.connections == len(nonces)


DRIPS = {
    "headers": lambda: itertools.chain([OK], drip(b"X-Drip: drip\r\n", 0.05, endless=True)),
    "body": lambda: itertools.chain([OK + b"\r\n"], drip(b" ", 0.05, endless=True)),
}


@pytest.mark.row("T05")
@pytest.mark.parametrize("dripped", DRIPS.values(), ids=DRIPS)
def test_an_endless_drip_ends_by_the_deadline_and_its_slot_is_free(dripped: Callable[[], Iterator[Step]]) -> None:
    async def main() -> None:
        seen = Seen()
        server = RawServer(lambda asked: dripped() if question(asked) == "slow" else [echo(asked)])
        async with server as url, Engine(observers=[seen]) as engine:
            model = engine.model("m", base_url=url, timeout=2.0, quota=Quota(concurrency=1))
            slow, quick = asyncio.ensure_future(model.generate("slow")), asyncio.ensure_future(model.generate("quick"))
            assert (await quick).text == "quick"
            with pytest.raises(CallFailed, match="no answer within 2 s"):
                await slow
            assert engine.dispatchers[0].slots.in_use == 0
        assert set(seen.failures) == {"ambiguous"}

    run_virtual(main)


@pytest.mark.row("T06")
def test_a_server_that_accepts_nothing_is_given_up_after_ten_seconds() -> None:
    async def main(url: str) -> float:
        (found,) = await ask(url, "q")
        assert kinds([found]) == [FaultKind.TRANSIENT]
        return asyncio.get_running_loop().time()

    with deaf() as port:
        seconds = run_virtual(lambda: main(f"http://127.0.0.1:{port}/v1"))
    assert CONNECT_SECONDS <= seconds <= CONNECT_SECONDS + 1
    assert CONNECT_SECONDS == 10.0


NO_HTTP = {
    "words": b"hello, I am no HTTP server\r\n\r\n",
    "HTTP/0.9": GOOD,
    "a status of letters": b"HTTP/1.1 4x0 Bad Request\r\n\r\n",
    "a status of five digits": b"HTTP/1.1 40000 Bad Request\r\n\r\n",
    "TLS": b"\x15\x03\x01\x00\x02\x02\x16",
    "a header of 100 KB": OK + b"X: " + b"x" * 100_000 + b"\r\n\r\n" + GOOD,
    "headers of 100 KB": OK + b"".join(b"X-%d: %b\r\n" % (n, b"x" * 1000) for n in range(100)) + b"\r\n" + GOOD,
    "a header with a NUL": OK + b"X: a\0b\r\n\r\n" + GOOD,
    "a header that is none": OK + b"no colon\r\n\r\n" + GOOD,
    "1xx without an end": b"HTTP/1.1 102 Processing\r\n\r\n" * 10_000 + answer(GOOD),
}


@pytest.mark.row("T07")
@pytest.mark.parametrize("data", NO_HTTP.values(), ids=NO_HTTP)
async def test_what_is_no_http_is_never_a_providers_400(data: bytes) -> None:
    server = RawServer(breaking_once(data, End.CLOSE))
    async with server as url:
        assert kinds(await ask(url, "one", "two")) == [FaultKind.MALFORMED, "two"]
    assert server.connections == 2


@pytest.mark.row("T07")
async def test_headers_are_read_to_64_kibibytes() -> None:
    def padded(size: int) -> bytes:
        fields = [f"X-{number}: {'x' * 4000}" for number in range(size // 4000)]
        return answer(GOOD, "200 OK", *fields)

    async with RawServer(
        lambda asked: [padded(MAX_HEAD - 4000 if question(asked) == "less" else MAX_HEAD + 4000)]
    ) as url:
        assert kinds(await ask(url, "less", "more")) == ["hello", FaultKind.MALFORMED]
