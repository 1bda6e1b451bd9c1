"""The wire format of Anthropic's Messages API. Pure: bytes out, bytes in, and nothing that a server sends raises."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from asyncopt import codec
from asyncopt.endpoints.faults import fault_of, has_error, malformed, truncated
from asyncopt.endpoints.parts import count_of, instead_of_text, json_of, name_of, text_of
from asyncopt.endpoints.protocol import Answer, Reply, StreamDecoder
from asyncopt.endpoints.ratelimits import rate_limits
from asyncopt.endpoints.sse import StreamedAnswer
from asyncopt.values import Capabilities, Completion, Fault, FaultKind, Finish, Generate, Usage

VERSION = "2023-06-01"
# The format requires a limit. No model that is still served gives less, so none refuses this one.
DEFAULT_MAX_TOKENS = 4096
CAPABILITIES = Capabilities(seed=False, stream=True)

_FINISH = {
    "end_turn": Finish.STOP,
    "stop_sequence": Finish.STOP,
    "max_tokens": Finish.LENGTH,
    "model_context_window_exceeded": Finish.LENGTH,
}


class AnthropicMessages:
    """``POST {base_url}/messages``, plain or as a stream of events.

    Seed, grammar and log-probabilities are not sent: the format has none, and :data:`CAPABILITIES` says so.
    """

    def path(self, model: str) -> str:
        return "/messages"

    def headers(self, key: str | None) -> dict[str, str]:
        version = {"anthropic-version": VERSION}
        return version if key is None else {"x-api-key": key, **version}

    def encode(self, model: str, request: Generate, *, stream: bool = False) -> bytes:
        """The request's body; system messages, wherever they stand, become its ``system``."""
        sampling = request.sampling
        body: dict[str, Any] = {
            "model": model,
            "max_tokens": DEFAULT_MAX_TOKENS if sampling.max_tokens is None else sampling.max_tokens,
            "messages": [
                {"role": message.role, "content": message.content}
                for message in request.prompt
                if message.role != "system"
            ],
        }
        system = [message.content for message in request.prompt if message.role == "system"]
        if system:
            body["system"] = "\n\n".join(system)
        for name, value in (("temperature", sampling.temperature), ("top_p", sampling.top_p)):
            if value is not None:
                body[name] = value
        if sampling.stop:
            body["stop_sequences"] = sampling.stop
        if stream:
            body["stream"] = True
        return codec.dumps(body)

    def decode(self, reply: Reply) -> Answer:
        """The completion in the reply, or the fault that the reply stands for."""
        return _answer_of(reply, json_of(reply.body))

    def stream(self, reply: Reply) -> StreamDecoder:
        return StreamedAnswer(reply, _Events(), _answer_of)


def _answer_of(reply: Reply, body: Any) -> Answer:
    if not 200 <= reply.status < 300 or has_error(body):
        return fault_of(reply.status, reply.headers, body, reply.body)
    if not isinstance(body, dict) or not isinstance(body.get("content"), list):
        return malformed(reply.status, "no content")
    usage, limits = _usage_of(body.get("usage")), rate_limits(reply.headers)
    reason = body.get("stop_reason")
    if reason == "refusal":
        return Fault(FaultKind.REFUSED, "the model refused to answer", usage=usage, limits=limits)
    finish = _FINISH.get(reason, Finish.OTHER) if isinstance(reason, str) else Finish.OTHER
    text = text_of(body["content"])
    if not text and finish is Finish.LENGTH:
        return truncated(usage, limits)
    found = "" if text else instead_of_text(body["content"])
    if found:
        return replace(malformed(reply.status, f"{found} and no text"), usage=usage, limits=limits)
    return Completion(text, finish, usage, served_model=name_of(body.get("model")), limits=limits)


def _usage_of(usage: Any) -> Usage:
    """The tokens counted; what was read from or written to the cache stands beside ``input_tokens``, not in it."""
    if not isinstance(usage, dict):
        return Usage(estimated=True)
    fresh, received = count_of(usage.get("input_tokens")), count_of(usage.get("output_tokens"))
    if fresh is None or received is None:
        return Usage(estimated=True)
    read = count_of(usage.get("cache_read_input_tokens")) or 0
    written = count_of(usage.get("cache_creation_input_tokens")) or 0
    return Usage(fresh + read + written, received, read)


class _Events:
    """The object of the plain reply out of ``message_start`` ... ``message_stop``."""

    def __init__(self) -> None:
        self.complete = False
        self._text: list[str] = []
        self._others: list[dict[str, Any]] = []
        self._message: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}

    def add(self, event: dict[str, Any]) -> bool:
        kind = event.get("type")
        if kind == "message_start":
            self._start(event.get("message"))
        elif kind == "content_block_start":
            return self._begin(event.get("content_block"))
        elif kind == "content_block_delta":
            return self._add_text(event.get("delta"))
        elif kind == "message_delta":
            return self._end(event)
        elif kind == "message_stop":
            self.complete = True
        return False  # pings, ends of blocks, and what is yet to be invented

    def _start(self, message: Any) -> None:
        if isinstance(message, dict):
            self._message["model"] = message.get("model")
            self._count(message.get("usage"))

    def _count(self, usage: Any) -> None:
        # The counts of the end are totals and replace those of the start; the input is often stated at the start only.
        if isinstance(usage, dict):
            self._usage |= {name: value for name, value in usage.items() if value is not None}

    def _begin(self, block: Any) -> bool:
        if isinstance(block, dict) and block.get("type") != "text":
            self._others.append({"type": block.get("type")})
        return self._add_text(block)

    def _add_text(self, part: Any) -> bool:
        """Take a block's or a delta's text; thinking is no text, and shows all the same that the answer has begun."""
        if not isinstance(part, dict):
            return False
        if part.get("type") in ("text", "text_delta"):
            self._text.append(text_of(part.get("text")))
        return any(isinstance(part.get(name), str) and part[name] for name in ("text", "thinking", "partial_json"))

    def _end(self, event: dict[str, Any]) -> bool:
        delta = event.get("delta")
        reason = delta.get("stop_reason") if isinstance(delta, dict) else None
        if reason is not None:
            self._message["stop_reason"] = reason
            self.complete = True
        self._count(event.get("usage"))
        return self.complete

    def body(self) -> dict[str, Any]:
        spoken = [{"type": "text", "text": "".join(self._text)}] if self._text else []
        return {**self._message, "content": [*spoken, *self._others], "usage": self._usage}
