"""Racing's arithmetic: errors counted over all orders of small sets of examples, and what may not change a decision."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import combinations_with_replacement, permutations
from pathlib import Path
from random import Random
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncopt import racing
from asyncopt.errors import ConfigError
from asyncopt.racing import Bet, Floor, Race, alpha_of

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"

scores = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1))
pairs = st.lists(st.tuples(scores, scores), min_size=1, max_size=40)


def stop_of(candidate: Sequence[float], floor: Sequence[float], alpha: float) -> int | None:
    bet = Bet(floor, alpha)
    return next((looked for looked, score in enumerate(candidate, 1) if bet.lost(score)), None)


def raced(race: Race, by_place: Sequence[float | None], turns: Sequence[int] | None = None) -> int | None:
    for turn in range(len(race.order)) if turns is None else turns:
        race.end(turn, by_place[race.order[turn]])
    return race.stopped


# -- the bet -----------------------------------------------------------------------------------------------------------


def populations(n: int, values: Sequence[float]) -> Iterator[tuple[tuple[float, float], ...]]:
    """All sets of n (candidate, floor) pairs, up to order, in which the candidate reaches the floor exactly or barely."""
    kinds = [(candidate, floor) for candidate in values for floor in values]
    for population in combinations_with_replacement(kinds, n):
        excess = sum(Fraction(c) - Fraction(f) for c, f in population)
        if 0 <= excess <= min(values[1:]):
            yield population


@pytest.mark.parametrize(
    ("n", "values"), [(4, (0.0, 1.0)), (6, (0.0, 1.0)), (4, (0.0, 0.5, 1.0)), (3, (0.0, 0.25, 1.0))]
)
@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.5])
def test_over_all_orders_no_more_than_alpha_stop_a_candidate_that_reaches_the_floor(
    n: int, values: tuple[float, ...], alpha: float
) -> None:
    stopped = 0
    for population in populations(n, values):
        orders = list(permutations(population))
        wrong = sum(stop_of(*zip(*order, strict=True), alpha=alpha) is not None for order in orders)
        assert wrong <= alpha * len(orders), population
        stopped += wrong
    if (n, alpha) == (6, 0.5):
        assert stopped  # so the bound was put to the test


TIED = ((1.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.0, 1.0), (1.0, 1.0), (0.0, 0.0), (0.25, 0.25))


@pytest.mark.parametrize("population", [TIED, (*TIED[:3], *TIED[4:], (1.0, 0.5))])
def test_the_wealth_does_not_grow_on_average_where_the_candidate_reaches_the_floor(
    population: tuple[tuple[float, float], ...],
) -> None:
    """A supermartingale: the mean over all orders is at most 1 after every number of examples, and 1 where it ties."""
    means = np.zeros(len(population))
    orders = list(permutations(population))
    for order in orders:
        bet = Bet([floor for _, floor in order], 1e-12)
        for place, (score, _) in enumerate(order):
            bet.lost(score)
            means[place] += bet.wealth / len(orders)
    if population == TIED:
        assert means == pytest.approx(1)
    else:
        assert (means < 1).all()


@given(pairs)
def test_the_wealth_never_goes_below_zero(population: list[tuple[float, float]]) -> None:
    bet = Bet([floor for _, floor in population], 1e-12)
    for score, _ in population:
        bet.lost(score)
        assert 0 <= bet.wealth < math.inf


@given(pairs, st.data())
def test_a_better_answer_never_stops_a_candidate_earlier(
    population: list[tuple[float, float]], data: st.DataObject
) -> None:
    candidate, floor = [c for c, _ in population], [f for _, f in population]
    at = data.draw(st.integers(0, len(population) - 1))
    better = [*candidate[:at], data.draw(st.floats(candidate[at], 1)), *candidate[at + 1 :]]
    first, then = stop_of(candidate, floor, 0.2), stop_of(better, floor, 0.2)
    assert then is None or (first is not None and first <= then)


@given(pairs)
def test_what_is_certain_is_stopped_and_what_ties_never_for_certain(population: list[tuple[float, float]]) -> None:
    candidate, floor = [c for c, _ in population], [f for _, f in population]
    stop = stop_of(candidate, floor, 1e-300)  # leaves the certain bound alone
    out_of_reach = [sum(candidate[:t]) + len(floor) - t < sum(floor) - 1e-6 for t in range(1, len(floor))]
    within_reach = [sum(candidate[:t]) + len(floor) - t >= sum(floor) for t in range(1, len(floor))]
    if stop is None:
        assert not any(out_of_reach)
    else:
        assert not within_reach[stop - 1]
        assert not any(out_of_reach[: stop - 1])


def test_a_tie_in_another_order_of_fractions_reaches_the_floor() -> None:
    thirds = [0.1, 0.7, 1 / 3, 0.2, 0.3, 1 / 7] * 5
    for seed in range(50):
        floor = Random(seed).sample(thirds, len(thirds))
        assert stop_of(thirds, floor, 1e-300) is None


def test_no_state_is_left_after_the_last_example() -> None:
    assert stop_of([0.0], [1.0], 0.5) is None  # all is known then, and the candidate is scored
    assert stop_of([0.0, 0.0], [1.0, 1.0], 0.5) == 1


# -- the order and the prefix ------------------------------------------------------------------------------------------


def test_the_order_is_the_seeds_and_the_candidates() -> None:
    floor = Floor({}, 0.1, seed=7)
    orders = {text: Race(floor, range(50), text).order for text in ("a", "b", "", "\ud800")}
    assert all(sorted(order) == list(range(50)) for order in orders.values())
    assert len({tuple(order) for order in orders.values()}) == len(orders)
    assert Race(floor, range(50), "a").order == orders["a"]
    assert Race(Floor({}, 0.1, seed=8), range(50), "a").order != orders["a"]


@given(pairs, st.randoms(use_true_random=False))
def test_the_order_of_arrival_does_not_change_the_decision(population: list[tuple[float, float]], rng: Random) -> None:
    floor = Floor({place: f for place, (_, f) in enumerate(population)}, 0.2, seed=1)
    candidate = [c for c, _ in population]
    turns = rng.sample(range(len(population)), len(population))
    in_order, as_they_come = (Race(floor, range(len(population)), "a") for _ in range(2))
    assert raced(in_order, candidate) == raced(as_they_come, candidate, turns)


@given(pairs, st.randoms(use_true_random=False))
def test_no_candidate_is_stopped_before_the_horizon(population: list[tuple[float, float]], rng: Random) -> None:
    n = len(population)
    race = Race(Floor({place: f for place, (_, f) in enumerate(population)}, 0.3, seed=1), range(n), "a")
    horizons = [race.horizon()]
    for turn in rng.sample(range(n), n):
        race.end(turn, population[race.order[turn]][0])
        if race.stopped is None:
            horizons.append(race.horizon())
    assert horizons == sorted(horizons)
    assert max(horizons) <= (race.stopped or n)


def test_a_call_that_failed_counts_for_the_candidate() -> None:
    floor = Floor(dict.fromkeys(range(20), 1.0), 0.05, seed=1)
    assert raced(Race(floor, range(20), "a"), [None] * 20) is None
    assert raced(Race(floor, range(20), "a"), [0.0] * 20) == 1
    half = [None, 1.0] * 10
    assert raced(Race(floor, range(20), "a"), half) == raced(Race(floor, range(20), "a"), [1.0] * 20)


def test_an_example_that_the_floor_lacks_counts_for_the_candidate() -> None:
    known = Floor(dict.fromkeys(range(20), 1.0), 0.05, seed=1)
    some = Floor(dict.fromkeys(range(0, 20, 2), 1.0), 0.05, seed=1)
    candidate = [0.5] * 20
    assert raced(Race(known, range(20), "a"), candidate) is not None
    assert raced(Race(some, range(20), "a"), candidate) is None  # 10 of 20 is what the floor is known to have


def test_examples_are_paired_by_their_ids() -> None:
    rng = Random(2)
    ids = rng.sample(range(1000), 60)
    candidate = [float(rng.random() < 0.4) for _ in ids]
    floor = {example: float(rng.random() < 0.8) for example in ids} | {1000: 1.0}
    race = Race(Floor(floor, 0.05, seed=3), ids, "a")
    ordered = [candidate[place] for place in race.order], [floor[ids[place]] for place in race.order]
    assert raced(race, candidate) == stop_of(*ordered, alpha=0.05) is not None


def test_what_cannot_be_raced_is_refused() -> None:
    for scores, alpha in (({1: 1.5}, 0.1), ({1: math.nan}, 0.1), ({}, 0.0), ({}, 1.0), ({}, math.nan)):
        with pytest.raises(ConfigError, match="racing"):
            Floor(scores, alpha, 0)
    race = Race(Floor({}, 0.1, 0), [0, 1], "a")
    for score in (-0.1, 1.1, math.nan):
        with pytest.raises(ConfigError, match="0, 1"):
            race.end(0, score)


# -- a study -----------------------------------------------------------------------------------------------------------


def test_the_error_is_shared_by_the_candidates_of_a_study() -> None:
    assert 200 * alpha_of(0.05, 200) == pytest.approx(0.05)
    for study_alpha, candidates in ((0.05, 0), (0.0, 10), (1.0, 10)):
        with pytest.raises(ConfigError, match="racing"):
            alpha_of(study_alpha, candidates)


def test_equal_candidates_are_stopped_in_far_fewer_studies_than_allowed() -> None:
    """A/A: 300 studies of 20 candidates that have exactly the floor's score, on other examples; each stop is wrong."""
    rng = Random(5)
    wrong = 0
    for study in range(300):
        floor = [1.0] * 24 + [0.0] * 16
        ends = Floor(dict(enumerate(floor)), alpha_of(0.2, 20), study)
        races = [Race(ends, range(40), str(k)) for k in range(20)]
        wrong += any(raced(race, rng.sample(floor, 40)) is not None for race in races)
    assert 0 < wrong <= 0.2 * 300


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("benchmarks_racing", BENCHMARKS / "racing.py")
        assert spec is not None and spec.loader is not None  # noqa: PT018
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(BENCHMARKS))
        sys.modules.pop("benchmarks_racing", None)


