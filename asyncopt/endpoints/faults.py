"""The one table that turns a failed response into a :class:`FaultKind`: by code, then type, then status.

Messages are never looked at: a Gemini rate limit says "You exceeded your current quota", and a new wording must not
turn a pause into the end of a study.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asyncopt import codec
from asyncopt.endpoints.headers import retry_after, should_retry
from asyncopt.values import Fault, FaultKind

# A longer wait than this is a daily quota, not a rate limit: the study stops and can be resumed (openai-python's rule).
LONGEST_WAIT = 120.0

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
    "billing_error": FaultKind.QUOTA,
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

# What the server's own x-should-retry may overrule; money and configuration are never tried again.
_OVERRULED = (FaultKind.TRANSIENT, FaultKind.BAD_REQUEST)


def kind_of(status: int, code: object = None, type_: object = None) -> FaultKind:
    """The kind of a failure from its error code, error type and HTTP status; unknown 4xx end the item, 5xx may pass."""
    for word in (code, type_):
        kind = _BY_WORD.get(word) if isinstance(word, str) else None
        if kind is not None:
            return kind
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    return FaultKind.TRANSIENT if status >= 500 else FaultKind.BAD_REQUEST


def _error_of(body: Any) -> dict[str, Any]:
    if isinstance(body, list) and body:  # Gemini's OpenAI-compatible endpoint wraps the error in an array
        body = body[0]
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, str):
        return {"message": error}
    return error if isinstance(error, dict) else {}


def fault_of(status: int, headers: Mapping[str, str], body: Any) -> Fault:
    """The fault that an error response stands for; ``body`` is its JSON value, or None where it is none."""
    error = _error_of(body)
    code, type_ = error.get("code"), error.get("type")
    if isinstance(code, int) and not isinstance(code, bool) and 400 <= code < 600:
        status = code  # OpenRouter and Gemini put the status there, the first under HTTP 200
    wait, word = retry_after(headers), should_retry(headers)
    kind = kind_of(status, code, type_)
    if kind is FaultKind.RATE_LIMITED and wait is not None and wait > LONGEST_WAIT:
        kind = FaultKind.QUOTA_DAILY
    label = code if isinstance(code, str) else type_ if isinstance(type_, str) else ""
    message = error.get("message")
    detail = codec.printable(f"HTTP {status} {label} {message if isinstance(message, str) else ''}")
    return Fault(kind, detail, wait, word if kind in _OVERRULED else None)
