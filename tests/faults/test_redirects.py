"""Redirects, which would take prompt and key to another place."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import CANARY
from transported import GOOD

from asyncopt.download import download
from asyncopt.endpoints.anthropic import AnthropicMessages
from asyncopt.endpoints.azure import AzureChat
from asyncopt.endpoints.completions import TextCompletions
from asyncopt.endpoints.http import HttpEndpoint, stated_identity
from asyncopt.endpoints.openai import OpenAIChat
from asyncopt.endpoints.protocol import Codec
from asyncopt.errors import DataError
from asyncopt.tasks.sources import PublishedFile
from asyncopt.testing.raw import RawServer, answer
from asyncopt.values import Fault, FaultKind, Generate

pytestmark = [pytest.mark.anyio, pytest.mark.real]

CODECS: dict[str, Codec] = {
    "chat": OpenAIChat(),
    "completions": TextCompletions(),
    "anthropic": AnthropicMessages(),
    "azure": AzureChat("https://x.openai.azure.com"),
}
REDIRECTS = ("301 Moved Permanently", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect")


@pytest.mark.row("H18")
@pytest.mark.parametrize("place", ["another host", "the same host", "itself"])
@pytest.mark.parametrize("status", REDIRECTS)
@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
async def test_a_redirect_is_never_followed(codec: Codec, status: str, place: str) -> None:
    places: dict[str, str] = {}
    other = RawServer(lambda asked: [answer(GOOD)])
    server = RawServer(lambda asked: [answer(b"", status, f"Location: {places[place]}")])
    async with other as elsewhere, server as url:
        path = codec.path("m")
        places |= {"another host": elsewhere + path, "the same host": url + "/moved", "itself": url + path}
        endpoint = HttpEndpoint(url, CANARY, codec=codec)
        plain = await endpoint.send("m", Generate.of("q"))
        streamed = await endpoint.send_streamed("m", Generate.of("q"), lambda: None)
        await endpoint.aclose()
    for found in (plain, streamed):
        assert isinstance(found, Fault)
        assert found.kind is FaultKind.FATAL_CONFIG
        assert "redirects to 127.0.0.1" in found.detail
    assert CANARY.encode() in server.requests[0].data  # or the second server could not have seen it anyway
    assert len(server.requests) == 2
    assert (other.connections, other.requests) == (0, [])


@pytest.mark.row("H18")
@pytest.mark.parametrize("status", REDIRECTS)
async def test_neither_a_download_nor_a_stated_identity_follows_one(status: str, tmp_path: Path) -> None:
    other = RawServer(lambda asked: [answer(GOOD, "200 OK", "x-asyncopt-identity: stolen")])
    async with other as elsewhere, RawServer.saying(answer(b"", status, f"Location: {elsewhere}")) as url:
        assert await stated_identity(url, CANARY) is None
        file = PublishedFile("b", "a/b.json", "https://example.com/b.json")
        with pytest.raises(DataError, match=f"HTTP {status[:3]} redirects to another place"):
            await download([file], tmp_path, lambda line: None, mirror=url)
    assert other.connections == 0
