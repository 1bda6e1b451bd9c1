"""Token buckets, sliding windows and latencies, against arithmetic."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncopt.errors import ConfigError
from asyncopt.testing import Constant, LogNormal
from asyncopt.testing.buckets import SlidingWindow, TokenBucket, take_all
from asyncopt.testing.latency import parse_latency

RATES = st.floats(0.1, 1000)
STEPS = st.lists(st.tuples(st.floats(0, 2), st.floats(0, 30)), min_size=1, max_size=60)


@given(RATES, st.floats(1, 50), STEPS, st.booleans())
def test_no_window_is_granted_more_than_burst_and_rate_allow(rate, burst, steps, charge_refused):
    bucket = TokenBucket(rate, burst, charge_refused=charge_refused)
    now, granted = 0.0, []
    for pause, amount in steps:
        now += pause
        if bucket.take(now, amount) is None:
            granted.append((now, amount))
    for first, (start, _) in enumerate(granted):
        total = 0.0
        for end, amount in granted[first:]:
            total += amount
            assert total <= burst + rate * (end - start) + 1e-6 * (burst + rate)


@given(RATES, st.floats(1, 50), STEPS)
def test_what_is_refused_fits_after_the_wait_and_not_before(rate, burst, steps):
    bucket = TokenBucket(rate, burst)
    now = 0.0
    for pause, amount in steps:
        now += pause
        wait = bucket.take(now, amount)
        if wait is None:
            continue
        assert (wait == math.inf) == (amount > burst + 1e-9 * max(1.0, burst))
        if wait > 1e-5 and wait < math.inf:
            assert bucket.wait(now + 0.99 * wait, amount) > 0
            now += wait
            assert bucket.take(now, amount) is None


def test_pacing_at_exactly_the_rate_is_never_refused():
    bucket = TokenBucket(20, 1)
    assert [bucket.take(number * 0.05, 1) for number in range(5000)] == [None] * 5000


def test_refused_requests_are_charged_only_where_asked():
    lenient, strict = TokenBucket(1, 2), TokenBucket(1, 2, charge_refused=True)
    for bucket in (lenient, strict):
        bucket.take(0.0, 2)
    assert lenient.take(0.5, 1) == pytest.approx(0.5)
    assert lenient.take(1.0, 1) is None
    assert strict.take(0.5, 1) == pytest.approx(1.0)
    assert strict.take(1.0, 1) == pytest.approx(1.0)
    assert strict.take(2.0, 1) is None


def test_one_refusal_charges_no_bucket_unless_refused_requests_count():
    requests, tokens = TokenBucket(1, 5), TokenBucket(10, 100)
    assert take_all(0.0, [(requests, 1), (tokens, 100)]) == [None, None]
    assert take_all(0.0, [(requests, 1), (tokens, 10)]) == [None, pytest.approx(1.0)]
    assert requests.level(0.0) == 4
    strict = TokenBucket(1, 5, charge_refused=True)
    take_all(0.0, [(strict, 1), (tokens, 10)])
    assert strict.level(0.0) == 4


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (1, 0), (math.inf, 1), (1, math.nan)])
def test_a_bucket_without_a_sensible_rate_and_burst_is_an_error(rate, burst):
    with pytest.raises(ConfigError, match="must be a number above 0"):
        TokenBucket(rate, burst)


def test_log_normal_latencies_have_the_stated_median_spread_and_tail():
    plain = [LogNormal(0.5, 1.0).seconds(3, number) for number in range(4000)]
    logs = sorted(math.log(value) for value in plain)
    assert logs[2000] == pytest.approx(math.log(0.5), abs=0.08)
    assert math.sqrt(sum((log - math.log(0.5)) ** 2 for log in logs) / 4000) == pytest.approx(1.0, abs=0.06)
    tailed = [LogNormal(0.5, 1.0, 0.1, 7.0).seconds(3, number) for number in range(4000)]
    ratios = [slow / value for slow, value in zip(tailed, plain, strict=True)]
    assert {round(ratio, 6) for ratio in ratios} == {1.0, 7.0}
    assert 320 < sum(ratio > 2 for ratio in ratios) < 480
    tails = [LogNormal(0.5, 1.0, 0.1, 7.0).tail(3, number) for number in range(4000)]
    assert tails == pytest.approx([slow - value for slow, value in zip(tailed, plain, strict=True)])


def test_latencies_are_read_from_the_command_line():
    assert parse_latency("0.05") == Constant(0.05)
    assert parse_latency("lognormal:0.5:1.0") == LogNormal(0.5, 1.0)
    assert parse_latency("lognormal:0.5:1.0:0.01:20") == LogNormal(0.5, 1.0, 0.01, 20.0)


@pytest.mark.parametrize("text", ["", "fast", "-1", "nan", "lognormal", "lognormal:1", "lognormal:1:2:3", "uniform:1"])
def test_a_bad_latency_is_an_error(text):
    with pytest.raises(ConfigError, match="latency"):
        parse_latency(text)


# Sliding windows


@given(st.integers(1, 20), st.floats(0.5, 5), st.lists(st.floats(0, 1), min_size=1, max_size=80))
def test_no_window_is_granted_more_than_its_limit(limit, seconds, pauses):
    window = SlidingWindow(limit, seconds)
    now, granted = 0.0, []
    for pause in pauses:
        now += pause
        if window.take(now, 1) is None:
            granted.append(now)
        else:
            assert sum(now - moment < seconds - 1e-9 for moment in granted) == limit  # nobody is refused for nothing
    for start in granted:
        assert sum(start <= moment < start + seconds - 1e-6 for moment in granted) <= limit


@given(st.integers(1, 20), st.floats(0.5, 5), STEPS)
def test_a_window_has_room_after_the_wait_and_not_before(limit, seconds, steps):
    window = SlidingWindow(limit, seconds)
    now = 0.0
    for pause, amount in steps:
        now += pause
        wait = window.take(now, amount)
        if wait is None:
            continue
        assert (wait == math.inf) == (amount > limit + 1e-9 * max(1.0, limit))
        if wait > 1e-5 and wait < math.inf:
            assert window.wait(now + 0.99 * wait, amount) > 0
            now += wait
            assert window.take(now, amount) is None


def test_a_window_is_empty_once_it_has_passed():
    window = SlidingWindow(4, 10.0)
    assert [window.take(now, 1) for now in (0.0, 1.0, 1.0, 2.0, 3.0)] == [None, None, None, None, 7.0]
    assert (window.level(3.0), window.until_full(3.0), window.wait(3.0, 3)) == (0, 9.0, 8.0)
    assert [window.level(now) for now in (9.9, 10.0, 11.0, 12.0)] == [0, 1, 3, 4]
    assert window.until_full(12.0) == 0


def test_refused_requests_count_in_a_window_only_where_asked():
    lenient, strict = SlidingWindow(2, 1.0), SlidingWindow(2, 1.0, charge_refused=True)
    for window in (lenient, strict):
        assert [window.take(0.0, 1), window.take(0.0, 1)] == [None, None]
    assert lenient.take(0.6, 1) == pytest.approx(0.4)
    assert strict.take(0.6, 1) == pytest.approx(0.4)
    assert strict.level(0.6) == -1
    assert lenient.take(1.0, 2) is None
    assert strict.take(1.0, 2) == pytest.approx(1.0)  # the refused one is in its own way


@pytest.mark.parametrize("bucket", [TokenBucket(2, 4), SlidingWindow(4, 2.0)])
def test_a_bucket_can_be_drained_into_debt_and_scaled(bucket):
    bucket.drain(0.0, 6)
    assert bucket.level(0.0) == -2
    assert bucket.level(100.0) == 4
    bucket.scale(100.0, 0.5)
    assert (bucket.rate, bucket.burst, bucket.level(100.0)) == (1, 2, 2)
    assert bucket.take(100.0, 3) == math.inf


def test_what_comes_back_does_not_exceed_the_burst():
    bucket = TokenBucket(1, 10)
    bucket.take(0.0, 8)
    bucket.give(0.0, 5)
    assert bucket.level(0.0) == 7
    bucket.give(0.0, 50)
    assert bucket.level(0.0) == 10


@pytest.mark.parametrize(("limit", "seconds"), [(0, 1), (5, 0), (5, math.inf)])
def test_a_window_without_a_sensible_limit_and_length_is_an_error(limit, seconds):
    with pytest.raises(ConfigError, match="must be a number above 0"):
        SlidingWindow(limit, seconds)
