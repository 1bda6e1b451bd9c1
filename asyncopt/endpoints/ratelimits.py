"""What response headers say of a server's rate limits: the dialects of OpenAI, Azure, Anthropic and OpenRouter.

Told apart by the headers' names, not by the address: gateways pass them on. Nothing here raises; what is not readable
is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from asyncopt.endpoints.headers import (
    duration_of,
    epoch_delay,
    http_date,
    number_of,
    rfc_3339,
    seconds_until,
    within_bounds,
)
from asyncopt.values import DIMENSIONS, Allowance, Dimension, RateLimits

_OPENAI_REQUESTS = ("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests")
_OPENAI_TOKENS = ("x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens")
_MINUTE = 60.0
_DAY = 86_400.0
_FAR_FROM_A_MINUTE = 10 * _MINUTE


def rate_limits(headers: Mapping[str, str]) -> RateLimits | None:
    """The limits that the headers state, or None where they state none.

    ``headers`` finds names in lower case. An answer without such headers costs a handful of look-ups: this is on the
    path of every call.
    """
    if "x-ratelimit-remaining-requests" in headers or "x-ratelimit-remaining-tokens" in headers:
        return _stated(_openai(headers, *_OPENAI_REQUESTS, daily=True), _openai(headers, *_OPENAI_TOKENS))
    if (
        "anthropic-ratelimit-requests-remaining" in headers
        or "anthropic-ratelimit-tokens-remaining" in headers
        or "anthropic-ratelimit-input-tokens-remaining" in headers
    ):
        return _anthropic(headers)
    if "x-ratelimit-remaining" in headers:
        return _stated(_window(headers))
    return None


def exhausted(limits: RateLimits | None) -> Dimension | None:
    """The one dimension of which nothing remains; None if there is none, or more than one."""
    found = [name for name in DIMENSIONS if _remaining(limits, name) == 0]
    return found[0] if len(found) == 1 else None


def _remaining(limits: RateLimits | None, name: Dimension) -> float | None:
    allowance: Allowance | None = getattr(limits, name, None)
    return None if allowance is None else allowance.remaining


def _stated(*allowances: Allowance | None) -> RateLimits | None:
    return RateLimits(*allowances) if any(allowances) else None


def _allowance(limit: float | None, remaining: float | None, reset: float | None) -> Allowance | None:
    """The allowance; a limit of 0 says "unknown", and so does a remaining 0 that nothing else vouches for (Azure)."""
    limit = limit or None
    if remaining == 0 and limit is None and reset is None:
        remaining = None
    if limit is None and remaining is None and reset is None:
        return None
    return Allowance(limit, remaining, reset)


def _openai(headers: Mapping[str, str], limited: str, left: str, full: str, daily: bool = False) -> Allowance | None:
    limit, remaining = number_of(headers.get(limited)), number_of(headers.get(left))
    text = headers.get(full, "")
    # Azure writes whole seconds without a unit, and 0 where it does not know; OpenAI's "0s" means full.
    reset = duration_of(text)
    if reset is None:
        seconds = number_of(text)
        reset = within_bounds(seconds) if seconds else None
    return _allowance(_per_minute(limit, remaining, reset) if daily else limit, remaining, reset)


def _anthropic(headers: Mapping[str, str]) -> RateLimits | None:
    now = http_date(headers.get("date"))
    return _stated(*(_anthropic_allowance(headers, name.replace("_", "-"), now) for name in DIMENSIONS))


def _anthropic_allowance(headers: Mapping[str, str], name: str, now: datetime | None) -> Allowance | None:
    limit = number_of(headers.get(f"anthropic-ratelimit-{name}-limit"))
    remaining = number_of(headers.get(f"anthropic-ratelimit-{name}-remaining"))
    reset = seconds_until(rfc_3339(headers.get(f"anthropic-ratelimit-{name}-reset", "")), now)
    return _allowance(limit, remaining, reset)


def _window(headers: Mapping[str, str]) -> Allowance | None:
    limit = number_of(headers.get("x-ratelimit-limit"))
    remaining = number_of(headers.get("x-ratelimit-remaining"))
    reset = epoch_delay(headers.get("x-ratelimit-reset", ""), http_date(headers.get("date")))
    return _allowance(_per_minute(limit, remaining, reset), remaining, reset)


def _per_minute(limit: float | None, remaining: float | None, reset: float | None) -> float | None:
    """The limit on requests in permits a minute; small accounts have theirs per day, and no header says which.

    A bucket of ``limit`` permits that misses ``limit - remaining`` and is full again after ``reset`` has a period of
    ``reset * limit / (limit - remaining)``. A window has no such law: right after its start the formula gives any
    period. So it is believed only when ``reset`` itself is above a minute, which no limit per minute can show unless
    it is overdrawn, and then at most a day. Until enough of a large daily limit is used it is taken as one per minute.
    """
    if limit is None or remaining is None or reset is None or remaining >= limit or reset <= _MINUTE:
        return limit
    period = min(reset * limit / (limit - remaining), _DAY)
    return limit * _MINUTE / period if period > _FAR_FROM_A_MINUTE else limit
