"""The quota of an endpoint, dimension by dimension, as headers and refusals change it."""

from __future__ import annotations

import asyncio

import pytest
from fakes import run_virtual
from hypothesis import given
from hypothesis import strategies as st

from asyncopt import Quota
from asyncopt.limits.lanes import OF_ANNOUNCED, Lanes
from asyncopt.values import DIMENSIONS, Allowance, RateLimits

ONE = (1.0, 0.0, 0.0, 0.0)


def metered(check: object) -> object:
    """Meters hold limiters, which belong to a loop."""

    async def main() -> object:
        return check()  # type: ignore[operator]

    return run_virtual(main)


def announce(limit: float | None, remaining: float | None = None) -> RateLimits:
    return RateLimits(requests=Allowance(limit, remaining))


def test_the_headers_rate_is_obeyed_at_a_share_and_a_stated_one_is_not_touched() -> None:
    def check() -> None:
        free, stated = Lanes(Quota()), Lanes(Quota(requests_per_minute=60))
        assert [lane.dimension for lane in free.heard(announce(6000), free.marks(), 0.1, 1.0)] == ["requests"]
        assert free.requests.rate == pytest.approx(100 * OF_ANNOUNCED)
        assert not stated.heard(announce(6000), stated.marks(), 0.1, 1.0)
        assert stated.requests.rate == 1.0

    metered(check)


@pytest.mark.parametrize("limit", [0.0, -5.0])
def test_a_limit_that_is_none_says_nothing(limit: float) -> None:
    def check() -> None:
        lanes = Lanes(Quota())
        assert not lanes.heard(announce(limit), lanes.marks(), 0.1, 1.0)
        assert not lanes.paced

    metered(check)


def test_what_a_meter_never_granted_does_not_come_back_to_it() -> None:
    def check() -> None:
        lanes = Lanes(Quota())
        permits = (1.0, 1000.0, 10.0, 990.0)
        lanes.spend(permits)
        early = lanes.marks()
        lanes.heard(RateLimits(tokens=Allowance(6000, None)), early, 0.1, 1.0)
        assert lanes.tokens.meter is not None
        lanes.settle(permits, (1.0, 20.0, 10.0, 10.0), early)
        assert lanes.tokens.meter.credit == 0.0
        lanes.spend(permits)
        lanes.settle(permits, (1.0, 20.0, 10.0, 10.0), lanes.marks())
        assert lanes.tokens.meter.credit == -20.0

    metered(check)


def test_a_late_tick_spends_no_more_of_a_reserve_than_a_punctual_one() -> None:
    def credit_after(seconds: float) -> float:
        lanes = Lanes(Quota())
        lanes.heard(announce(6000, 6000), lanes.marks(), 0.0, 1.0)
        meter = lanes.requests.meter
        assert meter is not None
        assert lanes.short(ONE) is not None
        lanes.grow(seconds, seconds)
        return meter.credit

    assert metered(lambda: credit_after(0.1)) == metered(lambda: credit_after(60.0)) == pytest.approx(9.5)


def test_a_server_that_has_nothing_left_holds_the_meter_back_for_half_a_second_at_most() -> None:
    def check() -> None:
        lanes = Lanes(Quota(requests_per_minute=6000))
        for _ in range(20):
            lanes.heard(announce(None, 0.0), (0.0, 0.0, 0.0, 0.0), 0.0, 1.0)
            lanes.spend(ONE)
        assert lanes.requests.meter is not None
        assert -52 <= lanes.requests.meter.credit < 0

    metered(check)


def test_a_refusal_is_about_what_it_names_or_about_what_is_likeliest() -> None:
    def check() -> None:
        assert Lanes(Quota()).scarce("output_tokens").dimension == "output_tokens"
        assert Lanes(Quota()).scarce(None).dimension == "requests"
        assert Lanes(Quota(requests_per_minute=60)).scarce(None).dimension == "tokens"
        assert Lanes(Quota(requests_per_minute=60, tokens_per_minute=60)).scarce(None).dimension == "requests"

    metered(check)


