"""A breaker that stops asking a server that fails, and the budget for asking again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncopt.limits.breaker import (
    CONSECUTIVE,
    FIRST_OPEN,
    LEAST,
    LONGEST_OPEN,
    RETRIES_A_SECOND,
    RETRY_MEMORY,
    WINDOW,
    Breaker,
    RetryBudget,
)


def test_ten_failures_in_a_row_open_it_and_not_nine() -> None:
    breaker = Breaker()
    waits = [breaker.failed(float(n), float(n)) for n in range(CONSECUTIVE)]
    assert waits == [0.0] * (CONSECUTIVE - 1) + [FIRST_OPEN]


def test_half_of_many_failing_opens_it_without_a_row() -> None:
    breaker, waits = Breaker(), []
    for n in range(LEAST):
        waits.append(breaker.failed(n * 0.1, n * 0.1))
        if n % 3 == 0:
            breaker.served(n * 0.1)
    assert next(wait for wait in waits if wait) == FIRST_OPEN


def test_failures_that_are_long_past_do_not_count() -> None:
    breaker = Breaker()
    for n in range(8 * LEAST):
        now = n * WINDOW / 4
        assert breaker.failed(now, now) == 0.0
        breaker.served(now)


def test_calls_from_before_it_opened_say_nothing_new() -> None:
    breaker = Breaker()
    for _ in range(CONSECUTIVE):
        breaker.failed(1.0, 0.5)
    assert all(breaker.failed(2.0, 0.9) == 0.0 for _ in range(500))
    assert breaker.failed(8.0, 7.0) == 2 * FIRST_OPEN


def test_probes_that_fail_double_the_pause_and_one_that_is_served_ends_it() -> None:
    breaker, now = Breaker(), 0.0
    waits = []
    for _ in range(CONSECUTIVE + 6):
        now += 1.0
        wait = breaker.failed(now, now)
        waits.append(wait)
        now += wait
    assert [wait for wait in waits if wait] == [5.0, 10.0, 20.0, 40.0, 80.0, LONGEST_OPEN, LONGEST_OPEN]
    breaker.served(now)
    assert not breaker.half_open
    assert not breaker.watching
    assert [breaker.failed(now + n, now + n) for n in range(CONSECUTIVE)][-1] == FIRST_OPEN


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 60), st.floats(0, 60)), max_size=200))
def test_a_breaker_never_pauses_longer_than_it_says(plan: list[tuple[bool, float, float]]) -> None:
    breaker, now = Breaker(), 0.0
    for failed, passed, age in plan:
        now += passed
        if failed:
            assert breaker.failed(now, now - age) in (0.0, 5.0, 10.0, 20.0, 40.0, 80.0, LONGEST_OPEN)
        else:
            breaker.served(now)
            assert not breaker.half_open


def test_a_fifth_of_the_attempts_and_ten_a_second_may_be_tried_again() -> None:
    budget, saved = RetryBudget(), int(RETRIES_A_SECOND * RETRY_MEMORY)
    assert all(budget.wait(0.0, 0) == 0.0 for _ in range(saved))
    assert budget.wait(0.0, 0) == pytest.approx(1 / RETRIES_A_SECOND)
    assert budget.wait(0.0, 10) == 0.0  # two more are earned by ten attempts
    assert [budget.wait(10.0, 10) for _ in range(saved + 1)][-2:] == pytest.approx([0.0, 0.1], abs=0.11)


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 100)), min_size=1, max_size=300))
def test_retries_come_no_faster_than_the_budget(plan: list[tuple[float, int]]) -> None:
    budget, now, attempts, due = RetryBudget(), 0.0, 0, []
    for passed, more in plan:
        now, attempts = now + passed, attempts + more
        due.append(now + budget.wait(now, attempts))
    for end in {due[0], due[-1], max(due)}:
        retried = sum(moment <= end for moment in due)
        assert retried <= RETRIES_A_SECOND * (RETRY_MEMORY + end) + 0.2 * attempts + 1
