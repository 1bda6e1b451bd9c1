"""The wire format of OpenAI chat completions, spoken by OpenAI, vLLM, llama.cpp, OpenRouter, Gemini and most others.

Pure: bytes out, bytes in. Nothing that a server sends makes :meth:`OpenAIChat.decode` raise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from asyncopt import codec
from asyncopt.endpoints.faults import fault_of, has_error, malformed, truncated
from asyncopt.endpoints.parts import count_of, float_of, instead_of_text, json_of, name_of, text_of
from asyncopt.endpoints.protocol import Answer, Reply, StreamDecoder
from asyncopt.endpoints.ratelimits import rate_limits
from asyncopt.endpoints.sse import StreamedAnswer
from asyncopt.values import Capabilities, Completion, Fault, FaultKind, Finish, Generate, Sampling, TokenLogprob, Usage

_FINISH = {"stop": Finish.STOP, "eos": Finish.STOP, "length": Finish.LENGTH, "max_tokens": Finish.LENGTH}


# What may stand beside a content, or in its place; reasoning has the one name or the other.
_BESIDE = ("tool_calls", "function_call", "reasoning_content", "reasoning")

STREAMED: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
CHAT_CAPABILITIES = Capabilities(top_logprobs=20, stream=True, extra=True, batch=True)


class OpenAIChat:
    """``POST {base_url}/chat/completions``, plain or as a stream of chunks."""

    def path(self, model: str) -> str:
        return "/chat/completions"

    def headers(self, key: str | None) -> dict[str, str]:
        return {} if key is None else {"Authorization": f"Bearer {key}"}

    def encode(self, model: str, request: Generate, *, stream: bool = False) -> bytes:
        """The request's body; parameters left at None are not in it, and neither is the draw."""
        messages = [{"role": message.role, "content": message.content} for message in request.prompt]
        body: dict[str, Any] = {"model": model, "messages": messages, **parameters(request.sampling)}
        if request.top_logprobs:
            body["logprobs"] = True
            body["top_logprobs"] = request.top_logprobs
        if request.extra:
            body |= codec.loads(request.extra.encode())
        return codec.dumps(body | STREAMED if stream else body)

    def decode(self, reply: Reply) -> Answer:
        """The completion in the reply, or the fault that the reply stands for, also under status 200."""
        return _answer_of(reply, json_of(reply.body))

    def stream(self, reply: Reply) -> StreamDecoder:
        return StreamedAnswer(reply, _Chunks(), _answer_of)


def parameters(sampling: Sampling) -> dict[str, Any]:
    """The fields of a body that say how to draw."""
    named = (
        ("temperature", sampling.temperature),
        ("top_p", sampling.top_p),
        ("max_tokens", sampling.max_tokens),
        ("seed", sampling.seed),
        ("grammar", sampling.grammar),
        ("stop", sampling.stop or None),
    )
    return {name: value for name, value in named if value is not None}


def _answer_of(reply: Reply, body: Any) -> Answer:
    found = object_of(reply, body)
    return found if isinstance(found, Fault) else _completion_of(found, reply)


def object_of(reply: Reply, body: Any) -> dict[str, Any] | Fault:
    """The object of a successful reply, or the fault that the reply stands for."""
    if not 200 <= reply.status < 300:
        return fault_of(reply.status, reply.headers, body, reply.body)
    if body is None:
        return malformed(reply.status, "a body that is not JSON")
    if not isinstance(body, dict) or body.get("error") is not None:
        return fault_of(reply.status, reply.headers, body) if has_error(body) else malformed(reply.status, "no object")
    return body


def _completion_of(body: dict[str, Any], reply: Reply) -> Answer:
    choice = first_choice(body)
    message = choice.get("message") if choice is not None else None
    if choice is None or not isinstance(message, dict):
        return malformed(reply.status, "no choice")
    return completion_of(reply, body, choice, text_of(message.get("content")), _logprobs_of(choice), message)


