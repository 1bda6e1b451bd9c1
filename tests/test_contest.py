"""A comparison of optimizers: what each came to, which differences are claimed, and what is said beside them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from asyncopt import ConfigError, codec
from asyncopt.contest import Arm, ArmRun, contest
from asyncopt.result import Measured
from asyncopt.stats import crossed_difference, holm, paired_items, paired_t, top_k


def run(seed: int, scores: Mapping[int, float], train: float = 0.8, **more: float | str) -> ArmRun:
    return ArmRun(
        seed,
        instruction=f"instruction {seed}",
        train=Measured.of(20 * train, 20),
        held_out=Measured.of(sum(scores.values()), len(scores)),
        scores=scores,
        scoring_calls=100,
        **more,  # type: ignore[arg-type]
    )


def drawn(score: float, n: int = 200, *, of: object = 0, first: int = 0) -> dict[int, float]:
    """Grades that are right with this chance, drawn from what ``of`` is."""
    chance = random.Random(repr(of))
    return {number: float(chance.random() < score) for number in range(first, first + n)}


def arm(name: str, score: float, seeds: Sequence[int] = range(5), **more: str) -> Arm:
    return Arm(name, [run(seed, drawn(score, of=(name, seed))) for seed in seeds], **more)


def test_a_table_of_seeds_and_items_is_judged_by_its_crossed_difference() -> None:
    one, two = arm("one", 0.5), arm("two", 0.8)
    (pair,) = contest([one, two]).pairs
    rows = [{i: b.scores[i] - a.scores[i] for i in range(200)} for a, b in zip(one.runs, two.runs, strict=True)]
    assert (pair.difference, pair.low, pair.high, pair.p) == crossed_difference(rows)
    assert (pair.basis, pair.seeds, pair.items, pair.left_out) == ("seeds and items", 5, 200, 0)
    assert (pair.first, pair.second, pair.verdict) == ("one", "two", "better")
    (turned,) = contest([two, one]).pairs
    assert (turned.verdict, turned.difference) == ("worse", pytest.approx(-(pair.difference or 0)))


def test_all_pairs_of_optimizers_are_adjusted_for_each_other_and_repetitions_are_not() -> None:
    arms = [arm("a", 0.5), arm("b", 0.55), arm("c", 0.6), arm("a again", 0.5, range(100, 105), same_as="a")]
    found = contest(arms)
    *claims, repetition = found.pairs
    assert [(one.first, one.second) for one in claims] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [one.p_holm for one in claims] == holm([one.p for one in claims if one.p is not None])
    assert (repetition.first, repetition.second, repetition.aa) == ("a", "a again", True)
    assert repetition.p_holm == repetition.p
    assert [one.rank for one in found.arms] == [3, 2, 1, None]


def test_one_seed_has_an_interval_for_its_prompts_and_no_verdict_on_optimizers() -> None:
    one, two = arm("one", 0.3, [7]), arm("two", 0.8, [7])
    found = contest([one, two])
    (pair,) = found.pairs
    differences = [two.runs[0].scores[i] - one.runs[0].scores[i] for i in range(200)]
    assert (pair.basis, pair.p) == ("items", paired_items(differences)[3])
    assert pair.p is not None
    assert pair.p < 1e-6
    assert pair.verdict is None
    assert "no verdict" in found.notes[0]
    assert found.arms[0].held_out is not None
    assert (found.arms[0].held_out.sd, found.noise.sd) == (None, None)


def test_two_seeds_have_an_interval_and_no_verdict_either() -> None:
    found = contest([arm("one", 0.1, range(2)), arm("two", 0.9, range(2))])
    (pair,) = found.pairs
    assert (pair.seeds, pair.verdict) == (2, None)
    assert pair.low is not None
    assert pair.low > 0  # which with three would be a verdict
    assert found.notes == ("From two seeds there is no verdict: they may fall apart by luck alone. Run three or more.",)


def test_items_may_differ_by_seed_where_the_split_does() -> None:
    """Both arms of a seed have its items; the table has holes, and an item counts as often as it comes."""
    arms = [
        Arm(name, [run(k, drawn(score, of=(name, k), first=50 * k)) for k in range(4)])
        for name, score in (("one", 0.5), ("two", 0.7))
    ]
    (pair,) = contest(arms).pairs
    rows = [{i: b.scores[i] - a.scores[i] for i in a.scores} for a, b in zip(arms[0].runs, arms[1].runs, strict=True)]
    assert (pair.difference, pair.low, pair.high, pair.p) == crossed_difference(rows)
    assert (pair.basis, pair.seeds, pair.items) == ("seeds and items", 4, 350)


def test_without_grades_of_single_items_the_shares_are_compared() -> None:
    scores = {"one": (0.5, 0.55, 0.6), "two": (0.7, 0.8, 0.75)}
    arms = [
        Arm(name, [ArmRun(k, held_out=Measured.of(100 * share, 100)) for k, share in enumerate(shares)])
        for name, shares in scores.items()
    ]
    found = contest(arms)
    (pair,) = found.pairs
    assert (pair.difference, pair.low, pair.high, pair.p) == pytest.approx(paired_t([0.2, 0.25, 0.15]))
    assert (pair.basis, pair.seeds, pair.items) == ("seeds", 3, 0)
    assert "by their shares" in found.notes[0]


def test_a_repetition_on_other_items_is_compared_by_its_shares() -> None:
    """Where the split depends on the seed: what few items come in both would say something else than the means do."""
    one = Arm("one", [run(k, drawn(0.5, of=k, first=60 * k, n=80)) for k in range(3)])
    again = Arm("again", [run(k + 3, drawn(0.5, of=-k, first=60 * k + 70, n=80)) for k in range(3)], same_as="one")
    found = contest([one, again])
    (pair,) = found.pairs
    assert (pair.basis, pair.seeds, pair.items) == ("seeds", 3, 0)
    means = [arm.held_out.mean for arm in found.arms if arm.held_out is not None]
    assert pair.difference == pytest.approx(means[1] - means[0])
    assert "few held-out items are the same" in found.notes[0]
    same = contest([one, Arm("again", [replace(r, seed=r.seed + 3) for r in one.runs], same_as="one")])
    assert same.pairs[0].basis == "seeds and items"


def test_an_item_without_a_score_is_missing_in_its_row_only() -> None:
    one, two = arm("one", 0.5), arm("two", 0.6)
    lacking = replace(two.runs[0], scores={i: two.runs[0].scores[i] for i in range(5, 200)})
    (pair,) = contest([one, Arm("two", [lacking, *two.runs[1:]])]).pairs
    assert (pair.basis, pair.items) == ("seeds and items", 200)


def test_failed_runs_are_counted_and_their_partners_left_out() -> None:
    one, two = arm("one", 0.5, range(3)), arm("two", 0.6, range(3))
    failed = Arm("two", [*two.runs[:2], ArmRun(2, failure="the key was refused")])
    found = contest([one, failed])
    assert [(figures.n, figures.failures) for figures in found.arms] == [(3, ()), (2, ("the key was refused",))]
    assert (found.pairs[0].seeds, found.pairs[0].left_out) == (2, 1)
    assert "two: 1 of 3 runs have no result" in found.notes[0]
    assert "the key was refused" in found.notes[0]


def test_an_arm_that_failed_altogether_has_no_figures_and_no_claim() -> None:
    found = contest([arm("one", 0.5), Arm("two", [ArmRun(0, failure="no quota left")])])
    assert (found.arms[1].n, found.arms[1].held_out, found.arms[1].rank, found.arms[1].best) == (0, None, None, None)
    assert (found.pairs[0].difference, found.pairs[0].verdict) == (None, None)


def test_the_gap_is_what_the_chosen_one_loses_on_examples_it_was_not_chosen_by() -> None:
    runs = [run(0, drawn(0.5, of=0), train=0.9), run(1, drawn(0.5, of=1), train=0.7)]
    (figures,) = contest([Arm("one", runs)]).arms
    held_out = [one.held_out.score for one in runs if one.held_out is not None]
    assert figures.gap is not None
    assert figures.gap.mean == pytest.approx(0.8 - sum(held_out) / 2)
    assert figures.top_k == tuple(top_k([0.9, 0.7], held_out, k) for k in (1, 2))
    assert (figures.best, figures.best_seed) == ("instruction 0", 0)
    assert figures.took["scoring_calls"].mean == 100
    assert "usd" not in figures.took


def test_validation_chooses_where_there_is_some() -> None:
    runs = [replace(run(k, drawn(0.5, of=k), train=0.9 - k / 10), validation=Measured.of(k, 10)) for k in range(3)]
    assert contest([Arm("one", runs)]).arms[0].best_seed == 2


def test_true_regret_is_against_the_best_that_any_arm_tried_under_that_seed() -> None:
    def of(*pairs: tuple[float, float]) -> list[ArmRun]:
        return [run(k, drawn(0.5, of=k), true_accuracy=a, best_true_accuracy=b) for k, (a, b) in enumerate(pairs)]

    one, two = contest([Arm("one", of((0.6, 0.7), (0.5, 0.5))), Arm("two", of((0.65, 0.65), (0.8, 0.9)))]).arms
    assert one.regret is not None
    assert two.regret is not None
    assert (one.regret.mean, two.regret.mean) == pytest.approx(((0.1 + 0.4) / 2, (0.05 + 0.1) / 2))
    assert (one.true_rank, two.true_rank) == (2, 1)
    assert contest([arm("one", 0.5)]).arms[0].regret is None


def test_the_noise_is_the_spread_over_seeds_of_one_optimizer_and_its_repetition() -> None:
    def of(name: str, *shares: float, **more: str) -> Arm:
        return Arm(name, [ArmRun(k, held_out=Measured.of(s, 1)) for k, s in enumerate(shares)], **more)

    noise = contest([of("a", 0.5, 0.7), of("b", 0.1, 0.3), of("a again", 0.6, same_as="a")]).noise
    # a with its repetition: 0.5, 0.7, 0.6 have the variance 0.01 of 2 degrees of freedom; b has 0.02 of 1.
    assert noise.df == 3
    assert noise.sd == pytest.approx((0.04 / 3) ** 0.5)
    assert noise.band == pytest.approx(3.1824463 * (0.08 / 3) ** 0.5)  # t(0.975, 3) of the tables
    assert noise.band_of_means == pytest.approx((noise.band or 0) / 2**0.5)


def test_one_instruction_asked_twice_says_how_much_of_its_score_is_luck() -> None:
    first, second = {1: 1.0, 2: 0.0, 3: 1.0, 4: 0.0, 9: 1.0}, {1: 1.0, 2: 1.0, 3: 0.0, 4: 1.0, 8: 0.0}
    twice = contest([arm("one", 0.5)], twice=(first, second)).noise.asked_twice
    assert twice is not None
    assert (twice.n, twice.difference, twice.changed) == (4, 0.25, 0.75)
    assert twice.band == pytest.approx(1.959964 * (5 / 6) ** 0.5 / 6**0.5)
    same = contest([arm("one", 0.5)], twice=(first, first)).noise.asked_twice
    assert same is not None
    assert same.band > 0


def test_unequal_budgets_are_said() -> None:
    two = arm("two", 0.5)
    other = Arm("two", [replace(one, scoring_calls=150) for one in two.runs])
    assert any("one 100, two 150 in the mean" in note for note in contest([arm("one", 0.5), other]).notes)
    assert contest([arm("one", 0.5), two]).notes == ()
    short = Arm("two", [two.runs[0], *(replace(one, scoring_calls=40) for one in two.runs[1:])])
    assert any("one 100, two 52 in the mean" in note for note in contest([arm("one", 0.5), short]).notes)


@pytest.mark.parametrize(
    ("arms", "said"),
    [
        ([arm("one", 0.5), arm("one", 0.5)], "name of its own"),
        ([arm("one", 0.5), arm("two", 0.5, same_as="three")], "must be one of one"),
    ],
)
def test_arms_that_cannot_be_told_apart_are_refused(arms: list[Arm], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        contest(arms)


def test_the_figures_are_plain_values() -> None:
    found = contest([arm("one", 0.5), arm("two", 0.8), arm("more", 0.5, range(9, 12), same_as="one")])
    plain = codec.loads(codec.dumps(found.to_json()))
    assert [one["name"] for one in plain["arms"]] == ["one", "two", "more"]
    assert plain["pairs"][0]["verdict"] == "better"
    assert plain["level"] == 0.05


def test_equal_optimizers_are_rarely_called_different() -> None:
    """400 times three equal ones, whose runs and items vary: at most one of twenty, and chance beside it."""
    claimed = 0
    for number in range(400):
        chance = random.Random(number)
        items = [chance.gauss(0, 1) for _ in range(30)]
        arms = []
        for name in "abc":
            own = [chance.gauss(0, 0.5) for _ in items]
            runs = []
            for seed in range(3):
                of_run = chance.gauss(0, 0.4)
                scores = {
                    i: float(a + b + of_run + chance.gauss(0, 1) > 0)
                    for i, (a, b) in enumerate(zip(items, own, strict=True))
                }
                runs.append(run(seed, scores))
            arms.append(Arm(name, runs))
        claimed += any(pair.verdict != "no difference shown" for pair in contest(arms).pairs)
    assert claimed <= 28  # 5 % are 20; a binomial of these is above 28 in 3 % of cases


def found_or_not(seed: int, found: bool) -> ArmRun:
    """A run that found the trick, which solves 16 of 20 items, or did not, and solves the first eight of these."""
    return run(seed, {item: float(item < (16 if found else 8)) for item in range(20)})


@pytest.mark.parametrize(("many", "seeds"), [(3, 3), (5, 3), (5, 4)])
def test_equal_searches_that_find_something_or_do_not_are_rarely_called_different(many: int, seeds: int) -> None:
    """With five optimizers one of them finds it under all of three seeds, and one under none, in a fifth of the cases."""
    claimed, chance = 0, random.Random(many * seeds)
    for _ in range(200):
        arms = [Arm(f"{n}", [found_or_not(k, chance.random() < 0.5) for k in range(seeds)]) for n in range(many)]
        claimed += any(pair.verdict != "no difference shown" for pair in contest(arms).pairs)
    assert claimed <= 16  # 5 % are 10; a binomial of these is above 16 in 2 % of cases


def test_one_that_stands_out_of_many_with_little_noise_is_found_from_three_seeds() -> None:
    def steady(name: str, right: int) -> Arm:
        return Arm(name, [run(k, {item: float(item < right + k) for item in range(400)}) for k in range(3)])

    found = contest([steady("a", 100), steady("b", 101), steady("c", 102), steady("d", 300)])
    claims = {(one.first, one.second): one.verdict for one in found.pairs}
    assert [claims[name, "d"] for name in "abc"] == ["better"] * 3
    assert claims["a", "b"] == "no difference shown"


def test_an_optimizer_of_which_one_run_has_ended_takes_no_verdict_from_the_others() -> None:
    clean = [Arm(name, [found_or_not(k, name == "b") for k in range(3)]) for name in "ab"]
    third = Arm("c", [found_or_not(0, found=True)])
    pair = contest([*clean, third]).pairs[0]
    assert (pair.verdict, pair.p) == ("better", contest(clean).pairs[0].p)


def test_the_spread_of_the_others_is_asked_for_only_where_few_seeds_are_shared_by_many_pairs() -> None:
    """Of two optimizers three seeds are enough, and of three four."""
    wild = Arm("c", [found_or_not(k, k % 2 == 0) for k in range(4)])
    for seeds, verdict in ((3, "no difference shown"), (4, "better")):
        clean = [Arm(name, [found_or_not(k, name == "b") for k in range(seeds)]) for name in "ab"]
        assert contest(clean).pairs[0].verdict == "better"
        pair = contest([*clean, Arm("c", wild.runs[:seeds])]).pairs[0]
        assert (pair.verdict, pair.p) == (verdict, contest(clean).pairs[0].p)
