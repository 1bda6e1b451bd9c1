"""Whether unused tokens come back, found out from what headers say is left."""

from __future__ import annotations

import pytest

from asyncopt.limits.refunds import Refunds

RATE, FULL = 1000.0, 2000.0
RESERVED, USED = 100.0, 40.0


def told(*, gives_back: bool, calls_a_second: float, seconds: float = 60.0) -> bool | None:
    """What is concluded of a bucket that is asked so often for 100 tokens, of which 40 are used."""
    refunds, level, spent = Refunds(), FULL, 0.0
    for number in range(int(calls_a_second * seconds)):
        at = number / calls_a_second
        level = min(level + RATE / calls_a_second, FULL)
        if level < RESERVED:
            continue
        level -= RESERVED
        spent += RESERVED
        refunds.saw(level, spent, at, RATE, FULL)
        refunds.unused(RESERVED - USED)
        level = min(level + (RESERVED - USED) * gives_back, FULL)
        if refunds.given is not None:
            break
    return refunds.given


@pytest.mark.parametrize("calls_a_second", [15.0, 24.0, 40.0])
def test_what_comes_back_is_seen(calls_a_second: float) -> None:
    assert told(gives_back=True, calls_a_second=calls_a_second) is True


@pytest.mark.parametrize("calls_a_second", [12.0, 24.0])
def test_what_stays_away_is_seen(calls_a_second: float) -> None:
    assert told(gives_back=False, calls_a_second=calls_a_second) is False


@pytest.mark.parametrize("gives_back", [True, False])
def test_a_bucket_that_stays_full_says_nothing(gives_back: bool) -> None:
    assert told(gives_back=gives_back, calls_a_second=5.0) is None


def test_few_calls_say_nothing() -> None:
    assert told(gives_back=True, calls_a_second=24.0, seconds=1.0) is None
