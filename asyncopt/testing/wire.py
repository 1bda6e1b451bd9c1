"""The server's side of OpenAI's chat format: request bytes in, answer and error objects out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from asyncopt import codec
from asyncopt.codec import Json

BYTES_PER_TOKEN = 4


class BadRequest(ValueError):
    """The body is no chat request that this server answers."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What a request asks for; ``prompt`` is the contents of the messages, a line break between them."""

    model: str
    prompt: str
    temperature: float
    max_tokens: int | None
    seed: int | None
    stop: tuple[str, ...]

    @property
    def input_tokens(self) -> int:
        return count_tokens(self.prompt)


def count_tokens(text: str) -> int:
    """Tokens of the text by the byte ratio, rounded up."""
    return math.ceil(len(text.encode("utf-8", "replace")) / BYTES_PER_TOKEN)


def parse_chat(data: bytes) -> ChatRequest:
    """The request in the bytes; raises :class:`BadRequest`."""
    try:
        body = codec.loads(data)
    except codec.CodecError as error:
        raise BadRequest(f"The body is {error}.") from None
    _require(isinstance(body, Mapping), "The body is no JSON object.")
    for name in ("stream", "tools", "functions"):
        _require(not body.get(name), f"The parameter '{name}' is not simulated.")
    _require(body.get("n", 1) == 1, "Only n=1 is simulated.")
    model = body.get("model")
    _require(isinstance(model, str) and model != "", "The parameter 'model' is missing or no text.")
    stop = body.get("stop") or []
    stop = [stop] if isinstance(stop, str) else stop
    _require(isinstance(stop, list) and all(isinstance(text, str) for text in stop), "The parameter 'stop' is no text.")
    return ChatRequest(
        model=model,
        prompt=_prompt_of(body.get("messages")),
        temperature=_number(body, "temperature", 0.0, float | int),  # real ones default to 1: here only who asks draws
        max_tokens=_number(body, "max_completion_tokens", _number(body, "max_tokens", None, int), int),
        seed=_number(body, "seed", None, int, negative=True),
        stop=tuple(filter(None, stop)),
    )


def completion_body(number: int, request: ChatRequest, text: str, fingerprint: str) -> tuple[Json, int]:
    """The answer object, cut at the stop texts and at ``max_tokens``, and the number of its tokens."""
    for stop in request.stop:
        text = text.partition(stop)[0]
    finish = "stop"
    if request.max_tokens is not None and count_tokens(text) > request.max_tokens:
        finish = "length"
        text = text.encode("utf-8", "replace")[: request.max_tokens * BYTES_PER_TOKEN].decode("utf-8", "ignore")
    sent, received = request.input_tokens, count_tokens(text)
    body = {
        "id": f"chatcmpl-simulated-{number}",
        "object": "chat.completion",
        "created": 0,
        "model": request.model,
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": text}, "logprobs": None, "finish_reason": finish}
        ],
        "usage": {"prompt_tokens": sent, "completion_tokens": received, "total_tokens": sent + received},
        "system_fingerprint": fingerprint,
    }
    return body, received


def error_body(message: str, kind: str, code: str | None = None) -> Json:
    """An error object in OpenAI's shape."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def milliseconds_of(seconds: float) -> int:
    """Whole milliseconds, rounded up but for the dust of floats: 0.1 + 0.2 s are 300 ms, not 301."""
    return math.ceil(round(seconds * 1000, 6))


def go_duration(seconds: float) -> str:
    """The duration as Go prints it and OpenAI sends it, in whole milliseconds: 12ms, 8.64s, 1m26.4s."""
    milliseconds = milliseconds_of(seconds)
    if 0 < milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    prefix = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{prefix}{rest / 1000:.10g}s"


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise BadRequest(message)


def _number(body: Mapping[str, Json], name: str, default: Json, kind: Json, *, negative: bool = False) -> Json:
    value = body.get(name)
    if value is None:
        return default
    good = isinstance(value, kind) and not isinstance(value, bool) and (negative or value >= 0)
    _require(good, f"The parameter '{name}' is no number that is allowed there.")
    return value


def _prompt_of(messages: Json) -> str:
    _require(isinstance(messages, list) and len(messages) > 0, "The parameter 'messages' is missing or empty.")
    contents: list[Json] = [message.get("content") if isinstance(message, Mapping) else None for message in messages]
    _require(all(isinstance(text, str) for text in contents), "A message has no text as its 'content'.")
    return "\n".join(contents)
