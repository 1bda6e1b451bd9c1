"""The server's side of OpenAI's older format: a text to be continued, and the same text scored in an echo."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from asyncopt.codec import Json
from asyncopt.testing.chat import content_of, finish_of, openai_error, options_in, usage_of, vllm_logprobs
from asyncopt.testing.wire import ChatRequest, Written, event, number_in, object_in, require
from asyncopt.values import TokenLogprob

_DONE = b"data: [DONE]\n\n"
_MAX_TOKENS = 16  # where the request states none


class CompletionsShape:
    """``POST /v1/completions``; ``as_chat`` gives log-probabilities in the shape of chats, as llama.cpp does."""

    def __init__(self, *, as_chat: bool) -> None:
        self._as_chat = as_chat

    def parse(self, data: bytes, model: str | None) -> ChatRequest:
        body = object_in(data)
        prompt = body.get("prompt")
        require(isinstance(prompt, str) and prompt != "", "The parameter 'prompt' is missing or no text.")
        request = ChatRequest(
            **options_in(body, model),
            prompt=str(prompt),
            max_tokens=number_in(body, "max_tokens", _MAX_TOKENS, int),
            logprobs=number_in(body, "logprobs", None, int),
            echo=bool(body.get("echo")),
        )
        require(not (request.stream and request.echo), "The parameter 'echo' is not simulated in streams.")
        return request

    def whole(self, written: Written) -> Json:
        choices = [self._choice(index, one, written) for index, one in enumerate((written, *written.others))]
        return {**_head(written), "choices": choices, "usage": usage_of(written)}

    def opening(self, written: Written) -> bytes:
        return b""

    def piece(self, written: Written, text: str, tokens: Sequence[TokenLogprob] = ()) -> bytes:
        return self._chunk(written, text, tokens=tokens)

    def ending(self, written: Written) -> bytes:
        last = self._chunk(written, "", finish_of(written))
        if written.request.include_usage:
            last += event({**_head(written), "choices": [], "usage": usage_of(written)})
        return last + _DONE

    def error(self, status: int, message: str, scarce: str | None = None) -> Json:
        return openai_error(status, message, scarce)

    def _choice(self, index: int, one: Written, asked: Written) -> Json:
        """One of the answers to a request; what was ``asked`` has the prompt's tokens for all of them."""
        request = asked.request
        prompt, shown = (request.prompt, asked.prompt_tokens) if request.echo else ("", ())
        logprobs = None if request.logprobs is None else self._logprobs((*shown, *one.tokens), given=bool(shown))
        choice = {"index": index, "text": prompt + one.text, "logprobs": logprobs, "finish_reason": finish_of(one)}
        return choice | ({} if request.prompt_logprobs is None else {"prompt_logprobs": vllm_logprobs(asked)})

    def _chunk(
        self, written: Written, text: str, finish: str | None = None, tokens: Sequence[TokenLogprob] = ()
    ) -> bytes:
        logprobs = self._logprobs(tokens, given=False) if tokens else None
        choice = {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": finish}
        return event({**_head(written), "choices": [choice]})

    def _logprobs(self, tokens: Sequence[TokenLogprob], *, given: bool) -> Json:
        """The ``logprobs`` of a choice; of a ``given`` text nothing stands before the first token to judge it by."""
        if self._as_chat:
            return content_of(tokens, with_ids=True)
        logprobs: list[Json] = [token.logprob for token in tokens]
        tops: list[Json] = [dict([*token.top, (token.token, token.logprob)]) for token in tokens]
        if given:
            logprobs[0] = tops[0] = None
        return {
            "tokens": [token.token for token in tokens],
            "token_logprobs": logprobs,
            "top_logprobs": tops,
            "text_offset": list(accumulate((len(token.token) for token in tokens[:-1]), initial=0)) if tokens else [],
        }


def _head(written: Written) -> dict[str, Json]:
    return {
        "id": f"cmpl-simulated-{written.number}",
        "object": "text_completion",
        "created": 0,
        "model": written.request.model,
        "system_fingerprint": written.fingerprint,
    }
