"""The server's side of Anthropic's Messages format, plain and streamed."""

from __future__ import annotations

from collections.abc import Sequence

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
from asyncopt.values import TokenLogprob

_ENDED = {"stop": "end_turn", "stop_text": "stop_sequence", "length": "max_tokens"}
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    429: "rate_limit_error",
    529: "overloaded_error",
}


class MessagesShape:
    """``POST /v1/messages``. The system text stands before the messages' in the prompt."""

    def parse(self, data: bytes, model: str | None) -> ChatRequest:
        body = object_in(data)
        max_tokens = number_in(body, "max_tokens", None, int)
        require(max_tokens is not None, "max_tokens: Field required")
        system = contents_in({"messages": [{"content": body["system"]}]}) if body.get("system") else []
        return ChatRequest(
            model=model_in(body, model),
            prompt="\n".join(system + contents_in(body)),
            temperature=number_in(body, "temperature", 0.0, float | int),
            max_tokens=max_tokens,
            seed=None,
            stop=texts_in(body, "stop_sequences"),
            stream=bool(body.get("stream")),
            include_usage=True,
        )

    def whole(self, written: Written) -> Json:
        usage = {"input_tokens": written.request.input_tokens, "output_tokens": written.output_tokens}
        content = [{"type": "text", "text": written.text}]
        return {**_head(written), "content": content, "stop_reason": _ENDED[written.ended], "usage": usage}

    def opening(self, written: Written) -> bytes:
        usage = {"input_tokens": written.request.input_tokens, "output_tokens": 1}
        message = {**_head(written), "content": [], "stop_reason": None, "usage": usage}
        block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        return _typed({"type": "message_start", "message": message}) + _typed(block) + _typed({"type": "ping"})

    def piece(self, written: Written, text: str, tokens: Sequence[TokenLogprob] = ()) -> bytes:
        return _typed({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}})

    def ending(self, written: Written) -> bytes:
        delta = {"stop_reason": _ENDED[written.ended], "stop_sequence": None}
        usage = {"output_tokens": written.output_tokens}
        return (
            _typed({"type": "content_block_stop", "index": 0})
            + _typed({"type": "message_delta", "delta": delta, "usage": usage})
            + _typed({"type": "message_stop"})
        )

    def error(self, status: int, message: str, scarce: str | None = None) -> Json:
        return {"type": "error", "error": {"type": _TYPES.get(status, "api_error"), "message": message}}


def _head(written: Written) -> dict[str, Json]:
    return {
        "id": f"msg_simulated_{written.number}",
        "type": "message",
        "role": "assistant",
        "model": written.request.model,
        "stop_sequence": None,
    }


def _typed(data: dict[str, Json]) -> bytes:
    return event(data, data["type"])
