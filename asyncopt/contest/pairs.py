"""One optimizer against another, on the held-out items that their chosen instructions have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import sqrt
from statistics import fmean
from typing import TypeAlias

from asyncopt.contest.noise import noise_of
from asyncopt.contest.standings import ended
from asyncopt.contest.values import Arm, ArmRun, Basis, Pair
from asyncopt.stats import Verdict, crossed_difference, judged, paired_t

LEAST_SEEDS = 3  # for a verdict on optimizers

_Partners: TypeAlias = Sequence[tuple[ArmRun, ArmRun]]


def paired(first: Arm, second: Arm) -> Pair:
    """The second arm against the first, before it is judged."""
    runs, left_out = _partners(ended(first), ended(second))
    blank = Pair(first.name, second.name, left_out=left_out, aa=first.name == second.same_as)
    rows = [_differences(one, two) for one, two in runs]
    if not rows or not all(rows) or _on_others(runs, rows):
        return _by_seed(blank, runs)
    difference, low, high, p = crossed_difference(rows)
    items, basis = len(set().union(*rows)), _basis(len(rows))
    return replace(blank, difference=difference, low=low, high=high, p=p, basis=basis, seeds=len(rows), items=items)


def _basis(seeds: int) -> Basis:
    return "items" if seeds == 1 else "seeds and items"


def _differences(one: ArmRun, two: ArmRun) -> dict[int, float]:
    """What divides the two runs on each item that both have a grade for."""
    return {item: two.scores[item] - one.scores[item] for item in sorted(one.scores.keys() & two.scores.keys())}


def _on_others(runs: _Partners, rows: Sequence[Mapping[int, float]]) -> bool:
    """Whether runs of different seeds were measured on different items: the few in common say little of either."""
    return any(
        one.seed != two.seed and 2 * len(row) < min(len(one.scores), len(two.scores))
        for (one, two), row in zip(runs, rows, strict=True)
    )


def _by_seed(blank: Pair, runs: _Partners) -> Pair:
    """By the shares alone, one difference a seed, where runs have no grades of the same single items."""
    shares = [(one.held_out, two.held_out) for one, two in runs]
    differences = [two.score - one.score for one, two in shares if one is not None and two is not None]
    if not differences:
        return blank
    blank = replace(blank, difference=fmean(differences), seeds=len(differences))
    student = paired_t(differences)
    if student is None:
        return blank
    difference, low, high, p = student
    return replace(blank, difference=difference, low=max(low, -1.0), high=min(high, 1.0), p=p)


def _partners(first: Sequence[ArmRun], second: Sequence[ArmRun]) -> tuple[_Partners, int]:
    """Runs of one seed side by side, and how many are left out; in their order where the seeds are all different."""
    by_seed = {run.seed: run for run in second}
    pairs = [(run, by_seed[run.seed]) for run in first if run.seed in by_seed]
    if not pairs:
        pairs = list(zip(first, second, strict=False))
    return pairs, len(first) + len(second) - 2 * len(pairs)


def with_verdicts(pairs: Sequence[Pair], level: float, arms: Sequence[Arm] = ()) -> list[Pair]:
    """The pairs with their verdicts, each adjusted for all of them; there is none without a p-value, or from few seeds.

    The instructions that two runs choose differ for real, even where the optimizer is the same. And where searches
    either succeed or fail, two seeds fall apart by chance once in eight times, whatever the test.

    Of k seeds they do in 2 / 4^k of the cases. Where that is too often for so many pairs, one that is called different
    must also stand out from what the seeds of the other ``arms`` vary: all seeds of two may agree by luck, but hardly
    those of the others beside them.
    """
    many = sum(pair.p is not None and pair.seeds >= LEAST_SEEDS for pair in pairs)
    compared = [
        (pair.difference, max(pair.p, _p_by_others(pair, arms) if 2 * many > level * 4**pair.seeds else 0.0))
        for pair in pairs
        if pair.difference is not None and pair.p is not None
    ]
    found = iter(judged(compared, level))
    return [pair if pair.p is None else _with_verdict(pair, *next(found)) for pair in pairs]


def _p_by_others(pair: Pair, arms: Sequence[Arm]) -> float:
    """The two-sided p of the pair's difference by what the seeds of all other arms vary; 1 where that is not known.

    Fewer seeds than a verdict takes have none, and keep the p that they have.
    """
    if pair.seeds < LEAST_SEEDS:
        return 0.0
    noise = noise_of([arm for arm in arms if not {arm.name, arm.same_as} & {pair.first, pair.second}], None)
    if noise.sd is None:
        return 1.0
    if not noise.sd or not pair.difference:
        return 0.0
    from scipy.special import stdtr

    return 2 * float(stdtr(noise.df, -abs(pair.difference) / (noise.sd * sqrt(2 / pair.seeds))))


def _with_verdict(pair: Pair, p_holm: float, verdict: Verdict) -> Pair:
    return replace(pair, p_holm=p_holm, verdict=verdict if pair.seeds >= LEAST_SEEDS else None)
