"""Wire formats byte by byte: what is sent, and what is made of plain and of streamed answers however they are cut."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from served import serving

from asyncopt.endpoints.anthropic import CAPABILITIES, DEFAULT_MAX_TOKENS, AnthropicMessages
from asyncopt.endpoints.azure import API_VERSION, AzureChat
from asyncopt.endpoints.completions import TextCompletions
from asyncopt.endpoints.http import HttpEndpoint
from asyncopt.endpoints.openai import OpenAIChat
from asyncopt.endpoints.protocol import Answer, Codec, Reply
from asyncopt.endpoints.providers import FAMILIES, key_variable, provider
from asyncopt.endpoints.sse import LARGEST_STREAM, EventParser
from asyncopt.errors import ConfigError
from asyncopt.values import Completion, Fault, FaultKind, Finish, Generate, Message, Sampling, TokenLogprob, Usage

EVENTS = {"content-type": "text/event-stream; charset=utf-8"}
QUESTION = Generate(
    (Message("system", "be brief"), Message("user", "é?")),
    Sampling(temperature=0.0, top_p=0.5, max_tokens=7, stop=("\n",), seed=3, draw=9, grammar="root ::= x"),
    top_logprobs=2,
)


def chunk(delta: dict[str, object], finish: str | None = None, **more: object) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish} | more
    body = {"id": "c-1", "object": "chat.completion.chunk", "model": "gpt-x", "choices": [choice], "usage": None}
    return b"data: " + orjson.dumps(body) + b"\n\n"


def logprobs(token: str) -> dict[str, object]:
    return {"content": [{"token": token, "logprob": -0.5, "top_logprobs": [{"token": token, "logprob": -0.5}]}]}


USAGE = {"prompt_tokens": 12, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
CHAT_STREAM = b"".join(
    [
        b"\xef\xbb\xbf: a comment that keeps the connection open\n\n",
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "Zwölf "}, logprobs=logprobs("Zwölf ")),
        chunk({"content": "🙂"}, logprobs=logprobs("🙂")),
        chunk({}, "stop"),
        b'data: {"id":"c-1","model":"gpt-x","choices":[],\ndata: "usage":' + orjson.dumps(USAGE) + b"}\n\n",
        b"data: [DONE]\n\n",
    ]
)
CHAT_PLAIN = orjson.dumps(
    {
        "model": "gpt-x",
        "choices": [
            {
                "message": {"role": "assistant", "content": "Zwölf 🙂"},
                "logprobs": {"content": logprobs("Zwölf ")["content"] + logprobs("🙂")["content"]},  # type: ignore[operator]
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
    }
)

ANTHROPIC_STREAM = """\
event: message_start
data: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude-x",\
"content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":10,"cache_creation_input_tokens":3,\
"cache_read_input_tokens":20,"output_tokens":1}}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}

event: ping
data: {"type": "ping"}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Zwölf "}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"🙂"}}

event: content_block_stop
data: {"type":"content_block_stop","index":0}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":5}}

event: message_stop
data: {"type":"message_stop"}

