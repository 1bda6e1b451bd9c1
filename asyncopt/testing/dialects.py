"""How providers tell of their limits: headers, waiting hints and the formats of both.

``wall`` is the server's own clock in seconds since 1970. A real one tells its time in the Date header, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import formatdate
from functools import lru_cache

from asyncopt.codec import Json
from asyncopt.errors import ConfigError
from asyncopt.testing.quotas import Meter

Headers = dict[str, str]


@dataclass(frozen=True, slots=True)
class Dialect:
    """What one provider writes: the state of its quotas, how long to wait, and that in the words of its message.

    ``metadata`` are the limits that stand in the body of a refusal, for the meter that refused and its wait.
    """

    limits: Callable[[Sequence[Meter], float], Headers]
    hint: Callable[[float], Headers]
    words: Callable[[float], str]
    metadata: Callable[[Meter, float, float], Json] | None = None


def dialect_of(name: str) -> Dialect:
    """The dialect of this name; raises :class:`ConfigError`."""
    if name not in _DIALECTS:
        raise ConfigError(f"the headers are {name!r}; wanted one of {', '.join(_DIALECTS)}")
    return _DIALECTS[name]


def milliseconds_of(seconds: float) -> int:
    """Whole milliseconds, rounded up but for the dust of floats: 0.1 + 0.2 s are 300 ms, not 301."""
    return math.ceil(round(seconds * 1000, 6))


def go_duration(seconds: float) -> str:
    """The duration as Go prints it and OpenAI sends it, in whole milliseconds: 12ms, 8.64s, 1m26.4s."""
    milliseconds = milliseconds_of(seconds)
    if 0 < milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    prefix = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{prefix}{rest / 1000:.10g}s"


def rfc3339(wall: float) -> str:
    """The moment to the second, as Anthropic writes it: 2026-01-01T00:00:00Z."""
    return datetime.fromtimestamp(math.floor(wall), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def http_date(wall: float) -> str:
    """The moment as the Date header holds it."""
    return _http_date(math.floor(wall))


@lru_cache(maxsize=4)
def _http_date(second: int) -> str:
    return formatdate(second, usegmt=True)


def _remaining(meter: Meter) -> str:
    return str(math.floor(meter.remaining + 1e-6))


def _ratelimit(meters: Sequence[Meter], duration: Callable[[float], str]) -> Headers:
    headers = {}
    for meter in meters:
        if meter.dimension in ("requests", "tokens"):  # these providers do not count input and output apart
            headers[f"x-ratelimit-limit-{meter.dimension}"] = str(round(meter.limit))
            headers[f"x-ratelimit-remaining-{meter.dimension}"] = _remaining(meter)
            headers[f"x-ratelimit-reset-{meter.dimension}"] = duration(meter.until_full)
    return headers


def _openai_limits(meters: Sequence[Meter], _: float) -> Headers:
    return _ratelimit(meters, go_duration)


def _azure_limits(meters: Sequence[Meter], _: float) -> Headers:
    return _ratelimit(meters, lambda seconds: str(math.ceil(round(seconds, 6))))


def _anthropic_limits(meters: Sequence[Meter], wall: float) -> Headers:
    headers = {}
    for meter in meters:
        prefix = f"anthropic-ratelimit-{meter.dimension.replace('_', '-')}"
        headers[f"{prefix}-limit"] = str(round(meter.limit))
        headers[f"{prefix}-remaining"] = _remaining(meter)
        headers[f"{prefix}-reset"] = rfc3339(wall + meter.until_full)
    return headers


def _openrouter_metadata(meter: Meter, wait: float, wall: float) -> Json:
    headers = {"X-RateLimit-Limit": str(round(meter.limit)), "X-RateLimit-Remaining": _remaining(meter)}
    if math.isfinite(wait):
        headers["X-RateLimit-Reset"] = str(milliseconds_of(wall + wait))
    return {"headers": headers}


def _no_limits(_: Sequence[Meter], __: float) -> Headers:
    return {}


def _no_hint(_: float) -> Headers:
    return {}


def _no_words(_: float) -> str:
    return ""


def _seconds_hint(wait: float) -> Headers:
    return {"Retry-After": str(math.ceil(wait))}


def _both_hints(wait: float) -> Headers:
    return {**_seconds_hint(wait), "retry-after-ms": str(milliseconds_of(wait))}


def _openai_words(wait: float) -> str:
    return f" Please try again in {go_duration(wait)}."


def _azure_words(wait: float) -> str:
    return f" Please retry after {math.ceil(wait)} seconds."


_DIALECTS = {
    "openai": Dialect(_openai_limits, _both_hints, _openai_words),
    "azure": Dialect(_azure_limits, _both_hints, _azure_words),
    "anthropic": Dialect(_anthropic_limits, _seconds_hint, _no_words),
    "openrouter": Dialect(_no_limits, _no_hint, _no_words, _openrouter_metadata),
    "none": Dialect(_no_limits, _both_hints, _openai_words),
}
