"""Intervals and comparisons, against scipy, against all subsets, and against exact coverage."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncopt.stats import (
    crossed_difference,
    holm,
    judged,
    mcnemar_p,
    mean_sd,
    paired_difference,
    paired_grades,
    paired_items,
    paired_t,
    t_interval,
    top_k,
    verdict,
    wilson_interval,
)

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


@pytest.mark.parametrize("differences", [[0.1, -0.2, 0.5], [1.0, 0.0, 0.5, 0.5], [0.03, 0.01]])
def test_the_paired_test_is_students(differences: list[float]) -> None:
    from scipy.stats import ttest_1samp

    wanted = ttest_1samp(differences, 0)
    found = paired_t(differences)
    assert found == pytest.approx((np.mean(differences), *wanted.confidence_interval(0.95), wanted.pvalue))


@pytest.mark.parametrize("differences", [[0.3], [0.3, 0.3, 0.3], [0.0, 0.0]])
def test_differences_that_do_not_vary_are_no_ground_for_students_test(differences: list[float]) -> None:
    assert paired_t(differences) is None


def test_the_p_value_of_a_pair_is_exact_for_rights_and_wrongs_and_students_between() -> None:
    assert paired_items([1.0] * 8 + [-1.0] + [0.0] * 30)[3] == mcnemar_p(1, 8)
    partly = [0.5] * 8 + [-1.0] + [0.0] * 30
    assert paired_items(partly) == paired_t(partly)
    assert paired_items([0.0] * 6)[3] == 1.0


@pytest.mark.parametrize("n", [5, 20, 100])
def test_the_interval_of_rights_and_wrongs_leaves_zero_out_where_the_test_rejects_and_only_there(n: int) -> None:
    for less in range(min(n, 25) + 1):
        for more in range(min(n - less, 25) + 1):
            mean, low, high, p = paired_items([-1.0] * less + [1.0] * more + [0.0] * (n - less - more))
            assert (low > 0 or high < 0) == (p <= 0.05), (less, more)
            assert low <= mean <= high


@given(st.lists(st.sampled_from([0.0, 0.01, 0.02, 0.05, 0.3, 0.5, -0.01, -0.4]), min_size=1, max_size=60))
def test_the_interval_of_partial_grades_leaves_zero_out_where_the_test_rejects_and_only_there(
    differences: list[float],
) -> None:
    first = [0.4] * len(differences)
    _, low, high, _, _, p = paired_grades([(one, one + more) for one, more in zip(first, differences, strict=True)])
    assert (low > 0 or high < 0) == (p <= 0.05)


def test_small_gains_on_every_item_are_told_from_none_when_grades_are_partial() -> None:
    gains = [0.04, 0.05, 0.06] * 10
    _, low, high, p = paired_items(gains)
    assert 0.045 < low < high < 0.055
    assert p < 1e-9


# -- several at once ---------------------------------------------------------------------------------------------------


def test_holm_of_the_tables() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.4, 0.5]) == pytest.approx([0.8, 0.8])
    assert (holm([0.02]), holm([])) == ([0.02], [])


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_rejects_what_stepping_down_by_hand_rejects(ps: list[float]) -> None:
    rejected = set()
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda place: ps[place])):
        if (len(ps) - rank) * ps[place] > 0.05:
            break
        rejected.add(place)
    assert {place for place, p in enumerate(holm(ps)) if p <= 0.05} == rejected


def test_a_verdict_needs_a_small_p_and_says_who_leads() -> None:
    assert verdict(0.03, 0.05) == "better"
    assert verdict(-0.03, 0.01) == "worse"
    assert verdict(0.3, 0.051) == "no difference shown"
    assert verdict(0.0, 0.0) == "no difference shown"
    assert judged([(0.1, 0.03), (-0.1, 0.01)]) == [(0.03, "better"), (0.02, "worse")]
    assert judged([(0.1, 0.03), (-0.1, 0.04)]) == [(0.06, "no difference shown")] * 2


# -- optimizers --------------------------------------------------------------------------------------------------------


def joined(table: Sequence[Sequence[float]]) -> tuple[float, float, float, float]:
    """The crossed difference of a table whose rows all have the same items."""
    return crossed_difference([dict(enumerate(row)) for row in table])


def crossed(seeds: int, items: int, of_seeds: float, of_items: float, seed: int = 0) -> list[list[float]]:
    rng = np.random.default_rng(seed)
    table = of_seeds * rng.standard_normal((seeds, 1)) + of_items * rng.standard_normal((1, items))
    return np.clip(0.1 + table + 0.1 * rng.standard_normal((seeds, items)), -1, 1).tolist()  # type: ignore[no-any-return]


def test_where_items_do_not_matter_the_crossed_interval_is_students_over_the_seeds() -> None:
    table = crossed(4, 400, 0.2, 0.0)
    wanted = paired_t([float(np.mean(row)) for row in table])
    assert joined(table) == pytest.approx(wanted, abs=2e-3)


def test_where_seeds_do_not_matter_it_is_students_over_the_items() -> None:
    table = [crossed(1, 300, 0.0, 0.3)[0]] * 3
    wanted = paired_t(table[0])
    assert wanted is not None
    assert joined(table) == pytest.approx(wanted)


def test_where_both_matter_it_is_wider_than_either() -> None:
    table = crossed(4, 40, 0.1, 0.3)
    mean, low, high, p = joined(table)
    seeds = paired_t([float(np.mean(row)) for row in table])
    items = paired_t([float(np.mean(column)) for column in zip(*table, strict=True)])
    assert seeds is not None
    assert items is not None
    assert high - low > max(seeds[2] - seeds[1], items[2] - items[1])
    assert p > max(seeds[3], items[3])
    assert mean == pytest.approx(np.mean(table))


def test_the_half_width_is_that_of_the_mean_squares_of_the_textbook() -> None:
    """The mean squares as statsmodels would have them, by projection, and the widths of scipy's t."""
    from scipy import stats

    table = np.array(crossed(3, 20, 0.1, 0.2))
    k, n = table.shape
    rows, columns, mean = table.mean(1, keepdims=True), table.mean(0, keepdims=True), table.mean()
    squares = (
        ((rows - mean) ** 2).sum() * n / (k - 1),
        ((columns - mean) ** 2).sum() * k / (n - 1),
        ((table - rows - columns + mean) ** 2).sum() / ((k - 1) * (n - 1)),
    )
    quantiles = (stats.t.ppf(0.975, df) for df in (k - 1, n - 1, (k - 1) * (n - 1)))
    seeds, items, rest = (t**2 * square / (k * n) for t, square in zip(quantiles, squares, strict=True))
    half = max(seeds + items - rest, seeds, items) ** 0.5
    assert joined(table.tolist())[:3] == pytest.approx((mean, mean - half, mean + half))