@pytest.mark.parametrize("n", [2, 50, 200])
def test_the_benchmark_decides_as_the_package_does(benchmark: ModuleType, n: int) -> None:
    rng = np.random.default_rng(n)
    grid = rng.integers(0, 9, (300, n)) / 8  # eighths: their sums are exact
    candidates = np.where(rng.random((300, 1)) < 0.5, grid.round(), grid)
    floors = np.clip(rng.permuted(candidates, axis=1) + (rng.random((300, n)) < rng.random((300, 1))), 0, 1)
    for alpha in (0.2, 0.05 / 200):
        fast = benchmark.stopping_times(candidates, floors, alpha)
        slow = [stop_of(c, f, alpha) or n for c, f in zip(candidates.tolist(), floors.tolist(), strict=True)]
        assert fast.tolist() == slow
        assert len(set(slow)) > 1


def test_the_decision_rests_on_plain_floats_in_a_fixed_order() -> None:
    """Known stops: another Python, platform or order of operations that gives others would break a replay."""
    rng = Random(11)
    floor = [float(rng.random() < 0.8) for _ in range(200)]
    stops = [
        stop_of([float(rng.random() < p) for _ in range(200)], floor, 0.05 / 200) for p in (0.3, 0.5, 0.6, 0.7, 0.8)
    ]
    assert stops == [15, 15, 74, 150, None]
    assert not hasattr(racing, "np")
