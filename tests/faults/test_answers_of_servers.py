"""What is made of answers of unusual shape, in every format, whole and streamed; and of JSON and text that are neither."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson
import pytest

from asyncopt import SqliteCache, codec
from asyncopt.cache.memory import pack, unpack
from asyncopt.endpoints.anthropic import AnthropicMessages
from asyncopt.endpoints.completions import TextCompletions
from asyncopt.endpoints.openai import OpenAIChat
from asyncopt.endpoints.protocol import Answer, Codec, Reply
from asyncopt.journal import Journal, read_records
from asyncopt.values import Completion, Fault, FaultKind, Finish, Usage

CHAT, TEXTS, CLAUDE = OpenAIChat(), TextCompletions(), AnthropicMessages()
JSON, EVENTS = {"content-type": "application/json"}, {"content-type": "text/event-stream"}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2}
SPENT = Usage(3, 2)
MALFORMED, REFUSED, TRUNCATED = FaultKind.MALFORMED, FaultKind.REFUSED, FaultKind.TRUNCATED


def decoded(wire: Codec, body: object) -> Answer:
    return wire.decode(Reply(200, JSON, orjson.dumps(body)))


def streamed(wire: Codec, events: Iterable[object]) -> Answer:
    decoder = wire.stream(Reply(200, EVENTS, b""))
    for event in events:
        decoder.feed(b"data: " + orjson.dumps(event) + b"\n\n")
    decoder.feed(b"data: [DONE]\n\n")
    return decoder.finish()


def end(found: Answer) -> tuple[object, object]:
    """The kind of a fault and what was paid for it, or the end and the text of a completion."""
    return (found.kind, found.usage) if isinstance(found, Fault) else (found.finish, found.text)


def spent(kind: FaultKind) -> tuple[object, object]:
    return kind, SPENT


def chat(message: object, reason: object) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": message, "finish_reason": reason}], "usage": USAGE}


def chat_chunks(message: object, reason: object) -> list[dict[str, Any]]:
    begin: dict[str, Any] = {"index": 0, "delta": message, "finish_reason": None}
    last = {"index": 0, "delta": {}, "finish_reason": reason}
    return [{"choices": [begin]}, {"choices": [last]}, {"choices": [], "usage": USAGE}]


CALLS = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
PARTS = [{"type": "text", "text": "a"}, {"type": "image_url"}, {"type": "text", "text": "b"}]
MESSAGES: dict[str, tuple[dict[str, Any], str, tuple[object, object]]] = {
    "text": ({"content": "yes"}, "stop", (Finish.STOP, "yes")),
    "empty": ({"content": ""}, "stop", (Finish.STOP, "")),
    "null": ({"content": None}, "stop", (Finish.STOP, "")),
    "parts": ({"content": PARTS}, "stop", (Finish.STOP, "ab")),
    "parts without a text": ({"content": [{"type": "thinking", "thinking": []}]}, "stop", spent(MALFORMED)),
    "reasoning_content beside it": ({"content": "yes", "reasoning_content": "why"}, "stop", (Finish.STOP, "yes")),
    "reasoning_content only": ({"content": None, "reasoning_content": "why"}, "stop", spent(MALFORMED)),
    "reasoning only": ({"content": "", "reasoning": "why"}, "stop", spent(MALFORMED)),
    "reasoning only, cut off": ({"content": "", "reasoning": "why"}, "length", spent(TRUNCATED)),
    "tool_calls only": ({"content": None, "tool_calls": CALLS}, "tool_calls", spent(MALFORMED)),
    "function_call only": ({"content": None, "function_call": {"name": "f"}}, "function_call", spent(MALFORMED)),
    "tool_calls beside it": ({"content": "yes", "tool_calls": CALLS}, "tool_calls", (Finish.OTHER, "yes")),
    "refusal": ({"content": None, "refusal": "I will not"}, "stop", spent(REFUSED)),
}


@pytest.mark.row("H19")
@pytest.mark.parametrize(("message", "reason", "expected"), MESSAGES.values(), ids=MESSAGES)
def test_a_message_of_any_shape_has_one_outcome(
    message: dict[str, Any], reason: str, expected: tuple[object, object]
) -> None:
    assert end(decoded(CHAT, chat(message, reason))) == expected
    if not isinstance(message["content"], list) or expected[0] is Finish.STOP:  # parts of no text come whole only
        assert end(streamed(CHAT, chat_chunks(message, reason))) == expected


@pytest.mark.row("H19")
@pytest.mark.parametrize("wire", [CHAT, TEXTS], ids=["chat", "completions"])
@pytest.mark.parametrize("choices", [[], None, {}, [None], ["text"], [{}], [{"message": None}]])
def test_no_choice_is_no_answer(wire: Codec, choices: object) -> None:
    found = decoded(wire, {"choices": choices, "usage": USAGE})
    assert isinstance(found, Fault)
    assert (found.kind, found.detail) == (MALFORMED, "HTTP 200 with no choice where an answer was wanted")


@pytest.mark.row("H19")
def test_a_stream_without_a_choice_is_no_answer() -> None:
    for wire in (CHAT, TEXTS):
        found = streamed(wire, [{"choices": [], "usage": USAGE}])
        assert isinstance(found, Fault)
        assert found.kind is MALFORMED


THOUGHT, TOOL = {"type": "thinking", "thinking": "why"}, {"type": "tool_use", "name": "f", "input": {}}
BLOCKS: dict[str, tuple[list[dict[str, Any]], str, tuple[object, object]]] = {
    "text": ([{"type": "text", "text": "yes"}], "end_turn", (Finish.STOP, "yes")),
    "texts": ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "end_turn", (Finish.STOP, "ab")),
    "nothing": ([], "end_turn", (Finish.STOP, "")),
    "thinking before it": ([THOUGHT, {"type": "text", "text": "yes"}], "end_turn", (Finish.STOP, "yes")),
    "thinking only": ([THOUGHT], "end_turn", spent(MALFORMED)),
    "thinking only, cut off": ([THOUGHT], "max_tokens", spent(TRUNCATED)),
    "redacted thinking only": ([{"type": "redacted_thinking", "data": "x"}], "end_turn", spent(MALFORMED)),
    "tool use only": ([TOOL], "tool_use", spent(MALFORMED)),
    "refused": ([], "refusal", spent(REFUSED)),
}


def claude(blocks: list[dict[str, Any]], reason: object) -> dict[str, Any]:
    return {"content": blocks, "stop_reason": reason, "usage": {"input_tokens": 3, "output_tokens": 2}}


def claude_events(blocks: list[dict[str, Any]], reason: object) -> list[dict[str, Any]]:
    begun: list[dict[str, Any]] = [
        {"type": "content_block_start", "index": index, "content_block": block} for index, block in enumerate(blocks)
    ]
    start = {"type": "message_start", "message": {"usage": {"input_tokens": 3, "output_tokens": 1}}}
    last = {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 2}}
    return [start, *begun, last, {"type": "message_stop"}]


@pytest.mark.row("H19")
@pytest.mark.parametrize(("blocks", "reason", "expected"), BLOCKS.values(), ids=BLOCKS)
def test_blocks_of_any_kind_have_one_outcome(
    blocks: list[dict[str, Any]], reason: str, expected: tuple[object, object]
) -> None:
    assert end(decoded(CLAUDE, claude(blocks, reason))) == expected
    assert end(streamed(CLAUDE, claude_events(blocks, reason))) == expected


CHAT_ENDS = [
    ("stop", (Finish.STOP, "yes")),
    ("eos", (Finish.STOP, "yes")),
    ("length", (Finish.LENGTH, "yes")),
    ("max_tokens", (Finish.LENGTH, "yes")),
    ("content_filter", spent(REFUSED)),
    (None, (Finish.OTHER, "yes")),
    ("brand_new", (Finish.OTHER, "yes")),
    ("", (Finish.OTHER, "yes")),
    (7, (Finish.OTHER, "yes")),
    (["stop"], (Finish.OTHER, "yes")),
]


@pytest.mark.row("H20")
@pytest.mark.parametrize(("reason", "expected"), CHAT_ENDS)
def test_every_reason_to_finish_has_one_outcome(reason: object, expected: tuple[object, object]) -> None:
    assert end(decoded(CHAT, chat({"content": "yes"}, reason))) == expected
    assert end(streamed(CHAT, chat_chunks({"content": "yes"}, reason))) == expected
    texts = {"choices": [{"text": "yes", "finish_reason": reason}], "usage": USAGE}
    assert end(decoded(TEXTS, texts)) == expected
    pieces = [{"choices": [{"text": "yes"}]}, {"choices": [{"text": "", "finish_reason": reason}], "usage": USAGE}]
    assert end(streamed(TEXTS, pieces)) == expected


@pytest.mark.row("H20")
@pytest.mark.parametrize("wire", [CHAT, TEXTS], ids=["chat", "completions"])
def test_an_answer_that_was_cut_before_its_first_word_is_truncated(wire: Codec) -> None:
    choice = {"message": {"content": ""}, "text": "", "finish_reason": "length"}
    assert end(decoded(wire, {"choices": [choice], "usage": USAGE})) == spent(TRUNCATED)


CLAUDE_ENDS = [
    ("end_turn", (Finish.STOP, "yes")),
    ("stop_sequence", (Finish.STOP, "yes")),
    ("max_tokens", (Finish.LENGTH, "yes")),
    ("model_context_window_exceeded", (Finish.LENGTH, "yes")),
    ("refusal", spent(REFUSED)),
    ("pause_turn", (Finish.OTHER, "yes")),
    ("tool_use", (Finish.OTHER, "yes")),
    (None, (Finish.OTHER, "yes")),
    ("brand_new", (Finish.OTHER, "yes")),
]


@pytest.mark.row("H20")
@pytest.mark.parametrize(("reason", "expected"), CLAUDE_ENDS)
def test_every_reason_of_anthropics_has_one_outcome(reason: object, expected: tuple[object, object]) -> None:
    blocks = [{"type": "text", "text": "yes"}]
    assert end(decoded(CLAUDE, claude(blocks, reason))) == expected
    assert end(streamed(CLAUDE, claude_events(blocks, reason))) == expected


# -- JSON that is none, or is odd ----------------------------------------------------------------------------------------


def around(content: bytes, before: bytes = b"") -> bytes:
    """The bytes of a chat completion with this JSON as its content."""
    return b'{%b"choices":[{"message":{"content":%b},"finish_reason":"stop"}]}' % (before, content)


YES = (Finish.STOP, "yes")
ODD: dict[str, tuple[bytes, tuple[object, object]]] = {
    "whole": (around(b'"yes"'), YES),
    "nothing": (b"", (MALFORMED, None)),
    "null": (b"null", (MALFORMED, None)),
    "a list": (b"[1]", (MALFORMED, None)),
    "truncated": (around(b'"yes"')[:-1], (MALFORMED, None)),
    "trailing garbage": (around(b'"yes"') + b" x", (MALFORMED, None)),
    "two values": (around(b'"no"') + around(b'"yes"'), (MALFORMED, None)),
    "trailing space": (around(b'"yes"') + b"\r\n \t", YES),
    "NaN": (around(b'"yes"', b'"x":NaN,'), (MALFORMED, None)),
    "Infinity": (around(b'"yes"', b'"x":-Infinity,'), (MALFORMED, None)),
    "a key twice, of which the last counts": (around(b'"no","content":"yes"'), YES),
    "2000 levels": (around(b'"yes"', b'"x":' + b"[" * 2000 + b"]" * 2000 + b","), (MALFORMED, None)),
    "100,000 levels": (around(b'"yes"', b'"x":' + b"[" * 100_000 + b"]" * 100_000 + b","), (MALFORMED, None)),
    "98 levels inside": (around(b'"yes"', b'"x":' + b"[" * 98 + b"]" * 98 + b","), YES),
    "a number of 400 digits": (around(b'"yes"', b'"x":' + b"9" * 400 + b","), YES),
    "a number of 5000 digits": (around(b'"yes"', b'"x":' + b"9" * 5000 + b","), (MALFORMED, None)),
    "1e999": (around(b'"yes"', b'"x":1e999,'), YES),
    "single quotes": (around(b"'yes'"), (MALFORMED, None)),
    "a comment": (b"/* */" + around(b'"yes"'), (MALFORMED, None)),
    "a line break in a string": (around(b'"y\nes"'), (MALFORMED, None)),
}


@pytest.mark.row("T11")
@pytest.mark.parametrize(("body", "expected"), ODD.values(), ids=ODD)
def test_json_that_is_none_is_no_answer_and_odd_json_is_defined(body: bytes, expected: tuple[object, object]) -> None:
    assert end(CHAT.decode(Reply(200, JSON, body))) == expected
    event = CHAT.stream(Reply(200, EVENTS, b""))  # the same bytes in a stream raise as little
    event.feed(b"data: " + body + b"\n\n")
    event.finish()


# -- text that is no text ------------------------------------------------------------------------------------------------

KEY = b"k" * 16
BAD = "\N{REPLACEMENT CHARACTER}"
TEXTS_OF: dict[str, tuple[bytes, str]] = {
    "a high surrogate alone": (rb'"a\ud83db"', f"a{BAD}b"),
    "a low surrogate alone": (rb'"a\ude00b"', f"a{BAD}b"),
    "surrogates the wrong way round": (rb'"a\ude00\ud83db"', f"a{BAD}{BAD}b"),
    "an emoji in two escapes": (rb'"\ud83d\ude00"', "\U0001f600"),
    "NUL": (rb'"a\u0000b"', "a\0b"),
    "right to left": (rb'"\u202eabc\u2066"', "\u202eabc\u2066"),
    "Latin-1": (b'"caf\xe9"', f"caf{BAD}"),
    "an emoji cut": (b'"\xf0\x9f\x98"', BAD),
    "an overlong slash": (b'"\xc0\xaf"', f"{BAD}{BAD}"),
    "a surrogate in UTF-8": (b'"\xed\xa0\x80"', f"{BAD}{BAD}{BAD}"),
    "no character": (rb'"\uffff"', "\uffff"),
}


async def cached(completion: Completion, path: Path) -> Completion | None:
    """What comes back from a file that is closed and opened again."""
    cache = SqliteCache(path)
    cache.put(KEY, pack(completion))
    await cache.aclose()
    again = SqliteCache(path)
    found = await again.get_many([KEY])
    await again.aclose()
    return unpack(found[KEY])


@pytest.mark.row("T12")
@pytest.mark.parametrize(("content", "text"), TEXTS_OF.values(), ids=TEXTS_OF)
def test_text_that_is_no_text_is_repaired_and_stays_the_same_from_then_on(
    content: bytes, text: str, tmp_path: Path
) -> None:
    found = CHAT.decode(Reply(200, JSON, around(content)))
    assert isinstance(found, Completion)
    assert found.text == text
    assert codec.loads(codec.dumps({"text": text})) == {"text": text}
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("note", {"text": text})
    journal.close()
    records, _ = read_records((tmp_path / "journal.jsonl").read_bytes(), tmp_path)
    assert records[-1].data == {"text": text}
    assert asyncio.run(cached(found, tmp_path / "cache.sqlite")) == found
    shown = codec.printable(text)
    assert shown.isprintable()
    assert shown.encode().decode() == shown


@pytest.mark.row("T12")
def test_an_emoji_over_two_pieces_of_a_stream_is_one_or_is_repaired() -> None:
    def pieces(*contents: bytes) -> Answer:
        decoder = CHAT.stream(Reply(200, EVENTS, b""))
        for content in contents:
            decoder.feed(b'data: {"choices":[{"delta":{"content":%b}}]}\n\n' % content)
        decoder.feed(b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n')
        return decoder.finish()

    assert end(pieces(rb'"\ud83d"', rb'"\ude00"')) == (Finish.STOP, BAD * 2)
    assert end(pieces('"\U0001f600"'.encode())) == (Finish.STOP, "\U0001f600")