@pytest.mark.parametrize("shift", [-0.2, 0.0, 0.05, 0.15])
def test_p_and_interval_say_the_same(shift: float) -> None:
    for seed in range(20):
        table = [[value + shift for value in row] for row in crossed(3, 30, 0.05, 0.1, seed)]
        _, low, high, p = joined(table)
        assert (p <= 0.05) == (low >= 0 or high <= 0)


def test_one_seed_is_the_comparison_of_two_prompts() -> None:
    row = [1.0] * 9 + [-1.0] * 2 + [0.0] * 50
    assert joined([row]) == paired_items(row)


def test_a_table_without_any_difference_is_no_point() -> None:
    mean, low, high, p = joined([[0.0] * 40] * 3)
    assert (mean, p) == (0.0, 1.0)
    assert low < 0 < high


def test_one_item_leaves_the_seeds() -> None:
    mean, low, _, p = paired_t([0.5, 1.0, 0.0])  # type: ignore[misc]
    assert joined([[0.5], [1.0], [0.0]]) == pytest.approx((mean, low, 1.0, p))  # no difference is above 1


def test_items_of_its_own_in_every_row_leave_students_test_over_the_seeds() -> None:
    rng = np.random.default_rng(3)
    rows = [{1000 * seed + i: float(v) for i, v in enumerate(rng.normal(0.1, 0.3, 200))} for seed in range(4)]
    wanted = paired_t([float(np.mean(list(row.values()))) for row in rows])
    assert crossed_difference(rows) == pytest.approx(wanted, abs=1e-3)


def test_items_that_come_in_several_rows_are_counted_once_in_what_is_known_of_items() -> None:
    """Rows of four fifths of a pool: Student over the seeds would take the pool's own luck for the optimizers'."""
    claims = {"seeds": 0, "ours": 0}
    for number in range(300):
        rng = np.random.default_rng(number)
        pool = rng.normal(0, 0.5, 60)
        rows = []
        for _ in range(5):
            held = rng.permutation(60)[:48]
            rows.append({int(i): float(np.clip(pool[i] + rng.normal(0, 0.2), -1, 1)) for i in held})
        seeds = paired_t([float(np.mean(list(row.values()))) for row in rows])
        assert seeds is not None
        claims["seeds"] += seeds[3] <= 0.05
        claims["ours"] += crossed_difference(rows)[3] <= 0.05
    assert claims["seeds"] > 60
    assert claims["ours"] <= 24  # 5 % are 15


@pytest.mark.parametrize("rows", [[], [{}], [{1: 0.5}, {}]])
def test_a_crossed_difference_needs_items_in_every_row(rows: list[dict[int, float]]) -> None:
    with pytest.raises(ValueError, match="each with some"):
        crossed_difference(rows)