def completion_of(
    reply: Reply,
    body: dict[str, Any],
    choice: dict[str, Any],
    text: str,
    logprobs: tuple[TokenLogprob, ...],
    message: Mapping[str, Any] = MappingProxyType({}),
) -> Answer:
    """The completion with this text, or the fault that its end stands for.

    An empty text is an answer, unless the ``message`` has something else in its place: that is a fault, since a score
    of it would be one of the server's settings.
    """
    usage = usage_of(body.get("usage"))
    limits = rate_limits(reply.headers)
    reason, refusal = choice.get("finish_reason"), message.get("refusal")
    if reason == "content_filter" or refusal:
        detail = codec.printable(refusal) if isinstance(refusal, str) else "content filter"
        return Fault(FaultKind.REFUSED, detail, usage=usage, limits=limits)
    finish = _FINISH.get(reason, Finish.OTHER) if isinstance(reason, str) else Finish.OTHER
    if not (text or logprobs) and finish is Finish.LENGTH:
        return truncated(usage, limits)
    found = "" if text or logprobs else _instead_of_text(message)
    if found:
        return replace(malformed(reply.status, f"{found} and no text"), usage=usage, limits=limits)
    return Completion(text, finish, usage, logprobs, name_of(body.get("model")), limits)


def _instead_of_text(message: Mapping[str, Any]) -> str:
    for name in _BESIDE:
        if message.get(name):
            return name
    return instead_of_text(message.get("content"))


def first_choice(body: dict[str, Any]) -> dict[str, Any] | None:
    """The first of the object's choices, if it has any."""
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    return choice if isinstance(choice, dict) else None


def usage_of(usage: Any) -> Usage:
    """The tokens that the server counted; zero and marked as estimated where it counted none or nonsense."""
    if not isinstance(usage, dict):
        return Usage(estimated=True)
    sent, received = count_of(usage.get("prompt_tokens")), count_of(usage.get("completion_tokens"))
    if sent is None or received is None:
        return Usage(estimated=True)
    details = usage.get("prompt_tokens_details")
    cached = count_of(details.get("cached_tokens")) if isinstance(details, dict) else 0
    return Usage(sent, received, min(cached or 0, sent))


def _logprobs_of(choice: dict[str, Any]) -> tuple[TokenLogprob, ...]:
    logprobs = choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    entries = [token_logprob(entry) for entry in content] if isinstance(content, list) else []
    found = tuple(entry for entry in entries if entry is not None)
    return found if len(found) == len(entries) else ()  # half a list would be read as a whole one


def token_logprob(entry: Any) -> TokenLogprob | None:
    """The token of one entry of ``logprobs.content``, or None where it cannot be read."""
    pair = _pair_of(entry)
    if pair is None:
        return None
    others = entry.get("top_logprobs")
    return TokenLogprob(*pair, tuple(filter(None, map(_pair_of, others))) if isinstance(others, list) else ())


def _pair_of(entry: Any) -> tuple[str, float] | None:
    token = entry.get("token") if isinstance(entry, dict) else None
    value = float_of(entry.get("logprob")) if isinstance(entry, dict) else None
    return (token, value) if isinstance(token, str) and value is not None else None


class _Chunks:
    """The object of the plain reply out of ``chat.completion.chunk`` objects."""

    def __init__(self) -> None:
        self.complete = False
        self._choice: dict[str, Any] = {}
        self._content: list[str] = []
        self._refusal: list[str] = []
        self._logprobs: list[Any] = []
        self._beside: dict[str, Any] = {}
        self._rest: dict[str, Any] = {}

    def add(self, event: dict[str, Any]) -> bool:
        for name in ("model", "usage"):  # the usage comes last, in a chunk of its own without choices
            if event.get(name):
                self._rest[name] = event[name]
        choice = first_choice(event)
        if choice is None:
            return False
        delta = choice.get("delta")
        delta = delta if isinstance(delta, dict) else {}
        self._content.append(text_of(delta.get("content")))
        self._refusal.append(text_of(delta.get("refusal")))
        self._beside |= {name: True for name in _BESIDE if delta.get(name)}
        logprobs = choice.get("logprobs")
        if isinstance(logprobs, dict) and isinstance(logprobs.get("content"), list):
            self._logprobs += logprobs["content"]
        self._choice["finish_reason"] = choice.get("finish_reason") or self._choice.get("finish_reason")
        self.complete = self._choice["finish_reason"] is not None
        # Reasoning and tool calls count as a beginning: the server is at work, and a second call would not be faster.
        return self.complete or any(value for name, value in delta.items() if name != "role")

    def body(self) -> dict[str, Any]:
        if not self._choice:
            return self._rest
        message = {"content": "".join(self._content), "refusal": "".join(self._refusal), **self._beside}
        return {
            **self._rest,
            "choices": [{**self._choice, "message": message, "logprobs": {"content": self._logprobs}}],
        }
