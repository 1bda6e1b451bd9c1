"""Completions in OpenAI's format: whole, or as the few events of a stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from asyncopt import codec
from asyncopt.proxy.reading import Asked
from asyncopt.values import Completion, Finish, TokenLogprob

_DONE = b"data: [DONE]\n\n"


class Writer:
    """Writes the answers to one request; ``number`` tells it apart, ``created`` is in seconds since the epoch."""

    def __init__(self, asked: Asked, answers: Sequence[Completion], number: int, created: int) -> None:
        self._asked = asked
        self._answers = answers
        prefix = "chatcmpl" if asked.chat else "cmpl"
        served = next((one.served_model for one in answers if one.served_model), asked.model)
        self._head = {"id": f"{prefix}-asyncopt-{number}", "created": created, "model": served}

    def whole(self) -> bytes:
        """The body of an answer that is not streamed."""
        choices = [self._choice(index, one) for index, one in enumerate(self._answers)]
        return codec.dumps({**self._head, "object": self._kind(""), "choices": choices, "usage": self._usage()})

    def events(self) -> Iterator[bytes]:
        """The events of a streamed answer: for each choice its text at once, and its end."""
        for index, one in enumerate(self._answers):
            yield self._event([self._piece(index, one)])
            yield self._event([self._end(index, one)])
        if self._asked.include_usage:
            yield self._event([], usage=self._usage())
        yield _DONE

    def _kind(self, suffix: str) -> str:
        return f"chat.completion{suffix}" if self._asked.chat else "text_completion"

    def _choice(self, index: int, one: Completion) -> dict[str, Any]:
        found = {"message": {"role": "assistant", "content": one.text}} if self._asked.chat else {"text": one.text}
        return {"index": index, **found, "logprobs": self._logprobs(one), "finish_reason": _finish_of(one)}

    def _piece(self, index: int, one: Completion) -> dict[str, Any]:
        found = {"delta": {"role": "assistant", "content": one.text}} if self._asked.chat else {"text": one.text}
        return {"index": index, **found, "logprobs": self._logprobs(one), "finish_reason": None}

    def _end(self, index: int, one: Completion) -> dict[str, Any]:
        found: dict[str, Any] = {"delta": {}} if self._asked.chat else {"text": ""}
        return {"index": index, **found, "logprobs": None, "finish_reason": _finish_of(one)}

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        return (
            b"data: "
            + codec.dumps({**self._head, "object": self._kind(".chunk"), "choices": choices, **more})
            + b"\n\n"
        )

    def _usage(self) -> dict[str, Any]:
        """The tokens of all draws: each was asked for by itself."""
        sent = sum(one.usage.input_tokens for one in self._answers)
        received = sum(one.usage.output_tokens for one in self._answers)
        cached = sum(one.usage.cached_tokens for one in self._answers)
        total = {"prompt_tokens": sent, "completion_tokens": received, "total_tokens": sent + received}
        return {**total, "prompt_tokens_details": {"cached_tokens": cached}}

    def _logprobs(self, one: Completion) -> dict[str, Any] | None:
        most = self._asked.alternatives
        if most is None:
            return None
        return _of_chat(one.token_logprobs, most) if self._asked.chat else _of_text(one.token_logprobs, most)


def _finish_of(one: Completion) -> str:
    return "length" if one.finish is Finish.LENGTH else "stop"


def _of_chat(tokens: Sequence[TokenLogprob], most: int) -> dict[str, Any]:
    def entry(text: str, logprob: float) -> dict[str, Any]:
        return {"token": text, "logprob": logprob, "bytes": list(codec.clean(text).encode())}

    content = [
        {**entry(one.token, one.logprob), "top_logprobs": [entry(*other) for other in one.top[:most]]} for one in tokens
    ]
    return {"content": content, "refusal": None}


def _of_text(tokens: Sequence[TokenLogprob], most: int) -> dict[str, Any]:
    offsets, length = [], 0
    for one in tokens:
        offsets.append(length)
        length += len(one.token)
    return {
        "tokens": [one.token for one in tokens],
        "token_logprobs": [one.logprob for one in tokens],
        "top_logprobs": [dict(one.top[:most]) for one in tokens] if most else None,
        "text_offset": offsets,
    }
