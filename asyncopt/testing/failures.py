"""What the simulated server sends where the plan of faults wants something other than the right answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from asyncopt import codec
from asyncopt.codec import Json
from asyncopt.testing.dialects import http_date
from asyncopt.testing.faults import Kind
from asyncopt.testing.wire import Shape, Written

_HALF_AN_ANSWER = b'{"id": "simulated", "cho'
_PAGE = b"<!DOCTYPE html>\n<html><head><title>502 Bad Gateway</title></head><body><h1>Bad Gateway</h1></body></html>"
_OTHER_MODEL = "a-smaller-model"


@dataclass(frozen=True, slots=True)
class Error:
    """An error with this status; ``code`` is the word by which clients know it, where there is one."""

    status: int
    code: str | None = None
    at_once: bool = False


ERRORS: Mapping[Kind, Error] = {
    **{kind: Error(int(kind)) for kind in ("400", "408", "409", "500", "502", "503", "504", "520", "529")},
    **{kind: Error(int(kind), at_once=True) for kind in ("401", "402", "403", "404", "429")},
    **{kind: Error(429, at_once=True) for kind in ("429-after", "429-ms", "429-date", "429-nonsense")},
    "503-after": Error(503),
    "html": Error(502),
    "error-200": Error(200, at_once=True),
    "ramp": Error(429, "slow_down", at_once=True),
    "quota": Error(429, "insufficient_quota", at_once=True),
    "daily": Error(429, at_once=True),
    "too-large": Error(400, "context_length_exceeded"),
}

# Those after which the client has no part of an answer.
LOST: frozenset[str | None] = frozenset({"malformed", "truncated", "reset", "reset-body", "hang", "no-choices"})

# Those after which the answer's usage can be read, and so is on the bill.
BILLED: frozenset[str | None] = frozenset(
    {None, "slow", "other-model", "null-content", "length", "length-empty", "refused"}
)

# Those whose usage the client has to estimate.
ESTIMATED: frozenset[str | None] = frozenset({"no-usage", "absurd-usage"})


def error_body(kind: Kind, shape: Shape) -> bytes:
    """The body of an error response."""
    if kind == "html":
        return _PAGE
    if kind == "error-200":  # as OpenRouter does
        return codec.dumps({"error": {"code": 429, "message": "Rate limited upstream."}, "choices": None})
    error = ERRORS[kind]
    body = shape.error(error.status, "Too many requests." if error.status == 429 else "The server has a problem.")
    return codec.dumps({**body, "error": {**body["error"], "code": error.code}} if error.code else body)


def headers_of(kind: str | None, wall: float) -> dict[str, str]:
    """The headers that belong to the fault, on a server whose clock shows ``wall``."""
    found = {
        "503-after": {"Retry-After": "5"},
        "html": {"content-type": "text/html"},
        "429-after": {"Retry-After": "3"},
        "429-ms": {"Retry-After": "9", "retry-after-ms": "250"},
        "429-date": {"Retry-After": http_date(wall + 4)},
        "429-nonsense": {"Retry-After": "1e309"},
        "daily": {"Retry-After": "86400"},
    }
    return found.get(kind or "", {})


def altered(kind: Kind | None, written: Written) -> Written:
    """The answer with less of its text, where the fault takes it."""
    if kind == "length":
        return replace(written, text=written.text[: len(written.text) // 2], ended="length")
    if kind == "length-empty":
        return replace(written, text="", ended="length")
    return replace(written, text="") if kind in ("null-content", "refused") else written


def spoilt(kind: Kind | None, body: Json) -> bytes:
    """The bytes of an answer's object as the fault leaves it, whatever the wire format."""
    if kind == "malformed":
        return _HALF_AN_ANSWER
    change = _CHANGES.get(kind or "")
    whole = codec.dumps(body if change is None else change(body))
    return whole[: len(whole) // 2] if kind == "truncated" else whole


def _no_choices(body: Json) -> Json:
    return {**body, "content": None} if "content" in body else {**body, "choices": []}


def _null_content(body: Json) -> Json:
    if "content" in body:
        return {**body, "content": []}
    return _with_choice(body, {"message": {"role": "assistant", "content": None}})


def _refused(body: Json) -> Json:
    return (
        {**body, "stop_reason": "refusal"}
        if "content" in body
        else _with_choice(body, {"finish_reason": "content_filter"})
    )


def _with_choice(body: Json, changed: Json) -> Json:
    first = body["choices"][0]
    return {**body, "choices": [{**first, **{name: changed[name] for name in changed if name in first}}]}


def _no_usage(body: Json) -> Json:
    return {name: value for name, value in body.items() if name != "usage"}


def _absurd_usage(body: Json) -> Json:
    return {**body, "usage": dict.fromkeys(body["usage"], -7)}


def _other_model(body: Json) -> Json:
    return {**body, "model": _OTHER_MODEL}


_CHANGES: Mapping[str, Callable[[Json], Json]] = {
    "no-choices": _no_choices,
    "null-content": _null_content,
    "refused": _refused,
    "no-usage": _no_usage,
    "absurd-usage": _absurd_usage,
    "other-model": _other_model,
}
