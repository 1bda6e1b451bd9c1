"""The one table that turns a failed response into a :class:`FaultKind`: by code, then type, then status.

Messages never decide: a Gemini rate limit says "You exceeded your current quota", and a new wording must not turn a
pause into the end of a study. The length of a wait may be read from one, as the last resort.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from asyncopt import codec
from asyncopt.endpoints.headers import should_retry
from asyncopt.endpoints.hints import reset_wait, stated_wait, wait_in_text, wrapped_headers
from asyncopt.endpoints.ratelimits import exhausted, rate_limits
from asyncopt.values import Dimension, Fault, FaultKind, RateLimits, Usage

# A longer wait than this is a daily quota, not a rate limit: the study stops and can be resumed (openai-python's rule).
LONGEST_WAIT = 120.0
_LONGEST_WORD, _PAGE_READ = 80, 800
_STATUS_IN_WORDS = re.compile(r"[45]\d\d", re.ASCII)

_BY_WORD: dict[str, FaultKind] = {
    "rate_limit_exceeded": FaultKind.RATE_LIMITED,
    "rate_limit_error": FaultKind.RATE_LIMITED,
    "slow_down": FaultKind.RAMP,
    "insufficient_quota": FaultKind.QUOTA,
    "credit_balance_exhausted": FaultKind.QUOTA,
    "organization_spend_limit_exceeded": FaultKind.QUOTA,
    "project_spend_limit_exceeded": FaultKind.QUOTA,
    "organization_usage_limit_exceeded": FaultKind.QUOTA,
    "billing_hard_limit_reached": FaultKind.QUOTA,
    "enforced_spend_limit_reached": FaultKind.QUOTA,
    "billing_error": FaultKind.QUOTA,  # under 402, and under 400 for a spend limit
    "invalid_api_key": FaultKind.FATAL_CONFIG,
    "authentication_error": FaultKind.FATAL_CONFIG,
    "permission_error": FaultKind.FATAL_CONFIG,
    "model_not_found": FaultKind.FATAL_CONFIG,
    "context_length_exceeded": FaultKind.TOO_LARGE,
    "exceed_context_size_error": FaultKind.TOO_LARGE,
    "request_too_large": FaultKind.TOO_LARGE,
    "content_filter": FaultKind.REFUSED,
    "content_policy_violation": FaultKind.REFUSED,
    "overloaded_error": FaultKind.TRANSIENT,
    "server_is_overloaded": FaultKind.TRANSIENT,
}

_BY_STATUS: dict[int, FaultKind] = {
    401: FaultKind.FATAL_CONFIG,
    402: FaultKind.QUOTA,
    403: FaultKind.FATAL_CONFIG,
    404: FaultKind.FATAL_CONFIG,
    408: FaultKind.TRANSIENT,
    409: FaultKind.TRANSIENT,
    413: FaultKind.TOO_LARGE,
    425: FaultKind.TRANSIENT,
    429: FaultKind.RATE_LIMITED,
}

# Errors that come under status 200, most often in mid-stream. Elsewhere the status goes before these types: they are
# put on everything, as in Ollama's "api_error" under 404.
_WITHOUT_STATUS: dict[str, FaultKind] = {
    "api_error": FaultKind.TRANSIENT,
    "server_error": FaultKind.TRANSIENT,
    "timeout_error": FaultKind.TRANSIENT,
    "invalid_request_error": FaultKind.BAD_REQUEST,
}

_DIMENSIONS: dict[str, Dimension] = {
    "requests": "requests",
    "tokens": "tokens",
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
}

_LIMITED = (FaultKind.RATE_LIMITED, FaultKind.RAMP)

# What the server's own x-should-retry may overrule; money and configuration are never tried again.
_OVERRULED = (FaultKind.TRANSIENT, FaultKind.BAD_REQUEST)


def kind_of(status: int, code: object = None, type_: object = None) -> FaultKind:
    """The kind of a failure from its error code, error type and HTTP status.

    Unknown 4xx end the item, unknown 5xx may pass, and an unknown error under 200 is an answer that makes no sense. A
    redirect is never followed, whatever its body says.
    """
    if 300 <= status < 400:
        return FaultKind.FATAL_CONFIG
    for word in (code, type_):
        kind = _BY_WORD.get(word) if isinstance(word, str) else None
        if kind is not None:
            return kind
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status < 400:
        return _WITHOUT_STATUS.get(type_, FaultKind.MALFORMED) if isinstance(type_, str) else FaultKind.MALFORMED
    return FaultKind.TRANSIENT if status >= 500 else FaultKind.BAD_REQUEST


def has_error(body: Any) -> bool:
    """Whether the JSON value is an error object, or Gemini's array around one."""
    first = body[0] if isinstance(body, list) and body else body
    return isinstance(first, dict) and first.get("error") is not None


