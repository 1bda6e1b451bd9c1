"""What a pilot leaves possible: failures that it did not meet, slow calls, latencies of any shape."""

from __future__ import annotations

from statistics import fmean

import numpy as np

from asyncopt.forecast import NO_PILOT, Pilot
from asyncopt.forecast.belief import Belief, believe
from asyncopt.forecast.pilot import Answered


def beliefs(pilot: Pilot) -> list[Belief]:
    """Draws of what a pilot leaves possible."""
    random = np.random.default_rng(1)
    return [believe(pilot, random, scored_at_most=64, proposed_at_most=64) for _ in range(400)]


def test_failures_are_possible_where_a_pilot_met_none() -> None:
    unseen = sorted(one.lost for one in beliefs(Pilot(calls=40, attempts=40)))
    assert unseen[200] == 0.0  # most of the servers that fail now and then would have shown it
    assert 0.03 < unseen[380] < 0.06
    seen = sorted(one.lost for one in beliefs(Pilot(calls=40, attempts=42, retried=2)))
    assert 0.005 < seen[20] < seen[200] < seen[380] < 0.15
    assert {one.lost for one in beliefs(NO_PILOT)} == {0.0}
    many = sorted(one.lost for one in beliefs(Pilot(calls=2000, attempts=2500, retried=500)))
    assert 0.17 < many[0] < 0.2 < many[-1] < 0.23


def test_many_slow_calls_are_taken_to_be_as_many() -> None:
    seconds = tuple(0.5 + 0.01 * place for place in range(32)) + tuple(4.0 + 0.1 * place for place in range(8))
    drawn = beliefs(Pilot(Answered(seconds), calls=40, attempts=40))
    slow = sorted(fmean(value > 2.0 for value in one.scoring_seconds) for one in drawn)
    assert slow[20] < 0.2 < slow[380]
    assert abs(slow[200] - 0.2) < 0.04


def test_latencies_are_bounded_in_some_courses_where_they_were() -> None:
    seconds = tuple(0.2 + 0.07 * place for place in range(40))
    longest = [max(one.scoring_seconds) for one in beliefs(Pilot(Answered(seconds), calls=40, attempts=40))]
    assert 0.05 < fmean(value <= max(seconds) for value in longest) < 0.25


def test_short_instructions_grow_more_than_long_ones() -> None:
    short, long = (
        [one.instruction_at(10) / one.instruction_at(0) for one in beliefs(Pilot(texts=(text,) * 8))]
        for text in ("Add them.", "Add the two numbers and write the sum as a number with nothing else beside it.")
    )
    assert 1.5 < fmean(short) < 2.5
    assert 1.0 < fmean(long) < 1.3
