"""The server's side of OpenAI's chat format, plain and streamed; Azure and OpenRouter answer in it, too."""

from __future__ import annotations

from collections.abc import Mapping

from asyncopt.codec import Json
from asyncopt.testing.wire import (
    ChatRequest,
    Written,
    contents_in,
    event,
    model_in,
    number_in,
    object_in,
    require,
    texts_in,
)

_DONE = b"data: [DONE]\n\n"
_TYPES = {400: "invalid_request_error", 401: "invalid_request_error", 429: "rate_limit_error"}
_CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}


class ChatShape:
    """``POST /v1/chat/completions`` and ``/openai/deployments/NAME/chat/completions``."""

    def parse(self, data: bytes, model: str | None) -> ChatRequest:
        body = object_in(data)
        require(body.get("n", 1) == 1, "Only n=1 is simulated.")
        options = body.get("stream_options")
        limit = number_in(body, "max_completion_tokens", number_in(body, "max_tokens", None, int), int)
        return ChatRequest(
            model=model_in(body, model),
            prompt="\n".join(contents_in(body)),
            temperature=number_in(body, "temperature", 0.0, float | int),  # real ones default to 1: here who asks draws
            max_tokens=limit,
            seed=number_in(body, "seed", None, int, negative=True),
            stop=texts_in(body, "stop"),
            stream=bool(body.get("stream")),
            include_usage=isinstance(options, Mapping) and bool(options.get("include_usage")),
        )

    def whole(self, written: Written) -> Json:
        message = {"role": "assistant", "content": written.text}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(written)}
        return {**_head(written, "chat.completion"), "choices": [choice], "usage": _usage(written)}

    def opening(self, written: Written) -> bytes:
        return _chunk(written, {"role": "assistant", "content": ""})

    def piece(self, written: Written, text: str) -> bytes:
        return _chunk(written, {"content": text})

    def ending(self, written: Written) -> bytes:
        last = _chunk(written, {}, _finish(written))
        if written.request.include_usage:
            last += event({**_head(written, "chat.completion.chunk"), "choices": [], "usage": _usage(written)})
        return last + _DONE

    def error(self, status: int, message: str, scarce: str | None = None) -> Json:
        kind = scarce or _TYPES.get(status, "server_error")
        return {"error": {"message": message, "type": kind, "param": None, "code": _CODES.get(status)}}


def _finish(written: Written) -> str:
    return "length" if written.ended == "length" else "stop"


def _head(written: Written, kind: str) -> dict[str, Json]:
    return {
        "id": f"chatcmpl-simulated-{written.number}",
        "object": kind,
        "created": 0,
        "model": written.request.model,
        "system_fingerprint": written.fingerprint,
    }


def _usage(written: Written) -> Json:
    sent, received = written.request.input_tokens, written.output_tokens
    return {"prompt_tokens": sent, "completion_tokens": received, "total_tokens": sent + received}


def _chunk(written: Written, delta: Json, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return event({**_head(written, "chat.completion.chunk"), "choices": [choice]})
