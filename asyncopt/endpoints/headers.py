"""Waiting hints out of response headers: strict, never raising, never outside [0, a week].

`float()` on raw header text is not used: it takes "nan", "1e309", "1_0" and digits of other scripts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LONGEST_HINT = 7 * 86_400.0

_NUMBER = re.compile(r"\d{1,12}(?:\.\d{1,9})?", re.ASCII)


def _plain_number(text: str) -> float | None:
    text = text.strip()
    return float(text) if _NUMBER.fullmatch(text) else None


def _http_date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text.strip()[:64])
    except (ValueError, IndexError, OverflowError, TypeError):
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _until(text: str, date: str | None) -> float | None:
    # The server's own clock is the only one its dates can be compared with; ours may be an hour off or jump.
    moment, now = _http_date(text), _http_date(date or "")
    if moment is None or now is None:
        return None
    return (moment - now).total_seconds()


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait before another attempt as the server asks, or None where it says nothing readable.

    ``retry-after-ms`` goes before ``retry-after``, which holds seconds or an HTTP date (RFC 9110, section 10.2.3).
    """
    milliseconds = _plain_number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return min(milliseconds / 1000, LONGEST_HINT)
    text = headers.get("retry-after")
    if text is None:
        return None
    seconds = _plain_number(text)
    if seconds is None:
        seconds = _until(text, headers.get("date"))
    return None if seconds is None else min(max(seconds, 0.0), LONGEST_HINT)


def should_retry(headers: Mapping[str, str]) -> bool | None:
    """The server's word on whether to try again (``x-should-retry``), or None where it gives none."""
    return {"true": True, "false": False}.get(headers.get("x-should-retry", "").strip().lower())
