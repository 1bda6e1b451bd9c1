"""Bodies that are bombs, lies, or without measure."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import sys
import zlib
from collections.abc import Callable, Iterable
from functools import cache

import orjson
import pytest
from transported import GOOD, OK, ask, echo, kinds, question

from asyncopt.endpoints.http_exchange import MAX_BODY
from asyncopt.testing.raw import RawServer, answer
from asyncopt.values import FaultKind

pytestmark = [pytest.mark.anyio, pytest.mark.real]


def encoded(body: bytes, encoding: str) -> bytes:
    return answer(body, "200 OK", f"Content-Encoding: {encoding}")


ENCODED = {
    "a bomb of gzip": encoded(gzip.compress(bytes(2**26)), "gzip"),
    "a bomb of deflate": encoded(zlib.compress(bytes(2**26)), "deflate"),
    "twice": encoded(gzip.compress(gzip.compress(GOOD)), "gzip, gzip"),
    "twice, stated once": encoded(gzip.compress(gzip.compress(GOOD)), "gzip"),
    "not stated": answer(gzip.compress(GOOD)),
    "stated and not there": encoded(GOOD, "gzip"),
    "deflate that is none": encoded(GOOD, "deflate"),
    "cut": encoded(gzip.compress(GOOD)[:-12], "gzip"),
    "brotli that is none": encoded(GOOD, "br"),
    "zstd that is none": encoded(GOOD, "zstd"),
}


@pytest.mark.row("T08")
@pytest.mark.parametrize("data", ENCODED.values(), ids=ENCODED)
async def test_encodings_that_are_bombs_or_lies_are_no_answers(data: bytes) -> None:
    async with RawServer(lambda asked: [echo(asked) if asked.connection else data]) as url:
        (found,) = await ask(url, "q")
    assert kinds([found]) == [FaultKind.MALFORMED]


_READ = """
import asyncio, resource, sys
from asyncopt.endpoints.http import HttpEndpoint
from asyncopt.values import Fault, Generate

async def main():
    endpoint = HttpEndpoint(sys.argv[1])
    await endpoint.send("m", Generate.of("warm up"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answers = [await endpoint.send("m", Generate.of("q")) for _ in range(2)]
    await endpoint.aclose()
    assert all(isinstance(answer, Fault) for answer in answers)
    print({answer.detail for answer in answers}, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)

asyncio.run(main())
"""
_MEBIBYTE = b" " * 2**20


@cache
def million_keys() -> bytes:
    return b"{%b}" % b",".join(b'"key %d":0' % number for number in range(10**6))


ENDLESS: dict[str, Callable[[], Iterable[bytes]]] = {
    "a gigabyte": lambda: itertools.chain(
        [OK + b"Content-Length: %d\r\n\r\n" % 2**30], itertools.repeat(_MEBIBYTE, 2**10)
    ),
    "nested lists": lambda: [answer(b"[" * 50_000_000)],
    "many lists": lambda: [answer(b"[" + b"[]," * 16_000_000 + b"[]]")],
    "a million keys": lambda: [answer(million_keys())],
    "a million keys, compressed": lambda: [encoded(gzip.compress(million_keys(), 1), "gzip")],
}


@pytest.mark.row("T08", "T09")
@pytest.mark.parametrize("body", ENDLESS.values(), ids=ENDLESS)
async def test_bodies_without_measure_cost_64_mebibytes_at_most(body: Callable[[], Iterable[bytes]]) -> None:
    async with RawServer(lambda asked: body() if question(asked) == "q" else [echo(asked)]) as url:
        command = (sys.executable, "-c", _READ, url)
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        out, _ = await process.communicate()
    detail, _, mebibytes = out.decode().rpartition(" ")
    assert str(MAX_BODY) in detail
    assert int(mebibytes) < 64


@pytest.mark.row("T09")
async def test_json_is_read_to_a_hundred_levels() -> None:
    def nested(levels: int) -> bytes:
        body = orjson.loads(GOOD)
        for _ in range(levels - 1):
            body["more"] = {"more": body.get("more")}
        return answer(orjson.dumps(body))

    async with RawServer(lambda asked: [nested(int(question(asked)))]) as url:
        found = await ask(url, "100", "101", "200")
    assert kinds(found) == ["hello", FaultKind.MALFORMED, FaultKind.MALFORMED]


TYPED = {
    "text/html": (GOOD, ["Content-Type: text/html"], "hello"),
    "no type": (GOOD, [], "hello"),
    "charset=utf-16, which it is not": (GOOD, ["Content-Type: application/json; charset=utf-16"], "hello"),
    "UTF-16": (GOOD.decode().encode("utf-16"), ["Content-Type: application/json; charset=utf-16"], FaultKind.MALFORMED),
    "a byte order mark": (b"\xef\xbb\xbf" + GOOD, ["Content-Type: application/json"], "hello"),
    "HTML": (b"<html>200 OK</html>", ["Content-Type: application/json"], FaultKind.MALFORMED),
}


@pytest.mark.row("T10")
@pytest.mark.parametrize(("body", "fields", "expected"), TYPED.values(), ids=TYPED)
async def test_a_body_is_read_as_utf_8_whatever_its_type_says(
    body: bytes, fields: list[str], expected: FaultKind | str
) -> None:
    async with RawServer.saying(answer(body, "200 OK", *fields)) as url:
        assert kinds(await ask(url, "q")) == [expected]
