"""How long a server asks to wait where the usual headers do not say it: in its error object, in resets, in its text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from asyncopt.endpoints.headers import duration_of, epoch_delay, http_date, retry_after

_TEXT_READ = 500
_IN_TEXT = re.compile(
    r"\b(?:try again|retry) (?:in|after) (?:(?P<seconds>\d{1,9}) seconds?\b|(?P<duration>\d[\dhmsdnuµ.]{1,40}))",
    re.IGNORECASE | re.ASCII,
)
_RESETS = (
    "x-ratelimit-reset",
    "anthropic-ratelimit-unified-reset",
    "anthropic-ratelimit-unified-5h-reset",
    "anthropic-ratelimit-unified-7d-reset",
)


def wrapped_headers(headers: Mapping[str, str], error: Mapping[str, Any]) -> dict[str, str]:
    """The headers that OpenRouter puts into the error object, in lower case, with the response's own Date."""
    metadata = error.get("metadata")
    found = metadata.get("headers") if isinstance(metadata, dict) else None
    if not isinstance(found, dict):
        return {}
    wrapped = {name.lower(): value for name, value in found.items() if isinstance(value, str)}
    return wrapped | {"date": headers.get("date", "")}


def stated_wait(headers: Mapping[str, str], error: Mapping[str, Any]) -> float | None:
    """Seconds in ``retry-after``, or in the ``retryDelay`` of Gemini's error details; None where neither is."""
    wait = retry_after(headers)
    details = error.get("details")
    for detail in details if wait is None and isinstance(details, list) else ():
        delay = detail.get("retryDelay") if isinstance(detail, dict) else None
        if isinstance(delay, str) and (wait := duration_of(delay)) is not None:
            return wait
    return wait


def reset_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds to the end of the window that a refused request fell into, or None.

    Only windows and subscription limits: a bucket's reset is when it is full again, long after its next permit.
    """
    now = http_date(headers.get("date"))
    for name in _RESETS:
        if name in headers and (delay := epoch_delay(headers[name], now)):
            return delay
    return None


def wait_in_text(message: Any) -> float | None:
    """Seconds out of "Please try again in 41.724s" and "Please retry after 37 seconds", or None."""
    match = _IN_TEXT.search(message[:_TEXT_READ]) if isinstance(message, str) else None
    if match is None:
        return None
    return duration_of((match["duration"] or f"{match['seconds']}s").rstrip("."))
