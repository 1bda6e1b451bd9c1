"""Numbers, durations and moments out of response headers: strict, never raising, always within stated bounds.

`float()` on raw header text is not used: it takes "nan", "1e309", "1_0" and digits of other scripts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache

from multidict import MultiMapping

LONGEST_HINT = 7 * 86_400.0

_LONGEST_TEXT = 64
_NUMBER = re.compile(r"\d{1,15}(?:\.\d{1,9})?", re.ASCII)
_DURATION = re.compile(r"(?:\d{1,9}(?:\.\d{1,9})?(?:ns|us|µs|ms|s|m|h|d))+", re.ASCII)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)([a-zµ]+)", re.ASCII)
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII)
_EPOCH_SECONDS = 1e8  # smaller numbers are delays; from 1e11 on, milliseconds
_EPOCH_MILLISECONDS = 1e11


def number_of(text: str | None) -> float | None:
    """A decimal number of at most fifteen digits before the point, or None."""
    text = "" if text is None else text.strip()
    return float(text) if _NUMBER.fullmatch(text) else None


@lru_cache(512)  # on the path of every answer, and most say the same
def duration_of(text: str) -> float | None:
    """Seconds of a duration as Go writes it (``6m0s``, ``8.64s``, ``12ms``), or None unless all of it is one."""
    text = text.strip()
    if len(text) > _LONGEST_TEXT or not _DURATION.fullmatch(text):
        return None
    return within_bounds(sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text)))


def within_bounds(seconds: float) -> float:
    """The delay, at least zero and at most a week."""
    return min(max(seconds, 0.0), LONGEST_HINT)


@lru_cache(64)
def http_date(text: str | None) -> datetime | None:
    """The moment in an HTTP date of any of the three forms (RFC 9110, section 5.6.7), or None."""
    try:
        moment = parsedate_to_datetime((text or "").strip()[:_LONGEST_TEXT])
    except (ValueError, IndexError, OverflowError, TypeError):
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


@lru_cache(64)
def rfc_3339(text: str) -> datetime | None:
    """The moment in ``2025-08-21T12:40:59Z`` and its like, or None."""
    text = text.strip()
    if not _RFC_3339.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(text.upper())
    except ValueError:  # the 31st of February
        return None


def seconds_until(moment: datetime | None, now: datetime | None) -> float | None:
    """The delay from ``now`` to ``moment``, None if either is unknown.

    ``now`` is the response's own Date: the server's clock is the only one that its moments can be compared with, ours
    may be an hour off or jump.
    """
    if moment is None or now is None:
        return None
    return within_bounds((moment - now).total_seconds())


def epoch_delay(text: str, now: datetime | None) -> float | None:
    """The delay to a reset given as epoch milliseconds, epoch seconds or plainly in seconds, told by their size."""
    value = number_of(text)
    if value is None:
        return None
    if value < _EPOCH_SECONDS:
        return within_bounds(value)
    if now is None:
        return None
    return within_bounds((value / 1000 if value >= _EPOCH_MILLISECONDS else value) - now.timestamp())


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait before another attempt as the server asks, or None where it says nothing readable.

    ``retry-after-ms`` goes before ``retry-after``, which holds seconds or an HTTP date (RFC 9110, section 10.2.3).
    """
    milliseconds = number_of(_only(headers, "retry-after-ms"))
    if milliseconds is not None:
        return within_bounds(milliseconds / 1000)
    text = _only(headers, "retry-after")
    if text is None:
        return None
    seconds = number_of(text)
    if seconds is not None:
        return within_bounds(seconds)
    return seconds_until(http_date(text), http_date(headers.get("date")))


def _only(headers: Mapping[str, str], name: str) -> str | None:
    """The header's value; None where it is missing, or is there twice and says two things."""
    values = headers.getall(name, []) if isinstance(headers, MultiMapping) else [headers.get(name)]
    return values[0] if len(set(values)) == 1 else None


def should_retry(headers: Mapping[str, str]) -> bool | None:
    """The server's word on whether to try again (``x-should-retry``), or None where it gives none."""
    return {"true": True, "false": False}.get(headers.get("x-should-retry", "").strip().lower())
