from __future__ import annotations

import asyncio
from random import Random

import pytest
from fakes import run_virtual
from hypothesis import given
from hypothesis import strategies as st

from asyncopt.limits import backoff
from asyncopt.limits.budget import Account, Budget
from asyncopt.limits.gate import Gate
from asyncopt.limits.meter import Meter
from asyncopt.values import Fault, FaultKind, Usage


async def take(meter: Meter, amount: float) -> float:
    while not meter.covers(amount):
        await meter.take_chunk(amount)
    meter.spend(amount)
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize("rate", [0.5, 1, 20, 100, 300, 1000, 5000])
def test_a_meter_gives_its_rate_and_no_more(rate: float) -> None:
    count = int(min(max(20, 10 * rate), 5000))

    async def main() -> list[float]:
        meter = Meter(rate)
        return [await take(meter, 1.0) for _ in range(count)]

    times = run_virtual(main)
    burst = max(2.0, 0.1 * rate) + max(1.0, 0.02 * rate)
    assert (count - burst - 1) / rate <= times[-1] <= count / rate
    for start in range(0, count, max(1, count // 50)):
        inside = sum(1 for time in times if times[start] <= time < times[start] + 1)
        assert inside <= rate + burst + 1


@given(st.lists(st.floats(0.1, 40), min_size=1, max_size=20), st.floats(1, 500))
def test_any_amounts_pass_at_the_rate(amounts: list[float], rate: float) -> None:
    async def main() -> float:
        meter = Meter(rate)
        for amount in amounts:
            await take(meter, amount)
        return asyncio.get_running_loop().time()

    burst = max(2.0, 0.1 * rate)
    chunk = max(max(amounts), 0.02 * rate)
    assert (sum(amounts) - burst - chunk) / rate - 1e-6 <= run_virtual(main) <= (sum(amounts) + chunk) / rate + 1e-6


def test_unused_permits_come_back_and_overuse_is_a_debt() -> None:
    async def main() -> tuple[float, float]:
        meter = Meter(10)
        await take(meter, 2)
        meter.settle(2, 0)
        first = await take(meter, 2)
        meter.settle(2, 22)
        return first, await take(meter, 1)

    first, second = run_virtual(main)
    assert first == 0.0
    assert second == pytest.approx(2.1, abs=0.11)


def test_the_savings_of_a_withdrawn_request_do_not_leave_as_a_burst() -> None:
    async def main() -> float:
        meter = Meter(10)
        while not meter.covers(100):
            await meter.take_chunk(100)
        meter.forget_credit()
        return meter.credit

    assert run_virtual(main) == 1.0


def test_the_gate_waits_then_lets_one_probe_through_then_all() -> None:
    gate = Gate()
    assert gate.wait(0) == 0
    assert gate.close(now=1, wait=5, episode=0)
    assert gate.wait(2) == 4
    assert gate.wait(6) == 0
    gate.started()
    assert gate.wait(6) == float("inf")
    gate.answered(episode=0)  # a call from before the refusal proves nothing
    assert gate.wait(6) == float("inf")
    gate.answered(episode=1)
    assert gate.wait(6) == 0
    gate.started()
    assert gate.wait(6) == 0


def test_refusals_of_one_episode_count_once_but_the_longest_wait_holds() -> None:
    gate = Gate()
    gate.close(now=1, wait=5, episode=0)
    assert not gate.close(now=2, wait=7, episode=0)
    assert gate.wait(2) == 7
    assert gate.previous == 5
    assert gate.episode == 1


def test_a_probe_that_fails_otherwise_gives_its_turn_to_the_next() -> None:
    gate = Gate()
    gate.close(now=0, wait=1, episode=0)
    gate.started()
    gate.failed(episode=1)
    assert gate.wait(1) == 0


@pytest.mark.parametrize(
    ("kind", "tries"),
    [
        (FaultKind.TRANSIENT, backoff.MAX_ATTEMPTS),
        (FaultKind.AMBIGUOUS, backoff.MAX_ATTEMPTS),
        (FaultKind.MALFORMED, backoff.MAX_MALFORMED),
        (FaultKind.BAD_REQUEST, 1),
        (FaultKind.REFUSED, 1),
        (FaultKind.TOO_LARGE, 1),
        (FaultKind.TRUNCATED, 1),
    ],
)
def test_how_often_each_kind_is_tried(kind: FaultKind, tries: int) -> None:
    failures = 1
    while backoff.retries(Fault(kind, ""), failures, 0.0):
        failures += 1
    assert failures == tries


def test_throttling_is_bounded_by_time_alone() -> None:
    fault = Fault(FaultKind.RATE_LIMITED, "")
    assert backoff.retries(fault, 10_000, backoff.MAX_SECONDS - 1)
    assert not backoff.retries(fault, 0, backoff.MAX_SECONDS)


def test_the_servers_word_is_obeyed() -> None:
    assert not backoff.retries(Fault(FaultKind.TRANSIENT, "", retry=False), 1, 0.0)
    assert backoff.retries(Fault(FaultKind.BAD_REQUEST, "", retry=True), 1, 0.0)


@given(st.floats(0, 100), st.integers(), st.sampled_from(list(FaultKind)))
def test_waits_stay_between_base_and_cap(previous: float, seed: int, kind: FaultKind) -> None:
    curve = backoff.THROTTLE if kind in backoff.THROTTLED else backoff.TRANSIENT
    wait = backoff.delay(Fault(kind, ""), previous, Random(seed))
    assert curve.base <= wait <= curve.cap


@given(st.floats(0, 120), st.integers())
def test_retry_after_is_a_minimum_with_a_small_spread(hint: float, seed: int) -> None:
    wait = backoff.delay(Fault(FaultKind.RATE_LIMITED, "", hint), 50.0, Random(seed))
    assert hint <= wait <= 1.1 * hint


def test_an_account_reserves_before_and_settles_after() -> None:
    account = Account(Budget(calls=2, tokens=100, usd=1.0))
    assert account.exhausted(60, 0.4) is None
    account.reserve(60, 0.4)
    assert "tokens" in (account.exhausted(60, 0.4) or "")
    account.settle(60, 0.4, Usage(10, 10), 0.01)
    assert account.exhausted(60, 0.4) is None
    account.reserve(60, 0.4)
    account.settle(60, 0.4, Usage(1, 1), 0.0)
    assert "2 calls" in (account.exhausted() or "")
    assert (account.calls, account.tokens, account.usd) == (2, 22, 0.01)


@pytest.mark.parametrize("wrong", [{"calls": -1}, {"usd": float("nan")}, {"seconds": float("inf")}])
def test_budgets_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="budget"):
        Budget(**wrong)  # type: ignore[arg-type]
