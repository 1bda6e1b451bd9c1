"""A rate learned from refusals: measured between two of them, cut where they are close, grown with care."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncopt.limits.learner import (
    BELOW,
    CUT,
    FAST_GROWTH,
    FLOOR,
    GROWTH,
    LONGEST_STAND,
    RAMP_CUT,
    STAND_SECONDS,
    RateLearner,
)


def test_a_first_refusal_cuts_by_guess() -> None:
    learner = RateLearner()
    learner.refused(10.0, 500.0, 100.0)
    assert learner.rate == pytest.approx(CUT * 100)


def test_two_refusals_far_apart_measure_the_rate_between_what_was_granted_and_what_was_offered() -> None:
    learner = RateLearner()
    learner.refused(10.0, 500.0, 100.0)
    learner.refused(20.0, 1300.0, 90.0)  # 80 a second were granted
    assert learner.rate == pytest.approx(BELOW * (80 * 90) ** 0.5)


def test_two_refusals_close_together_say_only_that_the_offer_was_too_high() -> None:
    learner = RateLearner()
    learner.refused(10.0, 500.0, 100.0)
    learner.refused(11.0, 520.0, 70.0)
    assert learner.rate == pytest.approx(CUT * 70)


def test_a_probe_that_is_refused_changes_nothing() -> None:
    learner = RateLearner()
    learner.refused(10.0, 500.0, 100.0)
    before = learner.rate
    learner.refused(12.0, 500.0, 1.0)
    assert learner.rate == before


def test_a_row_of_refusals_is_no_reason_to_all_but_stop() -> None:
    learner, granted = RateLearner(), 0.0
    for second in range(0, 60, 2):
        granted += 100.0
        learner.refused(float(second), granted, learner.rate or 100.0)
    assert learner.rate is not None
    assert learner.rate >= FLOOR * 50 * 0.99


def test_a_complaint_of_growth_halves_the_rate_and_lets_it_grow_slowly() -> None:
    learner = RateLearner()
    learner.refused(0.0, 0.0, 100.0, ramp=True)
    assert learner.rate == RAMP_CUT * 100
    now, after = 0.0, STAND_SECONDS + 15 * 60
    while now < after:
        now += 0.1
        learner.grow(now, wanted=True)
    assert 1.4 < learner.rate / 50 <= 1.6  # half as much again in a quarter of an hour


def test_a_measured_rate_stands_still_and_longer_each_time_it_is_found_again() -> None:
    learner = RateLearner()
    learner.refused(0.0, 0.0, 100.0)
    at, granted, stands = 0.0, 0.0, []
    for _ in range(4):
        at, granted = at + 100, granted + 10_000
        learner.refused(at, granted, 100.0)
        stood = at
        while not learner.grow(stood, wanted=True):
            stood += 0.5
        stands.append(stood - at)
    assert stands == pytest.approx(
        [STAND_SECONDS + 2, 2 * STAND_SECONDS + 2, LONGEST_STAND + 2, LONGEST_STAND + 2], abs=1
    )


def test_a_rate_does_not_grow_in_time_that_nobody_used() -> None:
    learner = RateLearner()
    learner.refused(0.0, 0.0, 100.0)
    assert not learner.grow(3600.0, wanted=False)
    assert not learner.grow(3600.1, wanted=True)
    assert learner.rate == CUT * 100
    assert FAST_GROWTH > GROWTH


def test_time_that_nobody_used_is_no_part_of_a_measurement() -> None:
    learner = RateLearner()
    learner.refused(0.0, 0.0, 100.0)
    learner.grow(1.0, wanted=True)
    learner.grow(3601.0, wanted=False)
    learner.grow(3610.0, wanted=True)
    learner.refused(3611.0, 900.0, 95.0)  # in eleven seconds of use
    assert learner.rate == pytest.approx(BELOW * (900 / 11 * 95) ** 0.5)


def test_a_pause_is_part_of_it() -> None:
    learner = RateLearner()
    learner.refused(0.0, 0.0, 100.0)
    learner.grow(10.0, wanted=False, paused=True)
    learner.refused(20.0, 1600.0, 90.0)
    assert learner.rate == pytest.approx(BELOW * (80 * 90) ** 0.5)


refusals = st.tuples(st.floats(0, 1000), st.floats(-1e6, 1e12), st.floats(1 / 60, 1e12), st.booleans())


@given(st.lists(st.tuples(refusals, st.floats(0, 1e4), st.booleans()), max_size=50))
def test_whatever_comes_the_rate_stays_above_nothing(
    plan: list[tuple[tuple[float, float, float, bool], float, bool]],
) -> None:
    learner, now, granted = RateLearner(), 0.0, 0.0
    for (wait, more, offered, ramp), idle, wanted in plan:
        now, granted = now + wait, granted + more
        learner.refused(now, granted, offered, ramp=ramp)
        assert learner.rate is not None
        assert learner.rate >= 1 / 60
        before, now = learner.rate, now + idle
        learner.grow(now, wanted=wanted)
        assert before <= learner.rate <= 1.1 * before * (1 + 1e-9)
