"""The wire format of raw text completions, spoken by vLLM, llama.cpp and the older models of OpenAI.

Pure, as every codec. The log-probabilities of a given text come in an echo of the prompt, or as vLLM's
``prompt_logprobs``; how they are told from a prompt's is in :mod:`asyncopt.endpoints.echoed`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from asyncopt import codec
from asyncopt.endpoints.echoed import pieces_of, prompt_pieces_of, scored
from asyncopt.endpoints.faults import malformed
from asyncopt.endpoints.openai import STREAMED, completion_of, first_choice, object_of, parameters
from asyncopt.endpoints.parts import json_of, text_of
from asyncopt.endpoints.protocol import Answer, Ask, Exchange, Reply, StreamDecoder
from asyncopt.endpoints.sse import StreamedAnswer
from asyncopt.values import Capabilities, Fault, Generate, Likelihood, Message, TokenLogprob

PromptLogprobs: TypeAlias = Literal["echo", "prompt_logprobs"]

# Five is what OpenAI gives; a vLLM server gives what its --max-logprobs says.
CAPABILITIES = Capabilities(chat=False, completion=True, top_logprobs=5, prompt_logprobs=True, stream=True, extra=True)


class TextCompletions:
    """``POST {base_url}/completions``, plain or as a stream of chunks. The prompt is the messages' text, line by line.

    ``prompt_logprobs`` says how the server is asked for the log-probabilities of a given text: ``echo`` is OpenAI's
    way, and vLLM's; ``prompt_logprobs`` is vLLM's other one, for servers that refuse an echo.
    """

    variant = "/completions"  # of the endpoint's identity: in chat the same messages are another text

    def __init__(self, prompt_logprobs: PromptLogprobs = "echo") -> None:
        self._prompt_logprobs = prompt_logprobs

    def path(self, model: str) -> str:
        return "/completions"

    def headers(self, key: str | None) -> dict[str, str]:
        return {} if key is None else {"Authorization": f"Bearer {key}"}

    def encode(self, model: str, request: Generate, *, stream: bool = False) -> bytes:
        """The request's body; parameters left at None are not in it, and neither is the draw."""
        body: dict[str, Any] = {"model": model, "prompt": text_before(request.prompt), **parameters(request.sampling)}
        if request.top_logprobs:
            body["logprobs"] = request.top_logprobs
        if request.extra:
            body |= codec.loads(request.extra.encode())
        return codec.dumps(body | STREAMED if stream else body)

    def decode(self, reply: Reply) -> Answer:
        """The completion in the reply, or the fault that the reply stands for, also under status 200."""
        return _answer_of(reply, json_of(reply.body))

    def stream(self, reply: Reply) -> StreamDecoder:
        return StreamedAnswer(reply, _Chunks(), _answer_of)

    def likelihood(self, model: str, request: Likelihood) -> Exchange:
        """One request, in which the prompt and the continuation are one text.

        At temperature 0, since some servers scale what they report and 0 is where none does. Nothing is generated, or
        one token where the server would refuse that; it is not looked at.
        """
        context = text_before(request.prompt)
        body: dict[str, Any] = {"model": model, "prompt": context + request.continuation, "temperature": 0.0}
        if self._prompt_logprobs == "echo":
            body |= {"max_tokens": 0, "logprobs": 1, "echo": True}
        else:
            body |= {"max_tokens": 1, "prompt_logprobs": 1}
        reply = yield Ask(self.path(model), codec.dumps(body))
        found = object_of(reply, json_of(reply.body))
        if isinstance(found, Fault):
            return found
        read = pieces_of if self._prompt_logprobs == "echo" else prompt_pieces_of
        return scored(reply, found, read(first_choice(found)), context, request.continuation)


def text_before(prompt: Sequence[Message]) -> str:
    """The text that stands for the messages: their contents, joined by line breaks."""
    return "\n".join(message.content for message in prompt)


def _answer_of(reply: Reply, body: Any) -> Answer:
    found = object_of(reply, body)
    if isinstance(found, Fault):
        return found
    choice = first_choice(found)
    if choice is None or not isinstance(choice.get("text"), str):
        return malformed(reply.status, "no choice")
    return completion_of(reply, found, choice, text_of(choice["text"]), _logprobs_of(choice))


def _logprobs_of(choice: dict[str, Any]) -> tuple[TokenLogprob, ...]:
    pieces = pieces_of(choice)
    found = tuple(TokenLogprob(piece.text, piece.logprob, piece.top) for piece in pieces if piece.logprob is not None)
    return found if len(found) == len(pieces) else ()


class _Chunks:
    """The object of the plain reply out of ``text_completion`` chunks."""

    def __init__(self) -> None:
        self.complete = False
        self._choice: dict[str, Any] = {}
        self._text: list[str] = []
        self._logprobs: dict[str, list[Any]] = {}
        self._rest: dict[str, Any] = {}

    def add(self, event: dict[str, Any]) -> bool:
        for name in ("model", "usage"):
            if event.get(name):
                self._rest[name] = event[name]
        choice = first_choice(event)
        if choice is None:
            return False
        text = text_of(choice.get("text"))
        self._text.append(text)
        logprobs = choice.get("logprobs")
        for name, values in logprobs.items() if isinstance(logprobs, dict) else ():
            if isinstance(values, list):
                self._logprobs.setdefault(name, []).extend(values)
        self._choice["finish_reason"] = choice.get("finish_reason") or self._choice.get("finish_reason")
        self.complete = self._choice["finish_reason"] is not None
        return self.complete or bool(text)

    def body(self) -> dict[str, Any]:
        if not self._choice:
            return self._rest
        return {**self._rest, "choices": [{**self._choice, "text": "".join(self._text), "logprobs": self._logprobs}]}
