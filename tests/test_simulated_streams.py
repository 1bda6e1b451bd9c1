"""The simulated API's streams and formats: in the same loop to the microsecond, and over sockets."""

import asyncio

import aiohttp
import pytest
from calls import body_of, text_of
from multidict import CIMultiDict

from asyncopt import codec
from asyncopt.endpoints.anthropic import AnthropicMessages
from asyncopt.endpoints.azure import AzureChat
from asyncopt.endpoints.http import HttpEndpoint
from asyncopt.endpoints.openai import OpenAIChat
from asyncopt.endpoints.protocol import Reply
from asyncopt.errors import ConfigError
from asyncopt.testing import AnswerModel, Constant, Item, LogNormal, SimulatedAPI, run_virtual
from asyncopt.testing.ledger import CANCELLED
from asyncopt.values import Completion, Fault, FaultKind, Finish, Generate, Message, Sampling

MODEL = AnswerModel(0, {"a": Item("Why so?", "one, two, three and four", "text")})
CODECS = {
    "openai": ("/v1", OpenAIChat()),
    "azure": ("", AzureChat("http://127.0.0.1")),
    "azure, newer": ("/openai/v1", AzureChat("http://127.0.0.1/openai/v1")),
    "anthropic": ("/v1", AnthropicMessages()),
}


def events_in(data: bytes) -> list[str]:
    return [block.rpartition("data: ")[2] for block in data.decode().split("\n\n") if block]


async def streamed(api: SimulatedAPI, prompt: str, **parameters: object) -> Reply:
    return await api.handle(body_of(prompt, stream=True, **parameters), CIMultiDict())


def test_the_chunks_of_a_stream_are_the_plain_answer():
    async def main() -> tuple[str, Reply]:
        api = SimulatedAPI(answers=MODEL)
        return text_of(await api.handle(body_of("\nWhy so?"), CIMultiDict())), await streamed(api, "\nWhy so?")

    text, reply = run_virtual(main)
    assert reply.headers["content-type"] == "text/event-stream"
    *chunks, done = events_in(reply.body)
    assert done == "[DONE]"
    chunks = [codec.loads(chunk.encode()) for chunk in chunks]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content", "") for delta in deltas) == text
    assert len(deltas) == len(text.split()) + 2
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["stop"]
    assert not any("usage" in chunk for chunk in chunks)


def test_usage_comes_in_a_stream_where_it_is_asked_for():
    async def main() -> Reply:
        return await streamed(SimulatedAPI(), "x" * 40, stream_options={"include_usage": True})

    *_, last, done = events_in(run_virtual(main).body)
    assert done == "[DONE]"
    usage = codec.loads(last.encode())
    assert (usage["choices"], usage["usage"]["prompt_tokens"]) == ([], 10)


@pytest.mark.parametrize("name", CODECS)
def test_every_codec_reads_the_same_answer_plain_and_streamed(name):
    conversation = [Message("system", "Be brief."), Message("user", "Why so?")]
    requests = [
        Generate.of(conversation, Sampling(temperature=0, max_tokens=50)),
        Generate.of(conversation, Sampling(temperature=0, max_tokens=3)),
        Generate.of(conversation, Sampling(temperature=0, max_tokens=50, stop=(" is",))),
    ]

    async def main() -> list[tuple[Completion, Completion]]:
        endpoint = SimulatedAPI(answers=MODEL, require_key="a-right-key").endpoint(
            api_key="a-right-key", codec=CODECS[name][1]
        )
        return [
            (await endpoint.send("my/model", request), await endpoint.send_streamed("my/model", request, list))
            for request in requests
        ]

    pairs = run_virtual(main)
    for plain, pieces in pairs:
        assert plain == pieces
        assert plain.served_model == "my/model"
        assert plain.usage.input_tokens == 5
    assert [plain.finish for plain, _ in pairs] == [Finish.STOP, Finish.LENGTH, Finish.STOP]
    assert [plain.text for plain, _ in pairs][1:] == ["The answer i", "The answer"]


@pytest.mark.parametrize("name", CODECS)
def test_every_codec_reads_the_limits_and_the_refusal(name):
    dialect = name.partition(",")[0]

    async def main() -> tuple[Completion, Fault]:
        api = SimulatedAPI(requests_per_second=0.5, request_burst=1, headers=dialect)
        endpoint = api.endpoint(codec=CODECS[name][1])
        answer = await endpoint.send("m", Generate.of("hello"))
        refusal = await endpoint.send_streamed("m", Generate.of("hello"), list)
        return answer, refusal

    answer, refusal = run_virtual(main)
    for found in (answer, refusal):
        assert found.limits.requests.limit == 30
        assert found.limits.requests.remaining == 0
        assert found.limits.requests.reset == 2
    assert (refusal.kind, refusal.retry_after) == (FaultKind.RATE_LIMITED, 2)


