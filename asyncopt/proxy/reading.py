"""What a client asks for in OpenAI's format, as a request to a model.

No field that changes an answer is dropped: a field is understood here, or passed on as it is and part of the cache's
key, or refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from asyncopt import codec
from asyncopt.endpoints.parts import json_of, text_of
from asyncopt.proxy.refusals import Refusal, invalid
from asyncopt.values import LARGEST, ROLES, Capabilities, Generate, Message, Sampling

MOST_DRAWS = 128
_LONGEST_NAME = 200
_UNDERSTOOD = frozenset(
    ("model", "messages", "prompt", "temperature", "top_p", "max_tokens", "stop", "seed", "n", "logprobs")
) | {"top_logprobs", "stream", "stream_options"}
_NO_PLACE = {  # for what comes back
    "tools": "answers are texts here, and a tool call is none",
    "tool_choice": "answers are texts here, and a tool call is none",
    "functions": "answers are texts here, and a function call is none",
    "function_call": "answers are texts here, and a function call is none",
    "audio": "answers are texts here",
    "best_of": "one answer is drawn for each that is given; use n",
    "echo": "an answer does not repeat its prompt here",
    "prompt_logprobs": "an answer has no log-probabilities of its prompt here",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A client's request: ``n`` draws of ``request``, as a chat or as raw text, whole or as a stream.

    ``alternatives`` is how many the log-probabilities are shown with, None where none are wanted.
    """

    model: str
    request: Generate
    n: int
    chat: bool
    stream: bool
    include_usage: bool
    alternatives: int | None

    @property
    def repeatable(self) -> bool:
        """Whether the same request is meant to have the same answer."""
        sampling = self.request.sampling
        return sampling.temperature == 0 or sampling.seed is not None

    def draws(self, numbers: Iterator[int]) -> list[Generate]:
        """The requests to be made, one for each of the draws."""
        sampling = self.request.sampling
        seeds = [None if sampling.seed is None else _seed_of(sampling.seed, index) for index in range(self.n)]
        return [replace(self.request, sampling=replace(sampling, seed=one, draw=next(numbers))) for one in seeds]


def _seed_of(seed: int, index: int) -> int:
    """A seed of its own for each of the draws, which were one answer otherwise; the first has the one that is given."""
    return seed - index if seed > LARGEST - MOST_DRAWS else seed + index


def object_in(data: bytes) -> dict[str, Any]:
    """The fields of a body that are given; null is what is not."""
    body = json_of(data)
    if not isinstance(body, dict):
        raise invalid("the body is no JSON object; wanted one as OpenAI's API takes it")
    return {name: value for name, value in body.items() if value is not None}


def name_in(body: Mapping[str, Any]) -> str:
    """The name of the model that is asked."""
    name = body.get("model")
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME or not name.isprintable():
        raise invalid(f"model is {codec.printable(repr(name), 80)}; wanted the name of a model", "model")
    return name


def asked(body: Mapping[str, Any], supports: Capabilities, *, chat: bool) -> Asked:
    """The request in a body; raises :class:`Refusal` for what the model cannot be asked."""
    _require_format(supports, chat)
    for name, why in _NO_PLACE.items():
        if body.get(name) not in (None, False, [], {}, "none") and not _is_best_of_all(body, name):
            raise Refusal(400, f"{name} is not supported: {why}", code="unsupported_parameter", param=name)
    extra = {name: value for name, value in body.items() if name not in _UNDERSTOOD and name not in _NO_PLACE}
    prompt = _messages(body, extra) if chat else (Message("user", _raw_text(body)),)
    sampling = _sampling(body, extra, supports)
    alternatives = _alternatives(body, chat, supports)
    if extra and not supports.extra:
        found = next(iter(extra))
        has = "messages of system, user and assistant that are texts alone" if found == "messages" else "no such field"
        message = f"{found} cannot be passed on: the model is served in a format that has {has}"
        raise Refusal(400, message, code="unsupported_parameter", param=found)
    n = _number(body, "n", int)
    if n is not None and not 1 <= n <= MOST_DRAWS:
        raise invalid(f"n is {n}; it must be from 1 to {MOST_DRAWS}", "n")
    options = body.get("stream_options")
    wanted = 0 if alternatives is None else max(alternatives, 1)  # none alone would be no log-probabilities at all
    return Asked(
        model=name_in(body),
        request=Generate(prompt, sampling, wanted, codec.dumps(extra).decode() if extra else ""),
        n=1 if n is None else n,
        chat=chat,
        stream=_flag(body, "stream"),
        include_usage=isinstance(options, dict) and bool(options.get("include_usage")),
        alternatives=alternatives,
    )