def test_a_change_of_the_rate_is_not_waited_for_at_the_old_one() -> None:
    async def main() -> float:
        lanes = Lanes(Quota(tokens_per_minute=0.1, scope="slow"))
        lane = lanes.tokens
        assert lane.meter is not None
        await lane.meter.take_chunk(1000.0)  # what the bucket held
        waiting = asyncio.ensure_future(lane.meter.take_chunk(1000.0))
        await asyncio.sleep(5)
        lane.meter.change(1e6)
        await waiting
        while not lane.meter.covers(1000.0):
            await lane.meter.take_chunk(1000.0)
        return asyncio.get_running_loop().time()

    assert run_virtual(main) < 6.1


allowances = st.builds(
    Allowance,
    st.none() | st.sampled_from([0.0, -1.0, 1.0, 1e12]) | st.floats(0.01, 1e12),
    st.none() | st.sampled_from([0.0, -1e9, 1e12]) | st.floats(-1e6, 1e12),
    st.none() | st.floats(0, 1e9),
)
steps = st.one_of(
    st.tuples(st.just("heard"), st.sampled_from(DIMENSIONS), allowances),
    st.tuples(st.just("spend"), st.floats(0, 1e6), st.floats(0, 1e6)),
    st.tuples(st.just("refuse"), st.sampled_from(DIMENSIONS), st.booleans()),
    st.tuples(st.just("drain"), st.none(), st.none()),
    st.tuples(st.just("later"), st.floats(0, 100), st.none()),
)


@given(
    st.lists(steps, max_size=40),
    st.none() | st.floats(0.1, 1e6),
    st.none() | st.floats(0.1, 1e9),
)
def test_whatever_a_server_says_no_stated_or_announced_rate_is_exceeded(
    plan: list[tuple[str, object, object]], requests: float | None, tokens: float | None
) -> None:
    def check() -> None:
        lanes, now = Lanes(Quota(requests_per_minute=requests, tokens_per_minute=tokens)), 0.0
        marks = lanes.marks()
        for what, one, two in plan:
            if what == "heard":
                lanes.heard(RateLimits(**{str(one): two}), marks, 0.1, 1.0)  # type: ignore[arg-type]
            elif what == "spend":
                permits = (1.0, float(one) + float(two), float(one), float(two))  # type: ignore[arg-type]
                lanes.short(permits)
                lanes.spend(permits)
                marks = lanes.marks()
                lanes.settle(permits, (1.0, 2.0, 1.0, 1.0), marks)
            elif what == "refuse":
                lanes.refuse(lanes.scarce(one), now, 0.0, 50.0, ramp=bool(two))  # type: ignore[arg-type]
            elif what == "drain":
                lanes.drain()
            else:
                now += float(one)  # type: ignore[arg-type]
                lanes.grow(now, 0.1)
            for lane in lanes:
                assert lane.rate is None or lane.rate > 0
                assert lane.known is None or lane.rate is not None
                assert lane.rate is None or lane.known is None or lane.rate <= lane.known * (1 + 1e-9)
                if lane.rate is not None:
                    assert lane.meter is not None
                    assert lane.meter.rate == pytest.approx(lane.rate, rel=1e-6)

    metered(check)


def test_what_refusals_taught_outlives_an_announcement_where_a_rate_is_stated() -> None:
    async def check() -> None:
        lanes = Lanes(Quota(requests_per_minute=2.0))
        lanes.refuse(lanes.scarce("requests"), 0.0, 0.0, 50.0, ramp=False)
        learned = lanes.requests.rate
        lanes.heard(RateLimits(requests=Allowance(1.0, None, None)), lanes.marks(), 0.1, 1.0)
        assert lanes.requests.meter is not None
        assert lanes.requests.rate == learned == lanes.requests.meter.rate

    asyncio.run(check())


def test_a_low_rate_that_was_learned_grows_while_a_call_waits_for_its_permit() -> None:
    async def check() -> None:
        lanes = Lanes(Quota())
        lanes.refuse(lanes.requests, 0.0, 0.0, 0.5, ramp=False)
        learned = lanes.requests.rate
        assert learned is not None
        short = lanes.short(ONE)
        assert short is not None
        lanes.awaited = short[0]
        for tick in range(600):  # a minute: the head of the queue is looked at once a permit, not in every tick
            lanes.grow(2.0 + tick / 10, 0.1)
        assert lanes.requests.rate is not None
        assert lanes.requests.rate > 1.2 * learned

    asyncio.run(check())
