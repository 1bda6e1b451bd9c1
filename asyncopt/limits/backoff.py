"""Whether to try a failed call again, and when. Pure; the dispatcher's loop is the only caller.

Decorrelated jitter, ``min(cap, U(base, 3 * previous))``, with other bases for throttling and for transient failures
(AWS's "Exponential Backoff And Jitter"; botocore's 2026 defaults). A server's Retry-After is a minimum, spread by a
tenth so that the waiters do not come back together.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from asyncopt.values import Fault, FaultKind

MAX_ATTEMPTS = 8
MAX_MALFORMED = 3
MAX_SECONDS = 1800.0  # rate limits do not count as attempts, so this bounds them
_SPREAD = 0.1


@dataclass(frozen=True, slots=True)
class Curve:
    """The shortest and the longest wait of a kind of failure, in seconds."""

    base: float
    cap: float


TRANSIENT = Curve(0.5, 20.0)
THROTTLE = Curve(1.0, 60.0)

THROTTLED = frozenset({FaultKind.RATE_LIMITED, FaultKind.RAMP})
PASSING = frozenset({FaultKind.TRANSIENT, FaultKind.AMBIGUOUS})


# The server works, and has said what it thinks of this one request.
ANSWERED = frozenset({FaultKind.REFUSED, FaultKind.TRUNCATED, FaultKind.TOO_LARGE, FaultKind.BAD_REQUEST})


def retries(fault: Fault, failures: int, elapsed: float) -> bool:
    """Whether a call that has failed ``failures`` times (throttling apart) in ``elapsed`` seconds is tried again."""
    if elapsed >= MAX_SECONDS:
        return False
    if fault.kind in THROTTLED:
        return True
    if fault.retry is not None:
        return fault.retry and failures < MAX_ATTEMPTS
    if fault.kind in PASSING:
        return failures < MAX_ATTEMPTS
    return fault.kind is FaultKind.MALFORMED and failures < MAX_MALFORMED


def delay(fault: Fault, previous: float, rng: Random) -> float:
    """Seconds to wait; ``previous`` is the last wait of this call (or of this gate), 0.0 for none."""
    curve = THROTTLE if fault.kind in THROTTLED else TRANSIENT
    if fault.retry_after is not None:
        return fault.retry_after * (1 + rng.uniform(0, _SPREAD))
    return min(curve.cap, rng.uniform(curve.base, max(3 * previous, curve.base)))