def _is_best_of_all(body: Mapping[str, Any], name: str) -> bool:
    """Whether every answer that is drawn is given, too."""
    return name == "best_of" and type(body[name]) is int and body[name] == body.get("n", 1)


def _require_format(supports: Capabilities, chat: bool) -> None:
    if chat and not supports.chat:
        message = "the model continues raw text here; post to /v1/completions, or leave format out when starting"
        raise Refusal(400, message, code="unsupported_path")
    if not chat and supports.chat:
        another = "start the proxy with --set models.scorer.format=completions"
        message = f"the model answers chats here; post to /v1/chat/completions, or {another}"
        raise Refusal(400, message, code="unsupported_path")


def _messages(body: Mapping[str, Any], extra: dict[str, Any]) -> tuple[Message, ...]:
    """The messages; ones that are more than a role and a text go on as they are, among the ``extra`` fields."""
    given = body.get("messages")
    if not isinstance(given, list) or not given or not all(isinstance(one, dict) for one in given):
        raise invalid("messages is no list of messages; wanted at least one", "messages")
    if not all(one.keys() == {"role", "content"} and _is_plain(one) for one in given):
        extra["messages"] = given
    return tuple(
        Message(one["role"] if one.get("role") in ROLES else "user", text_of(one.get("content"))) for one in given
    )


def _is_plain(message: Mapping[str, Any]) -> bool:
    return message["role"] in ROLES and isinstance(message["content"], str)


def _raw_text(body: Mapping[str, Any]) -> str:
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise invalid("prompt is no text; send one text a request, and no tokens", "prompt")
    return prompt


def _sampling(body: Mapping[str, Any], extra: dict[str, Any], supports: Capabilities) -> Sampling:
    limit = _number(body, "max_tokens", int)
    if limit is None and not supports.extra:
        limit = _number(extra, "max_completion_tokens", int)
        extra.pop("max_completion_tokens", None)
    seed = _number(body, "seed", int)
    if seed is not None and not supports.seed:
        raise Refusal(400, "seed is not supported by this model", code="unsupported_parameter", param="seed")
    stop = body.get("stop", [])
    texts = [stop] if isinstance(stop, str) else stop
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise invalid("stop is neither a text nor a list of texts", "stop")
    try:
        temperature, top_p = _number(body, "temperature", float), _number(body, "top_p", float)
        return Sampling(temperature, top_p, limit, tuple(texts), seed)
    except ValueError as error:
        raise invalid(str(error), str(error).split()[0]) from None


def _alternatives(body: Mapping[str, Any], chat: bool, supports: Capabilities) -> int | None:
    if chat:
        wanted, name = _number(body, "top_logprobs", int), "top_logprobs"
        if _flag(body, "logprobs"):
            wanted = wanted or 0
        elif wanted:
            raise invalid("top_logprobs is given without logprobs; set logprobs to true", name)
        else:
            wanted = None
    else:
        wanted, name = _number(body, "logprobs", int), "logprobs"
    count: int | None = wanted
    if count is not None and not supports.top_logprobs:
        raise Refusal(400, "logprobs are not supported by this model", code="unsupported_parameter", param="logprobs")
    if count is not None and not 0 <= count <= supports.top_logprobs:
        raise invalid(f"{name} is {count}; this model gives {supports.top_logprobs} at most", name)
    return count


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name, False)
    if not isinstance(value, bool):
        raise invalid(f"{name} is {codec.printable(repr(value), 80)}; wanted true or false", name)
    return value


def _number(body: Mapping[str, Any], name: str, kind: type[int] | type[float]) -> Any:
    """The number of this name, None where there is none."""
    value = body.get(name)
    if value is None or type(value) is kind:
        return value
    if kind is float and type(value) is int and abs(value) <= LARGEST:  # others may be too large for a float
        return value
    wanted = "a number" if kind is float else "a whole number"
    raise invalid(f"{name} is {codec.printable(repr(value), 80)}; wanted {wanted}", name)
