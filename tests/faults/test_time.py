"""Clocks that jump and loops that stand still: the pace is the loop's, and nobody pays for a pause twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from scripted import Notes, Scripted, answer, asked, errors, failure

from asyncopt import Engine, Generate, Quota, Sampling
from asyncopt.errors import CallFailed
from asyncopt.limits.patience import ENOUGH, FACTOR, SHORTEST, Patience
from asyncopt.testing import SimulatedAPI, run_virtual
from asyncopt.values import Completion, FaultKind

PACED = Quota(requests_per_minute=600)  # ten a second, two at once


def jumping(step: float) -> Callable[[], float]:
    """A wall clock that is a step off at every second look."""
    looks = iter(range(10**9))
    return lambda: 1.8e9 + step * (next(looks) % 2)


def refusing() -> Scripted:
    """A server that refuses a few in the middle, by a date of its own clock."""
    headers = {"date": "Sat, 21 Nov 2026 12:00:00 GMT", "retry-after": "Sat, 21 Nov 2026 12:00:05 GMT"}
    return Scripted(lambda number, _: failure(429, None, headers) if 20 <= number < 25 else answer())


@pytest.mark.row("L01")
@pytest.mark.parametrize("step", [-86_400.0, -0.5, 3600.0, 86_400.0])
def test_the_wall_clock_has_no_say_in_the_pace(monkeypatch: pytest.MonkeyPatch, step: float) -> None:
    steady, jumped = refusing(), refusing()
    run_virtual(asked(steady, 100, quota=PACED))
    monkeypatch.setattr(time, "time", jumping(step))
    results = run_virtual(asked(jumped, 100, quota=PACED))
    assert jumped.arrived == steady.arrived
    assert errors(results) == []


def stalled(at: float, seconds: float, run: Callable[[], Any]) -> Callable[[], Any]:
    """The same coroutine on a loop that stands still once: for everybody on it, time jumps while nothing is done."""

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        clock, lost = loop.time, [0.0]
        loop.time = lambda: clock() + lost[0]  # type: ignore[method-assign]
        loop.call_later(at, lambda: lost.__setitem__(0, seconds))
        return await run()

    return main


@pytest.mark.row("L02")
def test_a_loop_that_stood_still_ends_no_call_by_its_deadline() -> None:
    notes, endpoint = Notes(), Scripted(lambda *_: answer(), seconds=12.0)
    run = asked(endpoint, 20, quota=Quota(concurrency=20), observers=(notes,), timeout=13.0)
    # Right before deadlines are looked at; by then all answers are late, and none has been read.
    results = run_virtual(stalled(4.49, 10.0, run))
    assert errors(results) == []
    assert len(endpoint.arrived) == 20  # none was asked again
    (text,) = notes.texts
    assert "the event loop stood still for 10.0 s" in text


@pytest.mark.row("L02")
def test_a_deadline_is_put_off_once_and_by_the_lag_alone() -> None:
    endpoint = Scripted(lambda *_: answer(), seconds=100.0)
    assert len(errors(run_virtual(stalled(5.0, 5.0, asked(endpoint, 1, timeout=13.0))))) == 1
    first, second, third = endpoint.arrived[:3]
    # The timeout and the lag, then half a second until deadlines are looked at, and the wait before another attempt.
    assert 18.0 <= second - first <= 19.2
    assert 13.0 <= third - second <= 15.2


@pytest.mark.row("L02")
def test_after_a_stall_there_is_no_burst() -> None:
    endpoint = Scripted(lambda *_: answer(), seconds=1.0)
    assert errors(run_virtual(stalled(5.0, 5.0, asked(endpoint, 200, quota=PACED)))) == []
    after = [moment for moment in endpoint.arrived if moment >= 9.0]
    assert len(after) > 100
    for start in after:
        assert sum(start <= moment < start + 0.1 for moment in after) <= 3  # a burst of two, and a tenth of ten


@pytest.mark.row("L02", "H02")
def test_a_strict_server_refuses_nothing_after_a_stall() -> None:
    api = SimulatedAPI(requests_per_second=10.0, request_burst=2.0, headers="none")
    assert errors(run_virtual(stalled(5.0, 5.0, asked(api.endpoint(), 200, quota=PACED)))) == []
    assert api.ledger.refused() <= 1
    assert api.ledger.max_in_window(1.0) <= 12


def test_an_answer_that_is_lost_is_not_waited_for_ten_minutes() -> None:
    """Where answers took a second, a lost one is given up after a minute; then it has four, and then all there is."""
    endpoint = Scripted(lambda *_: answer())
    send = endpoint.send

    async def lose_some(model: str, request: Any) -> Any:
        endpoint.seconds = 3600.0 if 200 <= len(endpoint.arrived) < 202 else 1.0
        return await send(model, request)

    endpoint.send = lose_some  # type: ignore[method-assign]
    results = run_virtual(asked(endpoint, 201, quota=Quota(concurrency=1)))
    assert errors(results) == []
    lost, again, at_last = endpoint.arrived[200:]
    assert SHORTEST <= again - lost <= SHORTEST + 2
    assert FACTOR * SHORTEST <= at_last - again <= FACTOR * SHORTEST + 3


def test_a_server_that_never_answers_does_not_cost_eight_timeouts() -> None:
    endpoint = Scripted(lambda *_: answer(), seconds=1e6)
    ended: list[float] = []

    async def main() -> list[Completion | BaseException]:
        results = await asked(endpoint, 3, quota=Quota(concurrency=1))()
        ended.append(asyncio.get_running_loop().time())
        return results

    results = run_virtual(main)
    assert len(errors(results)) == 3
    assert ended[0] <= 3600.0
    assert len(endpoint.arrived) <= 6


def test_what_may_have_been_billed_is_counted_apart() -> None:
    endpoint = Scripted(lambda *_: answer(), seconds=50.0)

    async def main() -> None:
        async with Engine() as engine:
            model = engine.model("m", endpoint=endpoint, timeout=10.0)
            future = model.submit(Generate.of("q" * 384, Sampling(max_tokens=100)))
            await asyncio.sleep(15.0)
            endpoint.seconds = 1.0
            await future
            cut = len(endpoint.arrived) - 1
            assert model.account.possibly_billed_tokens == cut * 200
            assert model.account.tokens == 15

    run_virtual(main)


def test_patience_is_learned_from_enough_answers_and_never_below_a_minute() -> None:
    patience = Patience()
    for _ in range(ENOUGH - 1):
        patience.served(2.0, 100.0)
    assert patience.limit(100.0, 600.0, 0) == 600.0
    patience.served(2.0, 100.0)
    assert [patience.limit(100.0, 600.0, cut) for cut in range(3)] == [60.0, 240.0, 600.0]
    assert patience.limit(101.0, 600.0, 0) == 600.0  # it may well take longer than any before
    assert patience.limit(100.0, 30.0, 0) == 30.0
    patience.served(100.0, 100.0)
    assert patience.limit(100.0, 600.0, 0) == 400.0


def test_a_call_that_fails_for_half_an_hour_is_given_up() -> None:
    endpoint = Scripted(lambda *_: failure(429))
    (failed,) = errors(run_virtual(asked(endpoint, 1)))
    assert isinstance(failed, CallFailed)
    assert failed.fault.kind is FaultKind.RATE_LIMITED
    assert 1800.0 <= endpoint.arrived[-1] + 1.0 <= 1900.0
