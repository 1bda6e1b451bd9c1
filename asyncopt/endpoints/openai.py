"""The wire format of OpenAI chat completions, spoken by OpenAI, vLLM, llama.cpp, OpenRouter, Gemini and most others.

Pure: bytes out, bytes in. Nothing that a server sends makes :meth:`OpenAIChat.decode` raise.
"""

from __future__ import annotations

import math
from typing import Any

from asyncopt import codec
from asyncopt.endpoints.faults import fault_of
from asyncopt.endpoints.protocol import Answer, Reply
from asyncopt.values import Completion, Fault, FaultKind, Finish, Generate, TokenLogprob, Usage

_FINISH = {"stop": Finish.STOP, "eos": Finish.STOP, "length": Finish.LENGTH, "max_tokens": Finish.LENGTH}
_TOKENS_BELIEVED = 100_000_000  # a server that counts more is not counting tokens


class OpenAIChat:
    """``POST {base_url}/chat/completions``."""

    path = "/chat/completions"

    def encode(self, model: str, request: Generate) -> bytes:
        """The request's body; parameters left at None are not in it, and neither is the draw."""
        sampling = request.sampling
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": message.role, "content": message.content} for message in request.prompt],
        }
        for name, value in (
            ("temperature", sampling.temperature),
            ("top_p", sampling.top_p),
            ("max_tokens", sampling.max_tokens),
            ("seed", sampling.seed),
            ("grammar", sampling.grammar),
        ):
            if value is not None:
                body[name] = value
        if sampling.stop:
            body["stop"] = sampling.stop
        if request.top_logprobs:
            body["logprobs"] = True
            body["top_logprobs"] = request.top_logprobs
        return codec.dumps(body)

    def decode(self, reply: Reply) -> Answer:
        """The completion in the reply, or the fault that the reply stands for, also under status 200."""
        try:
            body = codec.loads(reply.body)
        except codec.CodecError:
            body = None
        if not 200 <= reply.status < 300:
            return fault_of(reply.status, reply.headers, body)
        if body is None:
            return Fault(FaultKind.MALFORMED, f"HTTP {reply.status} whose body is not JSON")
        if not isinstance(body, dict) or body.get("error") is not None:
            return fault_of(reply.status, reply.headers, body) if _has_error(body) else _malformed("no object")
        return _completion_of(body)


def _has_error(body: Any) -> bool:
    first = body[0] if isinstance(body, list) and body else body
    return isinstance(first, dict) and first.get("error") is not None


def _malformed(what: str) -> Fault:
    return Fault(FaultKind.MALFORMED, f"HTTP 200 with {what} where a chat completion was wanted")


def _completion_of(body: dict[str, Any]) -> Answer:
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        return _malformed("no choice")
    usage = usage_of(body.get("usage"))
    reason = choice.get("finish_reason")
    if reason == "content_filter" or message.get("refusal"):
        refusal = message.get("refusal")
        detail = codec.printable(refusal) if isinstance(refusal, str) else "content filter"
        return Fault(FaultKind.REFUSED, detail, usage=usage)
    finish = _FINISH.get(reason, Finish.OTHER) if isinstance(reason, str) else Finish.OTHER
    text = _text_of(message.get("content"))
    if not text and finish is Finish.LENGTH:
        return Fault(FaultKind.TRUNCATED, "max_tokens were used up before the first word of the answer", usage=usage)
    served = body.get("model")
    return Completion(text, finish, usage, _logprobs_of(choice), served if isinstance(served, str) else "")


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        return "".join(part for part in parts if isinstance(part, str))
    return ""


def _count(value: Any) -> int | None:
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _TOKENS_BELIEVED
    return value if good else None


def usage_of(usage: Any) -> Usage:
    """The tokens that the server counted; zero and marked as estimated where it counted none or nonsense."""
    if not isinstance(usage, dict):
        return Usage(estimated=True)
    sent, received = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    if sent is None or received is None:
        return Usage(estimated=True)
    details = usage.get("prompt_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else 0
    return Usage(sent, received, min(cached or 0, sent))


def _logprobs_of(choice: dict[str, Any]) -> tuple[TokenLogprob, ...]:
    logprobs = choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(content, list):
        return ()
    entries = []
    for entry in content:
        pair = _pair_of(entry)
        if pair is None:
            return ()  # half a list would be read as a whole one
        others = entry.get("top_logprobs")
        top = tuple(filter(None, map(_pair_of, others))) if isinstance(others, list) else ()
        entries.append(TokenLogprob(*pair, top))
    return tuple(entries)


def _pair_of(entry: Any) -> tuple[str, float] | None:
    token = entry.get("token") if isinstance(entry, dict) else None
    value = entry.get("logprob") if isinstance(entry, dict) else None
    if isinstance(token, str) and isinstance(value, int | float) and math.isfinite(value):
        return token, float(value)
    return None
