"""The bare responder, over real sockets."""

import asyncio

import aiohttp
import pytest
from calls import body_of, started, text_of

from asyncopt import codec
from asyncopt.endpoints.protocol import Reply
from asyncopt.testing.bare import ANSWER, serve_bare

REQUEST_BODY = body_of("tell me " * 30)
REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    + f"Content-Length: {len(REQUEST_BODY)}\r\n\r\n".encode()
    + REQUEST_BODY
)


async def connected(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = url.removeprefix("http://").removesuffix("/v1").split(":")
    return await asyncio.open_connection(host, int(port))


async def counted(url: str) -> int:
    """The number of POSTs so far, asked for on a connection of its own."""
    reader, writer = await connected(url)
    writer.write(b"GET /count HTTP/1.1\r\nHost: x\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    body = await reader.readexactly(int(head.partition(b"content-length: ")[2].split()[0]))
    writer.close()
    await writer.wait_closed()
    return codec.loads(body)["count"]


@pytest.mark.real
@pytest.mark.anyio
async def test_the_bare_responder_answers_pipelined_and_split_requests():
    async with serve_bare() as url:
        reader, writer = await connected(url)
        writer.write(REQUEST * 5)
        assert await reader.readexactly(5 * len(ANSWER)) == ANSWER * 5
        head = REQUEST.index(b"\r\n\r\n")
        for round_, cut in enumerate((1, 30, head + 2, head + 4, len(REQUEST) - 1)):
            # The answer to the whole request in front shows that the part behind it was read, too, and on its own.
            writer.write(REQUEST + REQUEST[:cut])
            assert await reader.readexactly(len(ANSWER)) == ANSWER
            assert await counted(url) == 5 + 3 * round_ + 1
            writer.write(REQUEST[cut:] + REQUEST)
            assert await reader.readexactly(2 * len(ANSWER)) == ANSWER * 2
        assert await counted(url) == 20
        writer.close()
        await writer.wait_closed()


@pytest.mark.real
@pytest.mark.anyio
async def test_the_bare_responder_ends_a_connection_whose_requests_have_no_stated_length():
    async with serve_bare() as url:
        reader, writer = await connected(url)
        writer.write(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 411 ")
        writer.close()
        await writer.wait_closed()


@pytest.mark.real
def test_the_canned_answer_is_a_completion_for_clients():
    async def main(url: str) -> tuple[str, dict[str, int]]:
        async with aiohttp.ClientSession() as session:
            async with session.post(f"{url}/chat/completions", data=REQUEST_BODY) as reply:
                text = text_of(Reply(reply.status, reply.headers, await reply.read()))
            async with session.get(f"{url.removesuffix('/v1')}/count") as reply:
                return text, await reply.json()

    with started("-m", "asyncopt.testing.bare", "--port", "0") as (process, ready):
        text, count = asyncio.run(main(str(ready["url"])))
        process.terminate()
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "")
    assert "42" in text
    assert count == {"count": 1}