def _error_of(body: Any) -> dict[str, Any]:
    if isinstance(body, list) and body:  # Gemini's OpenAI-compatible endpoint wraps the error in an array
        body = body[0]
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, str):
        return {"message": error}
    return error if isinstance(error, dict) else {}


def fault_of(status: int, headers: Mapping[str, str], body: Any, raw: bytes = b"") -> Fault:
    """The fault that an error response stands for; ``body`` is its JSON value, or None where it is none.

    Of a body that is no JSON, such as a proxy's page, the beginning of its ``raw`` bytes goes into the detail.
    """
    error = _error_of(body)
    code, type_ = _code_in(error), error.get("type")
    if isinstance(code, str) and _STATUS_IN_WORDS.fullmatch(code):  # as LiteLLM's proxy writes it
        code = int(code)
    if isinstance(code, int) and not isinstance(code, bool) and 400 <= code < 600:
        status = code  # OpenRouter and Gemini put the status there, the first under HTTP 200
    kind = kind_of(status, code, type_)
    wrapped = wrapped_headers(headers, error)
    limits = rate_limits(headers) or rate_limits(wrapped)
    wait, scarce = stated_wait(headers, error), None
    if kind in _LIMITED:
        wait = wait if wait is not None else reset_wait(headers) or reset_wait(wrapped)
        if wait is not None and wait > LONGEST_WAIT:
            kind = FaultKind.QUOTA_DAILY
        if wait is None:
            wait = _capped(wait_in_text(error.get("message")))
        scarce = _scarce(code, type_, limits)
    else:
        wait = _capped(wait)  # a server that fails is asked again before long: it may be back earlier than it thought
    word = should_retry(headers) if kind in _OVERRULED else None
    page = raw[:_PAGE_READ].decode("utf-8", "replace") if body is None else ""
    detail, label = _detail(status, code, type_, error, page), _label(status, code, type_)
    return Fault(kind, detail, wait, word, scarce=scarce, limits=limits, code=label)


def _code_in(error: dict[str, Any]) -> object:
    """The error's code; Anthropic has the one that tells a spend limit from a rate limit in its details."""
    details = error.get("details")
    nested = details.get("error_code") if isinstance(details, dict) else None
    return nested if isinstance(nested, str) and nested in _BY_WORD else error.get("code")


def _label(status: int, code: object, type_: object) -> str:
    """The provider's own word for the failure, or else its status; none for a redirect, which no provider means."""
    if 300 <= status < 400:
        return ""
    word = code if isinstance(code, str) and code else type_
    return codec.printable(word, _LONGEST_WORD) if isinstance(word, str) and word else f"HTTP {status}"


def _capped(wait: float | None) -> float | None:
    return None if wait is None else min(wait, LONGEST_WAIT)  # longer, it would make a message decide the kind


def _scarce(code: object, type_: object, limits: RateLimits | None) -> Dimension | None:
    for word in (type_, code):  # OpenAI: the type is "tokens" or "requests", the code always "rate_limit_exceeded"
        if isinstance(word, str) and word in _DIMENSIONS:
            return _DIMENSIONS[word]
    return exhausted(limits)


def _detail(status: int, code: object, type_: object, error: dict[str, Any], page: str) -> str:
    label = code if isinstance(code, str) else type_ if isinstance(type_, str) else ""
    message = error.get("message")
    return codec.printable(f"HTTP {status} {label} {message if isinstance(message, str) else page}")


def malformed(status: int, what: str) -> Fault:
    """The fault of a successful response that holds no answer."""
    return Fault(FaultKind.MALFORMED, f"HTTP {status} with {what} where an answer was wanted")


def truncated(usage: Usage, limits: RateLimits | None) -> Fault:
    """The fault of an answer without a word: all of ``max_tokens`` went into reasoning."""
    detail = "max_tokens were used up before the first word of the answer"
    return Fault(FaultKind.TRUNCATED, detail, usage=usage, limits=limits)
