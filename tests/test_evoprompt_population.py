"""Who is drawn and who lives: probabilities under a seed, and the rules of survival, by hand-made scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random

import pytest

from asyncopt.optimizers import EvoPromptDE, EvoPromptGA
from asyncopt.optimizers.evoprompt.options import InitialMode, Selection
from asyncopt.optimizers.evoprompt.parents import donors, pair, slots
from asyncopt.optimizers.evoprompt.population import Family, family, founders
from asyncopt.optimizers.history import Entry, History

DRAWS = 4000
CRITICAL = {1: 10.83, 2: 13.82, 3: 16.27, 9: 27.88}  # chi-square, p = 0.001, by degrees of freedom


def entry(candidate: str, score: float | None, step: int = -1, index: int = 0) -> Entry:
    return Entry(candidate, score, step, index, 10)


def pool_of(scores: Sequence[float]) -> list[Entry]:
    return [entry(f"P{number}", score, -1, number) for number, score in enumerate(scores)]


def texts(entries: Sequence[Entry]) -> str:
    return " ".join(one.candidate for one in entries)


def chi_square(counts: Counter[str], expected: dict[str, float]) -> float:
    total = sum(counts.values())
    assert set(counts) <= set(expected)
    return sum((counts[name] - share * total) ** 2 / (share * total) for name, share in expected.items())


# -- draws -------------------------------------------------------------------------------------------------------------


def test_roulette_draws_in_proportion_to_the_scores_with_replacement() -> None:
    population = pool_of([0.4, 0.3, 0.2, 0.1, 0.0])
    drawn = Counter(one.candidate for seed in range(DRAWS) for one in slots(population, "roulette", 10, Random(seed)))
    expected = {"P0": 0.4, "P1": 0.3, "P2": 0.2, "P3": 0.1}  # one without a right answer is never drawn
    assert chi_square(drawn, expected) < CRITICAL[3]
    repeated = slots(population, "roulette", 10, Random(0))
    assert len(repeated) == 10 > len({one.candidate for one in repeated})


def test_roulette_draws_all_alike_where_every_score_is_0() -> None:
    drawn = Counter(
        one.candidate for seed in range(DRAWS) for one in slots(pool_of([0.0, 0.0]), "roulette", 4, Random(seed))
    )
    assert chi_square(drawn, {"P0": 0.5, "P1": 0.5}) < CRITICAL[1]


@pytest.mark.parametrize("selection", ["random", "tour"])
def test_without_roulette_the_places_are_the_population(selection: Selection) -> None:
    population = pool_of([0.1, 0.2])
    assert slots(population, selection, 10, Random(0)) == population


def test_the_draws_of_a_seed_are_these() -> None:
    population = pool_of([0.1, 0.2, 0.3, 0.4])
    places = slots(population, "roulette", 6, Random(1))
    assert texts(places) == "P1 P3 P3 P1 P2 P2"
    assert texts(pair(places, "roulette", Random(2))) == "P1 P2"
    assert texts(pair(population, "tour", Random(2))) == "P3 P1"
    assert texts(donors(population, 1, Random(3))) == "P0 P3 P2"


@pytest.mark.parametrize("selection", ["roulette", "random"])
def test_parents_are_two_different_places(selection: Selection) -> None:
    population = pool_of([0.1, 0.2, 0.3])
    drawn = Counter(texts(pair(population, selection, Random(seed))) for seed in range(DRAWS))
    pairs = {f"P{a} P{b}": 1 / 6 for a in range(3) for b in range(3) if a != b}
    assert set(drawn) == set(pairs)
    assert chi_square(drawn, pairs) < 20.52  # 5 degrees of freedom


def test_a_tournament_is_won_by_the_better_of_two() -> None:
    population = pool_of([0.1, 0.2, 0.3])
    winners = Counter(one.candidate for seed in range(DRAWS) for one in pair(population, "tour", Random(seed)))
    assert chi_square(winners, {"P1": 1 / 3, "P2": 2 / 3}) < CRITICAL[1]


def test_the_only_member_has_children_with_itself() -> None:
    assert texts(pair(pool_of([0.5]), "random", Random(0))) == "P0 P0"
    assert texts(pair(pool_of([0.5]), "tour", Random(0))) == "P0 P0"


def test_donors_are_three_different_others_all_equally_likely() -> None:
    population = pool_of([0.1, 0.1, 0.1, 0.1, 0.1])
    drawn = [donors(population, 2, Random(seed)) for seed in range(DRAWS)]
    assert all(len({one.candidate for one in three} | {"P2"}) == 4 for three in drawn)
    for place in range(3):
        counts = Counter(three[place].candidate for three in drawn)
        assert chi_square(counts, dict.fromkeys(("P0", "P1", "P3", "P4"), 0.25)) < CRITICAL[3]


def test_too_few_others_are_donors_in_turn() -> None:
    assert set(donors(pool_of([0.1, 0.2, 0.3]), 0, Random(0))) == set(pool_of([0.1, 0.2, 0.3])[1:])
    assert texts(donors(pool_of([0.1, 0.2]), 0, Random(0))) == "P1 P1 P1"
    assert texts(donors(pool_of([0.1]), 0, Random(0))) == "P0 P0 P0"


# -- the first population ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "popsize", "kept", "spare", "bases"),
    [
        ("para_topk", 4, "P1 P3", "P2 P0 P4", ["P1", "P3"]),
        ("para_topk", 5, "P1 P3 P2", "P0 P4", ["P1", "P3"]),
        ("para_bottomk", 4, "P0 P4", "P2 P1 P3", ["P0", "P4"]),
        ("topk", 4, "P1 P3 P2 P0", "P4", []),
        ("bottomk", 3, "P0 P4 P2", "P1 P3", []),
        ("topk", 8, "P1 P3 P2 P0 P4", "", ["P1", "P3", "P2"]),
        ("para_topk", 12, "P1 P3 P2 P0 P4", "", ["P1", "P3", "P2", "P0", "P4", "P1", "P3"]),
    ],
)
def test_who_begins(mode: InitialMode, popsize: int, kept: str, spare: str, bases: list[str]) -> None:
    begun = founders(pool_of([0.1, 0.5, 0.3, 0.5, 0.1]), mode, popsize, Random(0))
    assert (texts(begun.kept), texts(begun.spare)) == (kept, spare)
    asked = [begun.base(number) for number in range(popsize)]
    assert [one.candidate for one in asked if one is not None] == bases
    assert asked[len(bases) :] == [None] * (popsize - len(bases))


@pytest.mark.parametrize(("mode", "size"), [("randomk", 4), ("para_randomk", 2)])
def test_random_founders_are_drawn_uniformly_and_without_regard_to_how_the_pool_is_listed(
    mode: InitialMode, size: int
) -> None:
    pool = pool_of([0.1, 0.5, 0.3, 0.5, 0.1])
    drawn: Counter[str] = Counter()
    for seed in range(DRAWS):
        begun = founders(pool, mode, 4, Random(seed))
        assert founders(pool[::-1], mode, 4, Random(seed)) == begun
        assert len(begun.kept) == size
        drawn[begun.kept[0].candidate] += 1
    assert chi_square(drawn, {f"P{number}": 0.2 for number in range(5)}) < 18.47  # 4 degrees of freedom


def test_nobody_begins_without_a_score() -> None:
    begun = founders([], "para_topk", 4, Random(0))
    assert (begun.base(0), begun.population([])) == (None, [])


# -- survival ----------------------------------------------------------------------------------------------------------

FIRST = [entry("A", 0.5, -1, 0), entry("B", 0.4, -1, 1), entry("C", 0.4, 0, 0)]


def born(*children: tuple[int, int, str, float]) -> Family:
    generations: dict[int, dict[int, Entry]] = {}
    for generation, member, text, score in children:
        generations.setdefault(generation, {})[member] = entry(text, score, generation, member)
    return Family(FIRST, generations)


def test_the_best_of_members_and_children_live_and_of_equals_the_earlier() -> None:
    known = born((1, 0, "D", 0.4), (1, 1, "E", 0.6), (1, 2, "F", 0.5))
    assert texts(known.fittest(3)) == "E A F"
    assert texts(known.fittest(5)) == "E A F B C"
    assert known.best().candidate == "E"
    assert texts(known.before(1).fittest(3)) == "A B C"


def test_children_that_replace_the_population_do_so_whatever_they_are_worth() -> None:
    known = born((1, 0, "D", 0.1), (1, 1, "E", 0.2), (1, 2, "F", 0.3), (2, 1, "G", 0.2))
    assert texts(known.before(1).youngest(3)) == "A B C"
    assert texts(known.before(2).youngest(3)) == "D E F"
    assert texts(known.youngest(3)) == "G F E"  # two children of the second generation are missing


def test_a_member_is_replaced_by_a_better_child_of_its_own_and_not_by_an_equal_one() -> None:
    known = born((1, 0, "D", 0.5), (1, 1, "E", 0.6), (2, 1, "F", 0.6), (2, 2, "G", 0.3), (3, 1, "H", 0.7))
    assert [known.line(member).candidate for member in range(3)] == ["A", "H", "C"]
    assert [known.before(3).line(member).candidate for member in range(3)] == ["A", "E", "C"]
    assert born((1, 0, "D", 0.5)).best().candidate == "A"


def test_the_pool_is_not_the_population() -> None:
    """The best so far is that of who began: from the worst of the pool, the rest of it is not seen."""
    history = History(maximize=True, entries=pool_of([0.9, 0.1, 0.2, 0.3, 0.8]))
    options = EvoPromptDE(popsize=4, initial_mode="bottomk")
    _, known = family(history.ranked(), options, Random(0))
    assert (texts(known.first), known.best().candidate) == ("P1 P2 P3 P4", "P4")


def test_stopped_and_unscored_candidates_do_not_live() -> None:
    history = History(maximize=True, entries=pool_of([0.5, 0.4]))
    history.add(Entry("stopped", None, 1, 0, 3, False, stopped=3))
    history.add(Entry("failed", None, 1, 1, 0, False))
    history.add(entry("good", 0.6, 1, 2))
    _, known = family(history.ranked(), EvoPromptGA(popsize=2, initial_mode="topk"), Random(0))
    assert texts(known.fittest(5)) == "good P0 P1"
    assert texts(known.youngest(2)) == "good P0"


def test_a_partial_child_is_compared_on_the_examples_that_it_has() -> None:
    history = History(maximize=True)
    history.add(Entry("member", 0.5, -1, 0, 4), {0: 1.0, 1: 1.0, 2: 0.0, 3: 0.0})
    history.add(Entry("lucky", 2 / 3, 1, 0, 3, False), {0: 1.0, 1: 1.0, 2: 0.0})  # lacks one that is hard
    _, known = family(history.ranked(), EvoPromptDE(popsize=4), Random(0))
    assert known.line(0).candidate == "member"
    history.add(Entry("better", 1.0, 2, 0, 3, False), {0: 1.0, 1: 1.0, 2: 1.0})
    _, known = family(history.ranked(), EvoPromptDE(popsize=4), Random(0))
    assert known.line(0).candidate == "better"


def test_a_provisional_child_stands_with_what_it_has_so_far() -> None:
    history = History(maximize=True, entries=pool_of([0.5]))
    history.add(Entry("early", 0.9, 1, 0, 5, False, provisional=True))
    _, known = family(history.ranked(), EvoPromptGA(), Random(0))
    assert known.best().candidate == "early"
    history.add(entry("early", 0.4, 1, 0))
    _, known = family(history.ranked(), EvoPromptGA(), Random(0))
    assert known.best().candidate == "P0"