# When the pieces come


def first_pieces(api: SimulatedAPI, count: int) -> list[tuple[float, float]]:
    """Of so many requests at once: when the first piece came, and when the last."""

    async def one() -> tuple[float, float]:
        loop, begun = asyncio.get_running_loop(), []
        await api.endpoint().send_streamed("m", Generate.of("hello"), lambda: begun.append(loop.time()))
        (first,) = begun
        return first, loop.time()

    async def main() -> list[tuple[float, float]]:
        return await asyncio.gather(*(one() for _ in range(count)))

    return run_virtual(main)


def test_a_stream_begins_after_the_stated_share_of_the_latency():
    assert first_pieces(SimulatedAPI(latency=Constant(2.0)), 1) == [pytest.approx((0.6, 2.0))]
    assert first_pieces(SimulatedAPI(latency=Constant(2.0), first_byte_share=0.0), 1) == [pytest.approx((0.0, 2.0))]
    api = SimulatedAPI(latency=Constant(2.0))
    first_pieces(api, 1)
    assert api.ledger.entries[0].first_byte == pytest.approx(0.6)


def test_what_only_the_tail_takes_passes_before_the_first_byte():
    times = first_pieces(SimulatedAPI(latency=LogNormal(1.0, 0.0, 0.2, 10.0)), 60)
    assert {(round(first, 3), round(last, 3)) for first, last in times} == {(0.3, 1.0), (9.3, 10.0)}


def test_a_client_that_leaves_in_mid_stream_has_used_what_was_written_so_far():
    quota = {"tokens_per_second": 0.001, "token_burst": 100, "refund_tokens": True}
    api = SimulatedAPI(latency=Constant(10.0), answers=MODEL, **quota)

    async def main() -> str:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(6.4):  # "The answer is unknown.", a word every 1.75 s from 3 s on
                await streamed(api, "\nWhy so?", max_tokens=50)
        return (await api.handle(body_of("four"), CIMultiDict())).headers["x-ratelimit-remaining-tokens"]

    remaining = run_virtual(main)
    entry = api.ledger.entries[0]
    assert (entry.status, entry.finished, entry.charged) == (CANCELLED, 6.4, 52)
    assert (entry.input_tokens, entry.output_tokens) == (2, 3)
    assert remaining == str(100 - 2 - 3 - 1)


def test_the_share_of_the_first_byte_is_checked():
    with pytest.raises(ConfigError, match="first byte"):
        SimulatedAPI(first_byte_share=1.5)


# Over sockets


@pytest.mark.real
@pytest.mark.anyio
@pytest.mark.parametrize("name", CODECS)
async def test_every_codec_reads_the_same_answer_over_sockets(name):
    root, wire = CODECS[name]
    request = Generate.of([Message("system", "Be brief."), Message("user", "Why so?")], Sampling(max_tokens=50))
    api = SimulatedAPI(answers=MODEL, require_key="a-right-key")
    expected = await api.endpoint(api_key="a-right-key", codec=wire).send("my/model", request)
    async with api.serve() as url:
        base_url = url.removesuffix("/v1") + root
        endpoint = HttpEndpoint(base_url, "a-right-key", codec=wire)
        begun: list[None] = []
        assert await endpoint.send("my/model", request) == expected
        assert await endpoint.send_streamed("my/model", request, lambda: begun.append(None)) == expected
        await endpoint.aclose()
        wrong = HttpEndpoint(base_url, "other", codec=wire)
        refused = await wrong.send_streamed("my/model", request, list)
        await wrong.aclose()
    assert isinstance(expected, Completion)
    assert len(begun) == 1
    assert isinstance(refused, Fault)
    assert refused.kind is FaultKind.FATAL_CONFIG


@pytest.mark.real
@pytest.mark.anyio
async def test_a_socket_client_that_leaves_in_mid_stream_is_noticed():
    api = SimulatedAPI(latency=Constant(3600), first_byte_share=0.0, answers=MODEL)
    async with api.serve() as url, aiohttp.ClientSession() as session:
        async with session.post(f"{url}/chat/completions", data=body_of("\nWhy so?", stream=True)) as reply:
            assert reply.headers["content-type"] == "text/event-stream"
            assert b'"content":"The"' in await reply.content.readuntil(b'The"}')
            reply.close()
        while api.ledger.in_flight():  # noqa: ASYNC110 - it changes behind the socket
            await asyncio.sleep(0)
    (entry,) = api.ledger.entries
    assert (entry.status, entry.output_tokens) == (CANCELLED, 1)