""".encode()
ANTHROPIC_BODY = {
    "type": "message",
    "role": "assistant",
    "model": "claude-x",
    "content": [{"type": "text", "text": "Zwölf "}, {"type": "text", "text": "🙂"}],
    "stop_reason": "end_turn",
    "usage": {
        "input_tokens": 10,
        "cache_creation_input_tokens": 3,
        "cache_read_input_tokens": 20,
        "output_tokens": 5,
    },
}


def text_chunk(text: str, finish: str | None = None, **more: object) -> bytes:
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish} | more
    return b"data: " + orjson.dumps({"object": "text_completion", "model": "gpt-x", "choices": [choice]}) + b"\n\n"


def text_logprobs(*tokens: str) -> dict[str, object]:
    values = [-0.5] * len(tokens)
    return {"tokens": tokens, "token_logprobs": values, "top_logprobs": [{token: -0.5} for token in tokens]}


TEXT_STREAM = b"".join(
    [
        text_chunk("Zwölf ", logprobs=text_logprobs("Zwölf ")),
        text_chunk("🙂", logprobs=text_logprobs("🙂")),
        text_chunk("", "stop"),
        b'data: {"model":"gpt-x","choices":[],"usage":' + orjson.dumps(USAGE) + b"}\n\n",
        b"data: [DONE]\n\n",
    ]
)
TEXT_PLAIN = orjson.dumps(
    {
        "model": "gpt-x",
        "choices": [{"text": "Zwölf 🙂", "logprobs": text_logprobs("Zwölf ", "🙂"), "finish_reason": "stop"}],
        "usage": USAGE,
    }
)
SAMPLES: list[tuple[Codec, bytes, bytes]] = [
    (OpenAIChat(), CHAT_STREAM, CHAT_PLAIN),
    (AnthropicMessages(), ANTHROPIC_STREAM, orjson.dumps(ANTHROPIC_BODY)),
    (TextCompletions(), TEXT_STREAM, TEXT_PLAIN),
]


def streamed(codec: Codec, data: bytes, sizes: list[int] | None = None, status: int = 200, **headers: str) -> Answer:
    """The answer in a stream that comes in pieces of these sizes, again and again."""
    decoder = codec.stream(Reply(status, headers or EVENTS, b""))
    sizes = sizes or [len(data) or 1]
    position = number = 0
    while position < len(data):
        decoder.feed(data[position : position + sizes[number % len(sizes)]])
        position += sizes[number % len(sizes)]
        number += 1
    return decoder.finish()


def fault(answer: Answer) -> Fault:
    assert isinstance(answer, Fault)
    return answer


# -- requests ----------------------------------------------------------------------------------------------------------


def test_the_chat_format_asks_for_a_stream_with_its_usage() -> None:
    plain, stream = (OpenAIChat().encode("m", QUESTION, stream=stream) for stream in (False, True))
    assert stream == plain[:-1] + b',"stream":true,"stream_options":{"include_usage":true}}'
    assert OpenAIChat().path("m") == "/chat/completions"
    assert OpenAIChat().headers("sk-1") == {"Authorization": "Bearer sk-1"}
    assert OpenAIChat().headers(None) == {}


def test_anthropics_body_lifts_system_messages_and_leaves_out_what_the_format_has_not() -> None:
    codec = AnthropicMessages()
    body = (
        '{"model":"m","max_tokens":7,"messages":[{"role":"user","content":"é?"}],"system":"be brief",'
        '"temperature":0.0,"top_p":0.5,"stop_sequences":["\\n"]}'
    ).encode()
    assert codec.encode("m", QUESTION) == body
    assert codec.encode("m", QUESTION, stream=True) == body[:-1] + b',"stream":true}'
    turns = (Message("system", "a"), Message("user", "b"), Message("assistant", "c"), Message("system", "d"))
    sent = orjson.loads(codec.encode("m", Generate(turns)))
    assert sent["system"] == "a\n\nd"
    assert [turn["role"] for turn in sent["messages"]] == ["user", "assistant"]
    assert sent["max_tokens"] == DEFAULT_MAX_TOKENS
    assert (CAPABILITIES.seed, CAPABILITIES.grammar, CAPABILITIES.top_logprobs) == (False, False, 0)
    assert codec.path("m") == "/messages"
    assert codec.headers("k") == {"x-api-key": "k", "anthropic-version": "2023-06-01"}
    assert codec.headers(None) == {"anthropic-version": "2023-06-01"}


@pytest.mark.parametrize(
    ("base_url", "deployment", "path"),
    [
        ("https://r.openai.azure.com", "gpt-4o", "/openai/deployments/gpt-4o/chat/completions"),
        ("https://r.openai.azure.com", "a/b?c#d é", "/openai/deployments/a%2Fb%3Fc%23d%20%C3%A9/chat/completions"),
    ],
)
def test_azure_names_the_deployment_in_one_segment_of_the_path(base_url: str, deployment: str, path: str) -> None:
    codec = AzureChat(base_url)
    assert codec.path(deployment) == f"{path}?api-version={API_VERSION}"
    assert codec.headers("k") == {"api-key": "k"}
    assert codec.headers(None) == {}
    assert codec.encode("m", QUESTION) == OpenAIChat().encode("m", QUESTION)


@pytest.mark.parametrize("base_url", ["https://r.openai.azure.com/openai/v1", "https://r.openai.azure.com/openai/v1/"])
def test_azures_newer_path_has_no_version(base_url: str) -> None:
    assert AzureChat(base_url).path("gpt-4o") == "/chat/completions"
    assert AzureChat(base_url).headers("k") == {"api-key": "k"}


# -- answers -----------------------------------------------------------------------------------------------------------


def test_an_answer_of_anthropics_counts_the_cached_input_as_input() -> None:
    got = AnthropicMessages().decode(Reply(200, {}, orjson.dumps(ANTHROPIC_BODY)))
    assert got == Completion("Zwölf 🙂", Finish.STOP, Usage(33, 5, 20), served_model="claude-x")


ANTHROPIC_ENDS: list[tuple[object, object, Finish | FaultKind]] = [
    ("end_turn", "hi", Finish.STOP),
    ("stop_sequence", "hi", Finish.STOP),
    ("max_tokens", "hi", Finish.LENGTH),
    ("max_tokens", "", FaultKind.TRUNCATED),
    ("refusal", "", FaultKind.REFUSED),
    ("tool_use", "hi", Finish.OTHER),
    (None, "hi", Finish.OTHER),
    (["odd"], "hi", Finish.OTHER),
]


@pytest.mark.parametrize(("reason", "text", "end"), ANTHROPIC_ENDS)
def test_how_an_answer_of_anthropics_ended(reason: object, text: str, end: Finish | FaultKind) -> None:
    body = ANTHROPIC_BODY | {"stop_reason": reason, "content": [{"type": "text", "text": text}, {"type": "thinking"}]}
    got = AnthropicMessages().decode(Reply(200, {}, orjson.dumps(body)))
    if isinstance(end, Finish):
        assert isinstance(got, Completion)
        assert (got.text, got.finish) == (text, end)
    else:
        assert (fault(got).kind, fault(got).usage) == (end, Usage(33, 5, 20))


def anthropic_error(type_: str) -> bytes:
    return orjson.dumps({"type": "error", "error": {"type": type_, "message": "no"}})


ANTHROPIC_FAULTS = [
    (429, anthropic_error("rate_limit_error"), FaultKind.RATE_LIMITED),
    (529, anthropic_error("overloaded_error"), FaultKind.TRANSIENT),
    (500, anthropic_error("api_error"), FaultKind.TRANSIENT),
    (401, anthropic_error("authentication_error"), FaultKind.FATAL_CONFIG),
    (403, anthropic_error("permission_error"), FaultKind.FATAL_CONFIG),
    (404, anthropic_error("not_found_error"), FaultKind.FATAL_CONFIG),
    (402, anthropic_error("billing_error"), FaultKind.QUOTA),
    (429, anthropic_error("enforced_spend_limit_reached"), FaultKind.QUOTA),
    (400, anthropic_error("invalid_request_error"), FaultKind.BAD_REQUEST),
    (413, anthropic_error("request_too_large"), FaultKind.TOO_LARGE),
    (413, b"<html><body>413 Request Entity Too Large</body></html>", FaultKind.TOO_LARGE),
    (200, anthropic_error("overloaded_error"), FaultKind.TRANSIENT),
    (200, b'{"content": "text"}', FaultKind.MALFORMED),
    (200, b"[]", FaultKind.MALFORMED),
    (200, b"<html>", FaultKind.MALFORMED),
]


@pytest.mark.parametrize(("status", "body", "kind"), ANTHROPIC_FAULTS)
def test_anthropics_failures(status: int, body: bytes, kind: FaultKind) -> None:
    assert fault(AnthropicMessages().decode(Reply(status, {}, body))).kind is kind


def test_azures_content_filter_is_a_refusal_and_its_milliseconds_a_wait() -> None:
    codec = AzureChat("https://r.openai.azure.com")
    error = {"message": "The response was filtered", "type": None, "param": "prompt", "code": "content_filter"}
    assert fault(codec.decode(Reply(400, {}, orjson.dumps({"error": error})))).kind is FaultKind.REFUSED
    limited = codec.decode(Reply(429, {"retry-after-ms": "1500"}, b'{"error":{"code":"429","message":"later"}}'))
    assert (fault(limited).kind, fault(limited).retry_after) == (FaultKind.RATE_LIMITED, 1.5)


# -- streams -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("codec", "stream", "plain"), SAMPLES)
@given(sizes=st.lists(st.integers(1, 90), min_size=1, max_size=8), ends=st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_a_streamed_answer_is_the_plain_one_however_it_is_cut(
    codec: Codec, stream: bytes, plain: bytes, sizes: list[int], ends: bytes
) -> None:
    wanted = codec.decode(Reply(200, {}, plain))
    assert isinstance(wanted, Completion)
    assert wanted.text == "Zwölf 🙂"
    assert streamed(codec, stream.replace(b"\n", ends), sizes) == wanted


def test_the_sample_has_the_log_probabilities_that_were_asked_for() -> None:
    got = streamed(OpenAIChat(), CHAT_STREAM)
    assert isinstance(got, Completion)
    assert got.token_logprobs[1] == TokenLogprob("🙂", -0.5, (("🙂", -0.5),))
    assert got.usage == Usage(12, 2, 4)
    assert streamed(TextCompletions(), TEXT_STREAM) == got


@pytest.mark.parametrize(
    ("codec", "stream", "first"),
    [
        (OpenAIChat(), CHAT_STREAM, b"Zw"),
        (AnthropicMessages(), ANTHROPIC_STREAM, b"Zw"),
        (TextCompletions(), TEXT_STREAM, b"Zw"),
        (OpenAIChat(), chunk({"role": "assistant"}) + chunk({"reasoning_content": "hm"}), b"hm"),
        (OpenAIChat(), chunk({"role": "assistant"}) + chunk({"refusal": "I cannot"}), b"I cannot"),
        (OpenAIChat(), chunk({"role": "assistant"}) + chunk({}, "stop"), b'"stop"'),
    ],
)
def test_the_first_piece_is_told_once_it_is_there(codec: Codec, stream: bytes, first: bytes) -> None:
    decoder = codec.stream(Reply(200, EVENTS, b""))
    begun = [decoder.feed(stream[position : position + 1]) for position in range(len(stream))]
    told = begun.index(True)
    assert told == stream.index(b"\n\n", stream.index(first)) + 1
    assert all(begun[told:])


@pytest.mark.parametrize("headers", [EVENTS, {"content-type": "application/json"}])
def test_an_error_is_no_beginning_of_an_answer(headers: dict[str, str]) -> None:
    decoder = OpenAIChat().stream(Reply(200, headers, b""))
    error = b'{"error": {"message": "down"}}'
    assert not decoder.feed(b"data: " + error + b"\n\n" if headers is EVENTS else error)
    assert fault(decoder.finish()).kind is FaultKind.MALFORMED


@pytest.mark.parametrize("end", [0, 10, len(CHAT_STREAM) // 3, CHAT_STREAM.index(b'"stop"')])
def test_a_stream_that_breaks_off_is_no_answer_and_perhaps_billed(end: int) -> None:
    assert fault(streamed(OpenAIChat(), CHAT_STREAM[:end])).kind is FaultKind.AMBIGUOUS


@pytest.mark.parametrize("end", [0, 200, ANTHROPIC_STREAM.index(b"event: message_delta")])
def test_the_same_holds_for_anthropics(end: int) -> None:
    assert fault(streamed(AnthropicMessages(), ANTHROPIC_STREAM[:end])).kind is FaultKind.AMBIGUOUS


def test_a_stated_end_is_enough_without_the_last_line() -> None:
    whole = streamed(OpenAIChat(), CHAT_STREAM)
    assert streamed(OpenAIChat(), CHAT_STREAM.removesuffix(b"data: [DONE]\n\n")) == whole
    unstated = streamed(OpenAIChat(), chunk({"content": "hi"}) + b"data: [DONE]\n\n")
    assert isinstance(unstated, Completion)
    assert (unstated.text, unstated.finish, unstated.usage.estimated) == ("hi", Finish.OTHER, True)
    assert streamed(OpenAIChat(), CHAT_STREAM + b"data: nonsense\n\n") == whole
    trailed = streamed(OpenAIChat(), chunk({"content": "hi"}, "length") + chunk({"content": ""}))
    assert isinstance(trailed, Completion)
    assert (trailed.text, trailed.finish) == ("hi", Finish.LENGTH)


IN_STREAM: list[tuple[Codec, object, FaultKind]] = [
    (OpenAIChat(), {"error": {"code": 429, "message": "slow"}}, FaultKind.RATE_LIMITED),
    (OpenAIChat(), {"error": {"type": "server_error", "message": "oops"}}, FaultKind.TRANSIENT),
    (OpenAIChat(), {"error": {"message": "what?"}}, FaultKind.MALFORMED),
    (OpenAIChat(), [{"error": {"code": 503, "status": "UNAVAILABLE"}}], FaultKind.TRANSIENT),
    (AnthropicMessages(), {"type": "error", "error": {"type": "overloaded_error"}}, FaultKind.TRANSIENT),
    (AnthropicMessages(), {"type": "error", "error": {"type": "api_error"}}, FaultKind.TRANSIENT),
    (AnthropicMessages(), {"type": "error", "error": {"type": "invalid_request_error"}}, FaultKind.BAD_REQUEST),
]


@pytest.mark.parametrize(("codec", "error", "kind"), IN_STREAM)
def test_an_error_in_mid_stream_takes_the_place_of_the_answer(codec: Codec, error: object, kind: FaultKind) -> None:
    begun, rest = chunk({"content": "half an"}), chunk({"content": " answer"}, "stop")
    assert fault(streamed(codec, begun + b"data: " + orjson.dumps(error) + b"\n\n" + rest)).kind is kind


def test_a_stream_may_end_in_a_refusal_or_before_its_first_word() -> None:
    filtered = streamed(OpenAIChat(), chunk({"content": "so"}) + chunk({}, "content_filter"))
    assert fault(filtered).kind is FaultKind.REFUSED
    refusal = streamed(OpenAIChat(), chunk({"refusal": "I "}) + chunk({"refusal": "cannot"}) + chunk({}, "stop"))
    assert (fault(refusal).kind, fault(refusal).detail) == (FaultKind.REFUSED, "I cannot")
    spent = streamed(OpenAIChat(), chunk({"reasoning_content": "hm"}) + chunk({}, "length"))
    assert fault(spent).kind is FaultKind.TRUNCATED


@pytest.mark.parametrize(("codec", "stream", "plain"), SAMPLES)
def test_a_reply_that_is_no_stream_is_read_as_a_plain_one(codec: Codec, stream: bytes, plain: bytes) -> None:
    headers = {"content-type": "application/json", "retry-after": "3"}
    assert streamed(codec, plain, [7], **headers) == codec.decode(Reply(200, headers, plain))
    error = b'{"error": {"type": "rate_limit_error"}}'
    for kind in ("application/json", "text/event-stream"):
        limited = streamed(codec, error, [7], 429, **(headers | {"content-type": kind}))
        assert (fault(limited).kind, fault(limited).retry_after) == (FaultKind.RATE_LIMITED, 3.0)
    assert fault(streamed(codec, b"<html>", [2], 502, **{"content-type": "text/html"})).kind is FaultKind.TRANSIENT
    assert fault(streamed(codec, b"", None, 200, **{"content-type": "text/html"})).kind is FaultKind.MALFORMED


@pytest.mark.parametrize("kind", ["text/event-stream", "application/json"])
def test_an_endless_answer_is_refused(kind: str) -> None:
    decoder = OpenAIChat().stream(Reply(200, {"content-type": kind}, b""))
    for _ in range(LARGEST_STREAM // 2**20 + 1):
        decoder.feed(b"data: " + b"x" * 2**20)
    assert fault(decoder.finish()).kind is FaultKind.MALFORMED


@given(st.lists(st.binary(max_size=30), max_size=6), st.sampled_from([codec for codec, *_ in SAMPLES]))
def test_nothing_in_a_stream_raises(pieces: list[bytes], codec: Codec) -> None:
    decoder = codec.stream(Reply(200, EVENTS, b""))
    for piece in pieces:
        decoder.feed(b"data: " + piece + b"\n\n")
    assert isinstance(decoder.finish(), Completion | Fault)


json_like = st.recursive(
    st.none() | st.integers(-2, 2) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                "choices delta content refusal finish_reason logprobs usage model error text message "
                "tokens token_logprobs top_logprobs content_block stop_reason input_tokens output_tokens".split()
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)
event_types = st.sampled_from(
    ["message_start", "content_block_start", "content_block_delta", "message_delta", "message_stop", "ping"]
)


@given(st.lists(st.tuples(event_types, json_like), max_size=5), st.sampled_from([codec for codec, *_ in SAMPLES]))
def test_events_of_any_shape_give_an_answer_or_a_fault(events: list[tuple[str, object]], codec: Codec) -> None:
    objects = [body | {"type": kind} if isinstance(body, dict) else body for kind, body in events]
    stream = b"".join(b"data: " + orjson.dumps(body) + b"\n\n" for body in objects)
    assert isinstance(streamed(codec, stream + b"data: [DONE]\n\n"), Completion | Fault)
    for body in objects:
        assert isinstance(codec.decode(Reply(200, {}, orjson.dumps(body))), Completion | Fault)


@pytest.mark.parametrize(
    ("data", "events"),
    [
        (b"data: a\n\n", [b"a"]),
        (b"data:a\ndata: b\n\n", [b"a\nb"]),
        (b"data:  a\r\n\r\n", [b" a"]),
        (b"data: a\r\ndata: b\r\n\r\n", [b"a\nb"]),
        (b": comment\n\n", []),
        (b"event: x\nid: 1\nretry: 5\n\n", []),
        (b"data\n\ndata:\n\n", []),
        (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
        (b"data: whole\n\ndata: half\n", [b"whole"]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
    ],
)
def test_events_are_cut_as_the_standard_says(data: bytes, events: list[bytes]) -> None:
    assert EventParser().feed(data) == events
    parser = EventParser()
    assert [event for byte in data for event in parser.feed(bytes([byte]))] == events


# -- providers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "base_url", "model", "address", "codec", "variable"),
    [
        ("openai/gpt-4o", None, "gpt-4o", "https://api.openai.com/v1", OpenAIChat, "OPENAI_API_KEY"),
        ("openai/a/b", "https://gateway/v1", "a/b", "https://gateway/v1", OpenAIChat, "OPENAI_API_KEY"),
        ("anthropic/c", None, "c", "https://api.anthropic.com/v1", AnthropicMessages, "ANTHROPIC_API_KEY"),
        ("azure/d", "https://r.openai.azure.com", "d", "https://r.openai.azure.com", AzureChat, "AZURE_OPENAI_API_KEY"),
        ("openrouter/x/y", None, "x/y", "https://openrouter.ai/api/v1", OpenAIChat, "OPENROUTER_API_KEY"),
        ("gemini/g", None, "g", FAMILIES["gemini"].base_url, OpenAIChat, "GEMINI_API_KEY"),
        ("meta/llama", "http://127.0.0.1:1", "meta/llama", "http://127.0.0.1:1", OpenAIChat, "OPENAI_API_KEY"),
        ("openai", "http://127.0.0.1:1", "openai", "http://127.0.0.1:1", OpenAIChat, "OPENAI_API_KEY"),
    ],
)
def test_a_name_says_where_its_model_is_served(
    name: str, base_url: str | None, model: str, address: str, codec: type, variable: str
) -> None:
    found = provider(name, base_url, "k")
    assert (found.model, found.base_url, type(found.codec)) == (model, address, codec)
    assert found.capabilities.stream
    assert key_variable(name) == variable


def test_capabilities_are_the_formats() -> None:
    seeds = {name: provider(f"{name}/m", "https://host", "k").capabilities.seed for name in FAMILIES}
    assert seeds == {"openai": True, "anthropic": False, "azure": True, "openrouter": True, "gemini": False}


def test_a_server_of_ones_own_needs_no_key() -> None:
    assert provider("llama", "http://127.0.0.1:1", None).codec.headers(None) == {}
    assert provider("openai/llama", "http://127.0.0.1:1", None).model == "llama"


def test_azures_address_decides_its_path() -> None:
    assert provider("azure/d", "https://r.openai.azure.com/openai/v1", "k").codec.path("d") == "/chat/completions"


@pytest.mark.parametrize(
    ("name", "base_url", "message"),
    [
        ("gpt-4o", None, "base_url"),
        ("azure/d", None, "base_url"),
        ("openai/", "http://127.0.0.1", "model name"),
        ("azure/..", "http://127.0.0.1", "model name"),
        ("", "http://127.0.0.1", "model name"),
        ("openai/gpt-4o", None, "API key.*OPENAI_API_KEY"),
        ("anthropic/c", None, "API key.*ANTHROPIC_API_KEY"),
        ("gemini/g", None, "API key.*GEMINI_API_KEY"),
    ],
)
def test_models_that_cannot_be_called_are_refused(name: str, base_url: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        provider(name, base_url, None)


# -- the example in the documentation ----------------------------------------------------------------------------------

ENDPOINTS_PAGE = Path(__file__).parent.parent / "docs" / "endpoints.md"


@pytest.mark.anyio
@pytest.mark.real
async def test_the_documented_codec_works_plain_and_streamed() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", ENDPOINTS_PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(example, str(ENDPOINTS_PAGE), "exec"), names)  # noqa: S102 - our own page
    asked: list[dict[str, object]] = []
    end = {"stop": True, "stop_type": "limit", "tokens_evaluated": 3, "tokens_predicted": 2}

    async def handler(request: web.Request) -> web.Response:
        asked.append(orjson.loads(await request.read()) | {"path": request.path})
        if not asked[-1]["stream"]:
            return web.Response(body=orjson.dumps(end | {"content": "forty-two"}))
        events = ({"content": "forty", "stop": False}, {"content": "-two", "stop": False}, end | {"content": ""})
        stream = b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events)
        return web.Response(body=stream, content_type="text/event-stream")

    begun: list[bool] = []
    request = Generate.of("6 x 7?", Sampling(max_tokens=2, temperature=0.0))
    async with serving(handler) as url:
        endpoint = HttpEndpoint(url, codec=names["LlamaCompletion"]())
        plain = await endpoint.send("any", request)
        in_pieces = await endpoint.send_streamed("any", request, lambda: begun.append(True))
        await endpoint.aclose()
    assert plain == in_pieces == Completion("forty-two", Finish.LENGTH, Usage(3, 2))
    assert begun == [True]
    assert asked[0] == {
        "path": "/v1/completion",
        "prompt": "6 x 7?",
        "stream": False,
        "n_predict": 2,
        "temperature": 0.0,
    }


def test_the_documented_names_are_the_known_ones() -> None:
    page = ENDPOINTS_PAGE.read_text(encoding="utf-8")
    for name, family in FAMILIES.items():
        (line,) = [line for line in page.splitlines() if line.startswith(f"| `{name}/")]
        assert f"`{family.key_variable}`" in line
        assert family.base_url is None or f"`{family.base_url}`" in line
    assert API_VERSION in page
    assert f"is {DEFAULT_MAX_TOKENS}." in page
