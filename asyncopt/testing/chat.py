"""The server's side of OpenAI's chat format, plain and streamed; Azure and OpenRouter answer in it, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from asyncopt.codec import Json
from asyncopt.testing.logprobs import id_of
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

_DONE = b"data: [DONE]\n\n"
_TYPES = {400: "invalid_request_error", 401: "invalid_request_error", 404: "invalid_request_error"}
_TYPES |= {429: "rate_limit_error"}
_CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}


class ChatShape:
    """``POST /v1/chat/completions`` and ``/openai/deployments/NAME/chat/completions``.

    ``with_ids`` names the tokens of log-probabilities, as llama.cpp does.
    """

    def __init__(self, *, with_ids: bool = False) -> None:
        self._with_ids = with_ids

    def parse(self, data: bytes, model: str | None) -> ChatRequest:
        body = object_in(data)
        top = number_in(body, "top_logprobs", 0, int)
        require(not top or bool(body.get("logprobs")), "The parameter 'top_logprobs' needs 'logprobs'.")
        limit = number_in(body, "max_completion_tokens", number_in(body, "max_tokens", None, int), int)
        return ChatRequest(
            **options_in(body, model),
            prompt="\n".join(contents_in(body)),
            max_tokens=limit,
            logprobs=top if body.get("logprobs") else None,
        )

    def whole(self, written: Written) -> Json:
        choices = [self._choice(index, one) for index, one in enumerate((written, *written.others))]
        answer = {**_head(written, "chat.completion"), "choices": choices, "usage": usage_of(written)}
        if written.request.prompt_logprobs is not None:
            answer["prompt_logprobs"] = vllm_logprobs(written)
        return answer

    def opening(self, written: Written) -> bytes:
        return _chunk(written, {"role": "assistant", "content": ""})

    def piece(self, written: Written, text: str, tokens: Sequence[TokenLogprob] = ()) -> bytes:
        return _chunk(written, {"content": text}, logprobs=content_of(tokens, with_ids=self._with_ids))

    def ending(self, written: Written) -> bytes:
        last = _chunk(written, {}, finish_of(written))
        if written.request.include_usage:
            last += event({**_head(written, "chat.completion.chunk"), "choices": [], "usage": usage_of(written)})
        return last + _DONE

    def _choice(self, index: int, written: Written) -> Json:
        message = {"role": "assistant", "content": written.text}
        logprobs = content_of(written.tokens, with_ids=self._with_ids)
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish_of(written)}

    def error(self, status: int, message: str, scarce: str | None = None) -> Json:
        return openai_error(status, message, scarce)


def options_in(body: Mapping[str, Json], model: str | None) -> dict[str, Json]:
    """What chats and completions are asked for by the same names, as fields of :class:`ChatRequest`."""
    stream, options = bool(body.get("stream")), body.get("stream_options")
    n = number_in(body, "n", 1, int)
    require(n > 0, "The parameter 'n' must be at least 1.")
    require(not stream or n == 1, "Only n=1 is simulated in streams.")
    biases = body.get("logit_bias") or {}
    require(isinstance(biases, Mapping) and all(map(str.isdecimal, biases)), "The parameter 'logit_bias' is no map.")
    grammar = body.get("grammar") or ""
    require(isinstance(grammar, str), "The parameter 'grammar' is no text.")
    return {
        "model": model_in(body, model),
        "temperature": number_in(body, "temperature", 0.0, float | int),  # real ones default to 1: here who asks draws
        "seed": number_in(body, "seed", None, int, negative=True),
        "stop": texts_in(body, "stop"),
        "stream": stream,
        "include_usage": isinstance(options, Mapping) and bool(options.get("include_usage")),
        "n": n,
        "prompt_logprobs": number_in(body, "prompt_logprobs", None, int),
        "grammar": grammar,
        "logit_bias": tuple((int(i), number_in(biases, i, 0, float | int, negative=True)) for i in biases),
    }


def openai_error(status: int, message: str, scarce: str | None) -> Json:
    """OpenAI's error object; ``scarce`` names the quota that refused the request."""
    kind = scarce or _TYPES.get(status, "server_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": _CODES.get(status)}}


def finish_of(written: Written) -> str:
    """The finish reason."""
    return "length" if written.ended == "length" else "stop"


def usage_of(written: Written) -> Json:
    """The tokens of the request and of all its answers."""
    sent, received = written.input_tokens, written.output_tokens
    return {"prompt_tokens": sent, "completion_tokens": received, "total_tokens": sent + received}


def content_of(tokens: Sequence[TokenLogprob], *, with_ids: bool) -> Json:
    """The ``logprobs`` of a chat's choice; null where there are none."""

    def entry(text: str, logprob: float) -> dict[str, Json]:
        named = {"id": id_of(text)} if with_ids else {}
        return {**named, "token": text, "logprob": logprob, "bytes": list(text.encode("utf-8", "replace"))}

    content = [
        {**entry(token.token, token.logprob), "top_logprobs": [entry(*other) for other in token.top]}
        for token in tokens
    ]
    return {"content": content, "refusal": None} if content else None


def vllm_logprobs(written: Written) -> Json:
    """vLLM's ``prompt_logprobs``: for each token of the prompt but the first, itself and then the likeliest."""
    found: list[Json] = []
    for token in written.prompt_tokens:
        texts = dict([(token.token, token.logprob), *token.top])
        found.append(
            {
                str(id_of(text)): {"logprob": logprob, "rank": rank, "decoded_token": text}
                for rank, (text, logprob) in enumerate(texts.items(), start=1)
            }
        )
    return [None, *found[1:]]


def _head(written: Written, kind: str) -> dict[str, Json]:
    return {
        "id": f"chatcmpl-simulated-{written.number}",
        "object": kind,
        "created": 0,
        "model": written.request.model,
        "system_fingerprint": written.fingerprint,
    }


def _chunk(written: Written, delta: Json, finish: str | None = None, *, logprobs: Json = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
    return event({**_head(written, "chat.completion.chunk"), "choices": [choice]})
