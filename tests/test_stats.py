"""Intervals and comparisons, against scipy, against all subsets, and against exact coverage."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncopt.stats import mcnemar_p, mean_sd, paired_difference, t_interval, top_k, wilson_interval

VALUES = st.floats(-1e6, 1e6)


@pytest.mark.parametrize(("correct", "n"), [(0, 7), (3, 7), (7, 7), (41, 50), (700, 1319)])
def test_wilson_is_scipys(correct: int, n: int) -> None:
    from scipy.stats import binomtest

    wanted = binomtest(correct, n).proportion_ci(method="wilson")
    assert wilson_interval(correct, n) == pytest.approx((wanted.low, wanted.high))


def test_nothing_graded_leaves_everything_open() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 5), (9, 2), (6, 6), (40, 61)])
def test_mcnemar_is_the_exact_binomial_test(first: int, second: int) -> None:
    from scipy.stats import binomtest

    assert mcnemar_p(first, second) == pytest.approx(binomtest(first, first + second).pvalue)


def test_mcnemar_of_no_difference_is_one() -> None:
    assert mcnemar_p(0, 0) == 1.0


def test_mean_and_sample_deviation_of_a_hand_computed_case() -> None:
    assert mean_sd([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]) == (5.0, pytest.approx(math.sqrt(32 / 7)))


def test_one_value_has_a_mean_and_no_deviation_or_interval() -> None:
    assert mean_sd([80.2]) == (80.2, None)
    assert t_interval([80.2]) is None


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("values", [[81.2, 80.4], [70.0, 71.5, 68.0], [1.0, 2.0, 2.0, 3.0, 50.0]])
def test_the_interval_of_a_mean_is_students(values: list[float], level: float) -> None:
    from scipy import stats

    wanted = stats.t.interval(level, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert t_interval(values, level) == pytest.approx(wanted)


def test_three_seeds_take_the_tabulated_quantile() -> None:
    interval = t_interval([1.0, 2.0, 3.0])
    assert interval is not None
    assert interval[1] - 2.0 == pytest.approx(4.303 / math.sqrt(3), abs=1e-3)  # t(0.975, 2) of every table


# -- the best of k seeds -----------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 4), VALUES), min_size=1, max_size=7), st.data())
def test_top_k_is_what_all_subsets_give(seeds: list[tuple[int, float]], data: st.DataObject) -> None:
    validation, test = [float(seed[0]) for seed in seeds], [seed[1] for seed in seeds]
    k = data.draw(st.integers(1, len(seeds)))
    kept = [
        test[max(subset, key=lambda seed: validation[seed])] for subset in itertools.combinations(range(len(seeds)), k)
    ]  # of equals, max takes the first
    mean, sd = top_k(validation, test, k)
    assert mean == pytest.approx(np.mean(kept), abs=1e-6)
    assert sd == pytest.approx(np.std(kept), abs=1e-6)


def test_top_k_at_its_ends() -> None:
    validation, test = [0.5, 0.9, 0.7], [60.0, 70.0, 80.0]
    assert top_k(validation, test, 3) == (70.0, 0.0)
    assert top_k(validation, test, 1) == (70.0, pytest.approx(math.sqrt(200 / 3)))
    assert top_k(validation, test, 2) == (pytest.approx(220 / 3), pytest.approx(math.sqrt(200 / 9)))  # 70, 80, 70


def test_top_k_of_a_hundred_seeds_looks_at_no_subset() -> None:
    mean, _ = top_k(range(100), range(100), 50)  # 1e29 subsets
    assert mean == pytest.approx(float(Fraction(50 * 101, 51) - 1))  # the expected largest of 50 of 1 to 100, less 1


@pytest.mark.parametrize(
    ("validation", "test", "k"), [([], [], 1), ([1.0], [1.0, 2.0], 1), ([1.0], [1.0], 2), ([1.0], [1.0], 0)]
)
def test_top_k_refuses_what_has_no_answer(validation: list[float], test: list[float], k: int) -> None:
    with pytest.raises(ValueError, match="wanted"):
        top_k(validation, test, k)


# -- two prompts on the same items -------------------------------------------------------------------------------------


def outcomes(only_first: int, only_second: int, n: int) -> tuple[list[float], list[float]]:
    first = [1.0] * only_first + [0.0] * (n - only_first)
    second = [0.0] * only_first + [1.0] * only_second + [0.0] * (n - only_first - only_second)
    return first, second


def test_the_interval_of_a_difference_by_hand() -> None:
    # 9 items for the one alone, 41 for the other, of 500: (42 - 10) / 502, and its variance with 52 that differ.
    centre = 32 / 502
    half = 1.959963984540054 * math.sqrt((52 / 502 - centre**2) / 502)
    assert paired_difference(*outcomes(9, 41, 500)) == pytest.approx((0.064, centre - half, centre + half))


def test_a_difference_has_the_sign_of_the_second_and_turns_with_the_order() -> None:
    first, second = outcomes(3, 10, 40)
    gain, low, high = paired_difference(first, second)
    assert gain == 7 / 40
    assert low < gain < high
    assert paired_difference(second, first) == pytest.approx((-gain, -high, -low))


def test_equal_prompts_are_not_told_apart_and_their_interval_is_no_point() -> None:
    gain, low, high = paired_difference([1.0] * 30, [1.0] * 30)
    assert gain == 0.0
    assert low == pytest.approx(-high)
    assert high == pytest.approx(1.959963984540054 * math.sqrt(2 / 32) / math.sqrt(32))


def test_the_interval_of_a_difference_stays_within_what_is_possible() -> None:
    assert paired_difference([0.0], [1.0])[2] <= 1.0
    assert paired_difference([1.0] * 50, [0.0] * 50)[1] >= -1.0


@pytest.mark.parametrize("n", [20, 50])
@pytest.mark.parametrize(
    ("first", "second"), [(0.02, 0.02), (0.02, 0.06), (0.05, 0.15), (0.1, 0.1), (0.1, 0.3), (0.0, 0.2)]
)
def test_the_interval_of_a_difference_covers_it_as_often_as_stated(n: int, first: float, second: float) -> None:
    """Exactly, over all outcomes: ``first`` and ``second`` are the shares of items that only one side gets right."""
    covered = 0.0
    for a in range(n + 1):
        for b in range(n + 1 - a):
            _, low, high = paired_difference(*outcomes(a, b, n))
            if low <= second - first <= high:
                ways = math.comb(n, a) * math.comb(n - a, b)
                covered += ways * first**a * second**b * (1 - first - second) ** (n - a - b)
    assert covered > 0.925  # the plain interval is at 0.788 in the second case


@pytest.mark.parametrize(("first", "second"), [([], []), ([1.0], [1.0, 0.0])])
def test_a_difference_needs_the_same_items(first: list[float], second: list[float]) -> None:
    with pytest.raises(ValueError, match="same items"):
        paired_difference(first, second)


def test_the_ends_of_an_interval_are_exact_where_nothing_or_everything_is_right() -> None:
    assert wilson_interval(0, 6)[0] == 0.0
    assert wilson_interval(6, 6)[1] == 1.0
