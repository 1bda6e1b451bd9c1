"""What the simulated wire formats share: what is asked for, what is answered, and how bodies are read.

Tokens are counted by a ratio, one for every 4 bytes of UTF-8, rounded up; one by one where their log-probabilities
are wanted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from asyncopt import codec
from asyncopt.codec import Json
from asyncopt.values import TokenLogprob

BYTES_PER_TOKEN = 4


class BadRequest(ValueError):
    """The body is no request that this server answers."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What a request asks for; ``prompt`` is the contents of the messages, a line break between them.

    ``logprobs`` is the number of alternatives to each token of the answer, None where no log-probabilities are wanted;
    ``prompt_logprobs`` the same of the prompt's tokens, in vLLM's way.
    """

    model: str
    prompt: str
    temperature: float
    max_tokens: int | None
    seed: int | None
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool
    n: int = 1
    logprobs: int | None = None
    echo: bool = False
    prompt_logprobs: int | None = None
    grammar: str = ""
    logit_bias: tuple[tuple[int, float], ...] = ()

    @property
    def input_tokens(self) -> int:
        return count_tokens(self.prompt)


@dataclass(frozen=True, slots=True)
class Written:
    """An answer that is to be written: cut at the stop texts and at ``max_tokens``; ``ended`` says by which.

    ``tokens`` are the answer's with their log-probabilities where these were asked for, ``prompt_tokens`` the prompt's.
    ``others`` are the further answers to a request for several.
    """

    number: int
    request: ChatRequest
    text: str
    ended: str
    fingerprint: str
    tokens: tuple[TokenLogprob, ...] = ()
    prompt_tokens: tuple[TokenLogprob, ...] = ()
    others: tuple[Written, ...] = ()

    @property
    def input_tokens(self) -> int:
        return len(self.prompt_tokens) or self.request.input_tokens

    @property
    def output_tokens(self) -> int:
        own = len(self.tokens) or count_tokens(self.text)
        return own + sum(other.output_tokens for other in self.others)


class Shape(Protocol):
    """The server's side of a wire format."""

    def parse(self, data: bytes, model: str | None) -> ChatRequest:
        """The request in the bytes, for the model that the path names; raises :class:`BadRequest`."""
        ...

    def whole(self, written: Written) -> Json:
        """The answer as one object."""
        ...

    def opening(self, written: Written) -> bytes:
        """What a streamed answer begins with."""
        ...

    def piece(self, written: Written, text: str, tokens: Sequence[TokenLogprob] = ()) -> bytes:
        """A part of the text in a streamed answer, with its tokens where their log-probabilities are wanted."""
        ...

    def ending(self, written: Written) -> bytes:
        """What a streamed answer ends with."""
        ...

    def error(self, status: int, message: str, scarce: str | None = None) -> Json:
        """An error object; ``scarce`` names the quota that refused the request."""
        ...


def count_tokens(text: str) -> int:
    """Tokens of the text by the byte ratio, rounded up."""
    return math.ceil(len(text.encode("utf-8", "replace")) / BYTES_PER_TOKEN)


def written(number: int, request: ChatRequest, text: str, fingerprint: str) -> Written:
    """The answer as far as the request wants it; ``ended`` is ``stop``, ``stop_text`` or ``length``."""
    ended = "stop"
    for stop in request.stop:
        text, found, _ = text.partition(stop)
        ended = "stop_text" if found else ended
    if request.max_tokens is not None and count_tokens(text) > request.max_tokens:
        ended = "length"
        text = text.encode("utf-8", "replace")[: request.max_tokens * BYTES_PER_TOKEN].decode("utf-8", "ignore")
    return Written(number, request, text, ended, fingerprint)


def object_in(data: bytes) -> Mapping[str, Json]:
    """The JSON object in the bytes, with what no simulated format answers refused."""
    try:
        body = codec.loads(data)
    except codec.CodecError as error:
        raise BadRequest(f"The body is {error}.") from None
    require(isinstance(body, Mapping), "The body is no JSON object.")
    for name in ("tools", "functions"):
        require(not body.get(name), f"The parameter '{name}' is not simulated.")
    found: Mapping[str, Json] = body
    return found


def require(condition: bool, message: str) -> None:
    """Raises :class:`BadRequest` with the message unless the condition holds."""
    if not condition:
        raise BadRequest(message)


def model_in(body: Mapping[str, Json], named: str | None) -> str:
    """The model that the path or else the body names."""
    model = named or body.get("model")
    require(isinstance(model, str) and model != "", "The parameter 'model' is missing or no text.")
    return str(model)


def number_in(body: Mapping[str, Json], name: str, default: Json, kind: Json, *, negative: bool = False) -> Json:
    """The number of this name, or the default where it is missing."""
    value = body.get(name)
    if value is None:
        return default
    good = isinstance(value, kind) and not isinstance(value, bool) and (negative or value >= 0)
    require(good, f"The parameter '{name}' is no number that is allowed there.")
    return value


def texts_in(body: Mapping[str, Json], name: str) -> tuple[str, ...]:
    """The text or the list of texts of this name, without empty ones."""
    value = body.get(name) or []
    value = [value] if isinstance(value, str) else value
    require(
        isinstance(value, list) and all(isinstance(text, str) for text in value),
        f"The parameter '{name}' is no text.",
    )
    return tuple(filter(None, value))


def contents_in(body: Mapping[str, Json]) -> list[str]:
    """The texts of the messages, each a text or a list of text blocks."""
    messages = body.get("messages")
    require(isinstance(messages, list) and len(messages) > 0, "The parameter 'messages' is missing or empty.")
    return [_text_of(message.get("content") if isinstance(message, Mapping) else None) for message in messages or []]


def _text_of(content: Json) -> str:
    if isinstance(content, list):
        content = "".join(_text_of(block.get("text") if isinstance(block, Mapping) else None) for block in content)
    require(isinstance(content, str), "A message has no text as its 'content'.")
    return str(content)


def event(data: Json, name: str | None = None) -> bytes:
    """One server-sent event."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + codec.dumps(data) + b"\n\n"
